"""DINO (Caron et al. 2021): the vision encoder learns from frames alone (phase 0-vision). Loss and head are lightly's.

Shapes: V views, N = V · B views of a batch end to end, K prototypes.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from babyvlm import __version__
from babyvlm.data.frame_mix import Views
from babyvlm.errors import UserError, first_line
from babyvlm.io import artifacts
from babyvlm.io.extras import require_extra
from babyvlm.models.networks.vision import VisionEncoder, save_trunk
from babyvlm.models.optimization import CosineWithWarmup, TimedScheduler, configure, training_steps

with require_extra("dino", "DINO"):
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule


class DINO(LightningModule):
    """A student matches, from any view, what a slow average of itself (the teacher) sees in the large views.

    When training ends the teacher's trunk, which is what later phases start from, is written to the run's folder as
    ``backbone.safetensors``, beside ``backbone.json`` with what made it. Defaults are facebookresearch/dino's.

    Args:
        vision: the encoder to train.
        optimizer: called with the student's parameters.
        prototypes: K, width of the head's output.
        head: further arguments of lightly's ``DINOProjectionHead``.
        loss: further arguments of lightly's ``DINOLoss``: temperatures, warm-up, centring.
        momentum: of the teacher's average; rises to 1 along a cosine over the run.
        half_precision: write the trunk in float16.
        scheduler: called with the optimizer and the run's number of steps, stepped each step.

    Raises:
        UserError: the encoder is frozen, or lightly does not know an argument.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        optimizer: OptimizerCallable,
        prototypes: int = 65536,
        head: dict[str, bool | int | float] | None = None,
        loss: dict[str, bool | int | float] | None = None,
        momentum: float = 0.996,
        half_precision: bool = False,
        scheduler: TimedScheduler = CosineWithWarmup,
    ) -> None:
        super().__init__()
        if vision.frozen:
            raise UserError("model.vision.frozen: a frozen encoder cannot be trained by DINO; set it to false")
        options = {"input_dim": vision.width, "output_dim": prototypes, "freeze_last_layer": 1} | (head or {})
        try:
            self.student_head, self.teacher_head = (DINOProjectionHead(**options) for _ in range(2))
            self.loss = DINOLoss(prototypes, **(loss or {}))
        except TypeError as error:
            raise UserError(f"model.head, model.loss: lightly does not take them ({first_line(error)})") from error
        # A weight-normed layer cannot be copied as it is.
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        self.student, self.teacher = vision, copy.deepcopy(vision)
        self.teacher.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.momentum, self.half_precision = momentum, half_precision
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def training_step(self, batch: Views, batch_idx: int) -> Tensor:
        """Cross-entropy of every view of the student with every other large view of the teacher."""
        large_NCHW, small_NCHW = batch.large_VBCHW.flatten(0, 1), batch.small_VBCHW.flatten(0, 1)
        with torch.no_grad():
            # In training mode, as in the original: its batch norm sees batches too, and gathers what evaluation needs.
            teacher_NK = self.teacher_head(self.teacher(large_NCHW))
        student_ND = torch.cat([self.student(large_NCHW), self.student(small_NCHW)])
        views = len(batch.large_VBCHW) + len(batch.small_VBCHW)
        student_NK = self.student_head(student_ND)
        loss = self.loss(
            list(teacher_NK.chunk(len(batch.large_VBCHW))), list(student_NK.chunk(views)), epoch=self.current_epoch
        )
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch.keys))
        self.log("teacher_entropy", _entropy(teacher_NK, self.loss), batch_size=len(batch.keys))
        return cast("Tensor", loss)

    def on_after_backward(self) -> None:
        """Hold the prototypes during the first epochs."""
        self.student_head.cancel_last_layer_gradients(self.current_epoch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's arguments, passed on
        """Step, and move the teacher towards the student: before any callback saves the two."""
        super().optimizer_step(*args, **kwargs)
        momentum = cosine_schedule(self.global_step, training_steps(self.trainer), self.momentum, 1.0)
        self.log("momentum", momentum)
        update_momentum(self.student, self.teacher, momentum)
        update_momentum(self.student_head, self.teacher_head, momentum)

    def on_train_end(self) -> None:
        """Write the teacher's trunk."""
        folder = self.trainer.log_dir  # asked on every rank: it is broadcast
        if not self.trainer.is_global_zero or folder is None:
            return
        file = Path(folder) / "backbone.safetensors"
        save_trunk(self.teacher.trunk, file, half=self.half_precision)
        made_by = {
            "backbone": self.teacher.backbone,
            "options": self.teacher.options,
            "width": self.teacher.width,
            "steps": self.global_step,
            "seed": getattr(getattr(self.trainer, "datamodule", None), "seed", None),
            "command": " ".join(["python -m babyvlm", *sys.argv[1:]]),
            "code_version": __version__,
            "sha256": artifacts.sha256_file(file),
        }
        file.with_suffix(".json").write_text(json.dumps(made_by, indent=2) + "\n")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over the student, and its schedule."""
        student: list[nn.Parameter] = [*self.student.parameters(), *self.student_head.parameters()]
        steps = training_steps(self.trainer)
        return configure(student, self.make_optimizer, lambda optimizer: self.make_scheduler(optimizer, steps))


def _entropy(teacher_NK: Tensor, loss: DINOLoss) -> Tensor:
    """Of the teacher's average choice, in nats: log K while all prototypes are used alike, 0 after a collapse."""
    mean_K = ((teacher_NK - loss.center[0]) / loss.teacher_temp).softmax(-1).mean(0)
    entropy: Tensor = torch.special.entr(mean_K).sum()
    return entropy
