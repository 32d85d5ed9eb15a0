"""Images that users bring: whole and of a kind that a store may hold, or refused with a reason."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")  # what a store may hold
MIN_SIDE = 16  # pixels; tracking dots and spacers are smaller. Our choice.
JPEG_QUALITY = 95  # of images made smaller: our choice, the same as of frames
MAX_BYTES = 64 << 20  # of an encoded picture or text; our choice, far above any photo of a web corpus


class UnsoundError(Exception):
    """Why an input cannot serve; the message is the reason the funnel shows."""


def sound_image(content: bytes, image_size: int = 0) -> bytes:
    """Decode an image to its last pixel; return its bytes, or those of a smaller JPEG.

    Args:
        content: an encoded image.
        image_size: longest the shorter side may be in pixels; 0 for any.

    Raises:
        UnsoundError: it is no JPEG, PNG or WebP, is cut short, is far too large or too small.
    """
    if len(content) > MAX_BYTES:
        raise UnsoundError("over 64 MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnsoundError("image has too many pixels") from None
    except UnidentifiedImageError:
        raise UnsoundError("not a JPEG, PNG or WebP image") from None
    except Exception:  # hostile bytes make decoders raise whatever they like
        raise UnsoundError("image broken") from None
    if min(image.size) < MIN_SIDE:
        raise UnsoundError(f"image under {MIN_SIDE} pixels")
    return content if not image_size or min(image.size) <= image_size else _smaller(image, image_size)


def _smaller(image: Image.Image, side: int) -> bytes:
    if image.has_transparency_data:  # what is transparent was made to stand on a white page
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    width, height = (max(side, round(length * side / min(image.size))) for length in image.size)
    buffer = io.BytesIO()
    image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
