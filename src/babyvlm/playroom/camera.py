"""What the baby's head camera sees at home: drawn rooms, views, and shaky frames cut out of them.

A view is drawn once on a canvas larger than the picture; its frames are cut out of it by a moving, tilted window.
All sizes are pixels of our choice, made so that the middle square that a reader keeps (224 of 256) holds the thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter

from babyvlm.playroom.draw import MARKS, draw_topic, stamp
from babyvlm.playroom.world import COLOURS, PLACES, Thing, Topic, home_things, pick_home_thing, random_topic

if TYPE_CHECKING:
    import random
    from collections.abc import Collection

WIDTH, HEIGHT = 128, 96
_CANVAS = (208, 168)
_MIDDLE = (104, 84)
# A reader's 224-pixel crop of a picture whose shorter side is 256, moved 16 px up before the picture is turned
# (spec.md, section 3): 84 of 96 pixels, and 6 pixels down once it is upright.
CROP = 84
CROP_SHIFT = 6
BENCHMARK_SIDE = 112
ATTENDS = 0.85  # how often a view is of something rather than of the room
_SKINS = ((246, 208, 176), (222, 170, 130), (168, 112, 76), (110, 72, 48))
_WALLS = ((238, 224, 200), (214, 228, 236), (240, 214, 214), (220, 234, 212), (232, 226, 240), (224, 220, 212))
_FLOORS = ((196, 156, 112), (170, 128, 90), (206, 190, 170), (182, 182, 186), (150, 118, 96))


@dataclass(frozen=True)
class Episode:
    """One stretch of recording: a place, its looks, and whose hands come into view."""

    place: str
    wall: tuple[int, int, int]
    floor: tuple[int, int, int]
    accent: tuple[int, int, int]
    skin: tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """What is before the camera for some seconds.

    Attributes:
        topic: what is attended to, if anything.
        shown: names of all things that can be seen, marks included.
        canvas: the drawn scene.
        pan: drift of the window, pixels per second.
        tilt: degrees.
        zoom: larger is nearer.
        phase: where the sway of the head begins, radians.
    """

    topic: Topic | None
    shown: frozenset[str]
    canvas: Image.Image
    pan: tuple[float, float]
    tilt: float
    zoom: float
    phase: float


def random_episode(rng: random.Random, place: str | None = None) -> Episode:
    """Draw the lots of an episode."""
    accent = rng.choice([tuple((c + 255) // 2 for c in rgb) for rgb in COLOURS.values()])
    return Episode(
        place or rng.choice(PLACES),
        rng.choice(_WALLS),
        rng.choice(_FLOORS),
        (accent[0], accent[1], accent[2]),
        rng.choice(_SKINS),
    )


def random_view(
    rng: random.Random, episode: Episode, topic: Topic | None, avoid: Collection[str] = (), clutter: int = 2
) -> View:
    """Look at something.

    Args:
        rng: where chance comes from.
        episode: where.
        topic: what the view is of; None is the room with what stands about.
        avoid: names of things that must not be seen.
        clutter: at most so many other things.
    """
    canvas = _room(rng, episode)
    banned = {*avoid, *([topic.thing.name] if topic else [])}
    others = _clutter(rng, canvas, episode, banned, rng.randint(0 if topic else 1, clutter))
    shown = {thing.name for thing in others}
    if topic:
        x, y = _MIDDLE[0] + rng.uniform(-12, 12), _MIDDLE[1] + CROP_SHIFT + rng.uniform(-10, 10)
        tint = rng.choice(tuple(COLOURS)) if topic.thing.tint and rng.random() < 0.5 else None
        draw_topic(canvas, topic, x, y, _extent(rng, topic), rng, tint)
        shown.add(topic.thing.name)
    if rng.random() < 0.3:
        _hands(rng, canvas, episode)
    pan = (rng.uniform(-4, 4), rng.uniform(-3, 3))
    return View(
        topic, frozenset(shown), canvas, pan, rng.gauss(0, 7), rng.uniform(0.9, 1.15), rng.uniform(0, 2 * math.pi)
    )


def frame(view: View, seconds: float, rng: random.Random, upside_down: bool) -> Image.Image:
    """The RGB picture, 128 wide and 96 high, at some time into a view."""
    sway = math.sin(view.phase + 1.7 * seconds)
    reach = min(seconds, 3.0) - 1.0
    x = _MIDDLE[0] + view.pan[0] * reach + 2 * sway
    y = _MIDDLE[1] + view.pan[1] * reach + 1.5 * math.cos(view.phase + 1.1 * seconds)
    turn = math.radians(view.tilt + 2 * sway + (180 if upside_down else 0))
    cos, sin = math.cos(turn) / view.zoom, math.sin(turn) / view.zoom
    middle = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    matrix = (
        cos,
        sin,
        x - cos * middle[0] - sin * middle[1],
        -sin,
        cos,
        y + sin * middle[0] - cos * middle[1],
    )
    picture = view.canvas.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if rng.random() < 0.15:
        picture = picture.filter(ImageFilter.BoxBlur((rng.uniform(0.5, 2.5), 0.3)))
    return picture


def still(view: View, rng: random.Random) -> Image.Image:
    """One upright frame as a reader of the videos would keep it: the moved middle square, 112 pixels a side."""
    picture = frame(view, rng.uniform(0, 2), rng, upside_down=False)
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2 + CROP_SHIFT
    box = (left, top, left + CROP, top + CROP)
    return picture.resize((BENCHMARK_SIDE, BENCHMARK_SIDE), Image.Resampling.BICUBIC, box=box)


def home_topic(rng: random.Random, episode: Episode) -> Topic:
    """Something about a thing that belongs to the place."""
    return random_topic(rng, pick_home_thing(rng, episode.place))


def _extent(rng: random.Random, topic: Topic) -> float:
    """Side of the square that a topic fills; a baby's things are near and large."""
    if topic.size == "big":
        return rng.uniform(98, 116)
    if topic.size == "little":
        return rng.uniform(20, 28)
    return rng.uniform(60, 78) if topic.verb or topic.count in ("two", "three") else rng.uniform(44, 82)


def _clutter(
    rng: random.Random, canvas: Image.Image, episode: Episode, banned: Collection[str], count: int
) -> list[Thing]:
    choice = [thing for thing in home_things(episode.place) if thing.name not in banned]
    picked = rng.sample(choice, count)
    for thing in picked:
        angle = rng.uniform(0, 2 * math.pi)
        x, y = _MIDDLE[0] + 56 * math.cos(angle), _MIDDLE[1] + CROP_SHIFT + 44 * math.sin(angle)
        colour = COLOURS[rng.choice(tuple(COLOURS))] if thing.tint and rng.random() < 0.5 else None
        stamp(canvas, thing.glyph, x, y, rng.uniform(26, 40), colour)
    return picked


def _hands(rng: random.Random, canvas: Image.Image, episode: Episode) -> None:
    for side, glyph in ((-1, MARKS["right"]), (1, MARKS["left"])):
        if rng.random() < 0.7:
            x, y = _MIDDLE[0] + side * rng.uniform(30, 46), _MIDDLE[1] + rng.uniform(34, 46)
            stamp(canvas, glyph, x, y, rng.uniform(36, 48), episode.skin, turn=side * rng.uniform(10, 40))


def _room(rng: random.Random, episode: Episode) -> Image.Image:
    wide, high = _CANVAS
    horizon = round(high * rng.uniform(0.35, 0.62))
    outside = episode.place == "garden"
    canvas = Image.new("RGB", _CANVAS, (176, 216, 244) if outside else episode.wall)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, horizon, wide, high), fill=(126, 186, 92) if outside else episode.floor)
    _FURNISH[episode.place](pen, episode, horizon, rng.randrange(20))
    return canvas


def _shade(episode: Episode) -> tuple[int, int, int]:
    red, green, blue = episode.wall
    return red - 24, green - 24, blue - 24


def _kitchen(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    pen.rectangle((0, horizon - 34, _CANVAS[0], horizon), fill=episode.accent, outline=_shade(episode))
    for x in range(shift, _CANVAS[0], 42):
        pen.line((x, horizon - 30, x, horizon), fill=_shade(episode), width=2)


def _bath(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    for x in range(shift, _CANVAS[0], 20):
        pen.line((x, 0, x, horizon), fill=_shade(episode))
    for y in range(shift, horizon, 20):
        pen.line((0, y, _CANVAS[0], y), fill=_shade(episode))


def _bedroom(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    for x in range(shift - 20, _CANVAS[0], 26):
        pen.rectangle((x, 0, x + 9, horizon), fill=_shade(episode))
    pen.ellipse((shift, horizon + 16, _CANVAS[0] - 20, _CANVAS[1] + 30), fill=episode.accent)


def _living(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    rug = (shift, horizon + 12, _CANVAS[0] - 24, _CANVAS[1])
    frame_on_wall = (20 + shift, horizon - 52, 62 + shift, horizon - 22)
    for box in (rug, frame_on_wall):
        pen.rectangle(box, fill=episode.accent, outline=_shade(episode), width=3)


def _garden(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    del episode  # a fence is a fence
    for x in range(shift - 20, _CANVAS[0], 18):
        pen.rectangle((x, horizon - 26, x + 11, horizon + 2), fill=(206, 176, 136), outline=(160, 128, 90))


_FURNISH = {"kitchen": _kitchen, "bath": _bath, "bedroom": _bedroom, "living": _living, "garden": _garden}
