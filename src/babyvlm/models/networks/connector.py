"""From an image to the tokens that precede the text: the vision encoder's last feature map, one token per location.

Shapes: P image tokens, C channels of the vision encoder. The projection to the language model's width,
Linear-GELU-Linear, is transformers' own (``LlavaMultiModalProjector``; ``mlp2x_gelu`` in LLaVA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from babyvlm.errors import UserError, first_line
from babyvlm.models.networks.vision import VisionEncoder, evaluating

if TYPE_CHECKING:
    from collections.abc import Callable


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


def token_shape(vision: VisionEncoder, image_size: int) -> tuple[int, int]:
    """Return the number of tokens of a square image, and their channels.

    Raises:
        UserError: the vision encoder does not accept images of this size, or has no feature map.
    """
    weight = next(vision.trunk.parameters())
    image_1CHW = torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
    with evaluating(vision.trunk), torch.no_grad():
        try:
            tokens_1PC = image_tokens(vision.trunk, image_1CHW)
        except AttributeError:
            raise UserError(f"vision backbone {vision.backbone}: timm returns no feature map of it") from None
        except Exception as error:  # hundreds of networks, each with its own way to fail
            raise UserError(vision.rejection(image_size, first_line(error))) from error
    return tokens_1PC.shape[1], tokens_1PC.shape[2]


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
