"""Verbs, each with a function that draws it.

A verb is recognizable from one frame: from hands, tools, and what happens to the thing. Hands, tools, and colors are
shared by many verbs, so that none of them names a verb alone. Which things a verb applies to is a matter of kinds
(``food``, ``animal``, ...); a third of all pairs of verb and noun is held out for the benchmarks (``topics.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw

from babyvlm.playroom.sprites import (
    Look,
    Pose,
    draw_sprite,
    gray_look,
    motion_blur,
    paste,
    random_color,
    random_look,
    random_pose,
)
from babyvlm.playroom.words import noun, prop

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Point = tuple[float, float]
ANY = "object food clothing vehicle container nature music"
SOFT = "object clothing food animal"


class Figure:
    """A picture of an action on a thing. Coordinates are in units of its side; (0, 0) is the center, y points down.

    Attributes:
        side: side in pixels.
        canvas: RGBA image, 1.6 times as wide and high as the side.
        rng: source of randomness.
    """

    def __init__(self, rng: random.Random, exemplar: str, look: Look, skin: Look, side: float, *, test: bool) -> None:
        self.rng = rng
        self.side = side
        extent = round(1.6 * side)
        self.canvas = Image.new("RGBA", (extent, extent))
        self._exemplar, self._look, self._skin, self._test = exemplar, look, skin, test
        self._pose = random_pose(rng)

    def _at(self, point: Point) -> Point:
        half = self.canvas.width / 2
        return half + point[0] * self.side, half + point[1] * self.side

    def sprite(
        self,
        size: float = 0.55,
        turn: float = 0,
        wide: float = 1,
        high: float = 1,
        look: Look | None = None,
    ) -> Image.Image:
        """Return the thing as an image of its own."""
        pose = Pose(
            self._pose.turn / 2 + turn,
            self._pose.wide * wide,
            self._pose.high * high,
            self._pose.shear,
            self._pose.mirrored,
        )
        return draw_sprite(self._exemplar, size * self.side, look or self._look, pose)

    def put(self, image: Image.Image, x: float, y: float, opacity: float = 1) -> None:
        """Paste an image with its center at (x, y)."""
        paste(self.canvas, image, *self._at((x, y)), opacity)

    def thing(
        self,
        x: float = 0,
        y: float = 0,
        size: float = 0.55,
        opacity: float = 1,
        turn: float = 0,
        wide: float = 1,
        high: float = 1,
    ) -> None:
        """Draw the thing."""
        self.put(self.sprite(size, turn, wide, high), x, y, opacity)

    def hand(
        self, shape: str, x: float, y: float, turn: float = 0, size: float = 0.32, *, mirrored: bool = False
    ) -> None:
        """Draw a hand: ``open hand``, ``fist``, ``pointing hand``, ``palm up`` or ``palm down``."""
        exemplar = self.rng.choice(prop(shape))
        pose = Pose(turn + self.rng.gauss(0, 6), mirrored=mirrored)
        self.put(draw_sprite(exemplar, size * self.side, self._skin, pose), x, y)

    def tool(
        self, name: str, x: float, y: float, size: float = 0.4, turn: float = 0, *, mirrored: bool = False
    ) -> None:
        """Draw another thing, by its noun, in random colors."""
        other = noun(name)
        exemplar = self.rng.choice(other.test_exemplars if self._test else other.training_exemplars)
        pose = Pose(turn + self.rng.gauss(0, 6), mirrored=mirrored)
        self.put(draw_sprite(exemplar, size * self.side, random_look(self.rng), pose), x, y)

    def line(self, points: list[Point], width: float = 0.03, color: tuple[int, ...] | None = None) -> None:
        """Draw a line through points."""
        pen = ImageDraw.Draw(self.canvas)
        pen.line(
            [self._at(point) for point in points], color or self.color(), max(2, round(width * self.side)), "curve"
        )

    def polygon(self, points: list[Point], color: tuple[int, ...] | None = None) -> None:
        """Fill a polygon; a color with a fourth value is transparent."""
        layer = Image.new("RGBA", self.canvas.size)
        ImageDraw.Draw(layer).polygon([self._at(point) for point in points], color or self.color())
        self.canvas.alpha_composite(layer)

    def ellipse(self, x: float, y: float, wide: float, high: float, color: tuple[int, ...] | None = None) -> None:
        """Fill an ellipse with semi-axes ``wide`` and ``high``."""
        layer = Image.new("RGBA", self.canvas.size)
        box = (*self._at((x - wide, y - high)), *self._at((x + wide, y + high)))
        ImageDraw.Draw(layer).ellipse(box, color or self.color())
        self.canvas.alpha_composite(layer)

    def color(self, alpha: int = 255) -> tuple[int, int, int, int]:
        """Return a random color."""
        return (*random_color(self.rng), alpha)

    def drops(self, x: float, y: float, spread: float, count: int = 5) -> None:
        """Draw drops of a liquid around (x, y)."""
        look = random_look(self.rng)
        for _ in range(count):
            image = draw_sprite(self.rng.choice(prop("drop")), self.rng.uniform(0.06, 0.12) * self.side, look, Pose())
            self.put(image, x + self.rng.uniform(-spread, spread), y + self.rng.uniform(-spread, spread) * 0.7)

    def ghosts(self, places: list[tuple[float, float, float]], size: float = 0.5) -> None:
        """Draw the thing several times, fading in, at (x, y, turn): a movement as one frame with a slow shutter."""
        for step, (x, y, turn) in enumerate(places):
            self.thing(x, y, size, opacity=0.35 + 0.65 * step / (len(places) - 1), turn=turn)

    def jagged(self, image: Image.Image, *, upright: bool = True) -> tuple[Image.Image, Image.Image]:
        """Split an image along a zigzag line through its middle."""
        wide, high = image.size
        length, across = (high, wide) if upright else (wide, high)
        steps = 7
        edge = [across * (0.5 + self.rng.uniform(-0.12, 0.12)) for _ in range(steps + 1)]
        line = [(edge[i], length * i / steps) for i in range(steps + 1)]
        outline = [(0.0, 0.0), *line, (0.0, float(length))]
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).polygon(outline if upright else [(y, x) for x, y in outline], 255)
        alpha = image.getchannel("A")
        first, second = image.copy(), image.copy()
        first.putalpha(ImageChops.multiply(alpha, mask))
        second.putalpha(ImageChops.multiply(alpha, ImageChops.invert(mask)))
        return first, second


@dataclass(frozen=True)
class Verb:
    """A visible action.

    Attributes:
        name: the bare verb.
        ing: its progressive form.
        kinds: kinds of nouns that it applies to.
        draw: draws it.
    """

    name: str
    ing: str
    kinds: frozenset[str]
    draw: Callable[[Figure], None]


VERBS: dict[str, Verb] = {}


def _verb(name: str, ing: str, kinds: str) -> Callable[[Callable[[Figure], None]], Callable[[Figure], None]]:
    def register(draw: Callable[[Figure], None]) -> Callable[[Figure], None]:
        VERBS[name] = Verb(name, ing, frozenset(kinds.split()), draw)
        return draw

    return register


# In the order of their frequency, which is our choice.


@_verb("eat", "eating", "food")
def _eat(f: Figure) -> None:
    f.tool(f.rng.choice(("boy", "girl", "baby")), -0.12, -0.08, 0.8)
    f.thing(0.02, 0.2, 0.34)
    f.hand("fist", 0.22, 0.36, 60)


@_verb("hold", "holding", ANY)
def _hold(f: Figure) -> None:
    f.thing(0, -0.1, 0.62)
    f.hand("fist", f.rng.uniform(-0.06, 0.06), 0.2, 90, 0.36)


@_verb("throw", "throwing", "object food clothing")
def _throw(f: Figure) -> None:
    f.put(motion_blur(f.sprite(0.42, turn=30), 40, 0.18 * f.side), 0.2, -0.2)
    f.hand("open hand", -0.32, 0.3, -40, 0.36)


@_verb("drop", "dropping", ANY)
def _drop(f: Figure) -> None:
    f.put(motion_blur(f.sprite(0.42, turn=-25), 90, 0.18 * f.side), 0, 0.16)
    f.hand("palm down", 0, -0.36, 0, 0.42)


@_verb("push", "pushing", "object vehicle container building animal")
def _push(f: Figure) -> None:
    f.ghosts([(-0.02, 0.05, 0), (0.08, 0.05, 0), (0.18, 0.05, 0)], 0.5)
    f.hand("open hand", -0.32, 0.06, -90, 0.36)


@_verb("wash", "washing", "object food clothing vehicle container animal")
def _wash(f: Figure) -> None:
    f.thing(0, 0, 0.6)
    bubble = f.color(190)
    for _ in range(9):
        radius = f.rng.uniform(0.05, 0.1)
        f.ellipse(f.rng.uniform(-0.3, 0.3), f.rng.uniform(-0.25, 0.3), radius, radius, bubble)
    f.tool("sponge", 0.24, -0.1, 0.28)
    f.drops(0, 0.3, 0.25)


@_verb("open", "opening", "object food clothing vehicle music")
def _open(f: Figure) -> None:
    box = f.color()
    f.thing(0, -0.08, 0.44)
    f.polygon([(-0.34, 0.1), (0.34, 0.1), (0.28, 0.44), (-0.28, 0.44)], box)
    f.polygon([(-0.34, 0.1), (-0.56, -0.08), (-0.5, -0.12), (-0.2, 0.1)], box)
    f.polygon([(0.34, 0.1), (0.56, -0.08), (0.5, -0.12), (0.2, 0.1)], box)


@_verb("kick", "kicking", "object food vehicle container")
def _kick(f: Figure) -> None:
    f.put(motion_blur(f.sprite(0.44), 20, 0.16 * f.side), 0.2, 0.04)
    f.tool("foot", -0.3, 0.2, 0.42, 20)


@_verb("cut", "cutting", "food nature clothing")
def _cut(f: Figure) -> None:
    image = f.sprite(0.6)
    middle = image.width // 2
    left, right = image.crop((0, 0, middle, image.height)), image.crop((middle, 0, image.width, image.height))
    f.put(left.rotate(8, expand=True), -0.22, 0.06)
    f.put(right.rotate(-8, expand=True), 0.22, 0.06)
    f.tool("knife", 0.04, -0.2, 0.46, -45)


@_verb("hug", "hugging", "object animal person")
def _hug(f: Figure) -> None:
    f.tool(f.rng.choice(("boy", "girl", "baby")), 0, -0.22, 0.6)
    f.thing(0, 0.18, 0.5)
    f.hand("open hand", -0.24, 0.24, -60, 0.28)
    f.hand("open hand", 0.24, 0.24, 60, 0.28, mirrored=True)


@_verb("kiss", "kissing", "object animal person")
def _kiss(f: Figure) -> None:
    f.thing(-0.1, 0, 0.62)
    f.tool("mouth", 0.22, -0.04, 0.26, 10)


@_verb("hit", "hitting", ANY)
def _hit(f: Figure) -> None:
    f.thing(0, 0.22, 0.56, high=0.6, wide=1.15)
    f.hand("fist", 0, -0.16, -90, 0.38)


@_verb("catch", "catching", "object food clothing animal")
def _catch(f: Figure) -> None:
    f.put(motion_blur(f.sprite(0.36, turn=15), 90, 0.12 * f.side), 0, -0.24)
    f.hand("palm up", -0.2, 0.26, 20, 0.36)
    f.hand("palm up", 0.2, 0.26, -20, 0.36, mirrored=True)


@_verb("roll", "rolling", ANY)
def _roll(f: Figure) -> None:
    f.line([(-0.6, 0.32), (0.6, 0.32)])
    f.ghosts([(-0.3, 0.12, 90), (-0.08, 0.12, 30), (0.16, 0.12, -40)], 0.42)


@_verb("shake", "shaking", ANY)
def _shake(f: Figure) -> None:
    f.ghosts([(-0.14, -0.06, 28), (0.14, -0.06, -28), (0, -0.1, 0)], 0.5)
    f.hand("fist", 0, 0.24, 90, 0.32)


@_verb("pull", "pulling", "object vehicle animal")
def _pull(f: Figure) -> None:
    f.thing(-0.2, 0.1, 0.5)
    f.line([(-0.02, 0.08), (0.32, 0.0)], 0.035)
    f.hand("fist", 0.38, -0.02, 180, 0.32)


@_verb("carry", "carrying", "object food clothing animal")
def _carry(f: Figure) -> None:
    f.thing(0, -0.14, 0.46)
    f.tool("basket", 0, 0.18, 0.56)
    f.hand("fist", 0, 0.44, 90, 0.24)


@_verb("squeeze", "squeezing", SOFT)
def _squeeze(f: Figure) -> None:
    f.thing(0, 0, 0.66, wide=0.5, high=1.15)
    f.hand("open hand", -0.32, 0, -90, 0.34)
    f.hand("open hand", 0.32, 0, 90, 0.34, mirrored=True)


@_verb("brush", "brushing", "animal clothing")
def _brush(f: Figure) -> None:
    f.thing(-0.06, 0.06, 0.62)
    f.tool("comb", 0.2, -0.18, 0.36, 40)
    f.hand("fist", 0.36, -0.3, 210, 0.26)


@_verb("pat", "patting", "animal object person")
def _pat(f: Figure) -> None:
    f.thing(0, 0.14, 0.62)
    f.hand("palm down", 0.04, -0.16, 8, 0.4)


@_verb("poke", "poking", ANY + " animal person")
def _poke(f: Figure) -> None:
    f.thing(0.14, 0, 0.58)
    f.hand("pointing hand", -0.28, 0.04, 0, 0.38)


@_verb("hide", "hiding", ANY + " animal")
def _hide(f: Figure) -> None:
    f.thing(0, -0.14, 0.54)
    f.polygon([(-0.4, -0.02), (0.4, -0.02), (0.44, 0.42), (-0.44, 0.42)])


@_verb("cover", "covering", ANY + " animal")
def _cover(f: Figure) -> None:
    f.thing(0, 0.16, 0.56)
    cloth = f.color()
    f.polygon(
        [(-0.4, 0.16), (-0.3, -0.2), (0, -0.32), (0.3, -0.2), (0.4, 0.16), (0.2, 0.08), (0, 0.16), (-0.2, 0.08)], cloth
    )


@_verb("stack", "stacking", "object food clothing container")
def _stack(f: Figure) -> None:
    for y in (0.38, 0.1, -0.18, -0.44):
        f.thing(f.rng.uniform(-0.04, 0.04), y, 0.34)


@_verb("smell", "smelling", "food nature clothing")
def _smell(f: Figure) -> None:
    f.thing(-0.1, 0.12, 0.54)
    f.tool("nose", 0.18, -0.16, 0.3)


@_verb("lick", "licking", "food object")
def _lick(f: Figure) -> None:
    f.thing(-0.08, 0, 0.58)
    f.tool("tongue", 0.22, 0.04, 0.3, 60)


@_verb("bite", "biting", "food")
def _bite(f: Figure) -> None:
    image = f.sprite(0.7)
    pen = ImageDraw.Draw(image)
    radius = image.width * 0.13
    for dx, dy in ((0.02, 0.2), (-0.1, 0.36), (0.02, 0.52)):
        x, y = image.width * (1 - dx) - radius / 2, image.height * dy
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(0, 0, 0, 0))
    f.put(image, 0, 0)


@_verb("break", "breaking", "object food container music")
def _break(f: Figure) -> None:
    first, second = f.jagged(f.sprite(0.62))
    top, bottom = f.jagged(second, upright=False)
    f.put(first, -0.12, 0.04)
    f.put(top, 0.14, -0.08)
    f.put(bottom, 0.16, 0.14)


@_verb("tear", "tearing", "clothing food object")
def _tear(f: Figure) -> None:
    left, right = f.jagged(f.sprite(0.62))
    f.put(left.rotate(14), -0.12, 0)
    f.put(right.rotate(-14), 0.12, 0)
    f.hand("fist", -0.42, 0, 0, 0.26)
    f.hand("fist", 0.42, 0, 180, 0.26)


@_verb("wear", "wearing", "clothing food container")
def _wear(f: Figure) -> None:
    f.tool(f.rng.choice(("boy", "girl", "baby")), 0, 0.2, 0.66)
    f.thing(0, -0.2, 0.42)


@_verb("feed", "feeding", "animal person object")
def _feed(f: Figure) -> None:
    f.thing(-0.1, 0.04, 0.62)
    f.tool("spoon", 0.24, 0.1, 0.4, 0)
    f.hand("fist", 0.42, 0.24, 200, 0.26)


@_verb("paint", "painting", "object vehicle container building")
def _paint(f: Figure) -> None:
    plain, painted = f.sprite(0.62), f.sprite(0.62, look=random_look(f.rng))
    mask = Image.new("L", plain.size)
    ImageDraw.Draw(mask).rectangle((plain.width * 0.45, 0, *plain.size), fill=255)
    plain.paste(painted, (0, 0), ImageChops.multiply(mask, painted.getchannel("A")))
    f.put(plain, 0, 0)
    f.tool("paintbrush", 0.26, -0.18, 0.4)


@_verb("draw", "drawing", ANY + " animal building")
def _draw(f: Figure) -> None:
    f.polygon([(-0.42, -0.4), (0.42, -0.4), (0.42, 0.4), (-0.42, 0.4)])
    shape = f.sprite(0.6).getchannel("A").point([255 * (value > 128) for value in range(256)])
    inner = shape.resize((round(shape.width * 0.86), round(shape.height * 0.86)))
    hollow = Image.new("L", shape.size)
    hollow.paste(inner, ((shape.width - inner.width) // 2, (shape.height - inner.height) // 2))
    outline = Image.new("RGBA", shape.size, f.color())
    outline.putalpha(ImageChops.subtract(shape, hollow))
    f.put(outline, 0, 0)
    f.tool("pencil", 0.3, 0.24, 0.4)


@_verb("fill", "filling", "container")
def _fill(f: Figure) -> None:
    water = f.color(220)
    f.polygon([(-0.05, -0.6), (0.05, -0.6), (0.04, 0), (-0.04, 0)], water)
    f.thing(0, 0.2, 0.56)
    f.ellipse(0, 0.0, 0.14, 0.04, water)
    f.drops(0, -0.04, 0.18, 3)


@_verb("pour", "pouring", "container food")
def _pour(f: Figure) -> None:
    water = f.color(220)
    f.thing(-0.12, -0.2, 0.5, turn=-105)
    f.polygon([(0.12, -0.16), (0.2, -0.16), (0.2, 0.3), (0.14, 0.3)], water)
    f.ellipse(0.17, 0.36, 0.24, 0.07, water)


@_verb("float", "floating", "object food vehicle container animal")
def _float(f: Figure) -> None:
    f.thing(0, -0.04, 0.52)
    f.polygon([(-0.6, 0.08), (-0.3, 0.04), (0, 0.1), (0.3, 0.04), (0.6, 0.08), (0.6, 0.46), (-0.6, 0.46)], f.color(185))


@_verb("sink", "sinking", "object food vehicle container")
def _sink(f: Figure) -> None:
    f.thing(0, 0.22, 0.46, turn=25)
    f.polygon(
        [(-0.6, -0.3), (-0.3, -0.34), (0, -0.28), (0.3, -0.34), (0.6, -0.3), (0.6, 0.5), (-0.6, 0.5)], f.color(150)
    )
    bubble = f.color(200)
    for _ in range(5):
        radius = f.rng.uniform(0.02, 0.045)
        f.ellipse(f.rng.uniform(-0.15, 0.15), f.rng.uniform(-0.22, 0), radius, radius, bubble)


@_verb("splash", "splashing", "object animal person vehicle")
def _splash(f: Figure) -> None:
    f.ellipse(0, 0.26, 0.5, 0.14, f.color(200))
    f.thing(0, 0.08, 0.46)
    f.drops(-0.3, -0.08, 0.2, 6)
    f.drops(0.3, -0.08, 0.2, 6)


@_verb("hang", "hanging", "object clothing")
def _hang(f: Figure) -> None:
    f.line([(-0.6, -0.42), (0.6, -0.38)], 0.025)
    f.line([(-0.08, -0.4), (-0.06, -0.16)], 0.03)
    f.line([(0.08, -0.4), (0.06, -0.16)], 0.03)
    f.thing(0, 0.06, 0.54)


@_verb("swing", "swinging", "object animal person")
def _swing(f: Figure) -> None:
    for x, y in ((-0.16, 0.18), (0.04, 0.18)):
        f.line([(-0.4 + x, -0.6), (0.12 + x, y)], 0.025)
    f.ghosts([(-0.24, 0.22, -10), (0.08, 0.2, 25)], 0.44)


@_verb("bounce", "bouncing", "object food")
def _bounce(f: Figure) -> None:
    f.line([(-0.6, 0.42), (0.6, 0.42)])
    f.ghosts([(-0.4, -0.1, 0), (-0.2, 0.22, 0), (0, 0.26, 0), (0.16, -0.02, 0), (0.36, -0.22, 0)], 0.3)


@_verb("spin", "spinning", ANY)
def _spin(f: Figure) -> None:
    f.ghosts([(0, 0, 120), (0, 0, 80), (0, 0, 40), (0, 0, 0)], 0.58)


@_verb("ride", "riding", "animal vehicle")
def _ride(f: Figure) -> None:
    f.tool(f.rng.choice(("boy", "girl", "baby")), 0, -0.26, 0.4)
    f.thing(0, 0.16, 0.66)


@_verb("tie", "tying", "object clothing animal")
def _tie(f: Figure) -> None:
    f.thing(0, 0, 0.6)
    rope = f.color()
    f.line([(-0.3, 0.04), (0.3, -0.02)], 0.05, rope)
    f.line([(-0.28, 0.12), (0.3, 0.06)], 0.05, rope)
    f.tool("rope", 0.02, 0.02, 0.26)


@_verb("wrap", "wrapping", ANY)
def _wrap(f: Figure) -> None:
    f.thing(0, 0, 0.62)
    f.polygon([(-0.36, -0.1), (0.36, -0.16), (0.36, 0.22), (-0.36, 0.26)])
    f.hand("palm down", 0.3, 0.08, 20, 0.26)


@_verb("bury", "burying", "object food nature")
def _bury(f: Figure) -> None:
    f.thing(0, -0.06, 0.5)
    f.polygon([(-0.6, 0.4), (-0.36, 0.08), (-0.1, 0.02), (0.12, 0.04), (0.36, 0.1), (0.6, 0.4)])


@_verb("cook", "cooking", "food")
def _cook(f: Figure) -> None:
    f.tool("pan", 0, 0.16, 0.7)
    f.thing(-0.04, 0, 0.36)
    for x in (-0.16, 0.02, 0.2):
        image = draw_sprite(f.rng.choice(prop("fire")), 0.2 * f.side, random_look(f.rng), Pose())
        f.put(image, x, 0.42)


@_verb("stir", "stirring", "food")
def _stir(f: Figure) -> None:
    f.ghosts([(-0.1, -0.02, 60), (0.06, -0.06, 0)], 0.32)
    bowl = f.color()
    f.polygon([(-0.42, 0.04), (0.42, 0.04), (0.26, 0.4), (-0.26, 0.4)], bowl)
    f.tool("spoon", 0.26, -0.2, 0.5, -20)


@_verb("step on", "stepping on", "object food nature")
def _step_on(f: Figure) -> None:
    f.thing(0, 0.3, 0.56, high=0.5, wide=1.15)
    f.tool("foot", -0.02, -0.04, 0.5, 90)


@_verb("slide", "sliding", "object vehicle animal person")
def _slide(f: Figure) -> None:
    f.polygon([(-0.56, -0.2), (0.56, 0.36), (0.56, 0.44), (-0.56, -0.12)])
    f.ghosts([(-0.3, -0.22, -26), (-0.12, -0.14, -26), (0.08, -0.04, -26)], 0.36)


@_verb("balance", "balancing", "object food clothing")
def _balance(f: Figure) -> None:
    f.thing(0, -0.24, 0.48, turn=12)
    f.hand("pointing hand", 0, 0.18, 90, 0.42)


@_verb("give", "giving", "object food clothing")
def _give(f: Figure) -> None:
    f.hand("palm up", -0.3, 0.16, 0, 0.38)
    f.hand("palm up", 0.3, 0.16, 0, 0.38, mirrored=True)
    f.thing(0, -0.06, 0.4)


@_verb("wipe", "wiping", "object container building vehicle music")
def _wipe(f: Figure) -> None:
    f.thing(0, 0.02, 0.62)
    f.polygon([(0, -0.18), (0.26, -0.24), (0.34, 0.04), (0.18, 0.1), (0.02, 0.04)])
    f.hand("palm down", 0.2, -0.1, 30, 0.32)


@_verb("stretch", "stretching", SOFT)
def _stretch(f: Figure) -> None:
    f.thing(0, 0, 0.52, wide=1.7, high=0.6)
    f.hand("fist", -0.46, 0, 0, 0.26)
    f.hand("fist", 0.46, 0, 180, 0.26)


@_verb("fix", "fixing", "object vehicle music building")
def _fix(f: Figure) -> None:
    f.thing(-0.04, 0.04, 0.62)
    f.tool("wrench", 0.22, -0.16, 0.36)
    f.hand("fist", 0.38, -0.3, 220, 0.26)


@_verb("sweep", "sweeping", "food object nature")
def _sweep(f: Figure) -> None:
    f.line([(-0.6, 0.44), (0.6, 0.44)])
    f.tool("broom", -0.14, 0, 0.8)
    f.put(motion_blur(f.sprite(0.3), 0, 0.12 * f.side), 0.26, 0.28)


@_verb("measure", "measuring", ANY + " animal")
def _measure(f: Figure) -> None:
    f.thing(0, -0.06, 0.56)
    ruler = f.color()
    f.polygon([(-0.42, 0.3), (0.42, 0.3), (0.42, 0.42), (-0.42, 0.42)], ruler)
    for step in range(9):
        f.line([(-0.4 + step * 0.1, 0.3), (-0.4 + step * 0.1, 0.36)], 0.015, (30, 30, 30))


@_verb("tickle", "tickling", "animal person object")
def _tickle(f: Figure) -> None:
    f.thing(-0.08, 0.04, 0.6)
    f.tool("feather", 0.2, -0.08, 0.34)
    f.hand("fist", 0.38, -0.24, 200, 0.24)


@_verb("rock", "rocking", "object animal person")
def _rock(f: Figure) -> None:
    f.ghosts([(-0.12, -0.06, 22), (0.12, -0.06, -22)], 0.52)
    points = [(0.46 * math.sin(t), 0.06 + 0.34 * math.cos(t)) for t in (-1.1, -0.7, -0.35, 0, 0.35, 0.7, 1.1)]
    f.line(points, 0.05)


@_verb("chase", "chasing", "animal vehicle object")
def _chase(f: Figure) -> None:
    f.put(motion_blur(f.sprite(0.38), 0, 0.14 * f.side), 0.26, 0.04)
    f.tool(f.rng.choice(("boy", "girl", "dog", "cat")), -0.3, 0.02, 0.4)


@_verb("dry", "drying", "object clothing container animal")
def _dry(f: Figure) -> None:
    f.thing(0, -0.08, 0.56)
    f.polygon([(-0.42, 0.02), (-0.1, 0.16), (0.1, 0.16), (0.42, 0.02), (0.34, 0.44), (-0.34, 0.44)])
    f.hand("open hand", -0.4, 0.2, -40, 0.26)
    f.hand("open hand", 0.4, 0.2, 40, 0.26, mirrored=True)


@_verb("fly", "flying", "object vehicle animal")
def _fly(f: Figure) -> None:
    f.thing(0.04, -0.16, 0.48, turn=18)
    f.tool("cloud", -0.32, 0.12, 0.34)
    f.tool("cloud", 0.34, 0.28, 0.3)


@_verb("photograph", "photographing", ANY + " animal building")
def _photograph(f: Figure) -> None:
    f.thing(0.16, -0.08, 0.52)
    f.tool("camera", -0.28, 0.22, 0.32)
    f.hand("fist", -0.4, 0.4, 60, 0.26)


def skin(rng: random.Random) -> Look:
    """Return the colors of a person's hands: brown shades from light to dark, a little different for each person."""
    value = rng.uniform(0.35, 1.0)
    light = gray_look(rng, value, value).light
    return Look(
        (light[0] // 3, light[1] // 4, light[2] // 5), (light[0], round(light[1] * 0.8), round(light[2] * 0.66))
    )
