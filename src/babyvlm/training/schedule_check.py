"""Check at the start that a learning-rate schedule is as long as the run."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from babyvlm.errors import UserError
from babyvlm.models.optimization import training_steps


class ScheduleCheck(Callback):
    """Refuse a schedule that ends before the run: OneCycleLR would fail then, and a cosine would rise again."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the lengths.

        Raises:
            UserError: the schedule is too short.
        """
        if trainer.max_steps == -1 and trainer.max_epochs in (None, -1):
            return
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            length = {OneCycleLR: "total_steps", CosineAnnealingLR: "T_max"}.get(type(schedule))
            if length is None or config.interval != "step":
                continue
            ends, steps = getattr(schedule, length), training_steps(trainer)
            if ends < steps:
                raise UserError(
                    f"model.scheduler: {type(schedule).__name__} ends after {ends} steps, but the run has {steps}. Set "
                    f"{length} to {steps}"
                )
