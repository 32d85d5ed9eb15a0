"""Validate images that users bring: decode them completely, or reject them with a reason.

Stored images are what a browser shows, without metadata: photos contain the place where they were taken.
"""

from __future__ import annotations

import io

from PIL import Image

from babyvlm.curation.ingest.image_metadata import strip_metadata
from babyvlm.io.images import BrokenImageError, is_upright, opened, to_rgb, upright
from babyvlm.io.limits import MAX_IMAGE_BYTES, MAX_PIXELS

# Formats whose bytes are kept. The others become JPEGs; of animations, the first frame. MPO: a JPEG with other images
# behind it, which are removed.
STORED_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
MIN_SIDE = 16  # pixels; excludes tracking pixels and spacers. Our choice.
JPEG_QUALITY = 95  # of resized images: our choice, the same as of video frames
# Limit of an image in a store, of which several hundred are in memory at a time. Larger images are resized. Our choice.
MAX_STORED_BYTES, LARGE_IMAGE_SIDE = 1 << 20, 512


class InvalidSampleError(Exception):
    """A sample cannot be used. The message is the reason that the funnel shows."""


def validate_image(content: bytes, image_size: int = 0) -> bytes:
    """Decode an image completely and return what is stored: its bytes without metadata, or those of a JPEG.

    An image becomes a JPEG if it is resized, has an EXIF orientation or transparent parts (over white), or if its
    format is AVIF, GIF, BMP or TIFF.

    Args:
        content: an encoded image.
        image_size: maximum length of the shorter side in pixels; 0 for no limit, except for images of more than 1 MiB,
            for which it is 512.

    Raises:
        InvalidSampleError: not an image of these formats, truncated, too large, too small, or too slow to decode.
    """
    image = _decode(content)
    if min(image.size) < MIN_SIDE:
        raise InvalidSampleError(f"image smaller than {MIN_SIDE} pixels")
    is_kept = _is_kept(image)
    is_large = len(content) > MAX_STORED_BYTES
    if is_kept and not is_large:
        content = strip_metadata(content, image.format or "")
    side = min(image_size or (LARGE_IMAGE_SIDE if is_large else MAX_PIXELS), *image.size)
    if not is_kept or is_large or side < min(image.size):
        content = _encode(image, side)
    if len(content) > MAX_STORED_BYTES:  # a format without compression, or a very long image
        content = _encode(image, min(side, LARGE_IMAGE_SIDE))
    if len(content) > MAX_STORED_BYTES:
        raise InvalidSampleError("over 1 MiB even after resizing")
    return content


def clean_image(content: bytes) -> bytes:
    """Return an image in its full size as ``validate_image`` stores it.

    Raises:
        InvalidSampleError: as ``validate_image``.
    """
    image = _decode(content)
    return strip_metadata(content, image.format or "") if _is_kept(image) else _encode(image, min(image.size))


def _is_kept(image: Image.Image) -> bool:
    return image.format in STORED_FORMATS and is_upright(image) and not image.has_transparency_data


def _decode(content: bytes) -> Image.Image:
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidSampleError("over 64 MiB")
    try:
        with opened(content) as image:
            image.load()
            if image.mode in ("F", "I"):  # elevation maps and the like: their range is unknown
                raise BrokenImageError("", "image with 32-bit pixels")
            return image
    except BrokenImageError as error:
        raise InvalidSampleError(error.reason) from None


def _encode(image: Image.Image, side: int) -> bytes:
    """Return a JPEG of what a browser shows, whose shorter side is ``side`` pixels."""
    image = to_rgb(upright(image))
    if side < min(image.size):
        width, height = (max(side, round(length * side / min(image.size))) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.info = {}  # metadata
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
