"""Base class of benchmarks: reads a list of trials, scores a model on it, and judges the answers.

A benchmark is a plain class. ``evaluate.py`` runs it on a model; ``evaluation_callback.py`` does the same during a run
of Lightning. A benchmark of your own is a subclass with ``name``, ``measures`` and ``read``; nothing else must change.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.benchmarks.trials import COMPOSITIONS, Trial, with_images
from babyvlm.errors import UserError
from babyvlm.ranges import require_in_range
from babyvlm.types import ImageTextScorer, TextScorer, TrialResult

VARIANT = re.compile(r"[A-Za-z0-9_-]{1,40}")
REFERENCES = 32  # our choice: each text is scored with so many images more

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views


@dataclass(frozen=True)
class Measure:
    """One way to judge the answers.

    Attributes:
        title: appended to the benchmark's title in the column heading; may be empty.
        chance: mean credit of a model that knows nothing; None if there is no such number.
        main: whether the main table shows it; other measures are shown in the detailed tables only.
        correlation: whether the mean credit is a correlation, from -1 to 1.
        effective: effective number of items, if the mean credit is a weighted share (``intervals.linearized``).
    """

    title: str = ""
    chance: float | None = None
    main: bool = True
    correlation: bool = False
    effective: float | None = None


def with_compositions(measures: Mapping[str, Measure]) -> dict[str, Measure]:
    """Return measures and, for the first one, its mean over trials of seen and over trials of unseen combinations."""
    first, whole = next(iter(measures.items()))
    apart = {f"{first}_{one}": Measure(f"{one} combinations", whole.chance, main=False) for one in COMPOSITIONS}
    return {**measures, **apart}


def reference_images(trials: Sequence[Trial]) -> list[str]:
    """Return up to ``REFERENCES`` images of the dev split, by a hash; of all trials, if there is no dev split."""
    dev = [trial for trial in trials if trial.split == "dev"] or trials
    images = {image for trial in dev for image in trial.images}
    return sorted(images, key=lambda image: hashlib.sha256(image.encode()).digest())[:REFERENCES]


class Judgement(NamedTuple):
    """The credit of a trial by one measure, and the option that was chosen, if the measure is about a choice."""

    measure: str
    credit: float
    choice: int | None = None


class Benchmark(ABC):
    """A list of trials with the rules by which a model is scored on it.

    Args:
        trials: CSV list.
        images: folder that image paths in the list start from; by default the folder of the list.
        dev_fraction: share of the trials in the dev split, if the list has no column ``half``; by default the
            benchmark's own.
        allow_missing: leave out trials whose images are missing, instead of raising an error. The results record how
            many were left out.
        variant: tells several lists of one benchmark in a run apart: it is appended to the name and the title.

    Attributes:
        name: identifies the benchmark in logged metrics and names of result files.
        title: heading of its columns in tables.
        suite: the collection that it belongs to, which has a table of its own; empty for the main table.
        order: position of its columns in tables.
        measures: by name; the first one is ``EvaluationResult.mean``. They may depend on the list, from ``load`` on.
        category: meaning of ``Trial.category`` (``word class``); empty if trials have no categories.
        has_images: whether its trials show images; if not, there are no image-blind baselines.
        reads_text: whether a model reads the texts of its trials, so that words can be out of the vocabulary.
        dev_fraction: see above; 0 by default, since the authors' lists are test sets
            (babylmms-eval: ``test_split``).
        references: images that the score ``evidence`` is relative to, known after ``load``.

    Raises:
        UserError: ``dev_fraction`` is not a fraction, or ``variant`` cannot be part of a file's name.
    """

    name: str
    title: str
    suite: str = ""
    order: int = 1000
    measures: Mapping[str, Measure]
    category: str = ""
    has_images: bool = True
    reads_text: bool = True
    dev_fraction: float = 0.0
    references: Sequence[str] = ()

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        variant: str = "",
    ) -> None:
        require_in_range(dev_fraction=dev_fraction)
        if variant and not VARIANT.fullmatch(variant):
            raise UserError(f"variant {variant!r}: use letters, digits, and the signs - and _ only")
        if variant:
            self.name, self.title = f"{self.name}_{variant}", f"{self.title} {variant}"
        self.path = Path(trials)
        self.images = self.path.parent if images is None else Path(images)
        if dev_fraction is not None:
            self.dev_fraction = dev_fraction
        self.allow_missing = allow_missing

    @abstractmethod
    def read(self, path: Path) -> list[Trial]:
        """Return the trials of a list.

        Raises:
            UserError: the list is malformed.
        """

    @abstractmethod
    def accepts(self, model: object) -> bool:
        """Return whether a model can be scored. False means that a run skips the benchmark.

        Raises:
            UserError: the model must be scored and cannot be, or a program that the benchmark needs is missing.
        """

    @abstractmethod
    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Return the results of trials and their controls, the same on every rank.

        Args:
            model: A model that the benchmark accepts.
            views: The trials under ``""``, and the trials of each control under its name.
            device: Where the model is.
            batch_size: Images encoded at once.
        """

    def reads_text_alone(self, model: object) -> bool:
        """Return whether the control without images makes sense for a model."""
        return False

    def prior(self, trials: Sequence[Trial]) -> float | None:
        """Return the mean credit of a prior over the answers, which sees no image; None if the benchmark has none."""
        return None

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what models that know nothing, or people, reach, by measure and name; empty if there are none.

        They stand beside chance in every table. Floors that are models are runs of their own (``models/floors.py``).
        """
        return {}

    def facts(self) -> dict[str, str]:
        """Return further facts about the list for the metadata of the results."""
        return {}

    def load(self) -> tuple[list[Trial], int]:
        """Return the trials whose images exist, and the number of other trials.

        Raises:
            UserError: the list is malformed, or an image is missing and ``allow_missing`` is false.
        """
        listed = self.read(self.path)
        trials = with_images(listed, self.images, self.path, allow_missing=self.allow_missing)
        self.references = reference_images(trials)
        return trials, len(listed) - len(trials)

    def measured(self, trials: Sequence[Trial]) -> list[str]:
        """Return the measures by which these trials have results: seen and unseen combinations only where listed."""
        first = next(iter(self.measures))
        listed = {trial.composition for trial in trials}
        absent = {f"{first}_{one}" for one in COMPOSITIONS if one not in listed}
        return [measure for measure in self.measures if measure not in absent]

    def metric_name(self, measure: str) -> str:
        """Return the name under which a measure is logged: the benchmark's, if it has only one main measure."""
        main = [name for name, one in self.measures.items() if one.main]
        return self.name if main == [measure] else f"{self.name}_{measure}"


class ScoreBenchmark(Benchmark):
    """A benchmark that compares scores of (image, text) pairs."""

    @abstractmethod
    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """Return the credit of a trial by each measure, given the scores of its options."""

    def judge_all(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """Return ``judge``, and the first measure once more under the trial's composition, if the list names it."""
        found = self.judge(trial, scores)
        apart = f"{found[0].measure}_{trial.composition}"
        return [*found, found[0]._replace(measure=apart)] if apart in self.measures else found

    def judge_view(self, trials: Sequence[Trial], scores: Sequence[tuple[float, ...]]) -> list[list[Judgement]]:
        """Return the credits of the trials of a view; measures may need all of its scores, such as a fitted one."""
        return [self.judge_all(trial, values) for trial, values in zip(trials, scores, strict=True)]

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return the mean credit of a model whose scores are all the same (``constant``)."""
        credits: dict[str, list[float]] = {}
        for judgements in self.judge_view(trials, [(0.0,) * len(trial.options) for trial in trials]):
            for measure, credit, _ in judgements:
                credits.setdefault(measure, []).append(credit)
        return {measure: {"constant": sum(found) / len(found)} for measure, found in credits.items()}

    def accepts(self, model: object) -> bool:
        """Require an ``ImageTextScorer``.

        Raises:
            UserError: the model does not score images with texts.
        """
        if not isinstance(model, ImageTextScorer):
            raise UserError(f"{type(model).__name__} has no preprocess() and score(), which {self.name} needs")
        return True

    def reads_text_alone(self, model: object) -> bool:
        """Return whether the model scores texts; ``evidence`` is a comparison of images."""
        from babyvlm.benchmarks.scoring import is_evidence

        return isinstance(model, TextScorer) and not is_evidence(model)

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Judge each trial by the scores of its options; each distinct pair is scored once."""
        from babyvlm.benchmarks.scoring import report_truncated_texts, score_pairs

        assert isinstance(model, ImageTextScorer)
        report_truncated_texts(model, (text for trial in views[""] for _, text in trial.options), self.path)
        pairs = [option for view in views.values() for trial in view for option in trial.options]
        scores = score_pairs(
            model,
            pairs,
            self.images,
            device=device,
            batch_size=batch_size,
            label=self.name,
            references=self.references,
        )
        return self.judged(views, lambda trial: tuple(scores[option] for option in trial.options))

    def judged(self, views: Views, scores_of: Callable[[Trial], tuple[float, ...]]) -> list[TrialResult]:
        """Judge every trial of every view by the scores of its options."""
        images_of = {trial.item: trial.images for trial in views[""]}
        return [
            TrialResult(
                trial.item,
                trial.split,
                trial.category,
                control,
                measure,
                values,
                choice,
                credit,
                group=trial.group,
                images=images_of[trial.item],
                texts=tuple(text for _, text in trial.options) if self.reads_text else (),
            )
            for control, view in views.items()
            for values_N in [list(map(scores_of, view))]
            for trial, values, judgements in zip(view, values_N, self.judge_view(view, values_N), strict=True)
            for measure, credit, choice in judgements
        ]


class ForcedChoice(ScoreBenchmark):
    """Correct if the right option has the highest score. Its first measure is the accuracy."""

    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """Return credit 1/k if the right option is among k options with the highest score, else 0."""
        best = max(scores)
        tied = [index for index, score in enumerate(scores) if score == best]
        credit = 1 / len(tied) if trial.answer in tied else 0.0
        return [Judgement(next(iter(self.measures)), credit, tied[0])]
