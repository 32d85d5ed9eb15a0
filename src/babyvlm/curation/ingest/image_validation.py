"""Images that users bring: whole and of a kind that a store may hold, or refused with a reason."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from babyvlm.io.images import to_rgb

FORMATS = ("JPEG", "PNG", "WEBP")  # what a store may hold
MIN_SIDE = 16  # pixels; tracking dots and spacers are smaller. Our choice.
JPEG_QUALITY = 95  # of images made smaller: our choice, the same as of frames
MAX_PIXELS = 1 << 25  # 8K video has as many; decoded and made smaller, it takes half a gigabyte
MAX_BYTES = 64 << 20  # of an encoded picture or text; our choice, far above any photo of a web corpus
# Of an image in a store, of which some hundreds are held at a time; larger ones are made smaller. Our choice.
STORED_BYTES, LARGE_SIDE = 1 << 20, 512


class UnsoundError(Exception):
    """Why an input cannot serve; the message is the reason the funnel shows."""


def sound_image(content: bytes, image_size: int = 0) -> bytes:
    """Decode an image to its last pixel; return its bytes, or those of a smaller JPEG.

    Args:
        content: an encoded image.
        image_size: longest the shorter side may be in pixels; 0 for any, if the image has at most 1 MiB, and else 512.

    Raises:
        UnsoundError: it is no JPEG, PNG or WebP, is cut short, is far too large or too small.
    """
    image = _decoded(content)
    if min(image.size) < MIN_SIDE:
        raise UnsoundError(f"image under {MIN_SIDE} pixels")
    large = len(content) > STORED_BYTES
    side = min(image_size or (LARGE_SIDE if large else MAX_PIXELS), *image.size)
    if large or side < min(image.size):
        content = _smaller(image, side)
    if len(content) > STORED_BYTES:
        raise UnsoundError("over 1 MiB even when made smaller")
    return content


def _decoded(content: bytes) -> Image.Image:
    if len(content) > MAX_BYTES:
        raise UnsoundError("over 64 MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnsoundError("image has too many pixels") from None
    except UnidentifiedImageError:
        raise UnsoundError("not a JPEG, PNG or WebP image") from None
    except Exception:  # hostile bytes make decoders raise whatever they like
        raise UnsoundError("image broken") from None
    return image


def _smaller(image: Image.Image, side: int) -> bytes:
    width, height = (max(side, round(length * side / min(image.size))) for length in image.size)
    image = image.convert("RGBA") if image.has_transparency_data else to_rgb(image)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if image.mode == "RGBA":  # what is transparent was made to stand on a white page
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
