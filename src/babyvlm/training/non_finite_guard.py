"""End a run whose loss or gradients are not finite, and report the pairs involved."""

from __future__ import annotations

import json
from typing import Protocol

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from babyvlm.errors import UserError
from babyvlm.io.runs import run_folder


class Keyed(Protocol):
    """A batch that has the keys of its samples."""

    keys: list[str]


class StopOnNonFinite(Callback):
    """End the run before a NaN or an infinity in the loss or a gradient reaches the weights.

    The keys of the pairs are written to ``non-finite-rank<r>.json`` in the run's folder. The norm of all gradients,
    which this needs, is logged as ``gradient_norm``: before clipping, over all accumulated batches.

    Raises:
        UserError: the loss or a gradient is not finite; the message names the step and that file.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._loss: Tensor | float = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Keyed, batch_idx: int) -> None:
        """Record the keys of the pairs since the last optimizer step."""
        self._keys += batch.keys

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up the loss of the step. It is checked with the gradients, when all ranks have one."""
        self._loss = self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check loss and gradients."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        pl_module.log("gradient_norm", norm)
        scaled = trainer.precision == "16-mixed"  # infinities are handled by the loss scaler
        finite = torch.as_tensor(self._loss, device=norm.device).isfinite()
        finite = finite if scaled else finite & norm.isfinite()
        # The only time in a step when the CPU waits for the device.
        if trainer.strategy.reduce((~finite).float(), reduce_op="max"):
            self._report(trainer, pl_module)
        self._keys, self._loss = [], 0.0

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, loss = trainer.global_step, float(self._loss)
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        touched = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
        problem, folder = f"step {step}: loss {loss}, {len(touched)} gradients not finite", run_folder(trainer)
        if folder is None:
            raise UserError(f"{problem} for pairs {', '.join(self._keys)}: check them, or lower the learning rate")
        path = folder / f"non-finite-rank{trainer.global_rank}.json"
        folder.mkdir(parents=True, exist_ok=True)
        found = {"step": step, "loss": str(loss), "gradients": touched, "keys": self._keys}
        path.write_text(json.dumps(found, indent=2) + "\n")
        raise UserError(f"{problem}. The keys of the pairs are in {path}: check them, or lower the learning rate")
