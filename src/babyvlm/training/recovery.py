"""Exact resumption: checkpoints from which an interrupted run continues as if it had never been interrupted."""

from __future__ import annotations

import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from babyvlm.errors import first_line
from babyvlm.io.distributed import max_over_ranks
from babyvlm.io.limits import require_uncompressed
from babyvlm.io.printing import echo
from babyvlm.io.runs import run_folder
from babyvlm.ranges import require_in_range
from babyvlm.training.csv_logger import AppendingCSVLogger
from babyvlm.training.signals import SignalListener, report_end

CONTINUE = "Interrupted. Continue with: python -m babyvlm resume"
KEPT = 2  # the newest checkpoint and the one before it, in case the newest is damaged


class SeedEachBatch(Callback):
    """Seed torch before every training batch as a function of (seed, batches used, rank).

    A resumed run then draws the same random numbers, and a checkpoint needs no generator state.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed all generators of torch."""
        batches_used = trainer.fit_loop.total_batch_idx
        sequence = np.random.SeedSequence([self.seed, batches_used, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


class Recovery(Checkpoint):
    """Save the complete state to ``recovery/`` in the run's folder at intervals and after a signal.

    The state is saved between two batches of one epoch, after the validation if there is one between them, and only
    when no accumulated gradient is pending: Lightning's state is complete only there. Nothing is saved if an epoch
    has only one optimizer step; this is reported.

    After Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2 the run saves at the next such point and ends. After SIGUSR1 and SIGUSR2,
    SLURM is asked to requeue the job (``#SBATCH --signal=USR1@120`` sends one before the time limit).

    Args:
        every_seconds: seconds between two recovery states; 0 saves at every opportunity.
        requeue: ask SLURM to requeue the job after SIGUSR1 or SIGUSR2. Pass false if the program that started the run
            requeues it.

    Attributes:
        enabled: save states. If false, a signal only ends the run.
        training_done: nothing is trained: ``fit`` only restores the state at the end of training, such as the path
            of the best checkpoint.
        has_stepped: a training batch is done.
    """

    def __init__(self, every_seconds: float = 300, requeue: bool = True) -> None:
        super().__init__()
        require_in_range(every_seconds=every_seconds)
        self.every_seconds, self.requeue = every_seconds, requeue
        self.enabled, self.training_done = True, False
        self.has_stepped = False
        self._signals = SignalListener(interrupt=True)
        self._saved_at = time.monotonic()
        self._steps_before, self._stepped = 0, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skip training if it is done. Schedules depend on the number of batches and have been created by now."""
        if self.training_done:
            trainer.limit_train_batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete metric rows that were logged after the restored state."""
        self._saved_at, self._steps_before = time.monotonic(), trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, AppendingCSVLogger):
                logger.rewind(trainer.global_step - 1)  # rows are numbered from 0
        self._signals.listen()
        if _has_one_step(trainer) and trainer.is_global_zero:
            echo(
                "an epoch has only one step, so no state can be saved. Lower data.batch_size",
                file=sys.stderr,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """End the restart: otherwise Lightning skips the epoch's scheduler step at the end of this epoch."""
        trainer.fit_loop.restarting = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save if it is due and no gradient is pending, then end the process if a signal was received.

        Raises:
            SystemExit: a signal was received.
        """
        self.has_stepped = True
        self._stepped, self._steps_before = trainer.global_step > self._steps_before, trainer.global_step
        if _has_one_step(trainer):
            self.stop_if_signaled(trainer, f"ended at step {trainer.global_step}; nothing was saved")
        if not _validates_after(trainer, batch_idx):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do the same between a validation and the next batch.

        Raises:
            SystemExit: a signal was received.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        last = trainer.is_last_batch or trainer.global_step == trainer.max_steps or trainer.should_stop
        if not self._stepped or last:
            return
        due = bool(self._signals.received) or time.monotonic() - self._saved_at >= self.every_seconds
        if not self.enabled:
            self.stop_if_signaled(trainer, f"ended at step {trainer.global_step}; nothing was saved")
        elif max_over_ranks(int(due)):
            folder = run_folder(trainer)
            if folder is not None:
                self._save(trainer, folder)
            self.stop_if_signaled(trainer, f"saved at step {trainer.global_step}. {CONTINUE} {folder}")

    def _save(self, trainer: Trainer, run: Path) -> None:
        """Write the checkpoint atomically, then delete all but the newest."""
        if trainer.training:  # Lightning logs a batch's row after this hook: a run killed in between would miss it
            trainer._logger_connector.update_train_step_metrics()
        trainer.save_checkpoint(run / "recovery" / f"step-{trainer.global_step:09d}.ckpt", weights_only=False)
        if trainer.is_global_zero:
            for old in [*checkpoints(run)[KEPT:], *(run / "recovery").glob("*.partial")]:  # left by a kill
                old.unlink()
        self._saved_at = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last weights as ``checkpoints/last.ckpt``, next to the best ones."""
        folder = run_folder(trainer)
        if self.enabled and folder is not None:
            trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the signal handlers after everything at the end of training is written."""
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._signals.restore()

    def stop_if_signaled(self, trainer: Trainer, state: str) -> None:
        """End the process on every rank if one of them received a signal.

        Args:
            trainer: of the run.
            state: printed after the signal's name.

        Raises:
            SystemExit: a signal was received.
        """
        received = max_over_ranks(self._signals.received)  # a launcher may signal only the first rank
        if received:
            raise SystemExit(report_end(received, state, self.requeue) if trainer.is_global_zero else 0)


def _has_one_step(trainer: Trainer) -> bool:
    """Return whether every optimizer step is the last of its epoch."""
    return trainer.num_training_batches <= trainer.accumulate_grad_batches


def _validates_after(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether Lightning validates after this batch, which is not the last of its epoch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or every is None or every == float("inf"):
        return False
    counted = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return bool((counted + 1) % every == 0)


def checkpoints(run: Path) -> list[Path]:
    """Return the recovery checkpoints of a run, newest first."""
    return sorted((run / "recovery").glob("step-*.ckpt"), reverse=True)


def remove_states(run: Path) -> None:
    """Delete the recovery checkpoints of a finished run: each is three times as large as the weights."""
    for path in [*checkpoints(run), *(run / "recovery").glob("*.partial")]:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder does not exist, or holds other files
        (run / "recovery").rmdir()


def newest_readable(run: Path) -> Path | None:
    """Return the newest recovery checkpoint that is not damaged, if there is one. Damaged ones are reported."""
    for path in checkpoints(run):
        problem = damage(path)
        if problem is None:
            return path
        echo(f"{path}: damaged ({problem}); using the one before", file=sys.stderr)
    return None


def damage(path: Path) -> str | None:
    """Return the defect of a checkpoint file, or None. torch writes a ZIP with a checksum of every tensor.

    The checksums do not cover the ZIP's own directory, so torch also looks up all tensors, without reading them.
    """
    try:
        require_uncompressed(path)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            # torch writes no attributes; an entry marked as a folder would be read as empty without an error.
            changed = next((entry.filename for entry in archive.infolist() if entry.external_attr), None)
        torch.load(path, mmap=True, weights_only=True)
    except Exception as error:  # a damaged directory may raise anything
        return f"{type(error).__name__}: {first_line(error)}"
    return f"checksum of {broken}" if broken else f"attributes of {changed}" if changed else None
