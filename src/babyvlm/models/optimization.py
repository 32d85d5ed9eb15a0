"""Optimizers and learning-rate schedules of the LightningModules."""

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
from babyvlm.ranges import require_in_range

# Creates a schedule from the optimizer and the number of steps, so that no config can state a length other than the
# run's.
TimedScheduler = Callable[[Optimizer, int], LRScheduler]


class CosineWithWarmup(LambdaLR):
    """Linear warm-up from zero, then half a cosine down to zero (transformers' schedule of that name).

    Args:
        optimizer: to schedule; its learning rate is the peak.
        steps: optimizer steps of the run.
        warmup: fraction of the steps that the warm-up takes (0.03 in BabyLLaVA).

    Raises:
        UserError: ``warmup`` is not a fraction.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: float = 0.03) -> None:
        require_in_range(warmup=warmup)
        self.steps, self.warmup_steps = steps, math.ceil(steps * warmup)
        super().__init__(optimizer, self._factor)

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            UserError: it belongs to a run of another length, whose learning rates differ.
        """
        if state_dict["steps"] != self.steps:
            raise UserError(
                f"the checkpoint's learning-rate schedule has {state_dict['steps']} steps, but this run has "
                f"{self.steps}. Resume with the max_steps or max_epochs, and the batch size, of the original run"
            )
        super().load_state_dict(state_dict)


@runtime_checkable
class CountedBatches(Protocol):
    """A DataModule that knows its length before Lightning creates its loader."""

    @property
    def batches_per_epoch(self) -> int:
        """Global batches per epoch."""
        ...


def training_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of the run, from the trainer's settings.

    Lightning's ``estimated_stepping_batches`` creates the loader before a checkpoint is loaded, which loses the
    loader's state on resume.

    Raises:
        UserError: the run has no end, or ends after epochs of unknown length.
    """
    has_steps, has_epochs = trainer.max_steps != -1, trainer.max_epochs not in (None, -1)
    if not has_epochs:
        if not has_steps:
            raise UserError("the learning-rate schedule needs an end. Set trainer.max_steps or trainer.max_epochs")
        return trainer.max_steps
    data = trainer.datamodule  # type: ignore[attr-defined] # Lightning sets it outside of its class
    if not isinstance(data, CountedBatches):
        raise UserError("the length of an epoch of these data is unknown to the learning-rate schedule. Set max_steps")
    batches, limit = data.batches_per_epoch, trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = (trainer.max_epochs or 0) * math.ceil(batches / trainer.accumulate_grad_batches)
    return min(steps, trainer.max_steps) if has_steps else steps


def configure(
    parameters: Iterable[nn.Parameter], make_optimizer: OptimizerCallable, make_scheduler: LRSchedulerCallable | None
) -> OptimizerLRScheduler:
    """Return the result of ``configure_optimizers``.

    Args:
        parameters: of the model; frozen ones are left out.
        make_optimizer: called with the trainable parameters.
        make_scheduler: called with the optimizer. ``ReduceLROnPlateau`` is stepped after each epoch with the metric
            that it monitors, any other schedule after each optimizer step.
    """
    optimizer = make_optimizer([parameter for parameter in parameters if parameter.requires_grad])
    # Fused optimizers can divide gradients by the scale of mixed precision themselves. Lightning then refuses to clip
    # gradients, even in bf16, which has no scale (Lightning #21435). Without this, it divides them before it clips.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined] # bounded by Lightning's version
    if make_scheduler is None:
        return optimizer
    scheduler = make_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
