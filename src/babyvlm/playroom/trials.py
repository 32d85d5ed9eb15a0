"""Write the benchmarks, with exemplars that occur nowhere else. No scene of theirs is in any training data.

The column ``composition`` says whether the shown pair of word and noun occurs in training (``seen``) or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL.Image import new as new_image

from babyvlm.playroom.actions import VERBS, skin
from babyvlm.playroom.camera import Episode, random_view, render_still
from babyvlm.playroom.language import written_sentence
from babyvlm.playroom.modifiers import MODIFIERS
from babyvlm.playroom.sprites import draw_sprite, paste, random_look, random_pose
from babyvlm.playroom.topics import (
    EXPONENT,
    Household,
    Topic,
    home_nouns,
    is_held_out,
    random_stream,
    random_topic,
    topic,
    words_for,
)
from babyvlm.playroom.web import SIDE, draw_web_image, encode_jpeg
from babyvlm.playroom.words import zipf_choice

if TYPE_CHECKING:
    import random
    from collections.abc import Collection
    from pathlib import Path

    from PIL.Image import Image

    from babyvlm.playroom.words import Noun

SPLITS = ("dev", "test")
CATEGORIES = 22  # as many as Labeled-S of SAYCam has
OBJECTS = 64  # as many categories as CVCL was tested on with the pictures of Konkle et al. (2010)
REFERENCES = 5
WORD_CLASSES = ("noun", "verb", "adjective", "both")
LABELED_COLUMNS = ("trial_id", "target_category", "real_category", "image", "half")
VTWT_COLUMNS = ("image", "positive_phrase", "negative_phrase", "word_class", "composition", "half")
WINOGROUND_COLUMNS = ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag", "composition", "half")
CAPTION_COLUMNS = ("image", "text", "half")
CsvRows = list[tuple[object, ...]]


def draw_home_image(rng: random.Random, shown: Topic, avoid: Collection[str] = ()) -> Image:
    """Draw a frame of a family that occurs nowhere else, without the nouns in ``avoid``."""
    others = Household(-2, "test")
    view = random_view(
        rng,
        Episode(rng.choice(shown.noun.places), skin(rng)),
        shown,
        lambda noun: noun.test_exemplars if noun == shown.noun else others.exemplars(noun),
        avoid,
        test=True,
    )
    return render_still(view, rng, SIDE)


def labeled_nouns() -> tuple[Noun, ...]:
    """Return the categories of Labeled-S: the most frequent nouns of one word with at least two test exemplars."""
    return tuple(noun for noun in home_nouns() if len(noun.test_exemplars) > 1 and " " not in noun.name)[:CATEGORIES]


def write_labeled_images(trials: Path, seed: int, category: int, count: int) -> None:
    """Draw the frames of one Labeled-S category: ``count`` of the test split, a fifth as many of the dev split."""
    noun = labeled_nouns()[category]
    folder = trials / "labeled_s" / noun.name
    folder.mkdir(parents=True)
    names = [noun.name for noun in labeled_nouns()]  # one category per image
    for split, images in _labeled_images(count).items():
        for index in range(images):
            rng = random_stream(seed, "labeled", noun.name, split, index)
            image = draw_home_image(rng, Topic(noun), names)
            (folder / f"{noun.name}_{split}_{index:03d}.jpg").write_bytes(encode_jpeg(image))


def _labeled_images(count: int) -> dict[str, int]:
    """Return the images of each category by split."""
    return dict(zip(SPLITS, (-(-count // 5), count), strict=True))


def labeled_trials(seed: int, count: int) -> CsvRows:
    """Return four-image trials. Each image is the target of one trial, and every category a distractor equally often.

    Args:
        seed: seed of the world.
        count: number of images, and of trials, per category of the test split; the dev split has a fifth as many.
    """
    names = [noun.name for noun in labeled_nouns()]
    rows: CsvRows = []
    for split, images in _labeled_images(count).items():
        rng = random_stream(seed, "labeled trials", split)
        for index in range(images):
            shifts = rng.sample(range(1, len(names)), 3)  # the same for all targets: this balances the distractors
            for place, target in enumerate(names):
                others = [(names[(place + shift) % len(names)], rng.randrange(images)) for shift in shifts]
                shown = [(target, index), *others]
                rng.shuffle(shown)
                trial = len(rows) // 4
                for real, number in shown:
                    rows.append((trial, target, real, f"labeled_s/{real}/{real}_{split}_{number:03d}.jpg", split))
    return rows


def object_nouns() -> tuple[Noun, ...]:
    """Return the categories of single objects: the most frequent nouns of one word."""
    return tuple(noun for noun in home_nouns() if " " not in noun.name)[:OBJECTS]


def write_object_images(trials: Path, seed: int, category: int, count: int) -> None:
    """Draw a thing alone on white, as the pictures of Konkle et al. (2010) show it: ``count`` pictures of one noun."""
    noun = object_nouns()[category]
    folder = trials / "objects" / noun.name
    folder.mkdir(parents=True)
    for index in range(count):
        rng = random_stream(seed, "objects", noun.name, index)
        canvas = new_image("RGB", (SIDE, SIDE), "white")
        exemplar = noun.test_exemplars[index % len(noun.test_exemplars)]
        thing = draw_sprite(exemplar, rng.uniform(0.62, 0.8) * SIDE, random_look(rng), random_pose(rng))
        paste(canvas, thing, SIDE / 2, SIDE / 2)
        (folder / f"{noun.name}_{index:02d}.jpg").write_bytes(encode_jpeg(canvas))


def phrase_pair(rng: random.Random, word_class: str) -> tuple[Topic, Topic]:
    """Return two topics whose phrases of two words differ in a noun, a verb, a modifier, or in both words."""
    choice = tuple(noun for noun in home_nouns() if " " not in noun.name)
    while True:
        one, other = zipf_choice(rng, choice, EXPONENT), zipf_choice(rng, choice, EXPONENT)
        kind = {"verb": "verb", "adjective": "modifier"}.get(word_class) or rng.choice(("verb", "modifier"))
        first, second = (zipf_choice(rng, tuple(VERBS if kind == "verb" else MODIFIERS), EXPONENT) for _ in range(2))
        if word_class in ("verb", "adjective"):
            other = one
        if word_class == "noun":
            second = first
        if (one == other) == (word_class in ("noun", "both")) or (first == second) == (word_class != "noun"):
            continue
        if {" ", "-"} & {*first, *second} or first not in words_for(one, kind) or second not in words_for(other, kind):
            continue
        if kind == "modifier" and word_class == "adjective" and MODIFIERS[first].kind != MODIFIERS[second].kind:
            continue  # a red cup may be big
        return topic(one, first), topic(other, second)


def _composition(shown: Topic) -> str:
    return "unseen" if is_held_out(shown.word, shown.noun) else "seen"


def write_vtwt(trials: Path, seed: int, split: str, start: int, pairs: int) -> CsvRows:
    """Write the mirrored Visual Two-Word Test: two items per pair, (a, b) and (b, a). Return its rows.

    An image-blind model is exactly at chance.
    """
    rows: CsvRows = []
    for index in range(start, start + pairs):
        rng = random_stream(seed, "vtwt", split, index)
        word_class = WORD_CLASSES[index % len(WORD_CLASSES)]
        pair = phrase_pair(rng, word_class)
        for side, shown in enumerate(pair):
            other = pair[1 - side]
            image = f"vtwt/{split}_{index:04d}_{side}.jpg"
            (trials / image).write_bytes(encode_jpeg(draw_home_image(rng, shown, [other.noun.name])))
            rows.append((image, shown.phrase, other.phrase, word_class, _composition(shown), split))
    return rows


def write_vtwt_natural(trials: Path, seed: int, split: str, start: int, items: int) -> CsvRows:
    """Write the Visual Two-Word Test at natural frequencies: what is shown is drawn as in training. Return its rows.

    A model that knows only how frequent phrases are is above chance, as on the list of the paper.
    """
    rows: CsvRows = []
    for index in range(start, start + items):
        rng = random_stream(seed, "vtwt natural", split, index)
        word_class = WORD_CLASSES[index % len(WORD_CLASSES)]
        shown, other = phrase_pair(rng, word_class)
        # The other noun is drawn uniformly from its kind, so that the shown phrase is often the more frequent one.
        uniform = [noun for noun in home_nouns() if " " not in noun.name and noun.kind == other.noun.kind]
        if word_class in ("noun", "both"):
            options = [noun for noun in uniform if noun != shown.noun and other.word in _words(noun)]
            other = topic(rng.choice(options), other.word) if options else other
        image = f"vtwt_natural/{split}_{index:04d}.jpg"
        (trials / image).write_bytes(encode_jpeg(draw_home_image(rng, shown, [other.noun.name])))
        rows.append((image, shown.phrase, other.phrase, word_class, _composition(shown), split))
    return rows


def _words(noun: Noun) -> tuple[str, ...]:
    return (*words_for(noun, "verb"), *words_for(noun, "modifier"))


def write_winoground(trials: Path, seed: int, split: str, start: int, pairs: int) -> CsvRows:
    """Write Baby Winoground, crossing phrase and style: two instances per pair of phrases. Return its rows.

    The first phrase is shown at home and the second on the web in one instance, and the reverse in the other, so that
    a preference for a style cancels.
    """
    rows: CsvRows = []
    for index in range(start, start + pairs):
        rng = random_stream(seed, "winoground", split, index)
        positive, negative = phrase_pair(rng, WORD_CLASSES[index % len(WORD_CLASSES)])
        for style in ("home", "web"):
            name = f"{split}_{index:04d}_{style}"
            at_home, on_web = (positive, negative) if style == "home" else (negative, positive)
            home_image = draw_home_image(rng, at_home, [on_web.noun.name])
            web_image = draw_web_image(rng, on_web, on_web.noun.test_exemplars, 1, test=True)
            images = {"positive": home_image, "negative": web_image}
            if style == "web":
                images = {"positive": web_image, "negative": home_image}
            for tag, image in images.items():
                path = f"baby_winoground/{name}_{tag}.jpg"
                (trials / path).write_bytes(encode_jpeg(image))
                composition = _composition(positive if tag == "positive" else negative)
                rows.append((name, positive.phrase, negative.phrase, path, tag, composition, split))
    return rows


def write_captions(trials: Path, seed: int, split: str, start: int, count: int) -> CsvRows:
    """Write SAYCam Caption: images from the home camera, each with five sentences of a parent. Return its rows."""
    rows: CsvRows = []
    for index in range(start, start + count):
        rng = random_stream(seed, "caption", split, index)
        shown = random_topic(rng, zipf_choice(rng, home_nouns(), EXPONENT), 0.35)
        image = f"caption/{split}_{index:04d}.jpg"
        (trials / image).write_bytes(encode_jpeg(draw_home_image(rng, shown)))
        rows += [(image, written_sentence(shown, rng), split) for _ in range(REFERENCES)]
    return rows
