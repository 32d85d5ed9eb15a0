"""Labeled-S (Orhan et al. 2020; CVCL): one word, four images; which image shows it?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.trials import Trial, group_rows, read_rows, same_in, split_of
from babyvlm.errors import UserError

OPTIONS = 4  # images per trial (Orhan et al. 2020; CVCL)
COLUMNS = ("trial_id", "target_category", "real_category", "image")


class LabeledS(ForcedChoice):
    """Correct if the target's image scores highest with the name of the category. Chance: 1/4.

    The list has the authors' columns ``trial_id,target_category,real_category,image``, four rows per trial, and
    is a test set as a whole unless it has a column ``half``.
    """

    name = "labeled_s"
    title = "Labeled-S"
    order = 0
    measures: ClassVar = {"accuracy": Measure(chance=1 / OPTIONS)}
    category = "object category"

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each ``trial_id``.

        Raises:
            UserError: a trial does not have four rows with exactly one image of its target, or its rows disagree.
        """
        trials = []
        for item, options in group_rows(read_rows(path, COLUMNS), "trial_id").items():
            target = options[0]["target_category"]
            right = [index for index, row in enumerate(options) if row["real_category"] == target]
            if len(options) != OPTIONS or len(right) != 1:
                found = f"{len(options)} rows, {len(right)} of its target {target!r}"
                raise UserError(f"{path}: trial {item} has {found}; it needs {OPTIONS} rows, one of its target")
            if not same_in(options, ("target_category", "half")):
                raise UserError(f"{path}: trial {item}: its rows differ in target_category or half; they must agree")
            pairs = tuple((row["image"], target) for row in options)
            split = split_of(options[0], item, self.dev_fraction, path)
            trials.append(Trial(item, split, target, pairs, right[0]))
        return trials
