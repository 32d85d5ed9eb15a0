"""The config of a run in its folder, from which it can be resumed."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from babyvlm.training.run_lock import claim


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` whole or not at all: a run that is killed here can still be resumed or is none yet."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save it on the first rank."""
        self.folder = trainer.log_dir  # asked on every rank: it is broadcast
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it beside and rename it in."""
        if self.folder is None:
            return
        path = Path(self.folder) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        claim(path.parent)
        beside = path.with_suffix(".partial")
        self.parser.save(self.config, str(beside), skip_none=False, overwrite=True, multifile=False)
        beside.rename(path)
