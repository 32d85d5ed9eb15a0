"""Test whether the paper's findings hold for the runs on disk, by the rules in ``findings.yaml``.

A finding is a conjunction of statements about means of rows, each with a threshold that was fixed in advance. The rows
of a finding are fixed, too: if one is missing, the finding is not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from babyvlm.io.limits import load_yaml
from babyvlm.report.columns import LABELED_S, VTWT, VTWT_NATURAL, WINOGROUND, Column
from babyvlm.report.comparisons import MissingResultsError, average, combination, difference
from babyvlm.report.estimates import LinearCombination
from babyvlm.report.paper import CONTRASTIVE, GENERATIVE, LARGER, paper_value
from babyvlm.report.runs import Row
from babyvlm.report.trial_lists import vtwt_phrases, without_balanced_phrases

RULES = cast("dict[str, Any]", load_yaml(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")))
ALPHA: float = RULES["alpha"]
MARGINS: dict[str, float] = RULES["margins"]
MIN_TRAININGS: int = RULES["min_trainings"]
MIN_SEEDS = 2
MAX_NAMES = 2  # rows that a statement lists by name

CHOICE_COLUMNS = (LABELED_S, VTWT, WINOGROUND)
MAIN_ROWS = [f"{model}-{mix}" for model in (CONTRASTIVE, GENERATIVE) for mix in ("filtered", "filtered-aug")]
UPPER_BOUNDS = {False: ("CLIP-large", "LLaVA-v1.5-7B"), True: ("Playroom-CLIP",)}  # on real data, on Playroom

Verdict = Literal["supported", "contradicted", "undecided", "no verdict", "not tested", "by construction"]


class ByConstructionError(MissingResultsError):
    """A finding holds by construction on the benchmark's list and cannot be tested on it; the message says why."""


@dataclass(frozen=True)
class Statement:
    """The statement that a mean lies on one side of a threshold.

    Attributes:
        text: what is compared.
        effect: the mean.
        trainings: smallest number of trained models of a row, over all worlds; 0 if no row was trained here.
        seeds: smallest number of different seeds of a row; 0 likewise.
        sign: 1 for above the threshold, -1 for below.
        threshold: the threshold.
        is_difference: whether the mean is a mean of differences.
        paper: the paper's value; None if it reports none.
    """

    text: str
    effect: LinearCombination
    trainings: int
    seeds: int
    sign: int = 1
    threshold: float = 0.0
    is_difference: bool = True
    paper: float | None = None

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
        return self.effect.interval().text("+" if self.is_difference else "")

    @property
    def expected_text(self) -> str:
        """The side of the threshold on which the paper's finding is."""
        return f"{'>' if self.sign > 0 else '<'} {self.threshold:.3g}"

    @property
    def paper_text(self) -> str:
        """The paper's value, or a dash."""
        return "-" if self.paper is None else f"{self.paper:{'+' if self.is_difference else ''}.3f}"

    @property
    def trainings_suffice(self) -> bool:
        """Whether there are enough trained models for a verdict."""
        return self.trainings >= MIN_TRAININGS and self.seeds >= MIN_SEEDS


Statements = Callable[["Rows"], Iterator[Statement]]


@dataclass(frozen=True)
class Hypothesis:
    """A finding of the paper and its test.

    Attributes:
        name: its key in ``findings.yaml``.
        statements: the statements that it is the conjunction of.
        supplementary: further statements, which do not count.
    """

    name: str
    statements: Statements
    supplementary: Statements | None = None

    @property
    def title(self) -> str:
        """The finding."""
        return str(RULES["findings"][self.name]["title"])

    @property
    def label(self) -> str:
        """Its number and title."""
        return f"{self.name.split()[0]} {self.title}"

    @property
    def criterion(self) -> str:
        """When it counts as true here."""
        return str(RULES["findings"][self.name]["criterion"]).format(**MARGINS)


@dataclass
class Finding:
    """A hypothesis and the result of its test.

    The p value for it is the largest of its statements' (intersection-union test, Berger 1982), the p value against it
    the smallest of its statements' times their number (Bonferroni). ``p`` is the smaller of the two, doubled. It does
    not depend on other findings, so that a verdict does not depend on which other rows there are.

    Attributes:
        hypothesis: what was tested.
        statements: its statements.
        supplementary: statements that do not count.
        untestable: why it could not be tested; empty if it could.
        by_construction: whether it could not be tested because it holds by construction.
    """

    hypothesis: Hypothesis
    statements: list[Statement] = field(default_factory=list)
    supplementary: list[Statement] = field(default_factory=list)
    untestable: str = ""
    by_construction: bool = False

    @property
    def p_for(self) -> float:
        """One-sided p value of the null hypothesis that some statement is false."""
        return max(statement.p_for for statement in self.statements)

    @property
    def p_against(self) -> float:
        """One-sided p value of the null hypothesis that all statements are true."""
        return min(1.0, len(self.statements) * min(statement.p_against for statement in self.statements))

    @property
    def p(self) -> float | None:
        """Two-sided p value; None if there is no verdict."""
        if self.untestable or not all(statement.trainings_suffice for statement in self.statements):
            return None
        return min(1.0, 2 * min(self.p_for, self.p_against))

    @property
    def verdict(self) -> Verdict:
        """Result of the test. "Undecided" means that the data do not settle the question."""
        if self.untestable:
            return "by construction" if self.by_construction else "not tested"
        if self.p is None:
            return "no verdict"
        if self.p >= ALPHA:
            return "undecided"
        return "supported" if self.p_for < self.p_against else "contradicted"


class Rows:
    """Rows by name.

    Args:
        rows: all of the same setting.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_name = {row.name: row for row in rows}
        self.embedded = any(row.embedded for row in self.by_name.values())

    def named(self, names: Iterable[str]) -> list[Row]:
        """Return rows by their names.

        Raises:
            MissingResultsError: one does not exist.
        """
        names = list(names)
        missing = [name for name in names if name not in self.by_name]
        if missing:
            raise MissingResultsError(f"no run of {' and '.join(missing)}")
        return [self.by_name[name] for name in names]


def statement(
    text: str,
    effect: LinearCombination,
    rows: Sequence[Row],
    column: Column,
    control: str = "",
    **rest: Any,  # noqa: ANN401 - fields of Statement
) -> Statement:
    """Return a statement about the means of some rows in a column."""
    tested = [[run for run in row.runs if run.scores(column, control) is not None] for row in rows if row.trained]
    trainings = min((len(runs) for runs in tested), default=MIN_TRAININGS)
    seeds = min((len({run.seed for run in runs}) for runs in tested), default=MIN_SEEDS)
    return Statement(text, effect, trainings, seeds, **rest)


def _differences(
    rows: Rows,
    pairs: Sequence[tuple[str, str]],
    columns: Iterable[Column],
    sign: int = 1,
    threshold: float = 0.0,
) -> Iterator[Statement]:
    """Yield the statement that the first rows of the pairs are better, for each column."""
    named = [tuple(rows.named(pair)) for pair in pairs]
    text = " and ".join(f"{one} - {other}" for one, other in pairs)
    for column in columns:
        found = difference([(one, other) for one, other in named], column)
        values = [
            None if value is None or other_value is None else value - other_value
            for one, other in pairs
            for value, other_value in [[paper_value(name, column.benchmark, column.measure) for name in (one, other)]]
        ]
        known = [value for value in values if value is not None]
        paper = sum(known) / len(known) if len(known) == len(values) else None
        every = [row for pair in named for row in pair]
        yield statement(f"{column.title}: {text}", found, every, column, sign=sign, threshold=threshold, paper=paper)


def _names(rows: Sequence[Row]) -> str:
    names = [row.name for row in rows]
    return ", ".join(names) if len(names) <= MAX_NAMES else f"mean of {len(names)} rows ({names[0]}, ...)"


def matched_pairs_help(column: Column) -> Statements:
    """F0, on one benchmark."""

    def statements(rows: Rows) -> Iterator[Statement]:
        pairs = [(f"{model}-filtered-aug", f"{model}-filtered") for model in (CONTRASTIVE, GENERATIVE)]
        yield from _differences(rows, pairs, [column])

    return statements


def matched_pairs_help_each_model(column: Column) -> Statements:
    """F0, for each model."""

    def statements(rows: Rows) -> Iterator[Statement]:
        for model in (CONTRASTIVE, GENERATIVE):
            with suppress(MissingResultsError):
                yield from _differences(rows, [(f"{model}-filtered-aug", f"{model}-filtered")], [column])

    return statements


def contrastive_beats_generative(rows: Rows) -> Iterator[Statement]:
    """F1."""
    pairs = [(f"{CONTRASTIVE}-{mix}", f"{GENERATIVE}-{mix}") for mix in ("filtered", "filtered-aug")]
    yield from _differences(rows, pairs, CHOICE_COLUMNS)


def matched_gain_more_than_random(rows: Rows) -> Iterator[Statement]:
    """F2."""
    yield from _differences(rows, [_aug_and_random(CONTRASTIVE)], (VTWT, WINOGROUND))


def other_gains_over_random(rows: Rows) -> Iterator[Statement]:
    """F2, what does not count."""
    yield from _differences(rows, [_aug_and_random(CONTRASTIVE)], (LABELED_S,))
    yield from _differences(rows, [_aug_and_random(GENERATIVE)], CHOICE_COLUMNS)


def _aug_and_random(model: str) -> tuple[str, str]:
    return f"{model}-filtered-aug", f"{model}-filtered-random"


def larger_is_no_better(rows: Rows) -> Iterator[Statement]:
    """F3."""
    pair = f"{LARGER}-filtered", f"{GENERATIVE}-filtered"
    yield from _differences(rows, [pair], CHOICE_COLUMNS, -1, MARGINS["no_better"])


def _filtered(rows: Rows) -> list[Row]:
    """Return the rows that were trained on frames of homes only: only to them are the negative contexts new."""
    return rows.named(f"{model}-filtered" for model in (CONTRASTIVE, GENERATIVE))


def contexts_strict(rows: Rows) -> Iterator[Statement]:
    """F4, by the authors' measure."""
    yield from _contexts(rows, "_strict", "strict", 1 / 3)


def contexts_by_text(rows: Rows) -> Iterator[Statement]:
    """F4, by the text comparison only."""
    yield from _contexts(rows, "", "text comparison only", 1 / 2)


def _contexts(rows: Rows, suffix: str, how: str, chance: float) -> Iterator[Statement]:
    filtered = _filtered(rows)
    for context, sign in (("positive", 1), ("negative", -1)):
        column = Column(f"{context} context", WINOGROUND.benchmark, f"{context}{suffix}", chance)
        text = f"{context} context, {how}: {_names(filtered)}"
        effect = average(filtered, column)
        yield statement(text, effect, filtered, column, sign=sign, threshold=chance, is_difference=False)


def blind_is_near_chance(rows: Rows) -> Iterator[Statement]:
    """F5, on the list at natural frequencies if there is one."""
    for control, condition, tested in (
        ("blank", "with a blank image", _filtered(rows)),
        ("text_only", "without an image", rows.named([f"{GENERATIVE}-filtered"])),
    ):
        natural = all(row.tested(VTWT_NATURAL, control) for row in tested)
        column = VTWT_NATURAL if natural else VTWT
        effect = combination(
            [(1 / len(tested), row) for row in tested],
            [(1.0, column)],
            control,
            is_difference=False,
            only=partial(_informative_items, tested, column, control),
        )
        for sign in (1, -1):
            text, threshold = f"{column.title} {condition}: {_names(tested)}", 1 / 2 - sign * MARGINS["near_chance"]
            yield statement(text, effect, tested, column, control, sign=sign, threshold=threshold, is_difference=False)


def _informative_items(rows: Sequence[Row], column: Column, control: str, world: str) -> frozenset[str]:
    """Return the items of VTWT on which an image-blind model does not score 0.5 by construction.

    Raises:
        MissingResultsError: the phrases are unknown, or there is no such item.
    """
    phrases = vtwt_phrases(rows, rows[0].items(column, control, world), world, column.benchmark)
    if phrases is None:
        raise MissingResultsError(f"the list of {column.title} is missing, so the order of its phrases is unknown")
    items = without_balanced_phrases(phrases)
    if not items:
        raise ByConstructionError(
            "true by construction, not testable on this list: every pair of phrases occurs equally often in both "
            "orders, so an image-blind model scores exactly 0.5"
        )
    return frozenset(items)


def nouns_are_easiest(rows: Rows) -> Iterator[Statement]:
    """F6."""
    trained = rows.named(MAIN_ROWS)
    for other in ("verb", "adjective"):
        columns = [
            (sign, Column(f"VTWT {word_class}s", VTWT.benchmark, VTWT.measure, 1 / 2, word_class))
            for word_class, sign in (("noun", 1.0), (other, -1.0))
        ]
        effect = combination([(1 / len(trained), row) for row in trained], columns)
        derived = any(row.has_derived_categories(VTWT.benchmark) for row in trained)
        source = " (word classes derived by lexicon)" if derived else ""
        yield statement(f"VTWT, nouns - {other}s{source}: {_names(trained)}", effect, trained, columns[1][1])


def upper_bounds_are_far_ahead(rows: Rows) -> Iterator[Statement]:
    """F7."""
    for column in CHOICE_COLUMNS:
        for upper_bound in UPPER_BOUNDS[rows.embedded]:
            for row in MAIN_ROWS:
                yield from _differences(rows, [(upper_bound, row)], [column], 1, MARGINS["far_ahead"])


HYPOTHESES = (
    *(
        Hypothesis(f"F0 {column.title}", matched_pairs_help(column), matched_pairs_help_each_model(column))
        for column in CHOICE_COLUMNS
    ),
    Hypothesis("F1", contrastive_beats_generative),
    Hypothesis("F2", matched_gain_more_than_random, other_gains_over_random),
    Hypothesis("F3", larger_is_no_better),
    Hypothesis("F4", contexts_strict, contexts_by_text),
    Hypothesis("F5", blind_is_near_chance),
    Hypothesis("F6", nouns_are_easiest),
    Hypothesis("F7", upper_bounds_are_far_ahead),
)


def evaluate_findings(rows: Sequence[Row]) -> list[Finding]:
    """Test all findings on the rows of one setting, each by itself."""
    by_name = Rows(rows)
    return [_evaluate(by_name, hypothesis) for hypothesis in HYPOTHESES]


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
