"""What there is in Playroom: things, places, colours, sizes, numbers and verbs that can be seen.

The pictures are OpenMoji's (CC BY-SA 4.0). All numbers here are our choice unless a source stands beside them.
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

WORLD_VERSION = 1  # a change of the pictures, the words or the statistics is a change of this number
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
_COUNTED = {"home": 0.25, "web": 0.1}  # how often things that can be counted are
_PLAIN = {"home": 0.3, "web": 0.8}  # of the rest: how often a bare noun is enough
PLACES = ("kitchen", "bath", "bedroom", "living", "garden")


@dataclass(frozen=True)
class Thing:
    """Something with a name and a picture.

    Attributes:
        name: the word a parent says.
        plural: its plural.
        formal: what a stock-photo site calls it.
        glyph: one OpenMoji character.
        domain: ``home`` (the baby's world) or ``web``.
        baby: whether it belongs in a baby's day.
        tint: whether it comes in any colour.
        labeled: whether it is one of the 22 labelled categories.
        counted: whether people speak of two or three of it.
        places: where at home it is met.
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
    """A deed that can be seen: marks that ``draw`` adds to the thing.

    Attributes:
        name: the bare verb.
        ing: its progressive form.
        things: names of the things it is done to.
        hides: things that its marks show, so that they cannot count as absent.
    """

    name: str
    ing: str
    things: tuple[str, ...]
    hides: tuple[str, ...] = ()


_FOOD = ("apple", "banana", "bread", "cake", "carrot", "cheese", "cookie", "egg", "pear", "pizza", "strawberry")
_TOYS = ("ball", "balloon", "car", "doll", "teddy", "train", "duck", "kite")
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
    """What a phrase is about, and what a scene shows: a thing and at most one word about it.

    Attributes:
        thing: the thing.
        colour: a colour word; for a scene also a colour that nobody mentions.
        size: ``big`` or ``little``.
        count: ``one``, ``two`` or ``three``.
        verb: name of what is being done to it.
    """

    thing: Thing
    colour: str | None = None
    size: str | None = None
    count: str | None = None
    verb: str | None = None

    @property
    def adjective(self) -> str | None:
        """The one adjective, if there is one."""
        return self.colour or self.size or self.count

    @property
    def noun(self) -> str:
        """The noun in the number that the count asks for."""
        return self.thing.plural if self.count in ("two", "three") else self.thing.name

    @property
    def phrase(self) -> str:
        """Two words for a test (``wash cup``, ``red ball``, ``two ducks``), or the bare noun."""
        word = self.verb or self.adjective
        return f"{word} {self.noun}" if word else self.noun


@cache
def things() -> tuple[Thing, ...]:
    """All things, from ``things.csv`` beside this file, in its order."""
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
    """The thing of that name."""
    return next(thing for thing in things() if thing.name == name)


@cache
def home_things(place: str | None = None) -> tuple[Thing, ...]:
    """Things of the baby's home, or of one of its places."""
    return tuple(t for t in things() if t.domain == "home" and (place is None or place in t.places))


def pick_home_thing(rng: random.Random, place: str | None = None, hidden: Collection[str] = ()) -> Thing:
    """A thing of the home that is not hidden; a child's favourites come up twice as often as the rest."""
    choice = [thing for thing in home_things(place) if thing.name not in hidden]
    return rng.choices(choice, [2 if thing.labeled or thing.counted else 1 for thing in choice])[0]


@cache
def labeled_things() -> tuple[Thing, ...]:
    """The labelled categories."""
    return tuple(t for t in things() if t.labeled)


def stream(seed: int, *names: object) -> random.Random:
    """A random stream of its own for every piece of work, so that order and workers change nothing."""
    return random.Random("/".join(map(str, (WORLD_VERSION, seed, *names))))


def verbs_for(thing: Thing) -> tuple[str, ...]:
    """What can be done to a thing."""
    return tuple(verb.name for verb in VERBS.values() if thing.name in verb.things)


def random_topic(rng: random.Random, thing: Thing) -> Topic:
    """Say something about a thing: how many, what is done to it, what it is like, or its bare name."""
    if thing.counted and rng.random() < _COUNTED[thing.domain]:
        return Topic(thing, count=rng.choices(COUNTS, (1, 2, 2))[0])
    if rng.random() < _PLAIN[thing.domain]:
        return Topic(thing)
    verbs = verbs_for(thing)
    if verbs and rng.random() < 0.6:
        return Topic(thing, verb=rng.choice(verbs))
    if thing.tint and rng.random() < 0.7:
        return Topic(thing, colour=rng.choice(tuple(COLOURS)))
    return Topic(thing, size=rng.choice(SIZES))
