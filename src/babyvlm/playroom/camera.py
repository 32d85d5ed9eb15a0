"""Simulate the baby's head camera: cluttered views, and shaky frames of them. Parameters are explained in WORLD.md.

A view is drawn once, on a canvas larger than a frame; frames are cropped from it by a moving, tilted window. Lengths
are in pixels of a frame.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from babyvlm.playroom.actions import Figure
from babyvlm.playroom.modifiers import SIZES, STATES, color_look
from babyvlm.playroom.sprites import Look, draw_sprite, paste, random_color, random_look, random_pose
from babyvlm.playroom.topics import EXPONENT, Topic, home_nouns
from babyvlm.playroom.words import PLACES, Noun, prop, zipf_choice

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

WIDTH, HEIGHT = 128, 96
_CANVAS = (208, 168)
_CENTER = (104, 84)
# The 224-pixel crop of an image whose shorter side is 256, moved up by 16 px before rotation (SAYCam profile): 84 of
# 96 pixels, and 6 pixels down once the image is upright.
CROP = 84
CROP_SHIFT = 6
OTHERS = (2, 7)  # things beside the topic in a view
EXTENT = (0.55, 0.9)  # of the topic, as a share of the crop's side
OTHER_EXTENT = (0.15, 0.35)
OFFSET = 10  # of the topic from the center, at most, along each axis
OCCLUSION = 0.25  # share of other things that are drawn after the topic, and may cover it
BLUR = 0.2  # share of views in which the camera moves fast


@dataclass(frozen=True)
class View:
    """A scene that the camera shows for some seconds.

    Attributes:
        topic: what the view is about; None for a view without a topic.
        visible: names of the nouns in it.
        draw: draws the scene.
        pan: drift of the window in pixels per second.
        tilt: rotation of the window in degrees.
        zoom: magnification.
        phase: initial phase of the head's sway in radians.
        blur: direction in degrees and length in pixels of the camera's motion.
    """

    topic: Topic | None
    visible: frozenset[str]
    draw: Callable[[], Image.Image]
    pan: tuple[float, float]
    tilt: float
    zoom: float
    phase: float
    blur: tuple[float, float]

    @cached_property
    def canvas(self) -> Image.Image:
        """The scene, drawn when it is first needed."""
        return self.draw()


@dataclass(frozen=True)
class Episode:
    """One recording: the place, and the skin of the hands that come into view."""

    place: str
    skin: Look


def random_place(rng: random.Random) -> str:
    """Return a place; a child spends most of its day indoors (WORLD.md)."""
    return rng.choices(tuple(PLACES.values()), (3, 4, 2, 1, 1, 1))[0]


def draw_topic(
    rng: random.Random, topic: Topic, exemplar: str, side: float, skin: Look, *, test: bool
) -> list[Image.Image]:
    """Return the pictures of a topic: one, or as many as its number says.

    Args:
        rng: source of randomness.
        topic: what to draw.
        exemplar: sprite of the noun.
        side: side of the square that the picture fills, in pixels, before size words.
        skin: colors of hands.
        test: use exemplars of benchmarks for tools and people.
    """
    modifier = topic.modifier
    kind = modifier.kind if modifier else ""
    look = (
        color_look(rng, topic.word)
        if kind == "color"
        else random_look(rng, pattern=topic.word if kind == "pattern" else None)
    )
    if topic.verb:
        figure = Figure(rng, exemplar, look, skin, 1.25 * side, test=test)  # the thing is a part of the picture
        topic.verb.draw(figure)
        image = figure.canvas.rotate(rng.gauss(0, 12), Image.Resampling.BILINEAR)
        return [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image]
    side *= SIZES.get(topic.word, 1)
    if topic.count > 1:
        each = side * (0.62, 0.54, 0.46, 0.42)[topic.count - 2]
        return [draw_sprite(exemplar, each, look, random_pose(rng)) for _ in range(topic.count)]
    image = draw_sprite(exemplar, side, look, random_pose(rng))
    return [STATES[topic.word](image, rng) if kind == "state" else image]


def relative_extent(noun: Noun) -> float:
    """Return how large a thing appears compared with others. It is near the camera, so sizes are compressed."""
    return min(1.25, max(0.75, math.pow(noun.size_cm / 25, 0.12)))


def random_view(
    rng: random.Random,
    episode: Episode,
    topic: Topic | None,
    exemplars: Callable[[Noun], Collection[str]],
    avoid: Collection[str] = (),
    *,
    test: bool = False,
) -> View:
    """Return a view.

    Args:
        rng: source of randomness.
        episode: the recording.
        topic: what the view is about, or None.
        exemplars: returns the sprites of a noun to choose from.
        avoid: names of nouns that must not be visible.
        test: use exemplars of benchmarks for tools and people.
    """
    excluded = {*avoid, *([topic.noun.name] if topic else [])}
    others = _others(rng, episode.place, excluded, rng.randint(*OTHERS))
    visible = {noun.name for noun in others} | ({topic.noun.name} if topic else set())
    blur = (rng.uniform(0, 180), rng.uniform(2, 4)) if rng.random() < BLUR else (0.0, 0.0)
    pan = (rng.uniform(-4, 4), rng.uniform(-3, 3))
    tilt, zoom, phase = rng.gauss(0, 7), rng.uniform(0.9, 1.15), rng.uniform(0, 2 * math.pi)
    draw = partial(_draw_scene, random.Random(rng.random()), episode, topic, others, exemplars, test=test)
    return View(topic, frozenset(visible), draw, pan, tilt, zoom, phase, blur)


def _draw_scene(
    rng: random.Random,
    episode: Episode,
    topic: Topic | None,
    others: Collection[Noun],
    exemplars: Callable[[Noun], Collection[str]],
    *,
    test: bool,
) -> Image.Image:
    canvas = background(rng, _CANVAS)
    behind = [noun for noun in others if topic is None or rng.random() < 1 - OCCLUSION]
    for noun in behind:
        _place_other(rng, canvas, noun, exemplars, topic is not None)
    if topic:
        side = CROP * rng.uniform(*EXTENT) * relative_extent(topic.noun)
        images = draw_topic(rng, topic, rng.choice(sorted(exemplars(topic.noun))), side, episode.skin, test=test)
        center = _CENTER[0] + rng.uniform(-OFFSET, OFFSET), _CENTER[1] + CROP_SHIFT + rng.uniform(-OFFSET, OFFSET)
        start = rng.uniform(0, 2 * math.pi)
        for index, image in enumerate(images):
            angle = start + 2 * math.pi * index / len(images)
            radius = 0 if len(images) == 1 else 0.34 * CROP
            paste(canvas, image, center[0] + radius * math.cos(angle), center[1] + radius * 0.8 * math.sin(angle))
    for noun in others:
        if noun not in behind:
            _place_other(rng, canvas, noun, exemplars, topic is not None)
    if rng.random() < 0.25 and not (topic and topic.verb):
        _hand(rng, canvas, episode.skin)
    return light(rng, canvas)


def render_frame(view: View, seconds: float, upside_down: bool) -> Image.Image:
    """Return the RGB frame, 128 x 96 pixels, at a time in seconds after the start of a view."""
    sway = math.sin(view.phase + 1.7 * seconds)
    reach = min(seconds, 3.0) - 1.0
    x = _CENTER[0] + view.pan[0] * reach + 2 * sway
    y = _CENTER[1] + view.pan[1] * reach + 1.5 * math.cos(view.phase + 1.1 * seconds)
    turn = math.radians(view.tilt + 2 * sway + (180 if upside_down else 0))
    cos, sin = math.cos(turn) / view.zoom, math.sin(turn) / view.zoom
    center = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    matrix = (cos, sin, x - cos * center[0] - sin * center[1], -sin, cos, y + sin * center[0] - cos * center[1])
    image = view.canvas.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return _smear(image, *view.blur) if view.blur[1] else image


def _smear(image: Image.Image, degrees: float, length: float) -> Image.Image:
    """Return an RGB image averaged over shifts along ``length`` pixels in a direction."""
    steps, margin = max(2, round(length / 2)), math.ceil(length / 2)
    pixels = np.pad(np.asarray(image, np.uint16), ((margin, margin), (margin, margin), (0, 0)), "edge")
    total = np.zeros((image.height, image.width, 3), np.uint16)
    for step in range(steps):
        shift = length * (step / (steps - 1) - 0.5)
        left = margin + round(shift * math.cos(math.radians(degrees)))
        top = margin - round(shift * math.sin(math.radians(degrees)))
        total += pixels[top : top + image.height, left : left + image.width]
    return Image.fromarray((total // steps).astype(np.uint8))


def render_still(view: View, rng: random.Random, side: int) -> Image.Image:
    """Return one upright frame, cropped as `curate frames` does, as a square of ``side`` pixels."""
    image = render_frame(view, rng.uniform(0, 2), upside_down=False)
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2 + CROP_SHIFT
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + CROP, top + CROP))


def background(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Return a background of two surfaces with furniture-like shapes, in random colors."""
    canvas = Image.new("RGB", size, random_color(rng))
    pen = ImageDraw.Draw(canvas)
    horizon = round(size[1] * rng.uniform(0.25, 0.7))
    pen.rectangle((0, horizon, *size), random_color(rng))
    for _ in range(rng.randint(1, 5)):
        x, y = rng.uniform(-0.2, 1) * size[0], rng.uniform(-0.2, 1) * size[1]
        wide, high = rng.uniform(0.1, 0.6) * size[0], rng.uniform(0.1, 0.6) * size[1]
        color = random_color(rng)
        kind = rng.random()
        if kind < 0.6:
            pen.rectangle((x, y, x + wide, y + high), color)
        elif kind < 0.8:
            pen.ellipse((x, y, x + wide, y + high), color)
        else:
            step = rng.uniform(6, 20)
            for line in range(int(wide / step)):
                pen.line((x + line * step, y, x + line * step, y + high), color, 2)
    return canvas.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 1.5)))


def light(rng: random.Random, canvas: Image.Image) -> Image.Image:
    """Return an image under random light: exposure, color cast, contrast, and a shadow from one side."""
    exposure, gamma = rng.uniform(0.75, 1.2), rng.uniform(0.7, 1.3)
    casts = [exposure * rng.uniform(0.85, 1.1) for _ in range(3)]
    curve = [(value / 255) ** gamma for value in range(256)]
    table = [min(255, round(255 * cast * value)) for cast in casts for value in curve]
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.45)
    columns, rows = (np.linspace(-1, 1, side, dtype=np.float32) for side in canvas.size)
    shade = 1 - depth * (1 + columns * math.cos(angle) + rows[:, None] * math.sin(angle)) / 2
    band = Image.fromarray((255 * shade.clip(0, 1)).astype(np.uint8))
    return ImageChops.multiply(canvas.point(table), Image.merge("RGB", (band, band, band)))


def _others(rng: random.Random, place: str, excluded: Collection[str], count: int) -> list[Noun]:
    choice = [noun for noun in home_nouns(place) if noun.name not in excluded]
    found: dict[str, Noun] = {}
    while len(found) < min(count, len(choice)):
        noun = zipf_choice(rng, choice, EXPONENT)
        found[noun.name] = noun
    return list(found.values())


def _place_other(
    rng: random.Random, canvas: Image.Image, noun: Noun, exemplars: Callable[[Noun], Collection[str]], aside: bool
) -> None:
    far, along = CROP * rng.uniform(0.3 if aside else 0, 0.48), CROP * rng.uniform(-0.48, 0.48)  # within the crop
    far *= rng.choice((-1, 1))
    x, y = rng.choice(((far, along), (along, far)))
    size = CROP * rng.uniform(*OTHER_EXTENT) * relative_extent(noun)
    pattern = rng.choice(("striped", "spotted", "checkered", "zigzag")) if rng.random() < 0.1 else None
    paste(
        canvas,
        draw_sprite(rng.choice(sorted(exemplars(noun))), size, random_look(rng, pattern=pattern), random_pose(rng)),
        _CENTER[0] + x,
        _CENTER[1] + CROP_SHIFT + y,
    )


def _hand(rng: random.Random, canvas: Image.Image, skin: Look) -> None:
    exemplar = rng.choice(prop(rng.choice(("open hand", "fist", "palm up", "palm down"))))
    x, y = _CENTER[0] + rng.uniform(-46, 46), _CENTER[1] + rng.uniform(28, 48)
    paste(canvas, draw_sprite(exemplar, rng.uniform(24, 44), skin, random_pose(rng)), x, y)
