"""Reviewed word classes of phrase pairs: what the words are in which two phrases differ.

The authors' lists (babylmms-eval @82118a8) have no word classes. ``word_classes.csv`` has one for each of the 861
distinct pairs in them, under a hash of the pair, so that the list itself is not distributed. 354 pairs differ in both
words. The 507 others were labeled by two readers independently, who agree on 430 (kappa 0.77). Of the 77 others, 51
are nouns that modify a noun (cat tail, dog tail), which are `noun` here, and 24 compare words of different classes or
adverbs, for which the second reader had no class. spaCy's tagger (``en_core_web_sm`` 3.8, the majority over three
sentence frames) agrees with the file on 335 (kappa 0.56): it sees two words without a sentence.
"""

from __future__ import annotations

import csv
import hashlib
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("word_classes.csv")
# `other`: adverbs and prepositions (`inside` and `outside`), or a word of one class against one of another.
CLASSES = ("noun", "verb", "adjective", "both", "other")


def pair_key(one: str, other: str) -> str:
    """Return the key of two phrases in the class file, whatever their order and case.

    >>> pair_key("Wash cup", "hold cup") == pair_key("hold cup ", "wash cup")
    True
    """
    phrases = sorted(" ".join(phrase.lower().split()) for phrase in (one, other))
    return hashlib.sha256("\n".join(phrases).encode()).hexdigest()[:16]


def reviewed_class(one: str, other: str) -> str | None:
    """Return the reviewed class of two phrases; None for a pair that is not in the authors' lists."""
    return _classes().get(pair_key(one, other))


@cache
def _classes() -> dict[str, str]:
    with FILE.open(newline="", encoding="ascii") as file:
        return {row["pair"]: row["word_class"] for row in csv.DictReader(file)}
