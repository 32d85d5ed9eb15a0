"""Compare models on the items that they share: paired tests, and means and differences of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from babyvlm.benchmarks.intervals import Credits, Groups, group_sums
from babyvlm.report.columns import Column
from babyvlm.report.estimates import Estimate, LinearCombination, Term, bootstrap_mean, combine_means
from babyvlm.report.runs import Row, benchmarks_of
from babyvlm.report.trial_lists import groups_of

PERMUTATIONS = 9999  # our choice: the smallest p value is 0.0001


class MissingResultsError(Exception):
    """Runs or results that a comparison needs are missing; the message says which."""


@dataclass(frozen=True)
class Comparison:
    """A difference of two models' means over the same items, and its two-sided p value."""

    difference: Estimate
    p: float
    test: str


def paired_test(
    credit_a_N: Credits, credit_b_N: Credits, *, multiple_choice: bool, groups_N: Groups | None = None, seed: int = 0
) -> Comparison:
    """Test whether two models differ on the same items, in the same order.

    Args:
        credit_a_N: credit of the first model.
        credit_b_N: credit of the second model.
        multiple_choice: whether credits are of choices (right, wrong or tied), as opposed to METEOR. Choices without
            ties are tested by McNemar's exact test, with ties or in groups by permutation, METEOR by the paired
            bootstrap.
        groups_N: groups of dependent items, whose choices are exchanged between the models together.
        seed: random seed of the resampling.
    """
    difference_N = credit_a_N - credit_b_N
    sums_G = group_sums(difference_N, groups_N)
    if not multiple_choice:
        p, test = paired_bootstrap(difference_N, seed=seed), "bootstrap"
    elif len(sums_G) < len(difference_N):
        p, test = permutation(sums_G, seed=seed), "permutation of groups"
    elif np.isin(credit_a_N, (0, 1)).all() and np.isin(credit_b_N, (0, 1)).all():
        p, test = mcnemar(credit_a_N, credit_b_N), "McNemar"
    else:
        p, test = permutation(difference_N, seed=seed), "permutation"
    return Comparison(bootstrap_mean(difference_N, groups_N, seed=seed), p, test)


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


def paired_bootstrap(difference_N: Credits, resamples: int = PERMUTATIONS, seed: int = 0) -> float:
    """Return the two-sided p value of the paired bootstrap of the centered differences.

    Efron and Tibshirani 1993, section 16.4, without studentizing; Koehn 2004 introduced it for text metrics. Kept by
    hand: scipy's bootstrap gives intervals, not p values.
    """
    mean = difference_N.mean()
    centered_N, rng = difference_N - mean, np.random.default_rng(seed)
    batches = [resamples // 10] * 10 + [resamples % 10]
    as_extreme = sum(
        int((np.abs(rng.choice(centered_N, (size, len(centered_N))).mean(1)) >= abs(mean) - 1e-12).sum())
        for size in batches
    )
    return (as_extreme + 1) / (resamples + 1)


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
    if (column, control) not in row.scores:
        row.scores[column, control] = _score(row, column, control)
    return row.scores[column, control]


def _score(row: Row, column: Column, control: str) -> Estimate | None:
    items = row.items(column, control)
    credit_SN = row.credits(column, control, items)
    if not credit_SN.size:
        return None
    groups_N = groups_of([row], column, items)
    if len(credit_SN) == 1 or groups_N.max() == 0:  # a single group has no variance
        return bootstrap_mean(credit_SN.mean(0), groups_N)
    return combine_means([Term(1.0, row.name, credit_SN, groups_N=groups_N)]).estimate


def shared_items(rows: Sequence[Row], column: Column, control: str = "") -> list[str]:
    """Return the items that all rows were tested on.

    Raises:
        MissingResultsError: a row has no such results.
    """
    shared: list[str] | None = None
    for row in rows:
        own = row.items(column, control)
        if not own:
            condition = f" under control '{control}'" if control else ""
            raise MissingResultsError(f"{row.name} was not tested on {column.title}{condition}")
        known = set(own)
        shared = own if shared is None else [item for item in shared if item in known]
    return shared or []


def weighted_terms(
    weighted: Sequence[tuple[float, Row]],
    column: Column,
    control: str = "",
    set_name: str = "",
    items: Sequence[str] | None = None,
) -> list[Term]:
    """Return the terms of several rows on the items that all were tested on, or on the given items.

    Raises:
        MissingResultsError: a row has no such results, or there are fewer than two items or groups of items.
    """
    rows = [row for _, row in weighted]
    shared = shared_items(rows, column, control) if items is None else items
    groups_N = groups_of(rows, column, shared)
    if len(set(groups_N.tolist())) < 2:
        raise MissingResultsError(f"too few shared items of {column.title}")
    return [
        Term(weight, row.name, row.credits(column, control, shared), set_name, groups_N) for weight, row in weighted
    ]


def difference(pairs: Sequence[tuple[Row, Row]], column: Column) -> LinearCombination:
    """Return the first row's mean minus the second's, averaged over pairs of rows."""
    weighted = [(sign / len(pairs), row) for pair in pairs for sign, row in zip((1, -1), pair, strict=True)]
    return combine_means(weighted_terms(weighted, column))


def average(
    rows: Sequence[Row], column: Column, control: str = "", items: Sequence[str] | None = None
) -> LinearCombination:
    """Return the mean over rows, on all shared items or on the given ones."""
    return combine_means(weighted_terms([(1 / len(rows), row) for row in rows], column, control, items=items))


def compare_rows(row_a: Row, row_b: Row) -> Iterator[tuple[Column, Comparison]]:
    """Compare two rows in every column of the main table that both have results in."""
    for benchmark in benchmarks_of([row_a, row_b]):
        for column in benchmark.main:
            worlds = {row.runs[0].metadata(column.benchmark).get("world") for row in (row_a, row_b)}
            known = set(row_b.items(column))
            shared = [item for item in row_a.items(column) if item in known]
            if len(worlds) > 1 or not shared:  # items of different worlds may have the same names
                continue
            credit_a_SN, credit_b_SN = (row.credits(column, items=shared) for row in (row_a, row_b))
            if len(credit_a_SN) == len(credit_b_SN) == 1:
                groups_N = groups_of([row_a, row_b], column, shared)
                multiple_choice = column.chance is not None
                yield (
                    column,
                    paired_test(credit_a_SN[0], credit_b_SN[0], multiple_choice=multiple_choice, groups_N=groups_N),
                )
            else:
                try:
                    found = difference([(row_a, row_b)], column)
                except MissingResultsError:  # a single item
                    continue
                yield column, Comparison(found.estimate, found.p_two_sided, found.test)
