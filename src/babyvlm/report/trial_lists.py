"""The lists that runs were tested on: where they are, and which of their items hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from babyvlm.benchmarks.trials import read_rows
from babyvlm.errors import UserError
from babyvlm.report.estimates import Groups
from babyvlm.report.runs import Column, Row, Run

CLASSES = {"LabeledS": "labeled_s", "VisualTwoWord": "vtwt", "BabyWinoground": "baby_winoground", "Caption": "caption"}
Phrases = dict[str, tuple[str, str]]  # item -> the phrase that fits, the other one


def trial_list(run: Run, benchmark: str) -> tuple[Path, Path] | None:
    """The list that a run's config names for a benchmark, and the folder of its images; None if it names none."""
    for callback in (run.config.get("trainer") or {}).get("callbacks") or ():
        if CLASSES.get(str(callback.get("class_path")).rpartition(".")[2]) == benchmark:
            options = callback.get("init_args") or {}
            trials = Path(options["trials"])
            return trials, Path(options.get("images") or trials.parent)
    return None


def phrases(rows: Iterable[Row], items: Sequence[str]) -> Phrases | None:
    """The phrases of VTWT's items; None where no list is here that holds them all."""
    for run in (run for row in rows for run in row.runs):
        found = trial_list(run, "vtwt")
        if found is not None and found[0].is_file():
            listed = _listed(found[0].resolve(), found[0].stat().st_mtime_ns)
            if all(item in listed for item in items):
                return {item: listed[item] for item in items}
    return None


@lru_cache(maxsize=8)
def _listed(trials: Path, _changed_ns: int) -> Phrases:
    try:
        rows = read_rows(trials, ("image", "positive_phrase", "negative_phrase"))
    except UserError:  # another list by now
        return {}
    return {f"{row.line}:{row['image']}": (row["positive_phrase"], row["negative_phrase"]) for row in rows}


def groups_of(rows: Sequence[Row], column: Column, items: Sequence[str]) -> Groups:
    """(N,) number of each item's group: VTWT's items that ask for the same two phrases are one, others stand alone."""
    known = phrases(rows, items) if column.benchmark == "vtwt" else None
    if known is None:
        return np.arange(len(items))
    numbers: dict[frozenset[str], int] = {}
    return np.array([numbers.setdefault(frozenset(known[item]), len(numbers)) for item in items], dtype=np.int64)


def asked_one_way(known: Phrases) -> list[str]:
    """The items whose phrases are not asked for as often in one order as in the other.

    Who does not look prefers one of two phrases always, and so gets exactly half of the other items.
    """
    orders = Counter(known.values())
    return [item for item, (one, other) in known.items() if orders[one, other] != orders[other, one]]
