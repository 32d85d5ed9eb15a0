"""How a LightningModule's injected optimizer and schedule are wired."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from lightning import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from babyvlm.errors import UserError

# A schedule that must know its length is called with it, so that no config can state another one than the run's.
TimedScheduler = Callable[[Optimizer, int], LRScheduler]


class CosineWithWarmup(LambdaLR):
    """Linear warm-up from zero, then half a cosine down to zero (as transformers' schedule of that name).

    Args:
        optimizer: whose learning rate is scheduled, from its own value as the peak.
        steps: optimizer steps of the whole run.
        warmup: share of them that the warm-up takes (0.03 in BabyLLaVA).
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: float = 0.03) -> None:
        self.steps, self.warmup_steps = steps, math.ceil(steps * warmup)
        super().__init__(optimizer, self._factor)

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UserError: it is of a run of another length: half of one curve and half of another is neither.
        """
        if state_dict["steps"] != self.steps:
            raise UserError(
                f"the checkpoint's learning rate was scheduled for {state_dict['steps']} steps, this run has "
                f"{self.steps}; resume with the trainer's max_steps or max_epochs, and the batch size, that it had"
            )
        super().load_state_dict(state_dict)


@runtime_checkable
class CountedBatches(Protocol):
    """A DataModule that knows its length before Lightning makes its loader."""

    @property
    def batches_per_epoch(self) -> int:
        """Global batches an epoch."""
        ...


def training_steps(trainer: Trainer) -> int:
    """Optimizer steps of the whole run, from what the config says.

    Lightning's ``estimated_stepping_batches`` makes the loader to count it, before a checkpoint is loaded, and so loses
    the loader's state on resume.

    Raises:
        UserError: the run has no end, or ``max_epochs`` of data that do not say how long they are.
    """
    has_steps, has_epochs = trainer.max_steps != -1, trainer.max_epochs not in (None, -1)
    if not has_epochs:
        if not has_steps:
            raise UserError("a schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        return trainer.max_steps
    data = trainer.datamodule  # type: ignore[attr-defined] # Lightning sets it outside of its class
    if not isinstance(data, CountedBatches):
        raise UserError("the schedule cannot tell how long an epoch of these data is; set trainer.max_steps alone")
    batches, limit = data.batches_per_epoch, trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = (trainer.max_epochs or 0) * math.ceil(batches / trainer.accumulate_grad_batches)
    return min(steps, trainer.max_steps) if has_steps else steps


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
