"""Checkpoints from which a run that was killed or told to stop goes on as if nothing had been."""

from __future__ import annotations

import sys
import time
import zipfile
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from babyvlm.errors import first_line
from babyvlm.training.csv_logger import CSVLog
from babyvlm.training.signals import SignalNote, end

GO_ON = "go on by python -m babyvlm resume"
KEPT = 2  # the newest and one before it, in case that the newest is torn


class Recovery(Checkpoint):
    """Saves the whole state to ``recovery/`` in the run's folder: now and then, and when a signal comes.

    It saves between two batches of one epoch, behind the validation if one comes between them, where no accumulated
    gradient is pending: there, and only there, Lightning's state says all. Of a run whose epochs have but one step
    nothing is saved; that is told.

    After SIGTERM, SIGUSR1 or SIGUSR2 the run saves at the next such place and ends; SLURM is asked to requeue the job
    on the latter two (``#SBATCH --signal=USR1@120`` sends one before the time limit).

    Args:
        every_seconds: how often; 0 at every opportunity.
        requeue: whether to ask SLURM; false where what began the run does.

    Attributes:
        over: nothing is to be trained: ``fit`` only restores what training left, such as the best checkpoint's name.
    """

    def __init__(self, every_seconds: float = 300, requeue: bool = True) -> None:
        super().__init__()
        self.every_seconds, self.requeue = every_seconds, requeue
        self.over = False
        self._note = SignalNote()
        self._saved_at = time.monotonic()
        self._steps_before, self._stepped = 0, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train nothing, if so told: schedules, which depend on this number, are made by now."""
        if self.over:
            trainer.limit_train_batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the metric rows that came after the state the run goes on from."""
        self._saved_at, self._steps_before = time.monotonic(), trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.rewind(trainer.global_step - 1)  # rows are numbered from 0
        self._note.listen()
        if _has_one_step(trainer) and trainer.is_global_zero:
            print("an epoch has but one step: no state is saved to go on from; lower data.batch_size", file=sys.stderr)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """End the resumption: Lightning would leave out the epoch's step of the schedules at the end of this epoch."""
        trainer.fit_loop.restarting = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save if it is time and nothing is pending; then end, if a signal came.

        Raises:
            SystemExit: after a signal.
        """
        self._stepped, self._steps_before = trainer.global_step > self._steps_before, trainer.global_step
        if _has_one_step(trainer):
            self.stop_if_told_to(trainer, f"ended at step {trainer.global_step}, of which nothing is saved")
        if not _validates_after(trainer, batch_idx):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same between a validation and the next batch.

        Raises:
            SystemExit: after a signal.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        over = trainer.is_last_batch or trainer.global_step == trainer.max_steps or trainer.should_stop
        if not self._stepped or over:
            return
        due = bool(self._note.received) or time.monotonic() - self._saved_at >= self.every_seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            folder = trainer.log_dir  # asked on every rank: it is broadcast
            if folder is not None:
                self._save(trainer, Path(folder))
            self.stop_if_told_to(trainer, f"saved at step {trainer.global_step}; {GO_ON} {folder}")

    def _save(self, trainer: Trainer, run: Path) -> None:
        """Write the checkpoint, whole or not at all, then remove all but the newest."""
        if trainer.training:  # Lightning logs a batch's row after its hook: it would be missing if the run died between
            trainer._logger_connector.update_train_step_metrics()
        trainer.save_checkpoint(run / "recovery" / f"step-{trainer.global_step:09d}.ckpt")
        if trainer.is_global_zero:
            for old in [*checkpoints(run)[KEPT:], *(run / "recovery").glob("*.partial")]:  # which a kill left
                old.unlink()
        self._saved_at = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last weights, beside the best ones, as ``checkpoints/last.ckpt``."""
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if folder is not None and trainer.loggers:  # none: nothing is to be kept
            trainer.save_checkpoint(Path(folder) / "checkpoints" / "last.ckpt")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back, when all that ends a training is written."""
        self._note.give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._note.give_back()

    def stop_if_told_to(self, trainer: Trainer, how: str) -> None:
        """End the process on every rank if a signal came to one of them.

        Raises:
            SystemExit: one did.
        """
        mine = torch.tensor(self._note.received, device=trainer.strategy.root_device)
        received = int(trainer.strategy.reduce(mine, reduce_op="max"))  # a launcher may signal the first rank alone
        if received:
            raise SystemExit(end(received, how, self.requeue) if trainer.is_global_zero else 0)


def _has_one_step(trainer: Trainer) -> bool:
    """Whether every step of the optimizer is the last of its epoch."""
    return trainer.num_training_batches <= trainer.accumulate_grad_batches


def _validates_after(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates after this batch, which is not the last of its epoch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or every is None or every == float("inf"):
        return False
    counted = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return bool((counted + 1) % every == 0)


def checkpoints(run: Path) -> list[Path]:
    """The recovery checkpoints of a run, the newest first."""
    return sorted((run / "recovery").glob("step-*.ckpt"), reverse=True)


def newest_whole(run: Path) -> Path | None:
    """The newest recovery checkpoint that can be read to its end, if there is one. Torn ones are told of."""
    for path in checkpoints(run):
        problem = torn(path)
        if problem is None:
            return path
        print(f"{path}: torn ({problem}); going on from the one before", file=sys.stderr)
    return None


def torn(path: Path) -> str | None:
    """What is wrong with a checkpoint's file: torch writes a ZIP, with a checksum of every tensor.

    The checksums do not cover the ZIP's own directory, so that torch looks up all tensors too, without reading them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            # torch writes no attributes; with one that says "a folder" it would read nothing, and say nothing.
            changed = next((entry.filename for entry in archive.infolist() if entry.external_attr), None)
        torch.load(path, mmap=True, weights_only=True)
    except Exception as error:  # there is no end to what a damaged directory raises
        return f"{type(error).__name__}: {first_line(error)}"
    return f"checksum of {broken}" if broken else f"attributes of {changed}" if changed else None
