"""The Visual Two-Word Test (BabyVLM): one image, two phrases that differ in one or both words; which one fits?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.phrases import derived_class
from babyvlm.benchmarks.trials import Trial, read_rows, split_of

COLUMNS = ("image", "positive_phrase", "negative_phrase")


class VTWT(ForcedChoice):
    """Correct if the positive phrase scores higher than the negative one. Chance: 1/2.

    The list has the authors' columns ``image,positive_phrase,negative_phrase``. A column ``word_class`` says what
    differs (``noun``, ``verb``, ``adjective``, ``both``), a column ``half`` in which split a row is. The authors' list
    has no word classes: then they are derived from the phrases, and the results say so.
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
            word_class = row.cells.get("word_class") or derived_class(*phrases)
            self.derived |= not row.cells.get("word_class")
            pairs = tuple((row["image"], phrase) for phrase in phrases)
            split = split_of(row, row.item, self.dev_fraction, path)
            trials.append(Trial(row.item, split, word_class, pairs, group=" / ".join(sorted(phrases))))
        return trials

    def facts(self) -> dict[str, str]:
        """Return whether any word class was derived."""
        return {"derived_categories": "true"} if self.derived else {}
