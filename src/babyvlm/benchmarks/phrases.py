"""Two-word phrases: extract them from utterances, check pairs of them, and balance lists of pairs."""

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
# Words that no image shows: verbs of speech and attention, adjectives of liking. Our choice.
NOT_VISIBLE = frozenset(
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
class PhrasePair:
    """A phrase that matches a frame, one that does not, and what differs: noun, verb, adjective, or both words."""

    positive: str
    negative: str
    word_class: str

    @property
    def mirrored(self) -> PhrasePair:
        """The same pair for a frame that the other phrase matches."""
        return PhrasePair(self.negative, self.positive, self.word_class)


def extract_phrase(utterance: str) -> tuple[str, str] | None:
    """Return the two-word phrase in an utterance, and the class of its first word, ``verb`` or ``adjective``.

    ``can you wash the cup ?`` -> ``wash cup``; ``that 's a red ball`` and ``the ball is red`` -> ``red ball``. None if
    the utterance names no object, or nothing visible about it.
    """
    words = utterance.lower().split()
    for place in reversed(range(len(words))):
        noun = words[place]
        if not _is(noun, "noun"):
            continue
        before = [word for word in words[:place] if word not in (*DETERMINERS, *NOT_VISIBLE)]
        if before and _is(before[-1], "adjective"):
            return f"{before[-1]} {noun}", "adjective"
        copula, predicate = (*words[place + 1 : place + 3], "", "")[:2]
        if copula in ("is", "'s") and _is(predicate, "adjective"):
            return f"{predicate} {noun}", "adjective"
        if before and (verb := _verbs().get(before[-1])):
            return f"{verb} {noun}", "verb"
    return None


def _is(word: str, word_class: str) -> bool:
    return word not in NOT_VISIBLE and any(entry.kind in KINDS[word_class] for entry in lexicon().get(word, ()))


@cache
def _verbs() -> dict[str, str]:
    """Map each form of a visible action to the bare form of its verb."""
    bare = (item for section, item in read_sections(word_list()) if section == "verbs" and item not in NOT_VISIBLE)
    return {form: verb for verb in bare for form in (verb, plural_of(verb), ing_of(verb))}


def difference(one: str, other: str, first_class: str) -> str | None:
    """Return what differs between two phrases whose first words are of a class; None if they are equal."""
    firsts, nouns = zip(one.split(), other.split(), strict=True)
    if nouns[0] == nouns[1]:
        return None if firsts[0] == firsts[1] else first_class
    return "noun" if firsts[0] == firsts[1] else "both"


def derived_class(positive: str, negative: str) -> str:
    """Return the word class of an unlabeled pair, or ``unknown``.

    ``noun`` (the second words differ) and ``both`` follow from the phrases. Otherwise the first words that the toddler
    word list contains decide: they must all be verbs or all be adjectives, and not both.
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


def rejection_reason(pair: PhrasePair, utterance: str, vocabulary: Vocabulary) -> str:
    """Return why a pair cannot be a trial; empty if it can.

    Args:
        pair: As it was proposed.
        utterance: Of the frame.
        vocabulary: Of the models that will be evaluated.
    """
    if not all(PHRASE.fullmatch(phrase) for phrase in (pair.positive, pair.negative)):
        return "phrase is not two lower-case words"
    if pair.word_class not in WORD_CLASSES:
        return "unknown word class"
    if any(UNK in ids for ids in vocabulary.encode_raw([pair.positive, pair.negative])):
        return "out-of-vocabulary word"
    return _class_mismatch(pair) or _not_distinct(pair, utterance)


def _class_mismatch(pair: PhrasePair) -> str:
    """Check that the first word is a verb or adjective, the second a noun, and that the label says what differs."""
    firsts, nouns = zip(pair.positive.split(), pair.negative.split(), strict=True)
    same = firsts[0] == firsts[1], nouns[0] == nouns[1]
    labeled = {"noun": (True, False), "both": (False, False)}.get(pair.word_class, (False, True))
    if same != labeled:
        return "phrases do not differ as labeled"
    first_classes = (pair.word_class,) if pair.word_class in ("verb", "adjective") else ("verb", "adjective")
    # A word that is not in the toddler word list may be of any class: reviewers decide.
    if not all(_may_be(noun, "noun") for noun in nouns):
        return "second word is not a noun"
    if not any(all(_may_be(first, word_class) for first in firsts) for word_class in first_classes):
        return "first words are not of the labeled class"
    return ""


def _not_distinct(pair: PhrasePair, utterance: str) -> str:
    words = list(zip(pair.positive.split(), pair.negative.split(), strict=True))
    if any(one != other and word_root(one) == word_root(other) for one, other in words):
        return "differing words have the same root"
    spoken = {word_root(word) for word in utterance.lower().split()}
    new = [other for one, other in words if one != other]
    return "utterance contains the negative phrase" if all(word_root(word) in spoken for word in new) else ""


def _may_be(word: str, word_class: str) -> bool:
    return word not in lexicon() or _is(word, word_class)


def balance(phrases: Sequence[tuple[str, str]]) -> list[bool]:
    """Choose the largest subset of items in which every phrase is the negative as often as the positive.

    Items are edges of a graph from positive to negative phrases, and the subset is a maximum circulation, found by
    linear programming (the constraint matrix of a network is totally unimodular, so vertex solutions are integral).

    Args:
        phrases: (positive, negative) phrase of each item.

    Returns:
        Whether to keep each item.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    if not phrases:
        return []
    place = {phrase: row for row, phrase in enumerate(dict.fromkeys(phrase for pair in phrases for phrase in pair))}
    count = len(phrases)
    rows = [place[phrase] for side in (0, 1) for phrase in (pair[side] for pair in phrases)]
    signs = np.repeat([1.0, -1.0], count)
    net = coo_array((signs, (rows, np.tile(np.arange(count), 2))), shape=(len(place), count)).tocsr()
    found = linprog(-np.ones(count), A_eq=net, b_eq=np.zeros(len(place)), bounds=(0, 1), method="highs-ds")
    kept: list[bool] = (found.x > 0.5).tolist()
    return kept
