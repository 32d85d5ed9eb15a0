"""What there is in Playroom: things, places, colours, sizes, numbers and verbs that can be seen.

The pictures are OpenMoji's (CC BY-SA 4.0). All numbers here are our choice unless a source stands beside them.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

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
_WASHABLE = ("cup", "bowl", "plate", "spoon", "bottle", "apple", "carrot", "pear", "baby", "duck", "bucket", "car",
             "shirt", "window")  # fmt: skip
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


def random_topic(rng: random.Random, thing: Thing, plain: float = 0.4) -> Topic:
    """Say something about a thing.

    Args:
        rng: where chance comes from.
        thing: the thing.
        plain: how often the bare noun is enough; the rest is shared by verbs and adjectives.
    """
    if rng.random() < plain:
        return Topic(thing)
    verbs = verbs_for(thing) if thing.domain == "home" else ()
    if verbs and rng.random() < 0.5:
        return Topic(thing, verb=rng.choice(verbs))
    kinds = ("colour", "colour", "size", "count") if thing.tint else ("size", "count")
    kind = rng.choice(kinds)
    if kind == "colour":
        return Topic(thing, colour=rng.choice(tuple(COLOURS)))
    return Topic(thing, size=rng.choice(SIZES)) if kind == "size" else Topic(thing, count=rng.choice(COUNTS))
