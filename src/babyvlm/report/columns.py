"""Columns of the tables: which measure of which benchmark a number is, and its chance level.

A benchmark's results declare them in their metadata (``title``, ``measures``, ``order``), so that a benchmark of your
own gets its column without an edit here. Results that older versions wrote declare nothing; for these the paper's four
benchmarks are described below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from babyvlm.benchmarks.intervals import LEVEL
from babyvlm.errors import UserError
from babyvlm.io.printing import printable_line

CONTROLS = {"blank": "blank image", "shuffled": "shuffled images", "text_only": "text only"}
WORD_CLASSES = ("noun", "verb", "adjective", "both", "other", "unknown")


@dataclass(frozen=True)
class Column:
    """A mean over the test items of a benchmark.

    Attributes:
        title: heading in a table.
        benchmark: name of the benchmark.
        measure: which of the benchmark's measures.
        chance: expected value of random guessing; None where there is no such value.
        category: restricts the mean to the items of this category; all items by default.
        level: coverage of the interval in tables and figures.
        correlation: whether it is a correlation, from -1 to 1.
        effective: effective number of items of a weighted share; None for other means.
    """

    title: str
    benchmark: str
    measure: str
    chance: float | None
    category: str | None = None
    level: float = LEVEL
    correlation: bool = False
    effective: float | None = None


@dataclass(frozen=True)
class BenchmarkColumns:
    """The columns of one benchmark.

    Attributes:
        name: name of the benchmark.
        title: its title in tables.
        main: columns of the main table.
        details: further measures, which have a table of their own.
        order: position among the benchmarks.
        category: what the items' categories are, as a heading; empty if there is no table by category.
        suite: the collection that it belongs to, which has a table of its own; empty for the main table.
    """

    name: str
    title: str
    main: tuple[Column, ...]
    details: tuple[Column, ...] = ()
    order: int = 1000
    category: str = "category"
    suite: str = ""


# Chance levels: paper, table 1; for the parts of Baby Winoground, Thrush et al. 2022.
LABELED_S = Column("Labeled-S", "labeled_s", "accuracy", 1 / 4)
VTWT = Column("VTWT", "vtwt", "accuracy", 1 / 2)
VTWT_NATURAL = Column("VTWT, natural", "vtwt_natural", "accuracy", 1 / 2)
WINOGROUND = Column("Baby Winoground", "baby_winoground", "overall", 1 / 6)
METEOR_15 = Column("Caption METEOR 1.5", "caption", "meteor_15", None)
METEOR_NLTK = Column("Caption METEOR NLTK", "caption", "meteor_nltk", None)
WINOGROUND_MEASURES = {
    "text": 1 / 4,
    "image": 1 / 4,
    "positive": 1 / 2,
    "positive_strict": 1 / 3,
    "negative": 1 / 2,
    "negative_strict": 1 / 3,
}
PAPER = {
    described.name: described
    for described in (
        BenchmarkColumns("labeled_s", "Labeled-S", (LABELED_S,), order=0),
        BenchmarkColumns("vtwt", "VTWT", (VTWT,), order=10),
        BenchmarkColumns(
            "baby_winoground",
            "Baby Winoground",
            (WINOGROUND,),
            tuple(
                Column(measure.replace("_", " "), "baby_winoground", measure, chance)
                for measure, chance in WINOGROUND_MEASURES.items()
            ),
            order=20,
            category="",
        ),
        BenchmarkColumns("caption", "Caption", (METEOR_15, METEOR_NLTK), order=30, category=""),
    )
}


def declared_columns(name: str, metadata: Mapping[str, str], measures: Iterable[str], file: str) -> BenchmarkColumns:
    """Return a benchmark's columns as its results declare them.

    Args:
        name: name of the benchmark.
        metadata: of the results file.
        measures: measures in the results, for results that declare none.
        file: name of the results file, for the error message.

    Raises:
        UserError: the declaration cannot be read.
    """
    title = printable_line(metadata.get("title", name))
    category = PAPER[name].category if name in PAPER else metadata.get("category", "category")
    if "measures" not in metadata:
        if name in PAPER:
            return PAPER[name]
        return BenchmarkColumns(name, title, tuple(Column(f"{title} {one}", name, one, None) for one in measures))
    main: list[Column] = []
    details: list[Column] = []
    try:
        for measure in json.loads(metadata["measures"]):
            is_main = measure.get("main", not main)
            own_title = printable_line(measure.get("title") or "") or (
                "" if is_main else measure["name"].replace("_", " ")
            )
            chance = None if measure.get("chance") is None else float(measure["chance"])
            if chance is not None and not 0 <= chance <= 1:
                raise ValueError(f"chance {chance}")
            full_title = " ".join(filter(None, [title, own_title])) if is_main else own_title
            correlation = measure.get("correlation") is True
            effective = None if measure.get("effective") is None else float(measure["effective"])
            if effective is not None and not 1 <= effective < math.inf:
                raise ValueError(f"effective {effective}")
            column = Column(
                full_title, name, str(measure["name"]), chance, correlation=correlation, effective=effective
            )
            (main if is_main else details).append(column)
        if not main:
            raise ValueError("no measure of the main table")
        order, suite = int(metadata.get("order", 1000)), printable_line(metadata.get("suite", ""))
        return BenchmarkColumns(name, title, tuple(main), tuple(details), order, category, suite)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: metadata 'measures' cannot be read ({error!r}). Run `test` again") from None
