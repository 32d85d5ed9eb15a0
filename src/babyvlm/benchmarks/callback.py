"""Benchmarks as callbacks: the dev half on validation, the test half on ``test``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm.benchmarks.trials import Trial, check_images, judge, score_options, world_of, write_results
from babyvlm.contracts import ImageTextScorer, UserError


class ForcedChoice(Callback, ABC):
    """Scores a model's choices and logs its accuracy as ``<name>_dev`` and ``<name>_test``.

    Per-item results go to ``results/`` in the run's folder.

    Args:
        trials: CSV list.
        images: folder that the list's image paths start from; the list's own by default.
        batch_size: images encoded at once.
    """

    name: str

    def __init__(self, trials: Path, images: Path | None = None, batch_size: int = 64) -> None:
        self.path = trials
        self.images = images or trials.parent
        self.batch_size = batch_size
        self.trials: list[Trial] = []

    @abstractmethod
    def read(self, path: Path) -> list[Trial]:
        """The trials of a list."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the list and find its images before anything runs.

        Raises:
            UserError: the list or an image is bad or missing, or the model does not score images with texts.
        """
        if not isinstance(pl_module, ImageTextScorer):
            raise UserError(f"{type(pl_module).__name__} has no preprocess() and score(): {self.name} cannot test it")
        self.trials = self.read(self.path)
        check_images(self.trials, self.images, self.path)

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
        assert isinstance(pl_module, ImageTextScorer)
        # Every rank scores all items, so that all log the same number.
        scores = score_options(pl_module, trials, self.images, device=pl_module.device, batch_size=self.batch_size)
        results = [judge(trial, scores) for trial in trials]
        accuracy = sum(result.credit for result in results) / len(results)
        pl_module.log(f"{self.name}_{half}", accuracy, prog_bar=True, rank_zero_only=False)
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.is_global_zero and folder is not None:
            write_results(Path(folder) / "results" / file, results, world_of(self.path))
