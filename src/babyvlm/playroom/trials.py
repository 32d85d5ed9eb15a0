"""The four tests, from episodes of which nothing else is made.

Every phrase of the two-word tests comes in mirrored items: where one item has (a, b) as (positive, negative), another
of the same half has (b, a). So a model that reads without looking is at exactly chance in each half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from babyvlm.playroom.camera import home_topic, random_episode, random_view, still
from babyvlm.playroom.draw import jpeg
from babyvlm.playroom.language import child_directed
from babyvlm.playroom.web import studio
from babyvlm.playroom.world import (
    COLOURS,
    COUNTS,
    SIZES,
    VERBS,
    Thing,
    Topic,
    home_things,
    labeled_things,
    stream,
    verbs_for,
)

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from PIL.Image import Image

HALVES = ("dev", "test")
WORD_CLASSES = ("noun", "verb", "adjective", "both")
LABELED_COLUMNS = ("trial_id", "target_category", "real_category", "image", "half")
VTWT_COLUMNS = ("image", "positive_phrase", "negative_phrase", "word_class", "half")
WINOGROUND_COLUMNS = ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag", "half")
CAPTION_COLUMNS = ("image", "text", "half")
CsvRows = list[tuple[object, ...]]


def home_picture(rng: random.Random, topic: Topic, avoid: tuple[Thing, ...] = ()) -> Image:
    """A still from a held-out episode in a place where the thing is met; nothing to avoid stands about in it."""
    episode = random_episode(rng, rng.choice(topic.thing.places))
    return still(random_view(rng, episode, topic, avoid=[thing.name for thing in avoid]), rng)


def phrase_pair(rng: random.Random, word_class: str) -> tuple[Topic, Topic]:
    """Two topics whose phrases differ in a noun, a verb, an adjective, or in both words."""
    if word_class == "verb":
        thing = rng.choice([thing for thing in home_things() if len(verbs_for(thing)) > 1])
        first, second = rng.sample(verbs_for(thing), 2)
        return Topic(thing, verb=first), Topic(thing, verb=second)
    if word_class == "adjective":
        kind = rng.choice(("colour", "colour", "size", "count"))
        thing = rng.choice(_takers(kind))
        first, second = rng.sample(_words(kind), 2)
        return _described(thing, kind, first), _described(thing, kind, second)
    if word_class == "noun":
        kind = rng.choice(("verb", "verb", "colour", "size", "count"))
        word = rng.choice(_words(kind))
        one, other = rng.sample(_takers(kind, word), 2)
        return _described(one, kind, word), _described(other, kind, word)
    kind = rng.choice(("verb", "verb", "colour", "size", "count"))
    first, second = rng.sample(_words(kind), 2)
    one = rng.choice([t for t in _takers(kind, first) if kind != "verb" or t.name not in VERBS[second].things])
    other = rng.choice([t for t in _takers(kind, second) if t != one])
    return _described(one, kind, first), _described(other, kind, second)


def _words(kind: str) -> tuple[str, ...]:
    return {"verb": tuple(VERBS), "colour": tuple(COLOURS), "size": SIZES, "count": COUNTS}[kind]


def _takers(kind: str, word: str = "") -> list[Thing]:
    if kind == "verb":
        return [thing for thing in home_things() if thing.name in VERBS[word].things]
    kept = {"colour": "tint", "count": "counted"}.get(kind)
    return [thing for thing in home_things() if kept is None or getattr(thing, kept)]


def _described(thing: Thing, kind: str, word: str) -> Topic:
    return Topic(thing, **{kind: word})


def write_labeled_images(trials: Path, seed: int, category: int, count: int) -> None:
    """Draw the frames of one labelled category: ``count`` for each half."""
    thing = labeled_things()[category]
    folder = trials / "labeled_s" / thing.name
    folder.mkdir(parents=True)
    for half in HALVES:
        for index in range(count):
            rng = stream(seed, "labeled", thing.name, half, index)
            picture = home_picture(rng, Topic(thing), avoid=labeled_things())  # one category a picture
            (folder / f"{thing.name}_{half}_{index:03d}.jpg").write_bytes(jpeg(picture))


def labeled_trials(seed: int, images: int, per_category: int) -> CsvRows:
    """Four-image trials; every category is a distractor as often as any other.

    Args:
        seed: the world's seed.
        images: pictures of a category in each half.
        per_category: trials with a category as target in each half.
    """
    names = [thing.name for thing in labeled_things()]
    rows: CsvRows = []
    for half in HALVES:
        rng = stream(seed, "labeled trials", half)
        for _ in range(per_category):
            shifts = rng.sample(range(1, len(names)), 3)  # the same for all targets: this balances the distractors
            for place, target in enumerate(names):
                shown = [target, *(names[(place + shift) % len(names)] for shift in shifts)]
                rng.shuffle(shown)
                trial = len(rows) // 4
                for real in shown:
                    image = f"labeled_s/{real}/{real}_{half}_{rng.randrange(images):03d}.jpg"
                    rows.append((trial, target, real, image, half))
    return rows


def write_vtwt(trials: Path, seed: int, half: str, pairs: int) -> CsvRows:
    """Visual Two-Word Test: two mirrored items a pair, word classes in turn."""
    rows: CsvRows = []
    for index in range(pairs):
        rng = stream(seed, "vtwt", half, index)
        word_class = WORD_CLASSES[index % len(WORD_CLASSES)]
        pair = phrase_pair(rng, word_class)
        for side, topic in enumerate(pair):
            other = pair[1 - side]
            image = f"vtwt/{half}_{index:04d}_{side}.jpg"
            (trials / image).write_bytes(jpeg(home_picture(rng, topic, (other.thing,))))
            rows.append((image, topic.phrase, other.phrase, word_class, half))
    return rows


def write_winoground(trials: Path, seed: int, half: str, pairs: int) -> CsvRows:
    """Baby Winoground: the positive picture is the home camera's, the negative one is drawn in the web's style."""
    rows: CsvRows = []
    for index in range(pairs):
        rng = stream(seed, "winoground", half, index)
        pair = phrase_pair(rng, WORD_CLASSES[index % len(WORD_CLASSES)])
        for side, topic in enumerate(pair):
            other = pair[1 - side]
            name = f"{half}_{index:04d}_{side}"
            pictures = {"positive": home_picture(rng, topic, (other.thing,)), "negative": studio(rng, other)}
            for tag, picture in pictures.items():
                image = f"baby_winoground/{name}_{tag}.jpg"
                (trials / image).write_bytes(jpeg(picture))
                rows.append((name, topic.phrase, other.phrase, image, tag, half))
    return rows


def write_captions(trials: Path, seed: int, half: str, count: int) -> CsvRows:
    """SAYCam Caption: home pictures with what the parent says of them."""
    rows: CsvRows = []
    for index in range(count):
        rng = stream(seed, "caption", half, index)
        episode = random_episode(rng)
        topic = home_topic(rng, episode)
        image = f"caption/{half}_{index:04d}.jpg"
        (trials / image).write_bytes(jpeg(still(random_view(rng, episode, topic), rng)))
        rows.append((image, child_directed(topic, rng).rstrip("?"), half))
    return rows
