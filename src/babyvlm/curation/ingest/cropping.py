"""A video's picture -> the frame that a store holds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from babyvlm.curation.ingest.profiles import Profile

JPEG_QUALITY = 95  # OpenCV's default, with which the authors' release was written


def crop_frame(image: Image.Image, profile: Profile, size: int) -> Image.Image:
    """Cut a frame: shorter side resized, square crop above the centre, then turned as the camera was worn.

    The corpus' pixel numbers are scaled to ``size``. Pillow's bicubic filter smooths when it shrinks; OpenCV's, used
    for the authors' release, does not.
    """
    short = round(size * profile.resized / profile.cropped)
    shift = round(size * profile.crop_up / profile.cropped)
    width, height = (side * short // min(image.size) for side in image.size)
    left, top = width // 2 - size // 2, max(0, height // 2 - size // 2 - shift)
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return turned(image, profile.turned)


def as_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes, as good as those of the authors' release."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def turned(image: Image.Image, degrees: int) -> Image.Image:
    """Turn counter-clockwise, by the nearest quarter."""
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[round(degrees / 90) % 4]
    return image if turn is None else image.transpose(turn)
