"""One way to open a picture that may be broken or hostile."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


class BrokenImageError(Exception):
    """A picture that cannot be decoded, or is too large to be one. The message is the cause."""


def open_rgb(source: bytes | Path) -> Image.Image:
    """Decode a whole picture, by its bytes or its path, to RGB.

    Raises:
        BrokenImageError: it is missing, truncated, no image, or larger than Pillow's limit against bombs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise BrokenImageError(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB at 8 bits. Pillow by itself would cut 16-bit grey off at 255, which leaves a white page."""
    if image.mode.startswith("I;16"):
        import numpy as np

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
