"""How a LightningModule's injected optimizer and schedule are wired."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn


def configure(
    parameters: Iterable[nn.Parameter], make_optimizer: OptimizerCallable, make_scheduler: LRSchedulerCallable | None
) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns, for the parameters that are trained.

    ``ReduceLROnPlateau`` is stepped after each epoch on what it monitors, any other schedule each optimizer step.
    """
    optimizer = make_optimizer([parameter for parameter in parameters if parameter.requires_grad])
    if make_scheduler is None:
        return optimizer
    scheduler = make_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
