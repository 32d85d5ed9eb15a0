"""The lists that runs were tested on: where they are, what their items ask, and which items depend on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from babyvlm.benchmarks.intervals import Groups
from babyvlm.benchmarks.trials import group_rows, read_rows
from babyvlm.errors import UserError
from babyvlm.report.columns import VTWT, Column
from babyvlm.report.runs import Row, Run, is_file

CLASSES = {  # benchmark classes, also those that older versions saved in configs
    "LabeledS": "labeled_s",
    "VTWT": "vtwt",
    "VisualTwoWord": "vtwt",
    "BabyWinoground": "baby_winoground",
    "SAYCamCaption": "caption",
    "Caption": "caption",
}
Phrases = dict[str, tuple[str, str]]  # item -> the phrase that fits the image, the other phrase


class TrialList(NamedTuple):
    """A benchmark's CSV list and the folder that its image paths start from."""

    trials: Path
    image_root: Path


class Question(NamedTuple):
    """What a test item asks: its text, and its images with the right one first."""

    text: str
    images: list[str]


def trial_list(run: Run, benchmark: str) -> TrialList | None:
    """Return the list that a run's results or config name for a benchmark; None if they name none."""
    metadata = run.metadata(benchmark)
    if "trials" in metadata:
        trials = Path(metadata["trials"])
        return TrialList(trials, Path(metadata.get("images") or trials.parent))
    for test in _configured_benchmarks(run):
        if CLASSES.get(str(test.get("class_path")).rpartition(".")[2]) == benchmark:
            options = test.get("init_args")
            if isinstance(options, dict) and isinstance(options.get("trials"), str):
                trials = Path(options["trials"])
                image_root = options.get("image_root") or options.get("images") or str(trials.parent)
                return TrialList(trials, Path(image_root)) if isinstance(image_root, str) else None
    return None


def _configured_benchmarks(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the benchmarks in a run's config: callbacks of older versions, or below the evaluation callback."""
    trainer = run.config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, dict):
            yield callback
            options = callback.get("init_args")
            inner = options.get("benchmarks") if isinstance(options, dict) else None
            yield from (test for test in inner if isinstance(test, dict)) if isinstance(inner, list) else ()


def vtwt_phrases(rows: Iterable[Row], items: Sequence[str]) -> Phrases | None:
    """Return the phrases of VTWT's items; None if no list that contains them all is on this machine."""
    for run in (run for row in rows for run in row.runs):
        found = trial_list(run, "vtwt")
        if found is not None and is_file(found.trials):
            listed = _listed_phrases(found.trials)
            if all(item in listed for item in items):
                return {item: listed[item] for item in items}
    return None


def _listed_phrases(trials: Path) -> Phrases:
    try:
        return _read_phrases(trials.resolve(), trials.stat().st_mtime_ns)
    except (OSError, RuntimeError):  # the list has vanished, or is a loop of links
        return {}


@lru_cache(maxsize=8)
def _read_phrases(trials: Path, _changed_ns: int) -> Phrases:
    try:
        rows = read_rows(trials, ("image", "positive_phrase", "negative_phrase"))
    except UserError:  # the list was replaced by another one
        return {}
    return {row.item: (row["positive_phrase"], row["negative_phrase"]) for row in rows}


def groups_of(rows: Sequence[Row], column: Column, items: Sequence[str]) -> Groups:
    """Return the (N,) group of each item; an item that is in no group has a group of its own.

    Results list the groups. For results of older versions, VTWT items with the same two phrases are a group.
    """
    keys: dict[str, object] = {}
    for run in (run for row in rows for run in row.runs):
        keys = keys or dict(run.results[column.benchmark].groups if column.benchmark in run.results else {})
    if not keys and column.benchmark == VTWT.benchmark:
        keys = {item: frozenset(pair) for item, pair in (vtwt_phrases(rows, items) or {}).items()}
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(keys.get(item, (item,)), len(numbers)) for item in items], dtype=np.int64)


def has_groups(row: Row) -> bool:
    """Return whether it is known which items of VTWT are not independent."""
    recorded = any(run.results[VTWT.benchmark].groups for run in row.runs if VTWT.benchmark in run.results)
    return recorded or vtwt_phrases([row], row.items(VTWT)) is not None


def without_balanced_phrases(phrases: Phrases) -> list[str]:
    """Return the items whose two phrases do not occur equally often in both orders.

    An image-blind model always prefers the same of two phrases, so it scores exactly 0.5 on the other items.
    """
    counts = Counter(phrases.values())
    return [item for item, (right, wrong) in phrases.items() if counts[right, wrong] != counts[wrong, right]]


def questions(benchmark: str, trials: Path) -> dict[str, Question]:
    """Return item -> question for a list of one of the paper's benchmarks; empty for other lists."""
    try:
        if benchmark == "caption":
            rows = read_rows(trials, ("image", "text"))
            return {row.item: Question(row["text"], [row["image"]]) for row in rows}
        if benchmark == "labeled_s":
            rows = read_rows(trials, ("trial_id", "target_category", "real_category", "image"))
            return {
                item: Question(
                    options[0]["target_category"],
                    [
                        row["image"]
                        for row in sorted(options, key=lambda row: row["real_category"] != row["target_category"])
                    ],
                )
                for item, options in group_rows(rows, "trial_id").items()
            }
        if benchmark == "vtwt":
            rows = read_rows(trials, ("image", "positive_phrase", "negative_phrase"))
            return {row.item: Question(_choice(row.cells), [row["image"]]) for row in rows}
        if benchmark == "baby_winoground":
            rows = read_rows(trials, ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag"))
            return {
                item: Question(
                    _choice(pair[0].cells),
                    [row["image"] for row in sorted(pair, key=lambda row: row["image_tag"] != "positive")],
                )
                for item, pair in group_rows(rows, "instance_id").items()
            }
    except (UserError, KeyError):  # the list was replaced by another one
        pass
    return {}


def _choice(cells: Mapping[str, str]) -> str:
    return f"{cells['positive_phrase']}, not {cells['negative_phrase']}"
