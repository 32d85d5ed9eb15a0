"""The Visual Two-Word Test (BabyVLM): one image, two phrases that differ in one or both words; which one fits?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from babyvlm.benchmarks.base import ForcedChoice, Measure, with_compositions
from babyvlm.benchmarks.phrases import derived_class
from babyvlm.benchmarks.trials import Trial, composition_of, read_rows, split_of
from babyvlm.benchmarks.word_classes import reviewed_class

COLUMNS = ("image", "positive_phrase", "negative_phrase")


class VTWT(ForcedChoice):
    """Correct if the positive phrase scores higher than the negative one. Chance: 1/2.

    The list has the authors' columns ``image,positive_phrase,negative_phrase``. A column ``word_class`` says what
    differs (``noun``, ``verb``, ``adjective``, ``both``), a column ``half`` in which split a row is, a column
    ``composition`` whether the positive phrase occurs in training (``seen``, ``unseen``), for measures of their own.
    The authors' list has no word classes: for its pairs they are those of ``word_classes``. For other pairs they are
    derived from the phrases, and the results say so.
    """

    name = "vtwt"
    title = "VTWT"
    order = 10
    measures: Mapping[str, Measure] = with_compositions({"accuracy": Measure(chance=1 / 2)})
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
            group, composition = " / ".join(sorted(phrases)), composition_of([row], path)
            trials.append(Trial(row.item, split, word_class, pairs, group=group, composition=composition))
        return trials

    def facts(self) -> dict[str, str]:
        """Return whether any word class was derived."""
        return {"derived_categories": "true"} if self.derived else {}

    def prior(self, trials: Sequence[Trial]) -> float:
        """Return the accuracy of the phrases' prior, which sees no image: ``phrase_prior``."""
        return phrase_prior([(trial.options[0][1], trial.options[1][1]) for trial in trials])


class NaturalVTWT(VTWT):
    """VTWT on a list in which phrases are right as often as their words occur, such as Playroom's second list.

    A model that knows only how frequent phrases are is above chance on it; ``prior`` and the controls measure that.
    """

    name = "vtwt_natural"
    title = "VTWT, natural"
    order = 11


def phrase_prior(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the accuracy of choosing the phrase that is right more often, less wrong, in the items of other pairs.

    Items about the same two phrases, in either order, are left out together, because their answers depend on each
    other: in a list with every pair in both orders, the other items would always speak for the wrong phrase. It needs
    the answers of the list, so no model reaches it by language alone. On the authors' list it is 0.673.

    >>> phrase_prior([("wash cup", "eat cup"), ("wash cup", "see cup"), ("a dog", "a cat"), ("a cat", "a dog")])
    0.75

    Args:
        pairs: right and wrong phrase of each item.
    """
    credits = phrase_prior_credits(pairs)
    return sum(credits) / len(credits)


def phrase_prior_credits(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the credit of each item by ``phrase_prior``: 1, 0, or 0.5 where the prior is undecided."""
    balance, in_group = Counter[str](), Counter[tuple[frozenset[str], str]]()
    for right, wrong in pairs:
        for phrase, sign in ((right, 1), (wrong, -1)):
            balance[phrase] += sign
            in_group[frozenset((right, wrong)), phrase] += sign
    credits = []
    for pair in pairs:
        ahead, behind = (balance[phrase] - in_group[frozenset(pair), phrase] for phrase in pair)
        credits.append(1.0 if ahead > behind else 0.5 * (ahead == behind))
    return credits
