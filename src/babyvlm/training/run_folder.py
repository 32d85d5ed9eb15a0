"""A run's folder: one process at a time writes to it, and it contains the config from which the run is resumed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger

from babyvlm.errors import UserError
from babyvlm.io.files import atomic_write
from babyvlm.io.locks import LockedError, lock_until_exit, release
from babyvlm.io.runs import run_folder
from babyvlm.training.csv_logger import AppendingCSVLogger

LOCK = ".lock"
LOGGERS = "loggers.json"  # which run of W&B, MLflow or TensorBoard each logger of the config writes to
# What a run leaves in its folder before its first step.
_FIRST_FILES = ("config.yaml", LOGGERS, "provenance.json", "vocabulary", "metrics.csv", "hparams.yaml")


def lock_run(run: Path) -> None:
    """Lock a run's folder until this process ends.

    Raises:
        UserError: another process is working on the run, or the file system does not support locks.
    """
    try:
        lock_until_exit(run.resolve() / LOCK)
    except LockedError as error:
        raise UserError(f"{run}: process {error} is working on this run. Wait until it has ended") from None


def claim_version(row: Path) -> Path:
    """Create and lock the next folder ``version_<n>`` of a row. Processes that start together get different ones."""
    numbers = [int(found[1]) for path in row.glob("version_*") if (found := re.fullmatch(r"version_(\d+)", path.name))]
    for number in count(max(numbers, default=0)):  # the last one may be left by a process that was killed
        run = row / f"version_{number}"
        run.mkdir(parents=True, exist_ok=True)
        if _is_unused(run):
            with suppress(LockedError):
                lock_until_exit(run.resolve() / LOCK)
                if _is_unused(run):
                    return run
    raise AssertionError  # count() does not end


def _is_unused(run: Path) -> bool:
    return run.is_dir() and not {path.name for path in run.iterdir()} - {LOCK}


def discard(run: Path) -> None:
    """Delete what a run that took no step has left in its folder, and the folder if nothing else is in it."""
    for path in [*(run / name for name in _FIRST_FILES), *run.glob("events.out.tfevents.*"), *run.glob("*.partial")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    release(run.resolve() / LOCK)
    with suppress(OSError):  # something else is in it
        run.rmdir()
        run.parent.rmdir()
        run.parent.parent.rmdir()


class RunLogger(AppendingCSVLogger):
    """The logger of the command line: ``metrics.csv`` in the run's folder, whatever else logs."""

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return Path(self.log_dir)


def resumable(logger: Logger) -> Logger:
    """Return a logger that keeps its rows when a run is resumed: Lightning's CSVLogger deletes them."""
    if type(logger) is not CSVLogger:
        return logger
    return AppendingCSVLogger(logger.save_dir, logger.name, logger.version, logger._prefix)


def check_csv(loggers: Iterable[Logger], run: Path) -> None:
    """Check that the CSVLoggers of a new run write to files of their own: rows of another run would be deleted.

    Raises:
        UserError: one of them writes to the run's own ``metrics.csv``, or to a file that exists.
    """
    for logger in loggers:
        if not isinstance(logger, AppendingCSVLogger):
            continue
        file = Path(logger.log_dir) / "metrics.csv"
        if file.parent.resolve() == run.resolve():
            raise UserError(f"trainer.logger: CSVLogger: {file} is written in any case. Remove this logger")
        if file.exists():
            raise UserError(f"trainer.logger: CSVLogger: {file} has rows of another run. Set another version or name")


def continue_logs(config: Any, run: Path) -> None:  # noqa: ANN401 - a logger's settings, a list of them, or a boolean
    """Let the loggers of a resumed run's config write to the same runs of W&B, MLflow or TensorBoard as before."""
    file = run / LOGGERS
    try:
        versions = json.loads(file.read_text()) if file.is_file() else []
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}). Restore the file, or delete it") from None
    loggers = config if isinstance(config, list) else [config]
    for logger, version in zip(loggers, versions, strict=False):
        options: Any = logger.get("init_args") if isinstance(logger, Namespace) else None
        name = next((name for name in ("version", "run_id") if name in (options or ())), None)
        if name is not None and version is not None:
            options[name] = version


class SaveConfig(SaveConfigCallback):
    """Write ``config.yaml`` atomically, so that a run that is killed here can be resumed or does not exist."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config on the first rank."""
        self.folder = run_folder(trainer)  # on every rank, because it is broadcast
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write which logs the run has, then the config to a temporary file, and rename it."""
        if self.folder is None:
            return
        path = self.folder / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_run(path.parent)
        versions = [logger.version for logger in trainer.loggers if not isinstance(logger, RunLogger)]
        with atomic_write(self.folder / LOGGERS) as file:
            file.write(json.dumps(versions) + "\n")
        temporary = path.with_suffix(".partial")
        self.parser.save(self.config, str(temporary), skip_none=False, overwrite=True, multifile=False)
        temporary.rename(path)
