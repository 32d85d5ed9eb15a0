"""From a picture to the tokens that stand before the text: the vision encoder's last map, one token a place.

Shapes: P image tokens, C the encoder's channels. What projects them to the language model's width, Linear-GELU-Linear,
is transformers' own (``LlavaMultiModalProjector``; the ``mlp2x_gelu`` of LLaVA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from babyvlm.errors import UserError, first_line

if TYPE_CHECKING:
    from babyvlm.models.networks.vision import VisionEncoder


def image_tokens(trunk: nn.Module, images_BCHW: Tensor) -> Tensor:
    """The last map of any timm trunk, not pooled, row by row: 7 x 7 = 49 tokens for ResNeXt-50 at 224 pixels (paper).

    A transformer's map are its patches, after its last norm and without its class token.

    Returns:
        (B, P, C).
    """
    (map_BCHW,) = cast("Any", trunk).forward_intermediates(
        images_BCHW, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
    )
    tokens: Tensor = map_BCHW.flatten(2).transpose(1, 2)
    return tokens


def count_tokens(vision: VisionEncoder, image_size: int) -> int:
    """How many tokens an encoder makes of a square image.

    Raises:
        UserError: it takes no images of this size.
    """
    weight = next(vision.trunk.parameters())
    mode = vision.trunk.training
    try:
        with torch.no_grad():
            image_1CHW = torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
            return image_tokens(vision.trunk.eval(), image_1CHW).shape[1]
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"vision backbone {vision.backbone} takes no images of {image_size} pixels ({first_line(error)})"
        ) from error
    finally:
        vision.trunk.train(mode)


class ImageTokens(nn.Module):
    """``image_tokens`` as a module: what a cache of a frozen encoder's features is made by.

    Args:
        trunk: a timm model.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, P, C)."""
        return image_tokens(self.trunk, images_BCHW)
