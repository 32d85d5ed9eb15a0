"""From an image to the tokens that precede the text: the vision encoder's last feature map, one token per location.

Shapes: P image tokens, C channels of the vision encoder. The projection to the language model's width,
Linear-GELU-Linear, is transformers' own (``LlavaMultiModalProjector``; ``mlp2x_gelu`` in LLaVA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from babyvlm.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from babyvlm.models.networks.vision import VisionEncoder


def image_tokens(trunk: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Return the last feature map of a timm model, not pooled, row by row.

    7 x 7 = 49 tokens for ResNeXt-50 at 224 pixels (ShawnKing98/BabyLLaVA, ``resnext_encoder.py``). For a vision
    transformer: its patch tokens after the final norm, without the class token.

    Args:
        trunk: a timm model.
        images_BCHW: normalized images.

    Returns:
        (B, P, C).
    """
    intermediates = cast("Callable[..., list[Tensor]]", trunk.forward_intermediates)  # timm is not typed
    (map_BCHW,) = intermediates(images_BCHW, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
    return map_BCHW.flatten(2).transpose(1, 2)


def count_tokens(vision: VisionEncoder, image_size: int) -> int:
    """Return the number of tokens of a square image.

    Raises:
        UserError: the vision encoder does not accept images of this size.
    """
    weight = next(vision.trunk.parameters())
    mode = vision.trunk.training
    try:
        with torch.no_grad():
            image_1CHW = torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
            return image_tokens(vision.trunk.eval(), image_1CHW).shape[1]
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"vision backbone {vision.backbone} does not accept images of {image_size} pixels ({first_line(error)}). "
            "Change data.image_size or model.vision.backbone"
        ) from error
    finally:
        vision.trunk.train(mode)


class ImageTokens(nn.Module):
    """``image_tokens`` as a module: the encoder whose features are cached.

    Args:
        trunk: a timm model.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, P, C) image tokens."""
        return image_tokens(self.trunk, images_BCHW)
