"""What phrases and pictures are about: a noun and at most one verb or modifier, drawn at natural frequencies."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from babyvlm.playroom.actions import VERBS
from babyvlm.playroom.modifiers import MODIFIERS, NUMBERS, Modifier
from babyvlm.playroom.words import Noun, nouns, zipf_choice

if TYPE_CHECKING:
    from babyvlm.playroom.actions import Verb

WORLD_VERSION = 2  # increase it with every change of the images, the words, or the statistics
EXPONENT = 1.0  # of Zipf's law within nouns, verbs, and modifiers (WORLD.md)


@dataclass(frozen=True)
class Topic:
    """The content of a phrase or a picture.

    Attributes:
        noun: the noun.
        verb: an action on the thing, or None.
        modifier: a property of the thing, or None.
    """

    noun: Noun
    verb: Verb | None = None
    modifier: Modifier | None = None

    @property
    def word(self) -> str:
        """The verb or the modifier, or an empty string."""
        return self.verb.name if self.verb else self.modifier.name if self.modifier else ""

    @property
    def count(self) -> int:
        """The number of things."""
        return NUMBERS.get(self.word, 1)

    @property
    def noun_form(self) -> str:
        """The noun, in the plural after a number."""
        return self.noun.plural if self.count > 1 else self.noun.name

    @property
    def phrase(self) -> str:
        """Verb and noun (``wash cup``), modifier and noun (``red ball``), or the noun."""
        return f"{self.word} {self.noun_form}".strip()


def is_held_out(word: str, noun: Noun) -> bool:
    """Return whether a pair of verb or modifier and noun occurs in benchmarks only: a third of them, in every world."""
    return hashlib.sha256(f"{word} {noun.name}".encode()).digest()[0] % 3 == 0


def random_stream(seed: int, *names: object) -> random.Random:
    """Return an independent random stream for a piece of work, so that results do not depend on order or workers."""
    return random.Random("/".join(map(str, (WORLD_VERSION, seed, *names))))


@cache
def home_nouns(place: str | None = None) -> tuple[Noun, ...]:
    """Return the nouns of the home, or of one place in it, by frequency."""
    return tuple(noun for noun in nouns() if noun.home and (place is None or place in noun.places))


@cache
def words_for(noun: Noun, kind: str) -> tuple[str, ...]:
    """Return the verbs (``kind="verb"``) or modifiers (``kind="modifier"``) that apply to a noun, by frequency."""
    if kind == "verb":
        return tuple(verb.name for verb in VERBS.values() if noun.kind in verb.kinds)
    return tuple(modifier.name for modifier in MODIFIERS.values() if modifier.kind != "number" or noun.counted)


def topic(noun: Noun, word: str = "") -> Topic:
    """Return the topic of a noun and a verb or modifier."""
    return Topic(noun, VERBS.get(word), MODIFIERS.get(word))


def random_topic(rng: random.Random, noun: Noun, bare: float, *, trained: bool = True) -> Topic:
    """Return a topic about a noun.

    Args:
        rng: source of randomness.
        noun: the noun.
        bare: probability of the noun alone.
        trained: choose among the pairs that occur in training data, not among the held-out ones.
    """
    if rng.random() < bare:
        return Topic(noun)
    kind = rng.choice(("verb", "modifier"))
    words = [word for word in words_for(noun, kind) if is_held_out(word, noun) != trained]
    return topic(noun, zipf_choice(rng, words, EXPONENT)) if words else Topic(noun)


@dataclass(frozen=True)
class Household:
    """A family and the exemplars that it owns: one or two of each noun.

    Attributes:
        seed: seed of the world.
        child: name of the child.
    """

    seed: int
    child: str
    _owned: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def exemplars(self, noun: Noun) -> tuple[str, ...]:
        """Return the exemplars of a noun that the family owns."""
        if noun.name not in self._owned:
            home, _ = exemplar_pools(self.seed, noun)
            rng = random_stream(self.seed, "household", self.child, noun.name)
            self._owned[noun.name] = tuple(rng.sample(home, min(len(home), rng.choice((1, 2)))))
        return self._owned[noun.name]


@cache
def exemplar_pools(seed: int, noun: Noun) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the training exemplars that homes can own, and those of web images. The world's seed decides."""
    order = list(noun.training_exemplars)
    random_stream(seed, "exemplars", noun.name).shuffle(order)
    middle = (len(order) + 1) // 2
    return tuple(order[:middle]), tuple(order[middle:])
