"""Which differences between runs are more than luck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from babyvlm.contracts import UserError
from babyvlm.report.runs import MAIN, Column, Run, find_runs
from babyvlm.report.statistics import Comparison, holm, paired_test
from babyvlm.report.table import Section

NOTE = (
    "Difference of the means over the test items that both runs were scored on, with its 95 % bootstrap interval. "
    "p by McNemar's exact test where choices have no ties, by paired permutation where they have, by paired bootstrap "
    "for METEOR; p Holm: corrected for the number of comparisons in this table."
)
HEADING = ["benchmark", "first", "second", "difference", "items", "p", "p Holm", "test"]


def compare(rows: list[str] | None = None, logs: Path = Path("lightning_logs"), out: Path | None = None) -> None:
    """Test tested runs against each other, pair by pair, item by item.

    Args:
        rows: names of rows as `report` prints them; all by default.
        logs: folder of runs.
        out: Markdown file to write the table to.
    """
    runs = {run.row: run for run in find_runs(logs)}
    unknown = [row for row in rows or () if row not in runs]
    if unknown:
        raise UserError(f"--rows: {logs} has no tested run {unknown[0]}; it has {', '.join(runs)}")
    chosen = [runs[row] for row in rows] if rows else list(runs.values())
    found = list(_comparisons(chosen))
    if not found:
        raise UserError(f"{logs}: no two runs were scored on the same items")
    corrected = holm([comparison.p for *_, comparison in found])
    lines = [
        [column.title, one.row, other.row, _difference(comparison), str(comparison.difference.items),
         f"{comparison.p:.4f}", f"{p:.4f}", comparison.test]
        for (column, one, other, comparison), p in zip(found, corrected, strict=True)
    ]  # fmt: skip
    section = Section("Paired comparisons", [HEADING, *lines], NOTE)
    section.print()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(section.markdown())


def _comparisons(runs: Sequence[Run]) -> Iterator[tuple[Column, Run, Run, Comparison]]:
    for column in MAIN:
        for one, other in combinations(runs, 2):
            if one.facts(column.benchmark).get("world") != other.facts(column.benchmark).get("world"):
                continue  # items of two worlds may have the same names
            first, second = one.items(column), other.items(column)
            shared = [item for item in first if item in second]
            if shared:
                credits = [np.array([items[item] for item in shared]) for items in (first, second)]
                yield column, one, other, paired_test(*credits, choices=column.chance is not None)


def _difference(comparison: Comparison) -> str:
    found = comparison.difference
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
