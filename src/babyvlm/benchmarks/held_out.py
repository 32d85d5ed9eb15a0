"""Held-out utterances by age and child: one utterance, four frames; which frame was seen when it was said?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.trials import Trial, group_rows, read_rows, same_in, split_of
from babyvlm.errors import UserError

OPTIONS = 4  # our choice, as in Labeled-S
COLUMNS = ("trial_id", "utterance", "category", "image", "correct")


class HeldOutUtterances(ForcedChoice):
    """Correct if the utterance's own frame scores highest. Chance: 1/4.

    ``benchmark build held-out`` writes the list. All four frames of a trial come from one age span, one child, or both,
    so that the categories of the results are comparable, and a model that was trained on one child or age can be
    tested on others.
    """

    name = "held_out"
    title = "Held-out utterances"
    order = 40
    measures: Mapping[str, Measure] = {"accuracy": Measure(chance=1 / OPTIONS)}
    category = "age and child"

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each ``trial_id``; ``correct`` is 1 for the utterance's own frame, else 0.

        Raises:
            UserError: a trial does not have four rows with one correct frame, or its rows disagree.
        """
        trials = []
        for item, rows in group_rows(read_rows(path, COLUMNS), "trial_id").items():
            right = [index for index, row in enumerate(rows) if row["correct"] == "1"]
            if len(rows) != OPTIONS or len(right) != 1:
                raise UserError(
                    f"{path}: trial {item} has {len(rows)} rows, {len(right)} of them correct; it needs {OPTIONS}, one"
                    " of them correct"
                )
            if not same_in(rows, ("utterance", "category", "half")):
                raise UserError(f"{path}: trial {item}: its rows differ in utterance, category or half")
            split = split_of(rows[0], item, self.dev_fraction, path)
            options = tuple((row["image"], row["utterance"]) for row in rows)
            trials.append(Trial(item, split, rows[0]["category"], options, right[0]))
        return trials
