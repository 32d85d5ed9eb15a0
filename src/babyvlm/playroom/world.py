"""Content of Playroom: things, places, colors, sizes, numbers and visible verbs.

The glyphs are from OpenMoji (CC BY-SA 4.0). All numbers are our choice unless a source is given.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

WORLD_VERSION = 1  # increase it with every change of the images, the words or the statistics
CREDIT = "OpenMoji, CC BY-SA 4.0"

COLOURS = {
    "red": (226, 50, 44),
    "orange": (245, 138, 32),
    "yellow": (250, 214, 40),
    "green": (70, 170, 66),
    "blue": (54, 108, 222),
    "purple": (146, 74, 192),
    "pink": (248, 146, 192),
    "brown": (140, 88, 48),
}
SIZES = ("big", "little")
COUNTS = ("one", "two", "three")
_COUNT_RATE = {"home": 0.25, "web": 0.1}  # probability of a number word, for countable things
_BARE_NOUN_RATE = {"home": 0.3, "web": 0.8}  # probability of a bare noun otherwise
PLACES = ("kitchen", "bath", "bedroom", "living", "garden")


def is_in_playroom(path: Path) -> bool:
    """Return whether a file or folder belongs to Playroom: the world's manifest lies in a folder above it."""
    return any((folder / "playroom.json").is_file() for folder in path.resolve().parents)


@dataclass(frozen=True)
class Thing:
    """A thing that can be named and drawn.

    Attributes:
        name: the word that a parent uses.
        plural: its plural.
        formal: the word that a stock-photo site uses.
        glyph: one OpenMoji character.
        domain: ``home`` (the baby's environment) or ``web``.
        baby: whether it occurs in a baby's daily life.
        tint: whether it can have any color.
        labeled: whether it is one of the 22 categories of Labeled-S.
        counted: whether captions mention two or three of it.
        places: rooms in which it occurs.
    """

    name: str
    plural: str
    formal: str
    glyph: str
    domain: str
    baby: bool
    tint: bool
    labeled: bool
    counted: bool
    places: tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """A visible action, shown by marks that ``draw`` adds to the thing.

    Attributes:
        name: the bare verb.
        ing: its progressive form.
        things: names of the things that it applies to.
        hides: names of the things that its marks show, which therefore cannot count as absent.
    """

    name: str
    ing: str
    things: tuple[str, ...]
    hides: tuple[str, ...] = ()


_FOOD = ("apple", "banana", "bread", "cake", "carrot", "cheese", "cookie", "egg", "pear", "pizza", "strawberry")
_WASHABLE = (
    "cup",
    "bowl",
    "plate",
    "spoon",
    "bottle",
    "apple",
    "carrot",
    "pear",
    "baby",
    "duck",
    "bucket",
    "car",
    "shirt",
    "window",
)
VERBS = {
    verb.name: verb
    for verb in (
        Verb("wash", "washing", (*_WASHABLE, "sock", "dog"), ("soap",)),
        Verb("fill", "filling", ("cup", "bowl", "bottle", "bucket", "tub", "basket", "box", "bag")),
        Verb("eat", "eating", _FOOD),
        Verb("cut", "cutting", (*_FOOD, "paper"), ()),
        Verb("kick", "kicking", ("ball", "balloon", "box", "bucket", "shoe", "rock")),
        Verb("throw", "throwing", ("ball", "hat", "sock", "shoe", "teddy", "rock", "sponge", "doll")),
        Verb("hug", "hugging", ("baby", "teddy", "doll", "dog", "cat", "rabbit", "duck")),
        Verb("kiss", "kissing", ("baby", "teddy", "doll", "dog", "cat", "rabbit", "fish")),
        Verb("paint", "painting", ("box", "chair", "door", "egg", "paper", "rock", "train", "plate")),
        Verb("smell", "smelling", ("flower", "soap", "apple", "cheese", "shoe", "sock", "bread", "strawberry")),
        Verb("brush", "brushing", ("cat", "dog", "doll", "teddy", "rabbit", "hat", "shoe", "couch"), ("toothbrush",)),
        Verb("drop", "dropping", ("spoon", "cup", "phone", "book", "key", "plate", "crayon", "egg")),
    )
}


@dataclass(frozen=True)
class Topic:
    """The content of a phrase or a scene: a thing and at most one property of it.

    Attributes:
        thing: the thing.
        colour: a color word.
        size: ``big`` or ``little``.
        count: ``one``, ``two`` or ``three``.
        verb: name of the action applied to it.
    """

    thing: Thing
    colour: str | None = None
    size: str | None = None
    count: str | None = None
    verb: str | None = None

    @property
    def adjective(self) -> str | None:
        """Color, size or number, if the topic has one."""
        return self.colour or self.size or self.count

    @property
    def noun(self) -> str:
        """The noun, in the plural for two or three."""
        return self.thing.plural if self.count in ("two", "three") else self.thing.name

    @property
    def phrase(self) -> str:
        """Two words (``wash cup``, ``red ball``, ``two ducks``), or the bare noun."""
        word = self.verb or self.adjective
        return f"{word} {self.noun}" if word else self.noun


@cache
def things() -> tuple[Thing, ...]:
    """Return all things, in the order of ``things.csv``."""
    lines = files(__package__).joinpath("things.csv").read_text(encoding="utf-8").splitlines()
    return tuple(
        Thing(
            name=row["name"],
            plural=row["plural"],
            formal=row["formal"],
            glyph=row["glyph"],
            domain=row["domain"],
            baby=row["baby"] == "1",
            tint=row["tint"] == "1",
            labeled=row["labeled"] == "1",
            counted=row["counted"] == "1",
            places=tuple(row["places"].split()),
        )
        for row in csv.DictReader(lines)
    )


@cache
def thing(name: str) -> Thing:
    """Return the thing with this name."""
    return next(thing for thing in things() if thing.name == name)


@cache
def home_things(place: str | None = None) -> tuple[Thing, ...]:
    """Return the things of the home, or of one of its rooms."""
    return tuple(t for t in things() if t.domain == "home" and (place is None or place in t.places))


def pick_home_thing(rng: random.Random, place: str | None = None, hidden: Collection[str] = ()) -> Thing:
    """Return a random thing of the home that is not in ``hidden``; labeled and countable things are twice as likely."""
    choice = [thing for thing in home_things(place) if thing.name not in hidden]
    return rng.choices(choice, [2 if thing.labeled or thing.counted else 1 for thing in choice])[0]


@cache
def labeled_things() -> tuple[Thing, ...]:
    """Return the things that are categories of Labeled-S."""
    return tuple(t for t in things() if t.labeled)


def random_stream(seed: int, *names: object) -> random.Random:
    """Return an independent random stream for a piece of work, so that results do not depend on order or workers."""
    return random.Random("/".join(map(str, (WORLD_VERSION, seed, *names))))


def verbs_for(thing: Thing) -> tuple[str, ...]:
    """Return the names of the verbs that apply to a thing."""
    return tuple(verb.name for verb in VERBS.values() if thing.name in verb.things)


def random_topic(rng: random.Random, thing: Thing) -> Topic:
    """Return a random topic about a thing: a number, an action, a color, a size, or its bare name."""
    if thing.counted and rng.random() < _COUNT_RATE[thing.domain]:
        return Topic(thing, count=rng.choices(COUNTS, (1, 2, 2))[0])
    if rng.random() < _BARE_NOUN_RATE[thing.domain]:
        return Topic(thing)
    verbs = verbs_for(thing)
    if verbs and rng.random() < 0.6:
        return Topic(thing, verb=rng.choice(verbs))
    if thing.tint and rng.random() < 0.7:
        return Topic(thing, colour=rng.choice(tuple(COLOURS)))
    return Topic(thing, size=rng.choice(SIZES))
