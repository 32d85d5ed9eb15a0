"""The Visual Two-Word Test: one image, two phrases that differ in little; which one fits?"""

from __future__ import annotations

from pathlib import Path

from babyvlm.benchmarks.base import ForcedChoice
from babyvlm.benchmarks.phrases import derived_class
from babyvlm.benchmarks.trials import Trial, half_of, read_rows

COLUMNS = ("image", "positive_phrase", "negative_phrase")


class VisualTwoWord(ForcedChoice):
    """Right when the positive phrase scores higher than the negative one; chance 1/2.

    The list has the authors' columns ``image,positive_phrase,negative_phrase``; a column ``word_class`` says what
    differs (noun, verb, adjective, both), a column ``half`` which half a row is in. The authors' list says nothing of
    word classes: then they are derived from the phrases, and the results say so.
    """

    name = "vtwt"
    derived = False

    def read(self, path: Path) -> list[Trial]:
        """Trials, one a row, named by the row's line in the file."""
        trials = []
        for row in read_rows(path, COLUMNS):
            item = f"{row.line}:{row['image']}"
            pairs = ((row["image"], row["positive_phrase"]), (row["image"], row["negative_phrase"]))
            half = half_of(row, item, self.dev_fraction, path)
            word_class = row.cells.get("word_class") or derived_class(row["positive_phrase"], row["negative_phrase"])
            trials.append(Trial(item, half, word_class, pairs))
            self.derived |= not row.cells.get("word_class")
        return trials

    def facts(self) -> dict[str, str]:
        """Whether any item's word class is ours."""
        return {"derived_categories": "true"} if self.derived else {}
