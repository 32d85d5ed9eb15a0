"""Labeled-S: one word, four images; which image is it?"""

from __future__ import annotations

from pathlib import Path

from babyvlm.benchmarks.base import ForcedChoice
from babyvlm.benchmarks.trials import Trial, agree, group_rows, half_of, read_rows
from babyvlm.errors import UserError

OPTIONS = 4  # images a trial (Orhan et al. 2020; CVCL)
COLUMNS = ("trial_id", "target_category", "real_category", "image")


class LabeledS(ForcedChoice):
    """Right when the target's image scores highest with the category's name; chance 1/4.

    The list has the authors' columns ``trial_id,target_category,real_category,image``, four rows a trial.
    """

    name = "labeled_s"
    dev_fraction = 0.5

    def read(self, path: Path) -> list[Trial]:
        """Trials, one for each four rows of a ``trial_id``.

        Raises:
            UserError: a trial without four rows, without exactly one image of its target, or at odds with itself.
        """
        trials = []
        for item, options in group_rows(read_rows(path, COLUMNS), "trial_id").items():
            target = options[0]["target_category"]
            right = [index for index, row in enumerate(options) if row["real_category"] == target]
            if len(options) != OPTIONS or len(right) != 1:
                found = f"{len(options)} rows, {len(right)} of its target {target!r}"
                raise UserError(f"{path}: trial {item} has {found}; it needs {OPTIONS} rows, one of its target")
            if not agree(options, ("target_category", "half")):
                raise UserError(f"{path}: trial {item}: its rows differ in target_category or half; they must agree")
            pairs = tuple((row["image"], target) for row in options)
            half = half_of(options[0], item, self.dev_fraction, path)
            trials.append(Trial(item, half, target, pairs, right[0]))
        return trials
