"""The Visual Two-Word Test: one image, two phrases that differ in little; which one fits?"""

from __future__ import annotations

from pathlib import Path

from babyvlm.benchmarks.callback import ForcedChoice
from babyvlm.benchmarks.trials import Trial, half_of, read_rows

COLUMNS = ("image", "positive_phrase", "negative_phrase")


class VisualTwoWord(ForcedChoice):
    """Right when the positive phrase scores higher than the negative one; chance 1/2.

    Args:
        trials: CSV with the authors' columns ``image,positive_phrase,negative_phrase``; a column ``word_class`` says
            what differs (noun, verb, adjective, both), a column ``half`` which half a row is in.
        images: folder that the list's image paths start from; the list's own by default.
        batch_size: images encoded at once.
        dev_fraction: share of the rows in the dev half, where the list has no column ``half``; none by default, since
            the authors' list is a test set as a whole.
    """

    name = "vtwt"

    def __init__(
        self, trials: Path, images: Path | None = None, batch_size: int = 64, dev_fraction: float = 0.0
    ) -> None:
        super().__init__(trials, images, batch_size)
        self.dev_fraction = dev_fraction

    def read(self, path: Path) -> list[Trial]:
        """Trials, one a row, named by the row's number in the file."""
        trials = []
        for number, row in enumerate(read_rows(path, COLUMNS), start=2):
            item = f"{number}:{row['image']}"
            pairs = ((row["image"], row["positive_phrase"]), (row["image"], row["negative_phrase"]))
            half = half_of(row, item, self.dev_fraction, path)
            trials.append(Trial(item, half, row.get("word_class", ""), pairs, 0))
        return trials
