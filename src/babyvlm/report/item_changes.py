"""The items that one run got right and another wrong, with what was asked and its pictures where they are free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babyvlm.benchmarks.trials import Row, group_rows, read_rows
from babyvlm.errors import UserError
from babyvlm.report.examples import SHOWN, Example, show
from babyvlm.report.licence import free_list
from babyvlm.report.runs import MAIN, Column, Run


@dataclass(frozen=True)
class Flips:
    """The items of a test that came out otherwise.

    Attributes:
        title: of the test.
        counts: how many items the first run was better at, how many the second.
        first, second: examples of each; none unless they may be shown.
        free: whether they may.
    """

    title: str
    counts: tuple[int, int]
    first: Sequence[Example]
    second: Sequence[Example]
    free: bool


def flips(one: Run, other: Run) -> list[Flips]:
    """Of each test that is made of choices."""
    return [found for column in MAIN[:3] if (found := _flips(column, one, other)) is not None]


def _flips(column: Column, one: Run, other: Run) -> Flips | None:
    first, second = one.items(column), other.items(column)
    better = [item for item in first if item in second and first[item] > second[item]]
    worse = [item for item in first if item in second and first[item] < second[item]]
    if not set(first) & set(second):
        return None
    found = free_list(one, column.benchmark) if free_list(other, column.benchmark) else None
    examples: dict[str, Example] = {}
    if found is not None:
        asked = _asked(column.benchmark, found[0])
        for item in (*_few(better), *_few(worse)):
            text, images = asked.get(item, ("", []))
            pictures = [picture for image in images if (picture := show(found[1], image)) is not None]
            if pictures:
                examples[item] = Example(pictures, text)
    shown = [[examples[item] for item in _few(items) if item in examples] for items in (better, worse)]
    return Flips(column.title, (len(better), len(worse)), shown[0], shown[1], found is not None)


def _few(items: Sequence[str]) -> Sequence[str]:
    """Some of them, evenly spread."""
    return items[:: max(1, -(-len(items) // SHOWN))]


def _asked(benchmark: str, trials: Path) -> dict[str, tuple[str, list[str]]]:
    """Item -> what is asked, and the names of its pictures, the right one first."""
    try:
        if benchmark == "labeled_s":
            groups = group_rows(
                read_rows(trials, ("trial_id", "target_category", "real_category", "image")), "trial_id"
            )
            return {item: _four(rows) for item, rows in groups.items()}
        rows = read_rows(trials, ("positive_phrase", "negative_phrase", "image"))
        if benchmark == "vtwt":
            return {f"{row.line}:{row['image']}": (_phrases(row), [row["image"]]) for row in rows}
        groups = group_rows(read_rows(trials, ("instance_id", "image_tag")), "instance_id")
        order = {"positive": 0, "negative": 1}
        return {
            item: (_phrases(pair[0]), [row["image"] for row in sorted(pair, key=lambda row: order[row["image_tag"]])])
            for item, pair in groups.items()
        }
    except (UserError, KeyError):  # another list by now
        return {}


def _four(rows: Sequence[Row]) -> tuple[str, list[str]]:
    target = rows[0]["target_category"]
    return target, [row["image"] for row in sorted(rows, key=lambda row: row["real_category"] != target)]


def _phrases(row: Row) -> str:
    return f"{row['positive_phrase']}, not {row['negative_phrase']}"
