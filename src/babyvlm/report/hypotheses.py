"""Statements about means of rows, and findings made of them, with what they need and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from babyvlm.report.contrasts import Contrast, Term, contrast
from babyvlm.report.runs import Column, Row
from babyvlm.report.trial_lists import groups_of

ALPHA = 0.05
NAMED = 3  # rows at most that a statement names


class LackingError(Exception):
    """What a finding needs is not there; the message says what."""


class ByConstructionError(LackingError):
    """A finding could not but hold on the test's list, so that it cannot be tested on it; the message says why."""


@dataclass(frozen=True)
class Statement:
    """That a mean lies on one side of a threshold.

    Attributes:
        text: what is compared.
        effect: the mean.
        sign: 1 if the paper says above, -1 if below.
        threshold: of what.
        is_difference: whether the mean is one of differences.
    """

    text: str
    effect: Contrast
    sign: int = 1
    threshold: float = 0.0
    is_difference: bool = True

    @property
    def p_for(self) -> float:
        """One-sided p against the opposite of the statement."""
        return (self.effect.p_above if self.sign > 0 else self.effect.p_below)(self.threshold)

    @property
    def p_against(self) -> float:
        """One-sided p against the statement."""
        return (self.effect.p_below if self.sign > 0 else self.effect.p_above)(self.threshold)


Asked = Callable[["Rows"], Iterator[Statement]]


@dataclass(frozen=True)
class Question:
    """What the paper found, and how runs are asked for it.

    Attributes:
        name: F1 to F7.
        claim: the finding.
        how: what makes it true here.
        statements: what it is the conjunction of.
        told: statements beside it that do not count.
    """

    name: str
    claim: str
    how: str
    statements: Asked
    told: Asked | None = None


@dataclass
class Finding:
    """A question and what came out.

    It is the conjunction of its statements. Its p for is the largest of theirs (intersection-union test, Berger 1982),
    its p against the smallest of theirs times their number (Bonferroni); ``p`` is the smaller of the two, doubled,
    ``corrected`` the same after Holm's correction for all findings that could be tested.

    Attributes:
        question: what was asked.
        statements: what has to be true.
        told: what stands beside it.
        lacking: why it could not be tested; empty if it could.
        constructed: whether that is because it cannot but hold.
        corrected: p.
    """

    question: Question
    statements: list[Statement] = field(default_factory=list)
    told: list[Statement] = field(default_factory=list)
    lacking: str = ""
    constructed: bool = False
    corrected: float | None = None

    @property
    def p_for(self) -> float:
        """One-sided, of all statements' being true."""
        return max(statement.p_for for statement in self.statements)

    @property
    def p_against(self) -> float:
        """One-sided, of any statement's being false."""
        return min(1.0, len(self.statements) * min(statement.p_against for statement in self.statements))

    @property
    def p(self) -> float:
        """Two-sided, uncorrected."""
        return min(1.0, 2 * min(self.p_for, self.p_against))

    @property
    def verdict(self) -> Literal["supported", "contradicted", "undecided", "by construction"]:
        """How it came out."""
        if self.constructed:
            return "by construction"
        if self.corrected is None or self.corrected >= ALPHA:
            return "undecided"
        return "supported" if self.p_for < self.p_against else "contradicted"

    @property
    def decisive(self) -> Statement | None:
        """The statement that the verdict hangs on: the one that is least sure, or the one that is surest false."""
        if not self.statements:
            return None
        if self.verdict == "contradicted":
            return min(self.statements, key=lambda statement: statement.p_against)
        return max(self.statements, key=lambda statement: statement.p_for)


class Rows:
    """Rows by name.

    Args:
        rows: of one world.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.all = list(rows)
        self.by_name = {row.name: row for row in self.all}

    @property
    def trained(self) -> list[Row]:
        """What was trained here."""
        return [row for row in self.all if row.trained]

    @property
    def upper(self) -> list[Row]:
        """What was not."""
        return [row for row in self.all if not row.trained]

    def need(self, *names: str) -> list[Row]:
        """The rows of these names.

        Raises:
            LackingError: one is not there.
        """
        missing = [name for name in names if name not in self.by_name]
        if missing:
            raise LackingError(f"no run of {' or '.join(missing)}")
        return [self.by_name[name] for name in names]

    def both(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[Row, Row]]:
        """Those pairs of which both are there.

        Raises:
            LackingError: none is.
        """
        pairs = list(pairs)
        found = [(one, other) for one, other in pairs if {one, other} <= self.by_name.keys()]
        if not found:
            missing = [name for name in pairs[0] if name not in self.by_name]
            raise LackingError(f"no run of {' and '.join(missing)}")
        return [(self.by_name[one], self.by_name[other]) for one, other in found]


def shared_items(rows: Sequence[Row], column: Column, control: str = "") -> list[str]:
    """The items that all of some rows were tested on.

    Raises:
        LackingError: a row was not tested so.
    """
    shared: list[str] | None = None
    for row in rows:
        own = row.items(column, control)
        if not own:
            without = f" without images ({control})" if control else ""
            raise LackingError(f"{row.name} was not tested on {column.title}{without}")
        known = set(own)
        shared = own if shared is None else [item for item in shared if item in known]
    return shared or []


def mean_of(
    weighted: Sequence[tuple[float, Row]],
    column: Column,
    control: str = "",
    items: str = "",
    kept: Sequence[str] | None = None,
) -> list[Term]:
    """Terms of several rows on the items that all of them were tested on, or on some of these (``kept``).

    Raises:
        LackingError: a row was not tested so, or they share fewer than two items, or groups of items.
    """
    rows = [row for _, row in weighted]
    shared = shared_items(rows, column, control) if kept is None else kept
    groups_N = groups_of(rows, column, shared)
    if len(set(groups_N.tolist())) < 2:
        raise LackingError(f"too few items of {column.title} that all rows were tested on")
    return [Term(weight, row.name, row.credits(column, control, shared), items, groups_N) for weight, row in weighted]


def difference(pairs: Sequence[tuple[Row, Row]], column: Column) -> Contrast:
    """First minus second, averaged over pairs of rows."""
    weighted = [(sign / len(pairs), row) for pair in pairs for sign, row in zip((1, -1), pair, strict=True)]
    return contrast(mean_of(weighted, column))


def average(rows: Sequence[Row], column: Column, control: str = "", kept: Sequence[str] | None = None) -> Contrast:
    """Mean over rows, on some of the items or all."""
    return contrast(mean_of([(1 / len(rows), row) for row in rows], column, control, kept=kept))


def versus(pairs: Sequence[tuple[Row, Row]]) -> str:
    """What is averaged over some pairs of rows."""
    first = f"{pairs[0][0].name} - {pairs[0][1].name}"
    return first if len(pairs) == 1 else f"mean of {len(pairs)} pairs of rows ({first}, ...)"


def named(rows: Iterable[Row]) -> str:
    """What is averaged over some rows."""
    names = [row.name for row in rows]
    return ", ".join(names) if len(names) <= NAMED else f"mean of {len(names)} rows ({names[0]}, ...)"
