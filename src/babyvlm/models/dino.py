"""DINO (Caron et al. 2021): trains the vision encoder on frames only (phase 0 of the vision encoder).

Shapes: V views, N = V * B views of a batch, concatenated, K prototypes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.optimizer import ParamsT

from babyvlm import __version__
from babyvlm.data.frame_mix import Views
from babyvlm.errors import UserError, first_line
from babyvlm.io import artifacts
from babyvlm.io.extras import require_extra
from babyvlm.io.runs import run_folder
from babyvlm.models.networks.vision import VisionEncoder, save_trunk
from babyvlm.models.optimization import CosineWithWarmup, TimedScheduler, configure, training_steps
from babyvlm.ranges import require_in_range

with require_extra("dino", "DINO"):
    from lightly.loss import DINOLoss
    from lightly.loss.swav_loss import sinkhorn
    from lightly.utils.scheduler import cosine_schedule

    from babyvlm.models.networks.dino import DINONetwork


class DINOAdamW(torch.optim.AdamW):
    """AdamW with learning rate 5e-4 and weight decay 0.04 (facebookresearch/dino, for a batch of 256)."""

    def __init__(self, params: ParamsT, lr: float = 5e-4, weight_decay: float = 0.04, **kwargs: Any) -> None:  # noqa: ANN401 - AdamW's
        super().__init__(params, lr=lr, weight_decay=weight_decay, **kwargs)


class DINO(LightningModule):
    """Trains a student to match, from any view, the output of its moving average (the teacher) for the large views.

    At the end of training the teacher's trunk, which later phases start from, is written to the run's folder as
    ``backbone.safetensors``, with its provenance in ``backbone.json``. Defaults are those of facebookresearch/dino.

    Args:
        vision: the encoder to train.
        optimizer: called with the student's parameters.
        prototypes: K, width of the head's output.
        head: further arguments of lightly's ``DINOProjectionHead``.
        loss: further arguments of lightly's ``DINOLoss``: temperatures, warm-up, centering.
        momentum: of the teacher at the first step; rises to 1 along a cosine over the run.
        half_precision: write the trunk in float16.
        scheduler: called with the optimizer and the run's number of steps; stepped after each step.
        centering: what prevents a collapse: ``mean`` subtracts a moving mean of the teacher's output, as in DINO;
            ``sinkhorn`` assigns each batch evenly to the prototypes, as in SwAV (Caron et al. 2020) and DINOv2 (Oquab
            et al. 2023). Small models and short runs, where the mean collapses or the targets stay flat, need it.

    Raises:
        UserError: the encoder is frozen, a number is out of range, or lightly does not accept an argument.
    """

    logged = ("train_loss", "teacher_entropy", "momentum")

    def __init__(
        self,
        vision: VisionEncoder,
        optimizer: OptimizerCallable = DINOAdamW,
        prototypes: int = 65536,
        head: dict[str, int | float | bool] | None = None,
        loss: dict[str, int | float | bool] | None = None,
        momentum: float = 0.996,
        half_precision: bool = False,
        scheduler: TimedScheduler = CosineWithWarmup,
        centering: Literal["mean", "sinkhorn"] = "mean",
    ) -> None:
        super().__init__()
        require_in_range(prototypes=prototypes, momentum=momentum)
        if vision.frozen:
            raise UserError("model.vision.frozen: DINO trains the vision encoder. Set it to false")
        self.network = DINONetwork(vision, prototypes, head)
        try:
            self.loss = DINOLoss(prototypes, **cast("dict[str, Any]", loss or {}))
        except TypeError as error:
            raise UserError(f"model.loss: not accepted by lightly ({first_line(error)})") from error
        self.centering, self.momentum, self.half_precision = centering, momentum, half_precision
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def setup(self, stage: str) -> None:
        """Check that the encoder accepts the views of both sizes.

        Raises:
            UserError: it does not.
        """
        for size in getattr(self.trainer.datamodule, "view_sizes", ()):  # type: ignore[attr-defined] # set by Lightning
            self.network.student.probe(size)

    def training_step(self, batch: Views, batch_idx: int) -> Tensor:
        """Return the cross-entropy between each view of the student and each other large view of the teacher."""
        large, small = batch.large_VBCHW, batch.small_VBCHW
        teacher_NK, student_NK = self.network(large.flatten(0, 1), small.flatten(0, 1))
        views = len(large) + len(small)
        teacher_NK, student_NK = teacher_NK.float(), student_NK.float()
        with torch.autocast(teacher_NK.device.type, enabled=False):  # softmax and center in float32 under any precision
            parts = list(teacher_NK.chunk(len(large))), list(student_NK.chunk(views))
            if self.centering == "sinkhorn":
                loss = _sinkhorn_loss(*parts, self.loss, self.current_epoch)
            else:
                loss = self.loss(*parts, epoch=self.current_epoch)
        self.log("train_loss", loss, batch_size=len(batch.keys))
        self.log("teacher_entropy", _entropy(teacher_NK, self.loss), batch_size=len(batch.keys))
        return loss

    def on_after_backward(self) -> None:
        """Keep the prototypes fixed during the first epochs."""
        self.network.student_head.cancel_last_layer_gradients(self.current_epoch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Update the student and then the teacher, before any callback saves them."""
        super().optimizer_step(*args, **kwargs)
        momentum = cosine_schedule(self.global_step, training_steps(self.trainer), self.momentum, 1.0)
        self.log("momentum", torch.full((), momentum, device=self.device))  # a number would be copied to the device
        self.network.update_teacher(momentum)

    def on_train_end(self) -> None:
        """Write the teacher's trunk."""
        folder = run_folder(self.trainer)
        if not self.trainer.is_global_zero or folder is None:
            return
        file, teacher = folder / "backbone.safetensors", self.network.teacher
        save_trunk(teacher.trunk, file, half=self.half_precision)
        provenance = {
            "backbone": teacher.backbone,
            "options": teacher.options,
            "width": teacher.width,
            "steps": self.global_step,
            "seed": getattr(getattr(self.trainer, "datamodule", None), "seed", None),
            "command": " ".join(["python -m babyvlm", *sys.argv[1:]]),
            "code_version": __version__,
            "sha256": artifacts.sha256_file(file),
        }
        file.with_suffix(".json").write_text(json.dumps(provenance, indent=2) + "\n")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of the student, and its schedule."""
        steps = training_steps(self.trainer)
        return configure(
            self.network.student_parameters(),
            self.make_optimizer,
            lambda optimizer: self.make_scheduler(optimizer, steps),
        )


def _sinkhorn_loss(
    teacher_BK: Sequence[Tensor], student_BK: Sequence[Tensor], settings: DINOLoss, epoch: int
) -> Tensor:
    """Return DINO's cross-entropy with targets that use all prototypes equally in each view of the batch of all ranks.

    Args:
        teacher_BK: outputs for each large view.
        student_BK: outputs for each view, the same large views first.
        settings: has the temperatures.
        epoch: during the warm-up, it determines the temperature of the teacher.
    """
    warming = epoch < settings.warmup_teacher_temp_epochs
    temperature = float(settings.teacher_temp_schedule[epoch] if warming else settings.teacher_temp)
    targets = [sinkhorn(view_BK, epsilon=temperature, gather_distributed=True) for view_BK in teacher_BK]
    outputs = [(view_BK / settings.student_temp).log_softmax(-1) for view_BK in student_BK]
    terms = [
        -(target_BK * output_BK).sum(-1).mean()
        for large, target_BK in enumerate(targets)
        for view, output_BK in enumerate(outputs)
        if view != large
    ]
    return torch.stack(terms).mean()


def _entropy(teacher_NK: Tensor, loss: DINOLoss) -> Tensor:
    """Return the entropy of the teacher's mean output, in nats: log K if all prototypes are used equally.

    It is 0 after a collapse to one prototype.
    """
    mean_K = ((teacher_NK - loss.center[0]) / loss.teacher_temp).softmax(-1).mean(0)
    entropy: Tensor = torch.special.entr(mean_K).sum()
    return entropy
