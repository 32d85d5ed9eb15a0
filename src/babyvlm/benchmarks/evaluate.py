"""Evaluate a model on a benchmark, without a Trainer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import nn

from babyvlm.benchmarks import BENCHMARKS
from babyvlm.benchmarks.base import Benchmark, ScoreBenchmark
from babyvlm.benchmarks.controls import CONTROLS, controlled
from babyvlm.benchmarks.intervals import dependence, mean_interval, units_of
from babyvlm.benchmarks.results import benchmark_facts, result_table, write_results
from babyvlm.benchmarks.scoring import is_evidence, score_facts, vocabulary_facts
from babyvlm.data.vocabulary import Vocabulary, check_words
from babyvlm.errors import UserError
from babyvlm.io.distributed import is_rank_zero
from babyvlm.io.printing import echo
from babyvlm.ranges import require_in_range
from babyvlm.text import normalize

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from babyvlm.benchmarks.trials import Trial
    from babyvlm.types import TrialResult

BATCH_SIZE = 64  # images encoded at once; our choice
NAMED = {"options": "options", "score": "score"}  # facts that a printed result names, with their titles


def evaluate(
    model: object,
    benchmark: str | Benchmark,
    *,
    trials: Path | str | None = None,
    images: Path | str | None = None,
    split: Literal["dev", "test"] = "test",
    batch_size: int = BATCH_SIZE,
    controls: bool = True,
    device: torch.device | str | None = None,
    allow_missing: bool = False,
    seed: int = 0,
) -> EvaluationResult:
    r"""Evaluate a model on a benchmark.

    The numbers are those that ``EvaluationCallback`` logs in a run. A module is in evaluation mode meanwhile.

    Args:
        model: An ``ImageTextScorer``, or a ``Captioner`` for SAYCam Caption (``babyvlm.types``): for example what
            ``babyvlm.load`` returns, or an object of your own with ``preprocess`` and ``score``.
        benchmark: The name of a benchmark (``labeled_s``, ``vtwt``, ``baby_winoground``, ``caption``, or that of a
            class of your own) together with ``trials``; or a benchmark, which knows its list.
        trials: CSV list of the benchmark.
        images: Folder that image paths in the list start from; by default the folder of the list.
        split: Trials to use, by the list's column ``half`` (see ``Benchmark``).
        batch_size: Images encoded at once.
        controls: Also score the trials with blank, shuffled and no images (``controls.py``).
        device: Where to put the images; by default the device of the model's parameters, else the CPU.
        allow_missing: Leave out trials whose images are missing.
        seed: Of the control that shuffles the images.

    Raises:
        UserError: the benchmark is unknown, its list is malformed, images are missing, or the model cannot be scored.

    A scorer that prefers long texts, on a list of two trials:

        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 8)).save(folder / "cup.png")
        >>> rows = ["image,positive_phrase,negative_phrase", "cup.png,red cup,cup", "cup.png,big cup,big table"]
        >>> _ = (folder / "vtwt.csv").write_text("\n".join(rows))
        >>> class LongTexts:
        ...     def preprocess(self, image):
        ...         return torch.zeros(3, 8, 8)
        ...
        ...     def score(self, images_BCHW, texts, wanted_BT=None):
        ...         return torch.tensor([[float(len(text)) for text in texts]] * len(images_BCHW))
        >>> result = evaluate(LongTexts(), "vtwt", trials=folder / "vtwt.csv", controls=False)
        >>> result.mean
        0.5
        >>> print(result)
        vtwt on vtwt.csv, test split, 2 trials
        measure   control          mean   95% CI          chance
        accuracy                   0.500  [0.000, 1.000]  0.500
        accuracy  prior, no image  0.500
    """
    require_in_range(batch_size=batch_size, seed=seed)
    if isinstance(benchmark, Benchmark):
        if (trials, images, allow_missing) != (None, None, False):
            raise UserError("trials, images and allow_missing belong to the benchmark; pass them to its class")
    elif trials is None:
        raise UserError(f"pass the list of benchmark {benchmark!r} as trials=")
    else:
        benchmark = _benchmark_class(benchmark)(trials, images, allow_missing=allow_missing)
    if not benchmark.accepts(model):
        raise UserError(f"{type(model).__name__} lacks a method that {benchmark.name} needs (babyvlm.types)")
    loaded, missing = benchmark.load()
    check_trials(model, benchmark, loaded)
    chosen = [trial for trial in loaded if trial.split == split]
    if not chosen:
        raise UserError(f"{benchmark.path}: no trial is in the {split} split")
    with _in_evaluation_mode(model):
        return run(
            model,
            benchmark,
            chosen,
            missing=missing,
            batch_size=batch_size,
            controls=controls,
            device=torch.device(device) if device is not None else device_of(model),
            seed=seed,
        )


def check_trials(model: object, benchmark: Benchmark, trials: Sequence[Trial]) -> None:
    """Check that a model can tell the options of some trials apart. Trials with equal options are reported.

    Args:
        model: That the benchmark accepts.
        benchmark: The rules.
        trials: Of its list.

    Raises:
        UserError: all trials have two options that are the same, or the model's vocabulary has none of their words.
    """
    if not isinstance(benchmark, ScoreBenchmark) or not benchmark.reads_text:
        return
    tied = [
        trial.item
        for trial in trials
        if len({(image, " ".join(text.lower().split())) for image, text in trial.options}) < len(trial.options)
    ]
    problem = f"{benchmark.path}: {len(tied)} of {len(trials)} trials have two options that are the same"
    if len(tied) == len(trials):
        raise UserError(f"{problem}, so that every model ties. Check the columns of the list")
    if tied and is_rank_zero():
        echo(f"warning: {problem}, such as {tied[0]}: every model ties there", file=sys.stderr)
    vocabulary = getattr(model, "vocabulary", None)
    if isinstance(vocabulary, Vocabulary):
        texts = sorted({normalize(text) for trial in trials for _, text in trial.options})
        check_words(texts, vocabulary, str(benchmark.path))


def run(
    model: object,
    benchmark: Benchmark,
    trials: Sequence[Trial],
    *,
    missing: int,
    batch_size: int,
    controls: bool,
    device: torch.device,
    seed: int,
) -> EvaluationResult:
    """Evaluate a model that the benchmark accepts on trials of one split; on all ranks of a distributed run.

    Args:
        model: In evaluation mode.
        benchmark: The rules.
        trials: At least one, all of one split.
        missing: Number of trials of the list that were left out.
        batch_size: Images encoded at once.
        controls: Also score the image-blind baselines.
        device: Where the model is.
        seed: Of the control that shuffles the images.
    """
    views = {"": list(trials)}
    if controls and benchmark.has_images:
        views |= controlled(trials, text_only=benchmark.reads_text_alone(model), seed=seed)
    results = benchmark.results(model, views, device=device, batch_size=batch_size)
    facts = benchmark_facts(benchmark) | {"missing_items": str(missing)}
    if benchmark.reads_text:
        texts = [[text for _, text in trial.options] for trial in trials]
        facts |= vocabulary_facts(model, texts) | score_facts(model)
    if is_evidence(model) and "score" in facts:
        facts["score"] += f", relative to {len(benchmark.references)} images"
    floors = benchmark.floors(trials)
    if floors:
        facts["floors"] = json.dumps(floors)
    prior = benchmark.prior(trials)
    if prior is not None:
        facts["prior"] = f"{prior:.4f}"
    return EvaluationResult(benchmark, trials[0].split, results, facts)


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """The results of a model on one split of a benchmark.

    Attributes:
        benchmark: What the model was evaluated on.
        split: ``dev`` or ``test``.
        results: One for each trial, measure and control.
        facts: About the list and the model's vocabulary; the metadata of the saved file.
    """

    benchmark: Benchmark
    split: str
    results: Sequence[TrialResult]
    facts: Mapping[str, str]

    @property
    def mean(self) -> float:
        """Mean credit by the benchmark's first measure."""
        return self.means()[next(iter(self.benchmark.measures))]

    def means(self, control: str = "") -> dict[str, float]:
        """Return the mean credit by measure, of the trials themselves or of a control (``blank``, ...)."""
        return {measure: float(credits_N.mean()) for measure, credits_N in self._credits(control).items()}

    def metrics(self) -> dict[str, float]:
        """Return the means by the names under which a run logs them, such as ``vtwt_test``."""
        means = self.means().items()
        return {f"{self.benchmark.metric_name(measure)}_{self.split}": mean for measure, mean in means}

    def interval(self, measure: str | None = None, control: str = "") -> tuple[float, float]:
        """Return the 95% confidence interval of a mean, in which trials of one group or with one image are dependent.

        Args:
            measure: By default the benchmark's first.
            control: By default the trials themselves.
        """
        measure = measure or next(iter(self.benchmark.measures))
        chosen = [one for one in self.results if (one.measure, one.control) == (measure, control)]
        units = [units_of(one.item, one.group, one.images) for one in chosen]
        known = self.benchmark.measures[measure]
        return mean_interval(
            self._credits(control)[measure],
            dependence(units),
            correlation=known.correlation,
            effective=known.effective,
        )

    def table(self) -> pa.Table:
        """Return one row for each trial, measure and control; ``.to_pandas()`` makes it a data frame."""
        return result_table(self.results, self.facts)

    def save(self, path: Path | str) -> None:
        """Write ``table()`` as Parquet, as runs do in their folder ``results/``."""
        write_results(Path(path), self.table())

    def __repr__(self) -> str:
        rows = [["measure", "control", "mean", "95% CI", "chance"]]
        for control in dict.fromkeys(result.control for result in self.results):
            for measure, mean in self.means(control).items():
                low, high = self.interval(measure, control)
                chance = self.benchmark.measures[measure].chance
                shown = "-" if chance is None else f"{chance:.3f}"
                rows.append([measure, CONTROLS.get(control, ""), f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]", shown])
        if "prior" in self.facts:
            rows.append([next(iter(self.benchmark.measures)), "prior, no image", f"{float(self.facts['prior']):.3f}"])
            rows[-1] += ["", ""]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        count = len({result.item for result in self.results})
        name, file = self.benchmark.name, self.benchmark.path.name
        named = [f", {title}: {self.facts[key]}" for key, title in NAMED.items() if key in self.facts]
        return "\n".join([f"{name} on {file}, {self.split} split, {count} trials{''.join(named)}", *lines])

    def _credits(self, control: str) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """Credit of N trials by measure."""
        credits: dict[str, list[float]] = {}
        for result in self.results:
            if result.control == control:
                credits.setdefault(result.measure, []).append(result.credit)
        return {measure: np.array(values) for measure, values in credits.items()}


def device_of(model: object) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


@contextmanager
def _in_evaluation_mode(model: object) -> Iterator[None]:
    """Disable dropout and the like; afterwards every submodule is in its former mode."""
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _benchmark_class(name: str) -> type[Benchmark]:
    """Find a benchmark by name among the shipped ones and every other subclass that was imported.

    Raises:
        UserError: no benchmark has this name.
    """
    for module in dict.fromkeys(BENCHMARKS.values()):
        import_module(f"babyvlm.benchmarks.{module}")
    found = {one.name: one for one in _subclasses(Benchmark) if hasattr(one, "name")}
    if name not in found:
        raise UserError(f"no benchmark is called {name!r}; there are {', '.join(sorted(found))}")
    return found[name]


def _subclasses(parent: type) -> Iterator[type[Benchmark]]:
    for child in cast("list[type[Benchmark]]", parent.__subclasses__()):
        yield child
        yield from _subclasses(child)
