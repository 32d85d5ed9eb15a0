"""Labeled-S: one word, four images; which image is it?"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from babyvlm.benchmarks.callback import ForcedChoice
from babyvlm.benchmarks.trials import Trial, half_of, read_rows
from babyvlm.contracts import UserError

OPTIONS = 4  # images a trial (Orhan et al. 2020; CVCL)
COLUMNS = ("trial_id", "target_category", "real_category", "image")


class LabeledS(ForcedChoice):
    """Right when the target's image scores highest with the category's name; chance 1/4.

    Args:
        trials: CSV with the authors' columns ``trial_id,target_category,real_category,image``, four rows a trial.
        images: folder that the list's image paths start from; the list's own by default.
        batch_size: images encoded at once.
        dev_fraction: share of the trials in the dev half, where the list has no column ``half``.
    """

    name = "labeled_s"

    def __init__(
        self, trials: Path, images: Path | None = None, batch_size: int = 64, dev_fraction: float = 0.5
    ) -> None:
        super().__init__(trials, images, batch_size)
        self.dev_fraction = dev_fraction

    def read(self, path: Path) -> list[Trial]:
        """Trials, one for each four rows of a ``trial_id``.

        Raises:
            UserError: a trial without four rows, without exactly one image of its target, or at odds with itself.
        """
        rows = sorted(read_rows(path, COLUMNS), key=lambda row: row["trial_id"])
        trials = []
        for item, group in groupby(rows, key=lambda row: row["trial_id"]):
            options = list(group)
            target = options[0]["target_category"]
            right = [index for index, row in enumerate(options) if row["real_category"] == target]
            if len(options) != OPTIONS or len(right) != 1:
                found = f"{len(options)} rows, {len(right)} of its target {target!r}"
                raise UserError(f"{path}: trial {item} has {found}; it needs {OPTIONS} rows, one of its target")
            if len({(row["target_category"], row.get("half")) for row in options}) != 1:
                raise UserError(f"{path}: trial {item}: its rows differ in target_category or half; they must agree")
            pairs = tuple((row["image"], target) for row in options)
            half = half_of(options[0], item, self.dev_fraction, path)
            trials.append(Trial(item, half, target, pairs, right[0]))
        return trials
