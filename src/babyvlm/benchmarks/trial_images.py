"""The pictures of a list, ready for a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from babyvlm.benchmarks.controls import BLANK
from babyvlm.errors import UserError
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.types import Captioner, ImageTextScorer

MEAN_COLOUR = (124, 116, 104)  # ImageNet's: about zero after the normalisation of any model
SIDE = 224  # of the blank picture; a model's preprocessing has its own


def load_images(model: ImageTextScorer | Captioner, images: Sequence[str], root: Path, device: torch.device) -> Tensor:
    """(B, C, H, W) of images below ``root``, preprocessed by the model.

    Raises:
        UserError: one cannot be read.
    """
    return torch.stack([model.preprocess(_open(root, image)) for image in images]).to(device)


def _open(root: Path, image: str) -> Image.Image:
    if image == BLANK:
        return Image.new("RGB", (SIDE, SIDE), MEAN_COLOUR)
    try:
        return open_rgb(root / image)
    except BrokenImageError as error:
        raise UserError(f"{root / image}: cannot be read as an image ({error})") from None
