"""Evaluate the model of a Lightning run: the dev split on validation, the test split on ``test``."""

from __future__ import annotations

import sys
from collections import Counter

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm.benchmarks.base import Benchmark
from babyvlm.benchmarks.evaluate import BATCH_SIZE, check_trials, run
from babyvlm.benchmarks.trials import Trial
from babyvlm.curation.benchmark_images import read_each
from babyvlm.errors import UserError
from babyvlm.io.printing import echo
from babyvlm.io.runs import run_folder
from babyvlm.ranges import require_in_range


class EvaluationCallback(Callback):
    """Evaluates the model of a run on benchmarks.

    Means are logged as ``<benchmark>_<split>`` (``vtwt_dev``), those of further measures as
    ``<benchmark>_<measure>_<split>``. The results of each trial are written to ``results/`` in the folder of the run.
    Benchmarks that the model does not support (captions, for a model that does not caption) are skipped.

    Args:
        benchmarks: Their names must differ.
        batch_size: Images encoded at once.
        controls: On ``test``, also score the image-blind baselines.
        seed: Of the control that shuffles the images.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self, benchmarks: list[Benchmark], batch_size: int = BATCH_SIZE, controls: bool = True, seed: int = 0
    ) -> None:
        super().__init__()
        require_in_range(batch_size=batch_size, seed=seed)
        self.benchmarks = benchmarks
        self.batch_size, self.controls, self.seed = batch_size, controls, seed
        self._loaded: list[tuple[Benchmark, list[Trial], int]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the lists and find their images before anything runs; the first callback does it for all of the run.

        A ``fit`` without validation scores nothing, so there the model may be of any kind.

        Raises:
            UserError: lists or images are malformed or missing (one message for all), two benchmarks have the same
                name, or the model cannot be scored.
        """
        callbacks = [one for one in getattr(trainer, "callbacks", []) if isinstance(one, EvaluationCallback)]
        if stage == "predict" or self is not callbacks[0]:
            return
        counts = Counter(benchmark.name for benchmark in benchmarks_of(trainer))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise UserError(f"two benchmarks of this run are called {twice[0]}; remove one from trainer.callbacks")
        scored = stage != "fit" or trainer.enable_validation
        pairs = [
            (callback, benchmark)
            for callback in callbacks
            for benchmark in callback.benchmarks
            if not scored or benchmark.accepts(pl_module)
        ]
        loaded = read_each(pairs, lambda pair: pair[1].load())
        for (_, benchmark), (trials, _) in zip(pairs, loaded, strict=True):
            check_trials(pl_module, benchmark, trials)
            if not any(trial.split == "test" for trial in trials) and trainer.is_global_zero:
                echo(
                    f"warning: {benchmark.path}: all trials are in the dev split; none will be tested", file=sys.stderr
                )
        for callback in callbacks:
            callback._loaded = [
                (benchmark, trials, missing)
                for (owner, benchmark), (trials, missing) in zip(pairs, loaded, strict=True)
                if owner is callback
            ]

    def dev_metrics(self) -> list[str]:
        """Return the names of the metrics that a validation logs."""
        return [
            f"{benchmark.metric_name(measure)}_dev"
            for benchmark, trials, _ in self._loaded
            if (dev := [trial for trial in trials if trial.split == "dev"])
            for measure in benchmark.measured(dev)
        ]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate on the dev split."""
        if not trainer.sanity_checking:
            self._evaluate(trainer, pl_module, "dev", f"dev-step{trainer.global_step:07d}")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate on the test split."""
        self._evaluate(trainer, pl_module, "test", "test")

    def _evaluate(self, trainer: Trainer, model: LightningModule, split: str, suffix: str) -> None:
        for benchmark, trials, missing in self._loaded:
            chosen = [trial for trial in trials if trial.split == split]
            if not chosen:  # a list without a dev split cannot choose a checkpoint
                continue
            result = run(
                model,
                benchmark,
                chosen,
                missing=missing,
                batch_size=self.batch_size,
                controls=self.controls and split == "test",
                device=model.device,
                seed=self.seed,
            )
            for name, value in result.metrics().items():
                model.log(name, value, prog_bar=name == f"{benchmark.name}_{split}", rank_zero_only=False)
            folder = run_folder(trainer)
            if trainer.is_global_zero and folder is not None:
                result.save(folder / "results" / f"{benchmark.name}-{suffix}.parquet")


def benchmarks_of(trainer: Trainer) -> list[Benchmark]:
    """Return the benchmarks of a run, in their order."""
    callbacks = getattr(trainer, "callbacks", [])
    return [one for callback in callbacks if isinstance(callback, EvaluationCallback) for one in callback.benchmarks]
