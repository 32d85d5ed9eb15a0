"""Benchmarks as callbacks: the dev half on validation, the test half on ``test``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm.benchmarks.controls import Views, controlled
from babyvlm.benchmarks.results import licensed, world_of, write_results
from babyvlm.benchmarks.scoring import score_pairs, tell_cut_texts, vocabulary_facts
from babyvlm.benchmarks.trials import Trial, with_images
from babyvlm.curation.benchmark_images import read_each
from babyvlm.errors import UserError
from babyvlm.types import ImageTextScorer, TextScorer, TrialResult

Judgement = tuple[str, int | None, float]  # measure, choice, credit


def benchmarks_of(trainer: Trainer) -> list[Benchmark]:
    """The benchmarks of a run, in their order."""
    return [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, Benchmark)]


class Benchmark(Callback, ABC):
    """Tests a model on a list of items.

    The mean credit is logged as ``<name>_<half>``, that of further measures as ``<name>_<measure>_<half>``. Item by
    item they go to ``results/`` in the run's folder.

    Args:
        trials: CSV list.
        images: folder that the list's image paths start from; the list's own by default.
        batch_size: images encoded at once.
        dev_fraction: share of the items in the dev half, where the list has no column ``half``; None for the
            benchmark's own.
        allow_missing: score a list of which some images are missing; the result says so.
        controls: on ``test``, run it also without its images (``controls.py``).
        seed: of the control that exchanges the images.
    """

    name: str
    measure: str = "accuracy"  # the one that is meant by the benchmark's name
    dev_fraction: float = 0.0  # the authors' lists are test sets as a whole

    def __init__(
        self,
        trials: Path,
        images: Path | None = None,
        batch_size: int = 64,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        controls: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path = trials
        self.images = images or trials.parent
        self.batch_size = batch_size
        if dev_fraction is not None:
            self.dev_fraction = dev_fraction
        self.allow_missing = allow_missing
        self.controls, self.seed = controls, seed
        self.trials: list[Trial] = []
        self.missing = 0

    @abstractmethod
    def read(self, path: Path) -> list[Trial]:
        """The trials of a list."""

    @abstractmethod
    def check(self, model: LightningModule) -> bool:
        """Whether there is something to test a model on; a ``UserError`` where there should be."""

    @abstractmethod
    def results(self, model: LightningModule, views: Views) -> list[TrialResult]:
        """The results of one half and of its controls, the same on every rank."""

    def facts(self) -> dict[str, str]:
        """What else the results have to say of the list."""
        return {}

    def can_read(self, model: LightningModule) -> bool:
        """Whether the items make sense to a model without any image."""
        return False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the list and find its images before anything runs; the first benchmark of a run does it for all.

        Raises:
            UserError: lists or images are bad or missing, all of it told at once, or the model cannot be tested.
        """
        tests = benchmarks_of(trainer)
        if self is tests[0]:
            usable = [test for test in tests if test.check(pl_module)]
            for test, (trials, missing) in zip(usable, read_each(usable, Benchmark.found), strict=True):
                test.trials, test.missing = trials, missing

    def found(self) -> tuple[list[Trial], int]:
        """The trials of the list whose images are there, and how many others it has.

        Raises:
            UserError: the list or an image is bad or missing.
        """
        listed = self.read(self.path)
        trials = with_images(listed, self.images, self.path, allow_missing=self.allow_missing)
        return trials, len(listed) - len(trials)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the dev half."""
        if not trainer.sanity_checking:
            self._run(trainer, pl_module, "dev", f"{self.name}-dev-step{trainer.global_step:07d}.parquet")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the test half."""
        self._run(trainer, pl_module, "test", f"{self.name}-test.parquet")

    def _run(self, trainer: Trainer, pl_module: LightningModule, half: str, file: str) -> None:
        trials = [trial for trial in self.trials if trial.half == half]
        if not trials:  # a list without a dev half has nothing to choose a checkpoint by
            return
        views = {"": trials}
        if self.controls and half == "test":
            views |= controlled(trials, text_only=self.can_read(pl_module), seed=self.seed)
        results = self.results(pl_module, views)
        for name, value in self._means(results, half).items():
            pl_module.log(name, value, prog_bar=name == f"{self.name}_{half}", rank_zero_only=False)
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.is_global_zero and folder is not None:
            facts = {
                "world": world_of(self.path),
                "missing_items": str(self.missing),
                "licensed": str(licensed(self.path, self.images)),
                **self.facts(),
            }
            texts = [[text for _, text in trial.options] for trial in trials]
            write_results(Path(folder) / "results" / file, results, facts | vocabulary_facts(pl_module, texts))

    def _means(self, results: Sequence[TrialResult], half: str) -> dict[str, float]:
        """Mean credit by the name it is logged under."""
        credits: dict[str, list[float]] = {}
        for result in results:
            if not result.control:
                credits.setdefault(result.measure, []).append(result.credit)
        names = {measure: self.name if measure == self.measure else f"{self.name}_{measure}" for measure in credits}
        return {f"{names[measure]}_{half}": sum(credit) / len(credit) for measure, credit in credits.items()}


class ScoreBenchmark(Benchmark):
    """A benchmark that is a comparison of scores."""

    @abstractmethod
    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """What the scores of a trial's options are worth by each measure; the first is what a table shows."""

    def check(self, model: LightningModule) -> bool:
        """It must be a scorer.

        Raises:
            UserError: the model does not score images with texts.
        """
        if not isinstance(model, ImageTextScorer):
            raise UserError(f"{type(model).__name__} has no preprocess() and score(): {self.name} cannot test it")
        return True

    def can_read(self, model: LightningModule) -> bool:
        """If it scores texts."""
        return isinstance(model, TextScorer)

    def results(self, model: LightningModule, views: Views) -> list[TrialResult]:
        """Judge each trial by the scores of its options."""
        assert isinstance(model, ImageTextScorer)
        tell_cut_texts(model, (text for trial in self.trials for _, text in trial.options), self.path)
        pairs = [option for view in views.values() for trial in view for option in trial.options]
        scores = score_pairs(
            model, pairs, self.images, device=model.device, batch_size=self.batch_size, label=self.name
        )
        return [
            TrialResult(trial.item, trial.half, trial.category, control, measure, values, choice, credit)
            for control, view in views.items()
            for trial in view
            for values in [tuple(scores[option] for option in trial.options)]
            for measure, choice, credit in self.judge(trial, values)
        ]


class ForcedChoice(ScoreBenchmark):
    """Right when the right option scores highest."""

    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """A choice among k tied best is worth 1/k if the right one is among them."""
        best = max(scores)
        tied = [index for index, score in enumerate(scores) if score == best]
        return [("accuracy", tied[0], 1 / len(tied) if trial.answer in tied else 0.0)]
