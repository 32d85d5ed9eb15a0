"""Vocabulary of Playroom: nouns with their exemplars, verbs, and modifiers.

``nouns.csv`` lists the nouns in the order of their frequency; the orders are our choice, guided by which words
parents use early and often. Exemplars are icons in the sprite bank (``build_sprites.py``).
"""

from __future__ import annotations

import csv
import io
import random
import zipfile
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
PLACES = {"K": "kitchen", "L": "living room", "B": "bedroom", "T": "bathroom", "G": "garden", "S": "street"}


@dataclass(frozen=True)
class Noun:
    """A noun and the pictures of it.

    Attributes:
        name: singular.
        plural: plural.
        kind: ``food``, ``animal``, ``clothing``, ...: decides which verbs apply to it.
        counted: whether number words apply to it.
        places: names of the places of the home where it occurs; empty if it occurs in web images only.
        size_cm: length of a real one, or of the toy that a child has of it.
        exemplars: names of its pictures in the sprite bank.
    """

    name: str
    plural: str
    kind: str
    counted: bool
    places: tuple[str, ...]
    size_cm: float
    exemplars: tuple[str, ...]

    @property
    def home(self) -> bool:
        """Whether it occurs in the home."""
        return bool(self.places)

    @cached_property
    def test_exemplars(self) -> tuple[str, ...]:
        """Exemplars that occur only in benchmarks: about a quarter, the same in every world."""
        order = list(self.exemplars)
        random.Random(f"exemplars of {self.name}").shuffle(order)
        return tuple(order[: max(1, len(order) // 4)])

    @cached_property
    def training_exemplars(self) -> tuple[str, ...]:
        """All other exemplars."""
        return tuple(exemplar for exemplar in self.exemplars if exemplar not in self.test_exemplars)


@cache
def nouns() -> tuple[Noun, ...]:
    """Return all nouns, in the order of ``nouns.csv``."""
    exemplars = _sprites()
    lines = files(__package__).joinpath("nouns.csv").read_text(encoding="utf-8").splitlines()
    return tuple(
        Noun(
            name=row["noun"],
            plural=row["plural"],
            kind=row["kind"],
            counted=row["counted"] == "1",
            places=tuple(PLACES[place] for place in row["places"] if place in PLACES),
            size_cm=float(row["size_cm"]),
            exemplars=tuple(exemplars[row["noun"]]),
        )
        for row in csv.DictReader(lines)
    )


@cache
def noun(name: str) -> Noun:
    """Return the noun with this name."""
    return next(noun for noun in nouns() if noun.name == name)


@cache
def sprite_bank() -> zipfile.ZipFile:
    """Return the open sprite bank."""
    return zipfile.ZipFile(io.BytesIO(files(__package__).joinpath("sprites.zip").read_bytes()))


@cache
def _zipf_weights(count: int, exponent: float) -> tuple[float, ...]:
    return tuple(accumulate(rank**-exponent for rank in range(1, count + 1)))


def zipf_choice(rng: random.Random, choice: Sequence[T], exponent: float) -> T:
    """Return an element with probability proportional to ``rank ** -exponent``, where ranks start at 1."""
    return rng.choices(choice, cum_weights=_zipf_weights(len(choice), exponent))[0]


@cache
def prop(name: str) -> tuple[str, ...]:
    """Return the exemplars of a prop (a shape of a hand, a drop, a flame), in the order of the sprite bank."""
    return tuple(_sprites()[name])


@cache
def _sprites() -> dict[str, list[str]]:
    """Return the files of each noun and prop, in the order of the sprite bank."""
    found: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(sprite_bank().read("sprites.csv").decode())):
        found.setdefault(row["noun"], []).append(row["file"])
    return found
