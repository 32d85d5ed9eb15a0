"""Simulate the baby's head camera: rooms, views, and shaky frames of them.

A view is drawn once, on a canvas larger than a frame; frames are cropped from it by a moving, tilted window. All sizes
are in pixels and our choice, such that the central square that `curate frames` keeps (224 of 256) contains the thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter

from babyvlm.playroom.draw import MARKS, draw_topic, paste_glyph
from babyvlm.playroom.world import COLOURS, PLACES, Thing, Topic, home_things, pick_home_thing, random_topic

if TYPE_CHECKING:
    import random
    from collections.abc import Collection

WIDTH, HEIGHT = 128, 96
_CANVAS = (208, 168)
_CENTER = (104, 84)
# The 224-pixel crop of an image whose shorter side is 256, moved up by 16 px before rotation (SAYCam profile): 84 of
# 96 pixels, and 6 pixels down once the image is upright.
CROP = 84
CROP_SHIFT = 6
BENCHMARK_SIDE = 112
TOPIC_RATE = 0.85  # share of views that show a topic rather than only the room
_SKINS = ((246, 208, 176), (222, 170, 130), (168, 112, 76), (110, 72, 48))
_WALLS = ((238, 224, 200), (214, 228, 236), (240, 214, 214), (220, 234, 212), (232, 226, 240), (224, 220, 212))
_FLOORS = ((196, 156, 112), (170, 128, 90), (206, 190, 170), (182, 182, 186), (150, 118, 96))


@dataclass(frozen=True)
class Episode:
    """Appearance of one recording: place, colors of the room, and skin color of the hands that come into view."""

    place: str
    wall: tuple[int, int, int]
    floor: tuple[int, int, int]
    accent: tuple[int, int, int]
    skin: tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """A scene that the camera shows for some seconds.

    Attributes:
        topic: what the view is about; None for a view of the room.
        visible: names of all visible things, including those drawn as marks.
        canvas: the drawn scene.
        pan: drift of the window in pixels per second.
        tilt: rotation of the window in degrees.
        zoom: magnification.
        phase: initial phase of the head's sway in radians.
    """

    topic: Topic | None
    visible: frozenset[str]
    canvas: Image.Image
    pan: tuple[float, float]
    tilt: float
    zoom: float
    phase: float


def random_episode(rng: random.Random, place: str | None = None) -> Episode:
    """Return an episode with random colors."""
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
    """Draw a view.

    Args:
        rng: source of randomness.
        episode: appearance of the room.
        topic: what the view is about; None for the room with clutter only.
        avoid: names of things that must not be visible.
        clutter: maximum number of other things.
    """
    canvas = _room(rng, episode)
    excluded = {*avoid, *([topic.thing.name] if topic else [])}
    others = _clutter(rng, canvas, episode, excluded, rng.randint(0 if topic else 1, clutter))
    visible = {thing.name for thing in others}
    if topic:
        x, y = _CENTER[0] + rng.uniform(-12, 12), _CENTER[1] + CROP_SHIFT + rng.uniform(-10, 10)
        tint = rng.choice(tuple(COLOURS)) if topic.thing.tint and rng.random() < 0.5 else None
        draw_topic(canvas, topic, x, y, _extent(rng, topic), rng, tint)
        visible.add(topic.thing.name)
    if rng.random() < 0.3:
        _hands(rng, canvas, episode)
    pan = (rng.uniform(-4, 4), rng.uniform(-3, 3))
    return View(
        topic, frozenset(visible), canvas, pan, rng.gauss(0, 7), rng.uniform(0.9, 1.15), rng.uniform(0, 2 * math.pi)
    )


def render_frame(view: View, seconds: float, rng: random.Random, upside_down: bool) -> Image.Image:
    """Return the RGB frame, 128 x 96 pixels, at a time in seconds after the start of a view."""
    sway = math.sin(view.phase + 1.7 * seconds)
    reach = min(seconds, 3.0) - 1.0
    x = _CENTER[0] + view.pan[0] * reach + 2 * sway
    y = _CENTER[1] + view.pan[1] * reach + 1.5 * math.cos(view.phase + 1.1 * seconds)
    turn = math.radians(view.tilt + 2 * sway + (180 if upside_down else 0))
    cos, sin = math.cos(turn) / view.zoom, math.sin(turn) / view.zoom
    center = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    matrix = (
        cos,
        sin,
        x - cos * center[0] - sin * center[1],
        -sin,
        cos,
        y + sin * center[0] - cos * center[1],
    )
    image = view.canvas.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.BoxBlur((rng.uniform(0.5, 2.5), 0.3)))
    return image


def render_still(view: View, rng: random.Random) -> Image.Image:
    """Return one upright frame, cropped as `curate frames` does: a square of 112 pixels."""
    image = render_frame(view, rng.uniform(0, 2), rng, upside_down=False)
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2 + CROP_SHIFT
    box = (left, top, left + CROP, top + CROP)
    return image.resize((BENCHMARK_SIDE, BENCHMARK_SIDE), Image.Resampling.BICUBIC, box=box)


def home_topic(rng: random.Random, episode: Episode) -> Topic:
    """Return a random topic about a thing that belongs to the place."""
    return random_topic(rng, pick_home_thing(rng, episode.place))


def _extent(rng: random.Random, topic: Topic) -> float:
    """Return the side of the square that a topic fills; things near a baby appear large."""
    if topic.size == "big":
        return rng.uniform(98, 116)
    if topic.size == "little":
        return rng.uniform(20, 28)
    return rng.uniform(60, 78) if topic.verb or topic.count in ("two", "three") else rng.uniform(44, 82)


def _clutter(
    rng: random.Random, canvas: Image.Image, episode: Episode, excluded: Collection[str], count: int
) -> list[Thing]:
    choice = [thing for thing in home_things(episode.place) if thing.name not in excluded]
    chosen = rng.sample(choice, count)
    for thing in chosen:
        angle = rng.uniform(0, 2 * math.pi)
        x, y = _CENTER[0] + 56 * math.cos(angle), _CENTER[1] + CROP_SHIFT + 44 * math.sin(angle)
        colour = COLOURS[rng.choice(tuple(COLOURS))] if thing.tint and rng.random() < 0.5 else None
        paste_glyph(canvas, thing.glyph, x, y, rng.uniform(26, 40), colour)
    return chosen


def _hands(rng: random.Random, canvas: Image.Image, episode: Episode) -> None:
    for side, glyph in ((-1, MARKS["right"]), (1, MARKS["left"])):
        if rng.random() < 0.7:
            x, y = _CENTER[0] + side * rng.uniform(30, 46), _CENTER[1] + rng.uniform(34, 46)
            paste_glyph(canvas, glyph, x, y, rng.uniform(36, 48), episode.skin, turn=side * rng.uniform(10, 40))


def _room(rng: random.Random, episode: Episode) -> Image.Image:
    wide, high = _CANVAS
    horizon = round(high * rng.uniform(0.35, 0.62))
    outside = episode.place == "garden"
    canvas = Image.new("RGB", _CANVAS, (176, 216, 244) if outside else episode.wall)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, horizon, wide, high), fill=(126, 186, 92) if outside else episode.floor)
    _FURNISH[episode.place](pen, episode, horizon, rng.randrange(20))
    return canvas


def _wall_shade(episode: Episode) -> tuple[int, int, int]:
    red, green, blue = episode.wall
    return red - 24, green - 24, blue - 24


def _kitchen(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    pen.rectangle((0, horizon - 34, _CANVAS[0], horizon), fill=episode.accent, outline=_wall_shade(episode))
    for x in range(shift, _CANVAS[0], 42):
        pen.line((x, horizon - 30, x, horizon), fill=_wall_shade(episode), width=2)


def _bath(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    for x in range(shift, _CANVAS[0], 20):
        pen.line((x, 0, x, horizon), fill=_wall_shade(episode))
    for y in range(shift, horizon, 20):
        pen.line((0, y, _CANVAS[0], y), fill=_wall_shade(episode))


def _bedroom(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    for x in range(shift - 20, _CANVAS[0], 26):
        pen.rectangle((x, 0, x + 9, horizon), fill=_wall_shade(episode))
    pen.ellipse((shift, horizon + 16, _CANVAS[0] - 20, _CANVAS[1] + 30), fill=episode.accent)


def _living(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    rug = (shift, horizon + 12, _CANVAS[0] - 24, _CANVAS[1])
    frame_on_wall = (20 + shift, horizon - 52, 62 + shift, horizon - 22)
    for box in (rug, frame_on_wall):
        pen.rectangle(box, fill=episode.accent, outline=_wall_shade(episode), width=3)


def _garden(pen: ImageDraw.ImageDraw, episode: Episode, horizon: int, shift: int) -> None:
    del episode  # the fence has its own colors
    for x in range(shift - 20, _CANVAS[0], 18):
        pen.rectangle((x, horizon - 26, x + 11, horizon + 2), fill=(206, 176, 136), outline=(160, 128, 90))


_FURNISH = {"kitchen": _kitchen, "bath": _bath, "bedroom": _bedroom, "living": _living, "garden": _garden}
