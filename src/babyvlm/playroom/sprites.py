"""Draw sprites: recolor, texture, deform, and paste them.

Color says nothing about what a thing is: a sprite's brightness is equalized, so that all sprites use all shades equally
often, and then mapped to two random colors. Positions and lengths are in pixels; (x, y) is a center.
"""

from __future__ import annotations

import io
import math
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from babyvlm.playroom.words import sprite_bank

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """Colors and texture of a thing.

    Attributes:
        dark: color of its darkest shade.
        light: color of its lightest shade.
        pattern: name of a pattern in ``PATTERNS``, or None.
    """

    dark: RGB
    light: RGB
    pattern: str | None = None


@dataclass(frozen=True)
class Pose:
    """Deformation of a sprite: degrees counterclockwise, scale factors of its sides, shear, and mirroring."""

    turn: float = 0
    wide: float = 1
    high: float = 1
    shear: float = 0
    mirrored: bool = False


def random_look(rng: random.Random, hue: float | None = None, pattern: str | None = None) -> Look:
    """Return random colors, both near ``hue`` (0 to 1) if it is given."""
    base = rng.random() if hue is None else hue
    near = 0.04 if hue is not None else 0.25
    light = hsv_to_rgb(base % 1, rng.uniform(0.25, 0.85), rng.uniform(0.7, 1.0))
    dark = hsv_to_rgb((base + rng.uniform(-near, near)) % 1, rng.uniform(0.4, 1.0), rng.uniform(0.1, 0.45))
    return Look(_rgb(dark), _rgb(light), pattern)


def gray_look(rng: random.Random, low: float, high: float) -> Look:
    """Return a look without color, whose shades lie between ``low`` and ``high`` (0 to 1)."""
    tint = rng.random()
    dark, light = (hsv_to_rgb(tint, 0.06, value) for value in (low, high))
    return Look(_rgb(dark), _rgb(light))


def random_color(rng: random.Random) -> RGB:
    """Return a color as bright as those of things are on average, for surfaces and shapes."""
    look, shade = random_look(rng), rng.random()
    red, green, blue = (round(dark + (light - dark) * shade) for dark, light in zip(look.dark, look.light, strict=True))
    return red, green, blue


def _rgb(color: tuple[float, float, float]) -> RGB:
    return round(255 * color[0]), round(255 * color[1]), round(255 * color[2])


def random_pose(rng: random.Random) -> Pose:
    """Return the small deformation that every thing has."""
    return Pose(
        rng.gauss(0, 8), rng.uniform(0.88, 1.14), rng.uniform(0.88, 1.14), rng.uniform(-0.1, 0.1), rng.random() < 0.5
    )


@cache
def _shades(name: str, reduced: int = 1) -> Image.Image:
    """Return a sprite as LA, with equalized brightness, ``reduced`` times smaller."""
    if reduced > 1:
        return _shades(name).reduce(reduced)
    image = Image.open(io.BytesIO(sprite_bank().read(name)), formats=["WEBP"]).convert("RGBA")
    alpha = image.getchannel("A")
    gray = np.asarray(image.convert("L"))
    opaque = np.asarray(alpha) > 128
    counts = np.bincount(gray[opaque], minlength=256)
    ranks = (np.cumsum(counts) - counts / 2) / max(1, counts.sum())
    equalized = np.rint(255 * ranks)[gray].astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(equalized), alpha))


def _shades_to_colors(look: Look) -> NDArray[np.uint8]:
    """Return the color of each of the 256 shades, as (256, 3)."""
    dark, light = np.asarray(look.dark), np.asarray(look.light)
    colors: NDArray[np.uint8] = np.rint(dark + (light - dark) * np.arange(256)[:, None] / 255).astype(np.uint8)
    return colors


def draw_sprite(name: str, size: float, look: Look, pose: Pose) -> Image.Image:
    """Return a sprite as RGBA.

    Args:
        name: its name in the sprite bank.
        size: length of its longer side in pixels, before rotation.
        look: colors and pattern.
        pose: deformation.
    """
    scale = size / max(_shades(name).size)
    reduced = 1 if scale > 0.5 else 2 if scale > 0.25 else 4
    source = _shades(name, reduced)
    if look.pattern:
        gray, alpha = source.split()
        source = Image.merge("LA", (ImageChops.multiply(gray, PATTERNS[look.pattern](gray.size)), alpha))
    turn = math.radians(pose.turn)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    stretch = scale * reduced * np.diag([-pose.wide if pose.mirrored else pose.wide, pose.high])
    forward = rotation @ np.array([[1, pose.shear], [0, 1]]) @ stretch
    width, height = (max(2, math.ceil(side)) for side in np.abs(forward) @ source.size)
    inverse = np.linalg.inv(forward)
    offset = np.array(source.size) / 2 - inverse @ (width / 2, height / 2)
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    shades = source.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    image = Image.fromarray(_shades_to_colors(look)[np.asarray(shades.getchannel("L"))])
    image.putalpha(shades.getchannel("A"))
    return image


def paste(canvas: Image.Image, image: Image.Image, x: float, y: float, opacity: float = 1) -> None:
    """Paste an RGBA image with its center at (x, y)."""
    mask = image.getchannel("A")
    if opacity < 1:
        mask = mask.point([round(opacity * value) for value in range(256)])
    corner = (round(x - image.width / 2), round(y - image.height / 2))
    if canvas.mode == "RGBA":
        layer = Image.new("RGBA", canvas.size)
        layer.paste(image, corner, mask)
        canvas.alpha_composite(layer)
    else:
        canvas.paste(image, corner, mask)


def _tiles(size: tuple[int, int], draw: str) -> Image.Image:
    image = Image.new("L", size, 255)
    pen = ImageDraw.Draw(image)
    step = max(6, round(max(size) / 5))
    for row, y in enumerate(range(0, size[1], step)):
        if draw == "stripes":
            pen.rectangle((0, y, size[0], y + step // 2 - 1), fill=70)
            continue
        for column, x in enumerate(range(0, size[0], step)):
            if draw == "checks" and (row + column) % 2:
                pen.rectangle((x, y, x + step - 1, y + step - 1), fill=70)
            elif draw == "dots":
                left = x + (step // 2 if row % 2 else 0)
                pen.ellipse((left, y, left + step * 0.55, y + step * 0.55), fill=60)
            elif draw == "zigzags":
                points = [(x, y), (x + step / 2, y + step / 2), (x + step, y)]
                pen.line(points, fill=60, width=max(2, step // 4))
    return image


PATTERNS = {
    "striped": lru_cache(maxsize=1024)(lambda size: _tiles(size, "stripes")),
    "spotted": lru_cache(maxsize=1024)(lambda size: _tiles(size, "dots")),
    "checkered": lru_cache(maxsize=1024)(lambda size: _tiles(size, "checks")),
    "zigzag": lru_cache(maxsize=1024)(lambda size: _tiles(size, "zigzags")),
}


def motion_blur(image: Image.Image, degrees: float, length: float) -> Image.Image:
    """Return an RGBA image smeared over ``length`` pixels in a direction."""
    steps = max(2, round(length / 2))
    margin = math.ceil(length)
    canvas = np.zeros((image.height + 2 * margin, image.width + 2 * margin, 4), np.float32)
    pixels = np.asarray(image, np.float32)
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], -1)  # premultiplied
    for step in range(steps):
        shift = length * (step / (steps - 1) - 0.5)
        left = margin + round(shift * math.cos(math.radians(degrees)))
        top = margin - round(shift * math.sin(math.radians(degrees)))
        canvas[top : top + image.height, left : left + image.width] += pixels / steps
    alpha = canvas[..., 3:]
    color = np.divide(canvas[..., :3] * 255, alpha, out=np.zeros_like(canvas[..., :3]), where=alpha > 0)
    return Image.fromarray(np.rint(np.concatenate([color, alpha], -1)).clip(0, 255).astype(np.uint8), "RGBA")
