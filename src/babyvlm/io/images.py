"""One way to open a picture that may be broken or hostile."""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cv2.typing import MatLike


_END_OF_JPEG = b"\xff\xd9"


class BrokenImageError(Exception):
    """A picture that cannot be decoded, or is too large to be one. The message is the cause."""


def open_rgb(source: bytes | Path) -> Image.Image:
    """Decode a whole picture, by its bytes or its path, to RGB.

    Raises:
        BrokenImageError: it is missing, truncated, no image, or larger than Pillow's limit against bombs.
    """
    with _opened(source) as image:
        return to_rgb(image)


def rgb_pixels(encoded: bytes) -> MatLike:
    """uint8 (H, W, 3), writable: the pixels of ``open_rgb``, in half of its time for the usual JPEG.

    Raises:
        BrokenImageError: as ``open_rgb``, after the same look at the header.
    """
    import cv2
    import numpy as np

    with _opened(encoded) as image:
        # Grey, CMYK, alpha and other formats are Pillow's; so are truncated JPEGs, which OpenCV would fill up.
        if (image.format, image.mode) != ("JPEG", "RGB") or not encoded.endswith(_END_OF_JPEG):
            return np.array(to_rgb(image))
        as_it_lies = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # Pillow does not turn pictures either
        pixels_HWC = cv2.imdecode(np.frombuffer(encoded, np.uint8), as_it_lies)
        if pixels_HWC is None or pixels_HWC.shape[1::-1] != image.size:
            raise OSError("broken JPEG data")
        return pixels_HWC


@contextmanager
def _opened(source: bytes | Path) -> Iterator[Image.Image]:
    """A picture whose header was read, and that is not too large; whatever fails with it is a broken image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise BrokenImageError(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB at 8 bits. Pillow by itself would cut 16-bit grey off at 255, which leaves a white page."""
    if image.mode.startswith("I;16"):
        import numpy as np

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
