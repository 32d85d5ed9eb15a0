"""Which differences between two runs are more than luck, and which items made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from babyvlm.errors import UserError
from babyvlm.io.files import atomic_write
from babyvlm.report.estimates import Comparison, holm, p_text, paired_test
from babyvlm.report.hypotheses import LackingError, difference
from babyvlm.report.runs import MAIN, Column, Row, Run, is_tested, newest_runs
from babyvlm.report.table_formats import Section
from babyvlm.report.tables import interval
from babyvlm.report.trial_lists import groups_of

NOTE = (
    "Difference of the means over the test items that both were scored on, with its 95 % interval. Of two runs: "
    "bootstrap interval, p by McNemar's exact test where choices have no ties, by paired permutation where they have, "
    "by paired bootstrap for METEOR; VTWT's items that ask for the same two phrases, a group, are drawn and exchanged "
    "together. Of rows with several seeds: interval and p by t over items and seeds. p Holm: "
    "corrected for the number of comparisons in this table."
)
HEADING = ["benchmark", "difference", "items", "p", "p Holm", "test"]


def compare(run_a: Path, run_b: Path, out: Path | None = None) -> None:
    """Test two runs against each other, item by item.

    For example:
        python -m babyvlm compare lightning_logs/CVCL-filtered lightning_logs/CVCL-filtered-aug --out compare.html

    Args:
        run_a: a run's folder, or that of a row: of its seeds the newest tested runs.
        run_b: another.
        out: HTML page to write: the table, and the items that came out otherwise, with their pictures where those are
            free to show.
    """
    one, other = _row(run_a), _row(run_b)
    found = list(_comparisons(one, other))
    if not found:
        raise UserError(f"{run_a} and {run_b} were scored on no item in common")
    corrected = holm([comparison.p for _, comparison in found])
    lines = [
        [
            column.title,
            interval(comparison.difference, "+"),
            str(comparison.difference.items),
            p_text(comparison.p),
            p_text(p),
            comparison.test,
        ]
        for (column, comparison), p in zip(found, corrected, strict=True)
    ]
    section = Section(f"{one.name} - {other.name}", [HEADING, *lines], NOTE)
    section.print()
    if out is not None:
        from babyvlm.report.item_changes import flips
        from babyvlm.report.page import compare_page

        with atomic_write(out) as file:
            file.write(compare_page(section, one.name, other.name, flips(one.runs[0], other.runs[0])))
        print(out)


def _row(path: Path) -> Row:
    """The runs that a folder holds.

    Raises:
        UserError: it holds none that was tested.
    """
    if is_tested(path):
        return Row([Run(path)])
    runs = newest_runs(path.parent, path.name)
    if not runs:
        raise UserError(f"{path}: is neither a tested run nor a folder of them")
    return Row(runs)


def _comparisons(one: Row, other: Row) -> Iterator[tuple[Column, Comparison]]:
    for column in MAIN:
        worlds = {row.runs[0].facts(column.benchmark).get("world") for row in (one, other)}
        known = set(other.items(column))
        shared = [item for item in one.items(column) if item in known]
        if len(worlds) > 1 or not shared:  # items of two worlds may have the same names
            continue
        credits = [row.credits(column, items=shared) for row in (one, other)]
        if all(len(credit_SN) == 1 for credit_SN in credits):
            groups_N = groups_of([one, other], column, shared)
            choices = column.chance is not None
            yield column, paired_test(credits[0][0], credits[1][0], choices=choices, groups_N=groups_N)
        else:
            try:
                found = difference([(one, other)], column)
            except LackingError:  # one item
                continue
            yield column, Comparison(found.estimate, min(1.0, 2 * min(found.p_above(0), found.p_below(0))), found.test)
