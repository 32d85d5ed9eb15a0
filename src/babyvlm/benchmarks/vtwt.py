"""The Visual Two-Word Test (BabyVLM): one image, two phrases that differ in one or both words; which one fits?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.phrases import derived_class
from babyvlm.benchmarks.trials import Trial, read_rows, split_of
from babyvlm.benchmarks.word_classes import reviewed_class

COLUMNS = ("image", "positive_phrase", "negative_phrase")


class VTWT(ForcedChoice):
    """Correct if the positive phrase scores higher than the negative one. Chance: 1/2.

    The list has the authors' columns ``image,positive_phrase,negative_phrase``. A column ``word_class`` says what
    differs (``noun``, ``verb``, ``adjective``, ``both``), a column ``half`` in which split a row is. The authors' list
    has no word classes: for its pairs they are those of ``word_classes``. For other pairs they are derived from the
    phrases, and the results say so.
    """

    name = "vtwt"
    title = "VTWT"
    order = 10
    measures: ClassVar = {"accuracy": Measure(chance=1 / 2)}
    category = "word class"
    derived = False

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each row, named by the row's line in the file.

        Trials about the same two phrases are one group: their results are not independent.
        """
        trials = []
        for row in read_rows(path, COLUMNS):
            phrases = row["positive_phrase"], row["negative_phrase"]
            word_class = row.cells.get("word_class") or reviewed_class(*phrases)
            self.derived |= not word_class
            word_class = word_class or derived_class(*phrases)
            pairs = tuple((row["image"], phrase) for phrase in phrases)
            split = split_of(row, row.item, self.dev_fraction, path)
            trials.append(Trial(row.item, split, word_class, pairs, group=" / ".join(sorted(phrases))))
        return trials

    def facts(self) -> dict[str, str]:
        """Return whether any word class was derived."""
        return {"derived_categories": "true"} if self.derived else {}

    def prior(self, trials: Sequence[Trial]) -> float:
        """Return the accuracy of the phrases' prior, which sees no image: ``phrase_prior``."""
        return phrase_prior([(trial.options[0][1], trial.options[1][1]) for trial in trials])


def phrase_prior(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the accuracy of choosing the phrase that is right more often, less wrong, in all other items.

    It needs the answers of the list, so no model reaches it by language alone. On the authors' list it is 0.696; where
    every phrase is right as often as wrong, it is below 0.5.

    >>> round(phrase_prior([("wash cup", "eat cup"), ("wash cup", "read cup"), ("see dog", "see cat")]), 3)
    0.833

    Args:
        pairs: right and wrong phrase of each item.
    """
    balance = Counter[str]()
    for right, wrong in pairs:
        balance[right] += 1
        balance[wrong] -= 1
    leads = [(balance[right] - 1) - (balance[wrong] + 1) for right, wrong in pairs]  # without the item itself
    return sum(1.0 if lead > 0 else 0.5 * (lead == 0) for lead in leads) / len(leads)
