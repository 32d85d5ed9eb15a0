"""A run's folder: one process at a time writes to it, and it contains the config from which the run is resumed."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from babyvlm.errors import UserError
from babyvlm.io.locks import LockedError, lock_until_exit


def lock_run(run: Path) -> None:
    """Lock a run's folder until this process ends.

    Raises:
        UserError: another process is working on the run, or the file system does not support locks.
    """
    try:
        lock_until_exit(run.resolve() / ".lock")
    except LockedError as error:
        raise UserError(f"{run}: process {error} is working on this run. Wait until it has ended") from None


class SaveConfig(SaveConfigCallback):
    """Write ``config.yaml`` atomically, so that a run that is killed here can be resumed or does not exist."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config on the first rank."""
        self.folder = trainer.log_dir  # read on every rank, because it is broadcast
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config to a temporary file and rename it."""
        if self.folder is None:
            return
        path = Path(self.folder) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_run(path.parent)
        temporary = path.with_suffix(".partial")
        self.parser.save(self.config, str(temporary), skip_none=False, overwrite=True, multifile=False)
        temporary.rename(path)
