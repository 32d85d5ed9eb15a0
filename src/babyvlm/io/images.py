"""Open images that may be broken or hostile, as a browser shows them."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_SCANNED_PIXELS, MAX_SCANS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cv2.typing import MatLike


# Formats that are decoded, and their suffixes. Decoders of other formats start programs or unpack anything.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
# Formats that are recognized, so that a message can name them, by suffix and by content.
UNSUPPORTED_SUFFIXES = (".heic", ".heif", ".jxl", ".jp2", ".svg", ".ico", ".psd", ".dng", ".raw")
UNSUPPORTED_CONTENT = (
    (re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  "), "JPEG 2000"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg"), "SVG"),
)
DAMAGED, TOO_MANY_PIXELS = "image cannot be decoded", "image has too many pixels"
UNKNOWN_FORMAT = "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image"
_END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"  # never occurs within the data of a scan
BACKGROUND = "white"  # of transparent images, which are drawn for a white page: our choice
_ORIENTATION = 0x0112  # EXIF tag


class BrokenImageError(Exception):
    """An image cannot be decoded, or is too large.

    Attributes:
        reason: what is wrong, in the same words for all images with this problem; the message may say more.
    """

    def __init__(self, message: str, reason: str = DAMAGED) -> None:
        super().__init__(message)
        self.reason = reason


def open_rgb(source: bytes | Path) -> Image.Image:
    """Decode a complete image, given its bytes or path, to RGB: upright by its EXIF orientation, over white.

    Raises:
        BrokenImageError: it is missing, truncated, not an image, or exceeds a limit of ``io.limits``.
    """
    with opened(source) as image:
        return to_rgb(upright(image))


def rgb_pixels(encoded: bytes) -> MatLike:
    """Return the pixels of ``open_rgb`` as a writable uint8 (H, W, 3) array, in half the time for a usual JPEG.

    Raises:
        BrokenImageError: as ``open_rgb``, after the same check of the header.
    """
    import cv2
    import numpy as np

    with opened(encoded) as image:
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
def opened(source: bytes | Path) -> Iterator[Image.Image]:
    """Open an image, given its bytes or path, that keeps the limits. Any error in the block means that it is broken.

    Raises:
        BrokenImageError: it is missing, truncated, not an image, or exceeds a limit of ``io.limits``.
    """
    content = b""
    try:
        content = source if isinstance(source, bytes) else read_bounded(source, MAX_IMAGE_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_effort(image, content)
                yield image
    except BrokenImageError:
        raise
    except UnidentifiedImageError:
        reason = _unknown_format(content)
        raise BrokenImageError(reason, reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImageError(str(error), TOO_MANY_PIXELS) from None
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise BrokenImageError(str(error) or type(error).__name__) from error


def _unknown_format(content: bytes) -> str:
    if not content:
        return "image file is empty"
    found = next((name for pattern, name in UNSUPPORTED_CONTENT if pattern.match(content)), "")
    return f"image format is not supported ({found})" if found else UNKNOWN_FORMAT


def _check_effort(image: Image.Image, content: bytes) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise BrokenImageError(f"image has too many pixels, over {MAX_PIXELS:,}", TOO_MANY_PIXELS)
    # A progressive JPEG of many scans takes seconds or minutes to decode: every scan visits every pixel.
    scans = content.count(_START_OF_SCAN) if image.format in ("JPEG", "MPO") else 1
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise BrokenImageError(f"JPEG has too many scans, {scans}", "JPEG has too many scans")


def image_suffix(content: bytes) -> str:
    """Return the suffix, without its dot, of an image as stores contain them: jpg, png or webp."""
    return {b"\xff\xd8": "jpg", b"\x89P": "png"}.get(content[:2], "webp")


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
