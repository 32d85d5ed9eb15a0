"""Validate images that users bring: decode them completely, or reject them with a reason."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from babyvlm.io.images import to_rgb, upright
from babyvlm.io.limits import MAX_IMAGE_BYTES, MAX_PIXELS

FORMATS = ("JPEG", "PNG", "WEBP")  # that a store may contain
MIN_SIDE = 16  # pixels; excludes tracking pixels and spacers. Our choice.
JPEG_QUALITY = 95  # of resized images: our choice, the same as of video frames
# Limit of an image in a store, of which several hundred are in memory at a time. Larger images are resized. Our choice.
MAX_STORED_BYTES, LARGE_IMAGE_SIDE = 1 << 20, 512


class InvalidSampleError(Exception):
    """A sample cannot be used. The message is the reason that the funnel shows."""


def validate_image(content: bytes, image_size: int = 0) -> bytes:
    """Decode an image completely and return its bytes, or those of a smaller JPEG.

    Args:
        content: an encoded image.
        image_size: maximum length of the shorter side in pixels; 0 for no limit, except for images of more than 1 MiB,
            for which it is 512.

    Raises:
        InvalidSampleError: not a JPEG, PNG or WebP image, truncated, too large, or too small.
    """
    image = _decode(content)
    if min(image.size) < MIN_SIDE:
        raise InvalidSampleError(f"image smaller than {MIN_SIDE} pixels")
    is_large = len(content) > MAX_STORED_BYTES
    side = min(image_size or (LARGE_IMAGE_SIDE if is_large else MAX_PIXELS), *image.size)
    if is_large or side < min(image.size):
        content = _resize(image, side)
    if len(content) > MAX_STORED_BYTES:
        raise InvalidSampleError("over 1 MiB even after resizing")
    return content


def _decode(content: bytes) -> Image.Image:
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidSampleError("over 64 MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidSampleError("image has too many pixels") from None
    except UnidentifiedImageError:
        raise InvalidSampleError("not a JPEG, PNG or WebP image") from None
    except Exception:  # decoders raise many kinds of errors for damaged files
        raise InvalidSampleError("image cannot be decoded") from None
    return image


def _resize(image: Image.Image, side: int) -> bytes:
    """Return a JPEG whose shorter side is ``side`` pixels."""
    image = upright(image)
    width, height = (max(side, round(length * side / min(image.size))) for length in image.size)
    image = image.convert("RGBA") if image.has_transparency_data else to_rgb(image)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if image.mode == "RGBA":  # transparent images are made for a white page
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
