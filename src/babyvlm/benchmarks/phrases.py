"""Two-word phrases: what is said of a frame, which contrasts are sound, and which are balanced."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from babyvlm.curation.rewrite.llm.checks import word_root
from babyvlm.curation.rewrite.rules.lexicon import ing_of, lexicon, plural_of, read_sections, word_list
from babyvlm.curation.rewrite.rules.rewriter import DETERMINERS
from babyvlm.data.vocabulary import UNK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babyvlm.data.vocabulary import Vocabulary

WORD_CLASSES = ("noun", "verb", "adjective", "both")
PHRASE = re.compile(r"[a-z]+ [a-z]+")
KINDS = {
    "noun": frozenset(("thing", "mass", "people")),
    "verb": frozenset(("verb",)),
    "adjective": frozenset(("color", "adjective", "number")),
}
# What a parent says and no picture shows: verbs of talk and attention, adjectives of liking. Our choice.
UNSEEN = frozenset(
    (
        "look",
        "listen",
        "watch",
        "give",
        "take",
        "put",
        "play",
        "touch",
        "talk",
        "nice",
        "pretty",
        "funny",
        "silly",
        "sweet",
        "yummy",
        "new",
        "old",
        "loud",
        "quiet",
        "fast",
        "slow",
    )
)


@dataclass(frozen=True)
class Contrast:
    """A phrase that fits a frame, one that does not, and what differs: a noun, verb or adjective, or both words."""

    positive: str
    negative: str
    word_class: str

    @property
    def mirrored(self) -> Contrast:
        """The same contrast for a frame that the other phrase fits."""
        return Contrast(self.negative, self.positive, self.word_class)


def phrase_said(utterance: str) -> tuple[str, str] | None:
    """The two-word phrase that an utterance says, and the class of its first word, ``verb`` or ``adjective``.

    ``can you wash the cup`` -> ``wash cup``; ``thats a red ball`` and ``the ball is red`` -> ``red ball``. None if it
    names nothing, or says nothing of it that can be seen.
    """
    words = utterance.lower().split()
    for place in reversed(range(len(words))):
        noun = words[place]
        if not _is(noun, "noun"):
            continue
        before = [word for word in words[:place] if word not in (*DETERMINERS, *UNSEEN)]
        if before and _is(before[-1], "adjective"):
            return f"{before[-1]} {noun}", "adjective"
        if words[place + 1 : place + 2] == ["is"] and place + 2 < len(words) and _is(words[place + 2], "adjective"):
            return f"{words[place + 2]} {noun}", "adjective"
        if before and (verb := _verbs().get(before[-1])):
            return f"{verb} {noun}", "verb"
    return None


def _is(word: str, word_class: str) -> bool:
    return word not in UNSEEN and any(entry.kind in KINDS[word_class] for entry in lexicon().get(word, ()))


@cache
def _verbs() -> dict[str, str]:
    """Form of a verb that can be seen -> its bare form."""
    bare = (item for section, item in read_sections(word_list()) if section == "verbs" and item not in UNSEEN)
    return {form: verb for verb in bare for form in (verb, plural_of(verb), ing_of(verb))}


def difference(one: str, other: str, first_class: str) -> str | None:
    """What differs between two phrases whose first words are of a class; None if nothing does."""
    firsts, nouns = zip(one.split(), other.split(), strict=True)
    if nouns[0] == nouns[1]:
        return None if firsts[0] == firsts[1] else first_class
    return "noun" if firsts[0] == firsts[1] else "both"


def derived_class(positive: str, negative: str) -> str:
    """The word class of a contrast that nobody labelled, or ``unknown``.

    ``noun`` (the second words differ) and ``both`` need no list. Of first words those that the toddler's list has
    decide: they must all be verbs, or all adjectives, and not both.
    """
    one, other = positive.lower().split(), negative.lower().split()
    if not len(one) == len(other) == 2:
        return "unknown"
    found = difference(" ".join(one), " ".join(other), "")
    if found != "":
        return found or "unknown"
    kinds = [{entry.kind for entry in lexicon()[first]} for first in (one[0], other[0]) if first in lexicon()]
    classes = [word_class for word_class in ("verb", "adjective") if all(KINDS[word_class] & kind for kind in kinds)]
    return classes[0] if kinds and len(classes) == 1 else "unknown"


def flaw(contrast: Contrast, utterance: str, vocabulary: Vocabulary) -> str:
    """Why a contrast makes no test item; empty if it makes one.

    Args:
        contrast: as somebody proposed it.
        utterance: what was said with the frame.
        vocabulary: of the models to be tested.
    """
    if not all(PHRASE.fullmatch(phrase) for phrase in (contrast.positive, contrast.negative)):
        return "a phrase is not two words in small letters"
    if contrast.word_class not in WORD_CLASSES:
        return "no such word class"
    if any(UNK in ids for ids in vocabulary.encode([contrast.positive, contrast.negative])):
        return "a word is not in the vocabulary"
    return _flaw_of_class(contrast) or _flaw_of_difference(contrast, utterance)


def _flaw_of_class(contrast: Contrast) -> str:
    """The first word is a verb or an adjective, the second a noun, and the label says what differs."""
    firsts, nouns = zip(contrast.positive.split(), contrast.negative.split(), strict=True)
    same = firsts[0] == firsts[1], nouns[0] == nouns[1]
    labelled = {"noun": (True, False), "both": (False, False)}.get(contrast.word_class, (False, True))
    if same != labelled:
        return "the phrases do not differ as labelled"
    first_classes = (contrast.word_class,) if contrast.word_class in ("verb", "adjective") else ("verb", "adjective")
    # A word that the toddler's list has not may be of any class: only people can tell.
    if not all(_may_be(noun, "noun") for noun in nouns):
        return "a second word is no noun"
    if not any(all(_may_be(first, word_class) for first in firsts) for word_class in first_classes):
        return "the first words are not of the class"
    return ""


def _flaw_of_difference(contrast: Contrast, utterance: str) -> str:
    pairs = list(zip(contrast.positive.split(), contrast.negative.split(), strict=True))
    if any(one != other and word_root(one) == word_root(other) for one, other in pairs):
        return "the words that differ mean the same"
    said = {word_root(word) for word in utterance.lower().split()}
    new = [other for one, other in pairs if one != other]
    return "the utterance says the negative phrase too" if all(word_root(word) in said for word in new) else ""


def _may_be(word: str, word_class: str) -> bool:
    return word not in lexicon() or _is(word, word_class)


def balanced(contrasts: Sequence[tuple[str, str]]) -> list[bool]:
    """Which items to keep so that every phrase is as often the negative as the positive, as many items as possible.

    Items are the edges of a graph from positive to negative phrases; what is kept is a largest circulation, by linear
    programming (the constraint matrix of a network is totally unimodular, so a vertex solution is whole).

    Args:
        contrasts: (positive, negative) phrase of each item.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    if not contrasts:
        return []
    place = {phrase: row for row, phrase in enumerate(dict.fromkeys(phrase for pair in contrasts for phrase in pair))}
    count = len(contrasts)
    rows = [place[phrase] for side in (0, 1) for phrase in (pair[side] for pair in contrasts)]
    signs = np.repeat([1.0, -1.0], count)
    net = coo_array((signs, (rows, np.tile(np.arange(count), 2))), shape=(len(place), count)).tocsr()
    found = linprog(-np.ones(count), A_eq=net, b_eq=np.zeros(len(place)), bounds=(0, 1), method="highs-ds")
    kept: list[bool] = (found.x > 0.5).tolist()
    return kept
