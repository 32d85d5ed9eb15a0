"""DINO's network: a student, and a teacher that is a moving average of it (Caron et al. 2021). Heads are lightly's.

Shapes: N images, K prototypes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from babyvlm.errors import UserError, first_line
from babyvlm.io.extras import require_extra
from babyvlm.models.networks.vision import VisionEncoder

with require_extra("dino", "DINO"):
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum


class DINONetwork(nn.Module):
    """Student and teacher, each a vision encoder with a projection head; the teacher has no gradient.

    Args:
        vision: becomes the student; the teacher starts as its copy.
        prototypes: K, width of the head's output.
        head: further arguments of lightly's ``DINOProjectionHead``.

    Raises:
        UserError: lightly does not accept an argument of the head.
    """

    def __init__(
        self, vision: VisionEncoder, prototypes: int, head: dict[str, int | float | bool] | None = None
    ) -> None:
        super().__init__()
        options = {"input_dim": vision.width, "output_dim": prototypes, "freeze_last_layer": 1} | (head or {})
        try:
            self.student_head, self.teacher_head = (DINOProjectionHead(**options) for _ in range(2))
        except TypeError as error:
            raise UserError(f"model.head: not accepted by lightly ({first_line(error)})") from error
        # deepcopy does not support the weight norm of the last layer.
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        self.student, self.teacher = vision, copy.deepcopy(vision)
        self.teacher.requires_grad_(False)
        self.teacher_head.requires_grad_(False)

    def forward(self, large_NCHW: Tensor, small_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the teacher for the large views and of the student for all views.

        Args:
            large_NCHW: large views.
            small_NCHW: small views.

        Returns:
            (N large, K) and (N large + N small, K).
        """
        with torch.no_grad():
            # In training mode, as in the original: its batch norm uses and updates statistics of batches too.
            teacher_NK = self.teacher_head(self.teacher(large_NCHW))
        student_ND = self.student(large_NCHW)
        if len(small_NCHW):
            student_ND = torch.cat([student_ND, self.student(small_NCHW)])
        return teacher_NK, self.student_head(student_ND)

    def student_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained."""
        return [*self.student.parameters(), *self.student_head.parameters()]

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student.

        Args:
            momentum: weight of the teacher's previous value.
        """
        update_momentum(self.student, self.teacher, momentum)
        update_momentum(self.student_head, self.teacher_head, momentum)
