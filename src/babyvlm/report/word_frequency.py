"""Is a word known the better, the more often it occurs in training, and the earlier children learn it?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from babyvlm.benchmarks.intervals import LEVEL
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.tables import read_complete_rows
from babyvlm.report.columns import LABELED_S, BenchmarkColumns
from babyvlm.report.comparisons import p_text
from babyvlm.report.runs import Row, benchmarks_of
from babyvlm.report.tables import Table, row_facts, row_name

OBJECTS = "object category"  # what the categories of benchmarks of single words are
MIN_WORDS = 5  # fewer words say nothing about a correlation: our choice
TITLE = "Accuracy and words: correlation over the words of a benchmark"
NOTE = (
    "Spearman's correlation of a word's accuracy (mean over seeds and worlds) with the number of training utterances "
    "that contain it, and with its age of acquisition where norms are given (--age_of_acquisition). Words are the "
    "sample: 95% CI by Fisher's z with the variance of Bonett and Wright (2000); p two-sided by t, not corrected. "
    "Words that do not occur in training count as 0; words without a norm are left out."
)


def word_table(rows: Sequence[Row], norms: Mapping[str, float] | None = None) -> Table | None:
    """Return the correlations of each trained row on each benchmark of single words; None if there are none.

    Args:
        rows: all of the same setting.
        norms: age of acquisition of words, if the user has any.
    """
    body = []
    for benchmark in benchmarks_of(rows):
        is_accuracy = benchmark.main[0].chance is not None  # Alignment's first measure is a cosine
        if not is_accuracy or (benchmark.name != LABELED_S.benchmark and benchmark.category != OBJECTS):
            continue
        for row in rows:
            accuracy = word_accuracy(row, benchmark)
            counts = training_counts(row, accuracy)
            if counts is not None:
                body.append(_cells(row, benchmark, "utterances in training", accuracy, counts))
            if norms is not None:
                body.append(_cells(row, benchmark, "age of acquisition", accuracy, norms))
    shown = [cells for cells in body if cells is not None]
    heading = ["model", "seeds", "benchmark", "correlated with", "words", "rho", "p"]
    return Table(TITLE, heading, shown, NOTE) if shown else None


def _cells(
    row: Row, benchmark: BenchmarkColumns, what: str, accuracy: Mapping[str, float], other: Mapping[str, float]
) -> list[str] | None:
    words = [word for word in accuracy if word in other]
    if len(words) < MIN_WORDS:
        return None
    rho, low, high, p = rank_correlation([accuracy[word] for word in words], [other[word] for word in words])
    shown = f"{rho:+.3f} [{low:+.3f}, {high:+.3f}]"
    return [row_name(row), row_facts(row)[0], benchmark.title, what, str(len(words)), shown, p_text(p)]


def word_accuracy(row: Row, benchmark: BenchmarkColumns) -> dict[str, float]:
    """Return the mean credit of the items of each word, by the benchmark's first measure, over a row's runs."""
    credits: dict[str, list[float]] = {}
    for run in row.runs:
        results = run.results.get(benchmark.name)
        found = None if results is None else results.credit.get((benchmark.main[0].measure, ""))
        if results is not None and found is not None:
            for item, credit in zip(found.items, found.credit_N.tolist(), strict=True):
                credits.setdefault(results.category[item].replace("_", " "), []).append(credit)
    return {word: sum(values) / len(values) for word, values in credits.items() if word}


def training_counts(row: Row, words: Mapping[str, float]) -> dict[str, float] | None:
    """Return the number of training utterances that contain each word; None if a store is not on this machine.

    They are those of the row's first run, or of the run whose weights it tests. An utterance that several frames share
    counts once.
    """
    phases = reversed(row.runs[0].phases if row.trained else [])
    stores = next((phase.stores for phase in phases if phase.stores), None)
    if not stores or not all((store / "store.json").is_file() for store in stores):
        return None
    counts = dict.fromkeys(words, 0.0)
    for store in dict.fromkeys(stores):
        for text, times in _utterances(store).items():
            padded = f" {text} "
            for word in words:
                if f" {word} " in padded:
                    counts[word] += times
    return counts


def _utterances(store: Path) -> Counter[str]:
    columns = PairStore(store).columns("utterance", "group", "split").to_pydict()
    spoken = {
        group: text
        for text, group, split in zip(columns["utterance"], columns["group"], columns["split"], strict=True)
        if split == "train"
    }
    return Counter(spoken.values())


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float, float]:
    """Return Spearman's correlation with its 95% interval and two-sided p value.

    >>> [round(number, 3) for number in rank_correlation([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5])]
    [0.829, -0.127, 0.986, 0.042]

    Where one side does not vary, the correlation is 0 and unknown.

    Args:
        x: at least four numbers.
        y: as many.
    """
    from scipy.stats import norm, spearmanr

    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0, -1.0, 1.0, 1.0
    rho, p = map(float, spearmanr(x, y))
    if abs(rho) > 1 - 1e-12:
        return rho, rho, rho, p
    half = float(norm.ppf((1 + LEVEL) / 2)) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half])).tolist()
    return rho, low, high, p


def read_norms(path: Path) -> dict[str, float]:
    """Return the age of acquisition of each word from a CSV with the columns ``word`` and ``age``.

    Raises:
        UserError: the file is not such a list, an age is not a number, or a word occurs twice.
    """
    norms: dict[str, float] = {}
    for row in read_complete_rows(path, ("word", "age")):
        try:
            age = float(row.cells["age"])
        except ValueError:
            age = math.nan
        if not math.isfinite(age):
            raise UserError(f"{path}, row {row.line}: age is {row.cells['age']!r}, must be a number")
        word = row.cells["word"].strip().lower()
        if word in norms:
            raise UserError(f"{path}, row {row.line}: the word {word!r} occurs twice. Keep one of its ages")
        norms[word] = age
    return norms
