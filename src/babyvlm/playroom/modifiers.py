"""Modifiers (colors, sizes, numbers, patterns, states), each with how it changes a thing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from babyvlm.playroom.sprites import PATTERNS, Look, gray_look, random_look

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["color", "size", "number", "pattern", "state"]

# Hue of each color (0 to 1) and its standard deviation; neighbors overlap.
_HUES = {
    "red": (0.0, 0.025),
    "orange": (0.075, 0.02),
    "yellow": (0.14, 0.02),
    "green": (0.33, 0.05),
    "blue": (0.6, 0.04),
    "purple": (0.77, 0.03),
    "pink": (0.92, 0.025),
}
_GRAYS = {"black": (0.02, 0.3), "gray": (0.3, 0.65), "white": (0.65, 1.0)}
SIZES = {"big": 1.45, "little": 0.62, "huge": 1.8, "tiny": 0.4}  # times the usual extent
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}


@dataclass(frozen=True)
class Modifier:
    """An adjective or number word, and its kind."""

    name: str
    kind: Kind


def _transparent(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    image.putalpha(image.getchannel("A").point([round(0.4 * value) for value in range(256)]))
    return image


def _resize(image: Image.Image, wide: float, high: float) -> Image.Image:
    return image.resize(
        (max(2, round(image.width * wide)), max(2, round(image.height * high))), Image.Resampling.BILINEAR
    )


def _flat(image: Image.Image, rng: random.Random) -> Image.Image:
    return _resize(image, 1.15, rng.uniform(0.3, 0.4))


def _tall(image: Image.Image, rng: random.Random) -> Image.Image:
    return _resize(image, 0.6, rng.uniform(1.35, 1.6))


def _wide(image: Image.Image, rng: random.Random) -> Image.Image:
    return _resize(image, rng.uniform(1.4, 1.65), 0.75)


def _upside_down(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def _sideways(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.rotate(rng.choice((90, -90)), expand=True)


def _over(image: Image.Image, layer: Image.Image, *, inside: bool = True) -> Image.Image:
    if inside:
        layer.putalpha(ImageChops.multiply(layer.getchannel("A"), image.getchannel("A")))
    image.alpha_composite(layer)
    return image


def _blobs(
    image: Image.Image, rng: random.Random, color: tuple[int, ...], count: int, low: float, high: float
) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    for _ in range(count):
        x, y = rng.random() * image.width, rng.random() * image.height
        radius = rng.uniform(low, high) * max(image.size)
        pen.ellipse((x - radius, y - radius * rng.uniform(0.5, 1), x + radius, y + radius), color)
    return layer


def _dirty(image: Image.Image, rng: random.Random) -> Image.Image:
    mud = (rng.randint(40, 90), rng.randint(25, 55), rng.randint(5, 30), 255)
    return _over(image, _blobs(image, rng, mud, 12, 0.03, 0.09))


def _wet(image: Image.Image, rng: random.Random) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    for _ in range(9):
        x, y = rng.random() * image.width, rng.random() * image.height * 0.8
        length, width = rng.uniform(0.1, 0.22) * image.height, max(2, image.width // 22)
        pen.line((x, y, x, y + length), (215, 235, 255, 230), width)
        pen.ellipse((x - width, y + length - width, x + width, y + length + width), (235, 245, 255, 255))
    return _over(image, layer, inside=False)


def _shiny(image: Image.Image, rng: random.Random) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    for _ in range(4):
        x, y = rng.uniform(0.15, 0.85) * image.width, rng.uniform(0.15, 0.85) * image.height
        radius = rng.uniform(0.08, 0.14) * max(image.size)
        thin = radius / 5
        pen.polygon(
            [(x - radius, y), (x - thin, y - thin), (x, y - radius), (x + thin, y - thin)], (255, 255, 255, 255)
        )
        pen.polygon(
            [(x + radius, y), (x + thin, y + thin), (x, y + radius), (x - thin, y + thin)], (255, 255, 255, 255)
        )
        pen.polygon(
            [(x - thin, y - thin), (x + thin, y - thin), (x + thin, y + thin), (x - thin, y + thin)], (255, 255, 255)
        )
    return _over(image, layer)


def _broken(image: Image.Image, rng: random.Random) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    for _ in range(2):
        x, y = rng.uniform(0.2, 0.8) * image.width, 0.0
        points = [(x, y)]
        while y < image.height:
            x, y = x + rng.uniform(-0.16, 0.16) * image.width, y + image.height * rng.uniform(0.1, 0.2)
            points.append((x, y))
        pen.line(points, (0, 0, 0, 255), max(2, image.width // 18))
    image.putalpha(ImageChops.subtract(image.getchannel("A"), layer.getchannel("A")))
    return image


def _holey(image: Image.Image, rng: random.Random) -> Image.Image:
    holes = _blobs(image, rng, (0, 0, 0, 255), 7, 0.05, 0.09)
    image.putalpha(ImageChops.subtract(image.getchannel("A"), holes.getchannel("A")))
    return image


def _torn(image: Image.Image, rng: random.Random) -> Image.Image:
    mask = Image.new("L", image.size)
    points: list[tuple[float, float]] = [(image.width * 0.45, 0.0)]
    for step in range(1, 7):
        points.append((image.width * (0.45 + 0.09 * step), image.height * (0.08 * step + rng.uniform(-0.1, 0.1))))
    ImageDraw.Draw(mask).polygon([*points, (image.width, image.height * 0.5), (image.width, 0)], 255)
    image.putalpha(ImageChops.subtract(image.getchannel("A"), mask))
    return image


def _displace(image: Image.Image, shifts: np.ndarray) -> Image.Image:
    """Move each row of an image by a number of pixels."""
    margin = int(np.ceil(np.abs(shifts).max())) + 1
    pixels = np.zeros((image.height, image.width + 2 * margin, 4), np.uint8)
    source = np.asarray(image)
    for row, shift in enumerate(np.rint(shifts).astype(int)):
        pixels[row, margin + shift : margin + shift + image.width] = source[row]
    return Image.fromarray(pixels, "RGBA")


def _bent(image: Image.Image, rng: random.Random) -> Image.Image:
    rows = np.linspace(-1, 1, image.height)
    return _displace(image, rng.choice((-1, 1)) * 0.3 * image.width * (rows**2 - 0.5))


def _wavy(image: Image.Image, rng: random.Random) -> Image.Image:
    rows = np.arange(image.height) / image.height
    return _displace(image, 0.09 * image.width * np.sin(2 * np.pi * (3 * rows + rng.random())))


def _fuzzy(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).random((image.height, image.width))
    alpha = (
        np.asarray(image.getchannel("A").filter(ImageFilter.GaussianBlur(max(2, image.width / 14))), np.float32) / 255
    )
    image.putalpha(Image.fromarray(np.where(noise < alpha * 1.15, 255, 0).astype(np.uint8)))
    return image


def _dark(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    layer = Image.new("RGBA", image.size, (0, 0, 0, 175))
    return _over(image, layer)


def _bright(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    margin = max(4, image.width // 5)
    larger = Image.new("RGBA", (image.width + 2 * margin, image.height + 2 * margin))
    alpha = Image.new("L", larger.size)
    alpha.paste(image.getchannel("A"), (margin, margin))
    glow = Image.new("RGBA", larger.size, (255, 255, 235))
    glow.putalpha(
        alpha.filter(ImageFilter.GaussianBlur(margin / 2)).point([min(255, 2 * value) for value in range(256)])
    )
    larger.alpha_composite(glow)
    larger.alpha_composite(image, (margin, margin))
    return larger


def _hot(image: Image.Image, rng: random.Random) -> Image.Image:
    rise = round(image.height * 0.55)
    larger = Image.new("RGBA", (image.width, image.height + rise))
    larger.alpha_composite(image, (0, rise))
    pen = ImageDraw.Draw(larger)
    for place in (0.25, 0.5, 0.75):
        phase = rng.random() * 6.28
        points = [
            (image.width * (place + 0.06 * float(np.sin(phase + 9 * t))), rise * (1 - t)) for t in np.linspace(0, 1, 12)
        ]
        pen.line(points, (245, 245, 245, 220), max(2, image.width // 16), "curve")
    return larger


def _cold(image: Image.Image, rng: random.Random) -> Image.Image:
    drop = round(image.height * 0.3)
    larger = Image.new("RGBA", (image.width, image.height + drop))
    larger.alpha_composite(image)
    pen = ImageDraw.Draw(larger)
    for step in range(6):
        x = image.width * (0.1 + 0.16 * step)
        length, half = drop * rng.uniform(0.9, 1.6), image.width * 0.06
        top = image.height * 0.8
        pen.polygon([(x - half, top), (x + half, top), (x, top + length)], (225, 240, 255, 235))
    return _over(larger, _blobs(larger, rng, (245, 250, 255, 255), 10, 0.02, 0.05))


def _dusty(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).random((image.height, image.width))
    layer = Image.new("RGBA", image.size, (190, 185, 175, 0))
    layer.putalpha(Image.fromarray(np.where(noise < 0.45, 230, 0).astype(np.uint8)))
    return _over(image, layer)


def _patched(image: Image.Image, rng: random.Random) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    x, y = (rng.uniform(0.25, 0.5) * side for side in image.size)
    side = 0.28 * max(image.size)
    pen.rectangle((x, y, x + side, y + side), (*random_look(rng).light, 255), (20, 20, 20, 255), 2)
    return _over(image, layer)


STATES: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "wet": _wet,
    "dirty": _dirty,
    "broken": _broken,
    "hot": _hot,
    "cold": _cold,
    "shiny": _shiny,
    "upside-down": _upside_down,
    "flat": _flat,
    "tall": _tall,
    "wide": _wide,
    "sideways": _sideways,
    "fuzzy": _fuzzy,
    "dark": _dark,
    "bright": _bright,
    "torn": _torn,
    "bent": _bent,
    "see-through": _transparent,
    "dusty": _dusty,
    "wavy": _wavy,
    "holey": _holey,
    "patched": _patched,
}
# In the order of their frequency, which is our choice.
_MODIFIERS: tuple[tuple[str, Kind], ...] = (
    ("big", "size"),
    ("little", "size"),
    ("two", "number"),
    ("red", "color"),
    ("blue", "color"),
    ("yellow", "color"),
    ("green", "color"),
    ("three", "number"),
    ("wet", "state"),
    ("white", "color"),
    ("black", "color"),
    ("dirty", "state"),
    ("hot", "state"),
    ("orange", "color"),
    ("pink", "color"),
    ("purple", "color"),
    ("tiny", "size"),
    ("cold", "state"),
    ("broken", "state"),
    ("brown", "color"),
    ("huge", "size"),
    ("four", "number"),
    ("gray", "color"),
    ("dark", "state"),
    ("bright", "state"),
    ("shiny", "state"),
    ("flat", "state"),
    ("upside-down", "state"),
    ("tall", "state"),
    ("striped", "pattern"),
    ("spotted", "pattern"),
    ("fuzzy", "state"),
    ("wide", "state"),
    ("five", "number"),
    ("torn", "state"),
    ("sideways", "state"),
    ("bent", "state"),
    ("checkered", "pattern"),
    ("holey", "state"),
    ("wavy", "state"),
    ("dusty", "state"),
    ("patched", "state"),
    ("zigzag", "pattern"),
    ("see-through", "state"),
)
MODIFIERS = {name: Modifier(name, kind) for name, kind in _MODIFIERS}
assert {name for name, modifier in MODIFIERS.items() if modifier.kind == "pattern"} == set(PATTERNS)


def color_look(rng: random.Random, color: str, pattern: str | None = None) -> Look:
    """Return a look of a named color."""
    if color in _GRAYS:
        look = gray_look(rng, *_GRAYS[color])
    elif color == "brown":
        look = random_look(rng, rng.gauss(0.07, 0.015))
        look = Look(tuple(value // 2 for value in look.dark), tuple(round(value * 0.6) for value in look.light))  # type: ignore[arg-type]
    else:
        look = random_look(rng, rng.gauss(*_HUES[color]))
    return Look(look.dark, look.light, pattern)
