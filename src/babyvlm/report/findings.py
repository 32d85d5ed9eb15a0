"""Test whether the paper's seven findings hold for the runs on disk: supported, contradicted or undecided.

A finding is a conjunction of statements about means of rows, each with a threshold that was fixed in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from babyvlm.report.columns import LABELED_S, VTWT, WINOGROUND, Column
from babyvlm.report.comparisons import MissingResultsError, average, difference, holm, shared_items, weighted_terms
from babyvlm.report.estimates import LinearCombination, combine_means
from babyvlm.report.paper import CONTRASTIVE, GENERATIVE, LARGER, MIXES
from babyvlm.report.runs import Row
from babyvlm.report.trial_lists import vtwt_phrases, without_balanced_phrases

ALPHA = 0.05
# Margins: our choices, fixed before any run was looked at. The smallest difference that the paper interprets is 0.018.
NO_BETTER = 0.02  # a gain below this counts as no gain
NEAR_CHANCE = 0.05  # the paper calls 53% near chance
FAR_AHEAD = 0.05
MAX_NAMES = 3  # rows that a statement lists by name

CHOICE_COLUMNS = (LABELED_S, VTWT, WINOGROUND)
AUG_AND_RANDOM = [(f"{model}-filtered-aug", f"{model}-filtered-random") for model in (CONTRASTIVE, GENERATIVE)]


class ByConstructionError(MissingResultsError):
    """A finding holds by construction on the benchmark's list and cannot be tested on it; the message says why."""


@dataclass(frozen=True)
class Statement:
    """The statement that a mean lies on one side of a threshold.

    Attributes:
        text: what is compared.
        effect: the mean.
        sign: 1 for above the threshold, -1 for below.
        threshold: the threshold.
        is_difference: whether the mean is a mean of differences.
    """

    text: str
    effect: LinearCombination
    sign: int = 1
    threshold: float = 0.0
    is_difference: bool = True

    @property
    def p_for(self) -> float:
        """One-sided p value of the null hypothesis that the statement is false."""
        return (self.effect.p_above if self.sign > 0 else self.effect.p_below)(self.threshold)

    @property
    def p_against(self) -> float:
        """One-sided p value of the null hypothesis that the statement is true."""
        return (self.effect.p_below if self.sign > 0 else self.effect.p_above)(self.threshold)

    @property
    def effect_text(self) -> str:
        """The mean with its interval."""
        return self.effect.estimate.text("+" if self.is_difference else "")

    @property
    def expected_text(self) -> str:
        """The side of the threshold on which the paper's finding is."""
        return f"{'>' if self.sign > 0 else '<'} {self.threshold:.3g}"


Statements = Callable[["Rows"], Iterator[Statement]]


@dataclass(frozen=True)
class Hypothesis:
    """A finding of the paper and its test.

    Attributes:
        name: F1 to F7.
        title: the finding.
        criterion: when it counts as true here.
        statements: the statements that it is the conjunction of.
        supplementary: further statements, which do not count.
    """

    name: str
    title: str
    criterion: str
    statements: Statements
    supplementary: Statements | None = None


@dataclass
class Finding:
    """A hypothesis and the result of its test.

    The p value for it is the largest of its statements' (intersection-union test, Berger 1982), the p value against it
    the smallest of its statements' times their number (Bonferroni). ``p`` is the smaller of the two, doubled;
    ``corrected_p`` is the same after Holm's correction for all findings that could be tested.

    Attributes:
        hypothesis: what was tested.
        statements: its statements.
        supplementary: statements that do not count.
        untestable: why it could not be tested; empty if it could.
        by_construction: whether it could not be tested because it holds by construction.
        corrected_p: p value after Holm's correction.
    """

    hypothesis: Hypothesis
    statements: list[Statement] = field(default_factory=list)
    supplementary: list[Statement] = field(default_factory=list)
    untestable: str = ""
    by_construction: bool = False
    corrected_p: float | None = None

    @property
    def p_for(self) -> float:
        """One-sided p value of the null hypothesis that some statement is false."""
        return max(statement.p_for for statement in self.statements)

    @property
    def p_against(self) -> float:
        """One-sided p value of the null hypothesis that all statements are true."""
        return min(1.0, len(self.statements) * min(statement.p_against for statement in self.statements))

    @property
    def p(self) -> float:
        """Two-sided p value, uncorrected."""
        return min(1.0, 2 * min(self.p_for, self.p_against))

    @property
    def verdict(self) -> Literal["supported", "contradicted", "undecided", "by construction"]:
        """Result of the test. "Undecided" means that the data do not settle the question."""
        if self.by_construction:
            return "by construction"
        if self.corrected_p is None or self.corrected_p >= ALPHA:
            return "undecided"
        return "supported" if self.p_for < self.p_against else "contradicted"

    @property
    def decisive(self) -> Statement | None:
        """The statement that determines the verdict: the least certain one, or the one that is most certainly false."""
        if not self.statements:
            return None
        if self.verdict == "contradicted":
            return min(self.statements, key=lambda statement: statement.p_against)
        return max(self.statements, key=lambda statement: statement.p_for)


class Rows:
    """Rows by name.

    Args:
        rows: all of the same world.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_name = {row.name: row for row in rows}
        self.trained = [row for row in self.by_name.values() if row.trained]
        self.upper_bounds = [row for row in self.by_name.values() if not row.trained]

    def pairs(self, names: Iterable[tuple[str, str]]) -> list[tuple[Row, Row]]:
        """Return the pairs of rows of which both exist.

        Raises:
            MissingResultsError: no pair exists.
        """
        names = list(names)
        found = [(one, other) for one, other in names if {one, other} <= self.by_name.keys()]
        if not found:
            missing = [name for name in names[0] if name not in self.by_name]
            raise MissingResultsError(f"no run of {' and '.join(missing)}")
        return [(self.by_name[one], self.by_name[other]) for one, other in found]

    def tested(self, column: Column) -> list[Row]:
        """Return the trained rows with results in a column.

        Raises:
            MissingResultsError: no such row exists.
        """
        found = [row for row in self.trained if row.items(column)]
        if not found:
            raise MissingResultsError(f"no trained run was tested on {column.title}")
        return found

    def trained_on_filtered(self) -> list[Row]:
        """Return the rows that were trained on frames of homes only: only to them are the negative contexts new.

        Raises:
            MissingResultsError: no such row exists.
        """
        found = [row for row in self.trained if row.name.endswith("-filtered")]
        if not found:
            raise MissingResultsError("no run trained on `filtered` only")
        return found


def _differences(pairs: Sequence[tuple[Row, Row]], columns: Iterable[Column]) -> Iterator[Statement]:
    """Yield the statement that the first rows of the pairs are better, for each column."""
    first = f"{pairs[0][0].name} - {pairs[0][1].name}"
    text = first if len(pairs) == 1 else f"mean of {len(pairs)} pairs of rows ({first}, ...)"
    for column in columns:
        yield Statement(f"{column.title}: {text}", difference(pairs, column))


def _names(rows: Sequence[Row]) -> str:
    names = [row.name for row in rows]
    return ", ".join(names) if len(names) <= MAX_NAMES else f"mean of {len(names)} rows ({names[0]}, ...)"


def contrastive_beats_generative(rows: Rows) -> Iterator[Statement]:
    """F1."""
    pairs = rows.pairs((f"{CONTRASTIVE}-{mix}", f"{GENERATIVE}-{mix}") for mix in MIXES)
    yield from _differences(pairs, CHOICE_COLUMNS)


def matched_gain_more_than_random(rows: Rows) -> Iterator[Statement]:
    """F2."""
    yield from _differences(rows.pairs(AUG_AND_RANDOM), (VTWT, WINOGROUND))


def matched_gain_on_labeled_s(rows: Rows) -> Iterator[Statement]:
    """F2 on Labeled-S, where the paper's own numbers point the other way."""
    yield from _differences(rows.pairs(AUG_AND_RANDOM), (LABELED_S,))


def larger_is_no_better(rows: Rows) -> Iterator[Statement]:
    """F3."""
    for name in (f"{LARGER}-filtered", f"{GENERATIVE}-filtered"):
        if name not in rows.by_name:
            raise MissingResultsError(f"no run of {name}")
    pairs = rows.pairs([(f"{LARGER}-filtered", f"{GENERATIVE}-filtered")])
    for statement in _differences(pairs, CHOICE_COLUMNS):
        yield Statement(statement.text, statement.effect, -1, NO_BETTER)


def contexts_strict(rows: Rows) -> Iterator[Statement]:
    """F4, by the authors' measure."""
    filtered = rows.trained_on_filtered()
    for context, sign in (("positive", 1), ("negative", -1)):
        column = Column(f"{context} context", WINOGROUND.benchmark, f"{context}_strict", 1 / 3)
        text = f"{context} context, strict: {_names(filtered)}"
        yield Statement(text, average(filtered, column), sign, 1 / 3, is_difference=False)


def contexts_by_text(rows: Rows) -> Iterator[Statement]:
    """F4, by the text comparison only."""
    filtered = rows.trained_on_filtered()
    for context, sign in (("positive", 1), ("negative", -1)):
        column = Column(f"{context} context", WINOGROUND.benchmark, context, 1 / 2)
        text = f"{context} context, text comparison only"
        yield Statement(text, average(filtered, column), sign, 1 / 2, is_difference=False)


def blind_is_near_chance(rows: Rows) -> Iterator[Statement]:
    """F5."""
    for control, condition in (("blank", "with a blank image"), ("text_only", "without an image")):
        tested = [row for row in rows.trained if row.items(VTWT, control)]
        if control == "blank" and not tested:
            raise MissingResultsError(f"no trained run was tested on {VTWT.title} {condition}")
        if tested:
            effect = average(tested, VTWT, control, _informative_items(tested, control))
            for sign in (1, -1):
                threshold = 1 / 2 - sign * NEAR_CHANCE
                yield Statement(f"VTWT {condition}: {_names(tested)}", effect, sign, threshold, is_difference=False)


def _informative_items(rows: Sequence[Row], control: str) -> list[str]:
    """Return the items of VTWT on which an image-blind model does not score 0.5 by construction.

    Raises:
        MissingResultsError: the list is missing, or has no such item.
    """
    phrases = vtwt_phrases(rows, shared_items(rows, VTWT, control))
    if phrases is None:
        raise MissingResultsError(f"the list of {VTWT.title} is missing, so the order of its phrases is unknown")
    items = without_balanced_phrases(phrases)
    if not items:
        raise ByConstructionError(
            "true by construction, not testable on this list: every pair of phrases occurs equally often in both "
            "orders, so an image-blind model scores exactly 0.5"
        )
    return items


def nouns_are_easiest(rows: Rows) -> Iterator[Statement]:
    """F6."""
    trained = rows.tested(VTWT)
    for other in ("verb", "adjective"):
        terms = [
            term
            for word_class, sign in (("noun", 1), (other, -1))
            for column in (Column(f"VTWT {word_class}s", VTWT.benchmark, VTWT.measure, 1 / 2, word_class),)
            for term in weighted_terms([(sign / len(trained), row) for row in trained], column, set_name=word_class)
        ]
        derived = any(row.has_derived_categories(VTWT.benchmark) for row in trained)
        source = " (word classes derived by lexicon)" if derived else ""
        yield Statement(f"VTWT, nouns - {other}s{source}: {_names(trained)}", combine_means(terms))


def upper_bounds_are_far_ahead(rows: Rows) -> Iterator[Statement]:
    """F7."""
    if not rows.upper_bounds:
        raise MissingResultsError("no run of an upper bound")
    if not rows.trained:
        raise MissingResultsError("no run of a trained model")
    for column in CHOICE_COLUMNS:
        for upper_bound, row in product(rows.upper_bounds, rows.tested(column)):
            effect = difference([(upper_bound, row)], column)
            yield Statement(f"{column.title}: {upper_bound.name} - {row.name}", effect, 1, FAR_AHEAD)


HYPOTHESES = (
    Hypothesis(
        "F1",
        "Contrastive beats generative on the multiple-choice benchmarks",
        f"{CONTRASTIVE} scores above {GENERATIVE} on each of the three benchmarks, averaged over the mixes that both "
        "were trained on.",
        contrastive_beats_generative,
    ),
    Hypothesis(
        "F2",
        "Matched web pairs improve results more than random web pairs",
        "filtered-aug scores above filtered-random on VTWT and on Baby Winoground, averaged over the models that were "
        "trained on both. Labeled-S is reported but does not count: the paper's own numbers point the other way.",
        matched_gain_more_than_random,
        matched_gain_on_labeled_s,
    ),
    Hypothesis(
        "F3",
        "The larger language model is no better",
        f"{LARGER} gains less than {NO_BETTER} over {GENERATIVE} on each of the three benchmarks, both trained on "
        "filtered (a non-superiority test; the margin is our choice).",
        larger_is_no_better,
    ),
    Hypothesis(
        "F4",
        "Baby Winoground: above chance in home contexts, below chance in unseen contexts",
        "Over the rows trained on filtered only, the mean is above 1/3 in positive contexts and below 1/3 in negative "
        "contexts, by the authors' strict measure (the image must select its phrase and the phrase its image). The "
        "text comparison only, against 1/2, is reported but does not count.",
        contexts_strict,
        contexts_by_text,
    ),
    Hypothesis(
        "F5",
        "VTWT without the image is near chance",
        f"The mean of all trained rows is within {NEAR_CHANCE} of 1/2 with a blank image and, for models that can be "
        "scored without an image, also without one (two one-sided tests; the margin is our choice, the paper calls "
        "53% near chance). Items whose two phrases occur equally often in both orders are excluded: an image-blind "
        "model scores exactly 1/2 on them.",
        blind_is_near_chance,
    ),
    Hypothesis(
        "F6",
        "Items that differ in a noun are the easiest",
        "On VTWT the mean of all trained rows is higher where nouns differ than where verbs differ, and than where "
        "adjectives differ.",
        nouns_are_easiest,
    ),
    Hypothesis(
        "F7",
        "Upper bounds are far ahead",
        f"On each of the three benchmarks each upper bound is more than {FAR_AHEAD} above each row that was trained "
        "here (the margin is our choice).",
        upper_bounds_are_far_ahead,
    ),
)


def evaluate_findings(rows: Sequence[Row]) -> list[Finding]:
    """Test all seven findings on the rows of one world, with p values corrected for those that could be tested."""
    by_name = Rows(rows)
    findings = [_evaluate(by_name, hypothesis) for hypothesis in HYPOTHESES]
    testable = [finding for finding in findings if not finding.untestable]
    for finding, p in zip(testable, holm([finding.p for finding in testable]), strict=True):
        finding.corrected_p = p
    return findings


def _evaluate(rows: Rows, hypothesis: Hypothesis) -> Finding:
    finding = Finding(hypothesis)
    try:
        finding.statements.extend(hypothesis.statements(rows))
    except MissingResultsError as missing:
        finding.statements.clear()
        finding.untestable, finding.by_construction = str(missing), isinstance(missing, ByConstructionError)
    if hypothesis.supplementary is not None:
        with suppress(MissingResultsError):
            finding.supplementary.extend(hypothesis.supplementary(rows))
    return finding
