"""Compare models on the items that they share: paired tests, and means and differences of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from babyvlm.benchmarks.intervals import BOUNDS, Credits, Dependence, group_sums, weighted_dependence
from babyvlm.report.columns import Column
from babyvlm.report.estimates import Estimate, Kind, LinearCombination, Term, combine_means
from babyvlm.report.runs import Row, benchmarks_of, shared
from babyvlm.report.trial_lists import dependence_of, images_of

PERMUTATIONS = 9999  # our choice: the smallest p value is 0.0001


class MissingResultsError(Exception):
    """Runs or results that a comparison needs are missing; the message says which."""


@dataclass(frozen=True)
class Comparison:
    """A difference of two models' means over the same items, and its two-sided p value.

    Attributes:
        difference: the difference.
        p: its p value.
        test: name of the test.
        images: number of different images that the items show; 0 if it is not known.
    """

    difference: Estimate
    p: float
    test: str
    images: int = 0


def paired_test(
    credit_a_N: Credits, credit_b_N: Credits, related: Dependence, *, choices: bool, seed: int = 0
) -> Comparison:
    """Test whether two models differ on the same items, in the same order.

    Independent choices without ties are tested by McNemar's exact test, other independent items and groups of items by
    permutation, in which the two models' answers to a group are exchanged together. Items that overlap, such as trials
    that share some of their images, cannot be exchanged: these are tested by t.

    Args:
        credit_a_N: credit of the first model.
        credit_b_N: credit of the second model.
        related: which items depend on each other.
        choices: whether credits are of choices (right, wrong or tied), as opposed to METEOR.
        seed: random seed of the resampling.

    Raises:
        ValueError: there are fewer than two items, or groups of items.
    """
    difference_N = credit_a_N - credit_b_N
    terms = [Term(1.0, "a", credit_a_N[None], related), Term(-1.0, "b", credit_b_N[None], related)]
    found = combine_means([terms], "difference" if choices else "free")
    if not related.is_nested:
        p, test = found.p_two_sided if difference_N.any() else 1.0, found.test
    elif related.units < len(difference_N):
        p, test = permutation(group_sums(difference_N[None], related.groups_N)[0], seed=seed), "permutation of groups"
    elif choices and np.isin(credit_a_N, (0, 1)).all() and np.isin(credit_b_N, (0, 1)).all():
        p, test = mcnemar(credit_a_N, credit_b_N), "McNemar"
    else:
        p, test = permutation(difference_N, seed=seed), "permutation"
    return Comparison(found.interval(), p, test)


def mcnemar(credit_a_N: Credits, credit_b_N: Credits) -> float:
    """Return the two-sided p value of McNemar's exact test (statsmodels)."""
    from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar

    only_a, only_b = int((credit_a_N > credit_b_N).sum()), int((credit_a_N < credit_b_N).sum())
    return float(exact_mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue) if only_a + only_b else 1.0


def permutation(difference_N: Credits, resamples: int = PERMUTATIONS, seed: int = 0) -> float:
    """Return the two-sided p value of a paired permutation test (scipy), which flips the signs of differences.

    Exact where there are at most ``resamples`` combinations of signs.
    """
    from scipy.stats import permutation_test

    changed_N = difference_N[difference_N != 0]  # the sign of 0 does not matter
    if not len(changed_N):
        return 1.0
    values_N = np.append(changed_N, 0.0)  # scipy needs at least two
    test = permutation_test(
        (values_N,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple testing (Holm 1979).

    By hand, because statsmodels collects garbage at every call: 70 ms, and simulations call this thousands of times.
    """
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(p) for p in corrected]


def p_text(p: float) -> str:
    """Return a p value as a table shows it."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def score(row: Row, column: Column, control: str = "") -> Estimate | None:
    """Return a row's mean with its interval, computed once; None if the row has no such results."""
    if (column, control) not in row.cache:
        row.cache[column, control] = _score(row, column, control)
    return cast("Estimate | None", row.cache[column, control])


def _score(row: Row, column: Column, control: str) -> Estimate | None:
    if not row.tested(column, control):
        return None
    worlds = [world for world in row.worlds(column, control) if row.items(column, control, world)]
    if not worlds:
        return None
    terms = [_terms([(1.0, row)], column, control, world) for world in worlds]
    if column.effective is not None:
        terms = [[replace(term, related=weighted_dependence(term.related, column.effective))] for (term,) in terms]
    try:
        return combine_means(terms, _kind(terms, column)).interval(column.level)
    except ValueError:  # the variance of one item, or group of items, is unknown
        means = [term.credit_SN.mean() for (term,) in terms]
        count = sum(term.credit_SN.shape[1] for (term,) in terms)
        return Estimate(float(np.mean(means)), *BOUNDS[_kind(terms, column)], count)


def _kind(worlds: Sequence[Sequence[Term]], column: Column, *, is_difference: bool = False) -> Kind:
    if is_difference:
        return "difference" if column.chance is not None else "free"
    if column.correlation:
        return "correlation"
    if column.effective is not None:
        return "weighted share"
    credits = [term.credit_SN for terms in worlds for term in terms]
    return "share" if all(((credit >= 0) & (credit <= 1)).all() for credit in credits) else "free"


def shared_worlds(rows: Sequence[Row], column: Column, control: str = "") -> list[str]:
    """Return the worlds in which all rows were tested.

    Raises:
        MissingResultsError: a row has no such results, or the rows have no world in common.
    """
    worlds: list[str] | None = None
    for row in rows:
        own = row.worlds(column, control)
        if not own:
            condition = f" under control '{control}'" if control else ""
            raise MissingResultsError(f"{row.name} was not tested on {column.title}{condition}")
        worlds = own if worlds is None else [world for world in worlds if world in own]
    if not worlds:
        raise MissingResultsError(f"no world in which {' and '.join(row.name for row in rows)} were both tested")
    return worlds


def _terms(
    weighted: Sequence[tuple[float, Row]], column: Column, control: str, world: str, only: frozenset[str] | None = None
) -> list[Term]:
    """Return the terms of several rows in a world, on the items that all were tested on."""
    rows = [row for _, row in weighted]
    items = _shared_items(rows, column, control, world, only)
    related = _related(rows, column, items, world)
    name = column.category or ""
    return [
        Term(weight, row.name, row.credits(column, control, world, items), related, name) for weight, row in weighted
    ]


def _shared_items(
    rows: Sequence[Row], column: Column, control: str, world: str, only: frozenset[str] | None = None
) -> Sequence[str]:
    items: Sequence[str] = shared([row.items(column, control, world) for row in rows])
    return items if only is None else [item for item in items if item in only]


def _count_images(
    rows: Sequence[Row],
    columns: Sequence[Column],
    control: str,
    worlds: Sequence[str],
    only: Sequence[frozenset[str] | None],
) -> int:
    """Return the number of different images of the items that rows share in columns of one benchmark."""
    count = 0
    for world, chosen in zip(worlds, only, strict=True):
        items = [item for column in columns for item in _shared_items(rows, column, control, world, chosen)]
        count += len(images_of(rows, columns[0].benchmark, world, items))
    return count


def pair_facts(row: Row, other: Row) -> list[str]:
    """Return the numbers of seeds and of worlds in a difference of two rows: those of the worlds that they share.

    Where the rows have different numbers of seeds, both are named.
    """
    worlds = {run.world for run in row.runs} & {run.world for run in other.runs}
    seeds = [len({run.seed for run in each.runs if run.world in worlds}) for each in (row, other)]
    return ["/".join(map(str, dict.fromkeys(seeds))), str(len(worlds))]


def _related(rows: Sequence[Row], column: Column, items: Sequence[str], world: str) -> Dependence:
    key = column.benchmark, column.category, world, len(items), items[0] if items else "", items[-1] if items else ""
    found = rows[0].cache.get(key)
    if found is None or found[0] != items:
        found = rows[0].cache[key] = (items, dependence_of(rows, column, items, world))
    return cast("tuple[Sequence[str], Dependence]", found)[1]


def combination(
    weighted: Sequence[tuple[float, Row]],
    columns: Sequence[tuple[float, Column]],
    control: str = "",
    *,
    is_difference: bool = True,
    only: Callable[[str], frozenset[str]] | None = None,
) -> LinearCombination:
    """Return a weighted sum of rows' means in one or several columns, over the worlds in which all were tested.

    Args:
        weighted: rows with their weights.
        columns: columns, of one benchmark, with their weights.
        control: control condition.
        is_difference: whether weights sum to 0, as opposed to 1.
        only: returns the items of a world that count; by default all that the rows share.

    Raises:
        MissingResultsError: a row has no such results, or there are fewer than two items or groups of items.
    """
    rows, first = [row for _, row in weighted], columns[0][1]
    worlds = [
        world
        for world in shared_worlds(rows, first, control)
        if all(world in row.worlds(column, control) for row in rows for _, column in columns)
    ]
    chosen = [None if only is None else only(world) for world in worlds]
    terms = [
        [
            term
            for weight, column in columns
            for term in _terms(
                [(weight * each, row) for each, row in weighted],
                column,
                control,
                world,
                these,
            )
        ]
        for world, these in zip(worlds, chosen, strict=True)
    ]
    try:
        if not terms:
            raise ValueError
        found = combine_means(terms, _kind(terms, first, is_difference=is_difference))
        return replace(found, images=_count_images(rows, [column for _, column in columns], control, worlds, chosen))
    except ValueError:
        raise MissingResultsError(f"too few shared items of {first.title}") from None


def difference(pairs: Sequence[tuple[Row, Row]], column: Column) -> LinearCombination:
    """Return the first row's mean minus the second's, averaged over pairs of rows."""
    weighted = [(sign / len(pairs), row) for pair in pairs for sign, row in zip((1, -1), pair, strict=True)]
    return combination(weighted, [(1.0, column)])


def average(rows: Sequence[Row], column: Column, control: str = "") -> LinearCombination:
    """Return the mean over rows, on all shared items."""
    return combination([(1 / len(rows), row) for row in rows], [(1.0, column)], control, is_difference=False)


def compare_rows(row_a: Row, row_b: Row) -> Iterator[tuple[Column, Comparison]]:
    """Compare two rows in every column of the main table that both have results in."""
    if (row_a.embedded, row_a.setting) != (row_b.embedded, row_b.setting):
        return  # items of different worlds may have the same names
    for benchmark in benchmarks_of([row_a, row_b]):
        for column in benchmark.main:
            try:
                worlds = shared_worlds([row_a, row_b], column)
                terms = [_terms([(1.0, row_a), (-1.0, row_b)], column, "", world) for world in worlds]
                images = _count_images([row_a, row_b], [column], "", worlds, [None] * len(worlds))
                if len(terms) == 1 and all(len(term.credit_SN) == 1 for term in terms[0]):
                    (a, b), choices = terms[0], column.chance is not None
                    tested = paired_test(a.credit_SN[0], b.credit_SN[0], a.related, choices=choices)
                    yield column, replace(tested, images=images)
                else:
                    found = combine_means(terms, _kind(terms, column, is_difference=True))
                    yield column, Comparison(found.interval(), found.p_two_sided, found.test, images)
            except (MissingResultsError, ValueError):  # no shared items, or a single one
                continue
