"""Open images that may be broken or hostile, as a browser shows them."""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_SCANNED_PIXELS, MAX_SCANS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cv2.typing import MatLike


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")  # decoders of other formats start programs or unpack anything
_END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"  # never occurs within the data of a scan
BACKGROUND = "white"  # of transparent images, which are drawn for a white page: our choice
_ORIENTATION = 0x0112  # EXIF tag


class BrokenImageError(Exception):
    """An image cannot be decoded, or is too large. The message is the reason."""


class TooManyScansError(BrokenImageError):
    """A progressive JPEG would take too long to decode: every scan visits every pixel."""


def open_rgb(source: bytes | Path) -> Image.Image:
    """Decode a complete image, given its bytes or path, to RGB: upright by its EXIF orientation, over white.

    Raises:
        BrokenImageError: it is missing, truncated, not an image, or exceeds a limit of ``io.limits``.
    """
    with _opened(source) as image:
        return to_rgb(upright(image))


def rgb_pixels(encoded: bytes) -> MatLike:
    """Return the pixels of ``open_rgb`` as a writable uint8 (H, W, 3) array, in half the time for a usual JPEG.

    Raises:
        BrokenImageError: as ``open_rgb``, after the same check of the header.
    """
    import cv2
    import numpy as np

    with _opened(encoded) as image:
        # Pillow decodes gray, CMYK, alpha and other formats, and truncated JPEGs, which OpenCV would fill with gray.
        is_usual = (image.format, image.mode) == ("JPEG", "RGB") and encoded.endswith(_END_OF_JPEG)
        if not is_usual or not is_upright(image):
            return np.array(to_rgb(upright(image)))
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels_HWC = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        if pixels_HWC is None or pixels_HWC.shape[1::-1] != image.size:
            raise OSError("broken JPEG data")
        return pixels_HWC


@contextmanager
def _opened(source: bytes | Path) -> Iterator[Image.Image]:
    """Open an image that keeps the limits; any error in the block means that the image is broken."""
    try:
        content = source if isinstance(source, bytes) else read_bounded(source, MAX_IMAGE_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_effort(image, content)
                yield image
    except BrokenImageError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise BrokenImageError(str(error) or type(error).__name__) from error


def has_too_many_scans(content: bytes) -> bool:
    """Return whether an image is a progressive JPEG that would take seconds or minutes to decode."""
    try:
        with _opened(content):
            return False
    except TooManyScansError:
        return True
    except BrokenImageError:
        return False


def _check_effort(image: Image.Image, content: bytes) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise BrokenImageError(f"image has too many pixels, over {MAX_PIXELS:,}")
    scans = content.count(_START_OF_SCAN) if image.format in ("JPEG", "MPO") else 1
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise TooManyScansError(f"JPEG has too many scans, {scans}")


def is_upright(image: Image.Image) -> bool:
    """Tell whether an image is stored as it is shown, by its EXIF orientation."""
    return bool(image.getexif().get(_ORIENTATION, 1) == 1)


def upright(image: Image.Image) -> Image.Image:
    """Rotate and mirror an image by its EXIF orientation."""
    return image if is_upright(image) else ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB, transparent parts over white. Pillow alone would clip 16-bit gray at 255."""
    if image.mode.startswith("I;16"):
        import numpy as np

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:  # the color of transparent pixels is arbitrary, often black
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image.convert("RGB")
