"""Write the four benchmarks, from episodes that are used for nothing else.

Items of the two-word benchmarks are mirrored: if one item has (a, b) as (positive, negative), another one of the same
split has (b, a). An image-blind model is therefore exactly at chance in each split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from babyvlm.playroom.camera import home_topic, random_episode, random_view, render_still
from babyvlm.playroom.draw import encode_jpeg
from babyvlm.playroom.language import child_directed_sentence
from babyvlm.playroom.web import draw_studio_image
from babyvlm.playroom.world import (
    COLOURS,
    COUNTS,
    SIZES,
    VERBS,
    Thing,
    Topic,
    home_things,
    labeled_things,
    random_stream,
    verbs_for,
)

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from PIL.Image import Image

SPLITS = ("dev", "test")
WORD_CLASSES = ("noun", "verb", "adjective", "both")
LABELED_COLUMNS = ("trial_id", "target_category", "real_category", "image", "half")
VTWT_COLUMNS = ("image", "positive_phrase", "negative_phrase", "word_class", "half")
WINOGROUND_COLUMNS = ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag", "half")
CAPTION_COLUMNS = ("image", "text", "half")
CsvRows = list[tuple[object, ...]]


def draw_home_image(rng: random.Random, topic: Topic, avoid: tuple[Thing, ...] = ()) -> Image:
    """Draw a frame of a held-out episode in a room where the thing occurs, without the things in ``avoid``."""
    episode = random_episode(rng, rng.choice(topic.thing.places))
    return render_still(random_view(rng, episode, topic, avoid=[thing.name for thing in avoid]), rng)


def phrase_pair(rng: random.Random, word_class: str) -> tuple[Topic, Topic]:
    """Return two topics whose phrases differ in a noun, a verb, an adjective, or in both words."""
    if word_class == "verb":
        thing = rng.choice([thing for thing in home_things() if len(verbs_for(thing)) > 1])
        first, second = rng.sample(verbs_for(thing), 2)
        return Topic(thing, verb=first), Topic(thing, verb=second)
    if word_class == "adjective":
        kind = rng.choice(("colour", "colour", "size", "count"))
        thing = rng.choice(_things_with(kind))
        first, second = rng.sample(_words(kind), 2)
        return _topic(thing, kind, first), _topic(thing, kind, second)
    if word_class == "noun":
        kind = rng.choice(("verb", "verb", "colour", "size", "count"))
        word = rng.choice(_words(kind))
        one, other = rng.sample(_things_with(kind, word), 2)
        return _topic(one, kind, word), _topic(other, kind, word)
    kind = rng.choice(("verb", "verb", "colour", "size", "count"))
    first, second = rng.sample(_words(kind), 2)
    one = rng.choice([t for t in _things_with(kind, first) if kind != "verb" or t.name not in VERBS[second].things])
    other = rng.choice([t for t in _things_with(kind, second) if t != one])
    return _topic(one, kind, first), _topic(other, kind, second)


def _words(kind: str) -> tuple[str, ...]:
    return {"verb": tuple(VERBS), "colour": tuple(COLOURS), "size": SIZES, "count": COUNTS}[kind]


def _things_with(kind: str, word: str = "") -> list[Thing]:
    if kind == "verb":
        return [thing for thing in home_things() if thing.name in VERBS[word].things]
    kept = {"colour": "tint", "count": "counted"}.get(kind)
    return [thing for thing in home_things() if kept is None or getattr(thing, kept)]


def _topic(thing: Thing, kind: str, word: str) -> Topic:
    return Topic(thing, **{kind: word})


def write_labeled_images(trials: Path, seed: int, category: int, count: int) -> None:
    """Draw the frames of one Labeled-S category: ``count`` per split."""
    thing = labeled_things()[category]
    folder = trials / "labeled_s" / thing.name
    folder.mkdir(parents=True)
    for split in SPLITS:
        for index in range(count):
            rng = random_stream(seed, "labeled", thing.name, split, index)
            image = draw_home_image(rng, Topic(thing), avoid=labeled_things())  # one category per image
            (folder / f"{thing.name}_{split}_{index:03d}.jpg").write_bytes(encode_jpeg(image))


def labeled_trials(seed: int, images: int, per_category: int) -> CsvRows:
    """Return four-image trials in which every category is a distractor equally often.

    Args:
        seed: seed of the world.
        images: number of images per category and split.
        per_category: number of trials per target category and split.
    """
    names = [thing.name for thing in labeled_things()]
    rows: CsvRows = []
    for split in SPLITS:
        rng = random_stream(seed, "labeled trials", split)
        for _ in range(per_category):
            shifts = rng.sample(range(1, len(names)), 3)  # the same for all targets: this balances the distractors
            for place, target in enumerate(names):
                shown = [target, *(names[(place + shift) % len(names)] for shift in shifts)]
                rng.shuffle(shown)
                trial = len(rows) // 4
                for real in shown:
                    image = f"labeled_s/{real}/{real}_{split}_{rng.randrange(images):03d}.jpg"
                    rows.append((trial, target, real, image, split))
    return rows


def write_vtwt(trials: Path, seed: int, split: str, pairs: int) -> CsvRows:
    """Write the Visual Two-Word Test: two mirrored items per pair, alternating word classes. Return its rows."""
    rows: CsvRows = []
    for index in range(pairs):
        rng = random_stream(seed, "vtwt", split, index)
        word_class = WORD_CLASSES[index % len(WORD_CLASSES)]
        pair = phrase_pair(rng, word_class)
        for side, topic in enumerate(pair):
            other = pair[1 - side]
            image = f"vtwt/{split}_{index:04d}_{side}.jpg"
            (trials / image).write_bytes(encode_jpeg(draw_home_image(rng, topic, (other.thing,))))
            rows.append((image, topic.phrase, other.phrase, word_class, split))
    return rows


def write_winoground(trials: Path, seed: int, split: str, pairs: int) -> CsvRows:
    """Write Baby Winoground: positive images from the home camera, negative ones in the style of the web."""
    rows: CsvRows = []
    for index in range(pairs):
        rng = random_stream(seed, "winoground", split, index)
        pair = phrase_pair(rng, WORD_CLASSES[index % len(WORD_CLASSES)])
        for side, topic in enumerate(pair):
            other = pair[1 - side]
            name = f"{split}_{index:04d}_{side}"
            images = {
                "positive": draw_home_image(rng, topic, (other.thing,)),
                "negative": draw_studio_image(rng, other),
            }
            for tag, image in images.items():
                path = f"baby_winoground/{name}_{tag}.jpg"
                (trials / path).write_bytes(encode_jpeg(image))
                rows.append((name, topic.phrase, other.phrase, path, tag, split))
    return rows


def write_captions(trials: Path, seed: int, split: str, count: int) -> CsvRows:
    """Write SAYCam Caption: images from the home camera with a parent's sentence."""
    rows: CsvRows = []
    for index in range(count):
        rng = random_stream(seed, "caption", split, index)
        episode = random_episode(rng)
        topic = home_topic(rng, episode)
        image = f"caption/{split}_{index:04d}.jpg"
        (trials / image).write_bytes(encode_jpeg(render_still(random_view(rng, episode, topic), rng)))
        rows.append((image, child_directed_sentence(topic, rng).rstrip("?"), split))
    return rows
