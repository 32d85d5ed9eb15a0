"""Runs on disk: which there are, what they were, how each item came out."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from babyvlm.errors import UserError, first_line
from babyvlm.report.estimates import Credits
from babyvlm.report.paper import place_of

RUN_FOLDER = re.compile(r"(version|seed)_\d+")
BEGINNINGS = ("init_language", "init_from", "source")  # settings of a model that name a run before it


@dataclass(frozen=True)
class Column:
    """A number that a model gets, by a measure of a benchmark on some of its items.

    Attributes:
        title: in a table.
        benchmark: whose results.
        measure: which credit.
        chance: what a model gets that knows nothing; None where there is no such number.
        category: of the items that count; all by default.
    """

    title: str
    benchmark: str
    measure: str
    chance: float | None
    category: str | None = None


# Chances: paper, table 1; of Baby Winoground's parts, Thrush et al. 2022.
MAIN = (
    Column("Labeled-S", "labeled_s", "accuracy", 1 / 4),
    Column("VTWT", "vtwt", "accuracy", 1 / 2),
    Column("Baby Winoground", "baby_winoground", "overall", 1 / 6),
    Column("Caption METEOR 1.5", "caption", "meteor_15", None),
    Column("Caption METEOR NLTK", "caption", "meteor_nltk", None),
)


class Run:
    """A run folder that holds test results.

    Args:
        path: the folder, ``<logs>/<row>/<run>``.
        row: what a table calls it; the name of the folder above by default.
    """

    def __init__(self, path: Path, row: str | None = None) -> None:
        self.path = path
        self.row = row or path.parent.name
        self._tables: dict[str, pa.Table] = {}
        self._items: dict[tuple[Column, str], dict[str, float]] = {}

    def table(self, benchmark: str) -> pa.Table | None:
        """Results of a benchmark's test half, one row for each item, measure and control; None if not tested on it.

        Raises:
            UserError: the results cannot be read, or hold no item.
        """
        file = self.path / "results" / f"{benchmark}-test.parquet"
        if benchmark not in self._tables and file.is_file():
            try:
                columns = ["item", "category", "control", "measure", "credit", "said"]
                self._tables[benchmark] = pq.read_table(file, columns=columns)
            except (OSError, ValueError) as error:
                again = "run `python -m babyvlm test` again"
                raise UserError(f"{file}: cannot be read as results ({first_line(error)}); {again}") from None
            if not len(self._tables[benchmark]):
                raise UserError(f"{file}: holds no item; run `python -m babyvlm test` again")
        return self._tables.get(benchmark)

    def items(self, column: Column, control: str = "") -> dict[str, float]:
        """Credit of each test item, in the order of the list; none where the run was not tested so."""
        if (column, control) not in self._items:
            kept = self.selected(column, control)
            self._items[column, control] = (
                {} if kept is None else dict(zip(kept["item"].to_pylist(), kept["credit"].to_pylist(), strict=True))
            )
        return self._items[column, control]

    def selected(self, column: Column, control: str = "") -> pa.Table | None:
        """The results that a column counts."""
        table = self.table(column.benchmark)
        if table is None:
            return None
        wanted = pc.and_(pc.equal(table["measure"], column.measure), pc.equal(table["control"], control))
        if column.category is not None:
            wanted = pc.and_(wanted, pc.equal(table["category"], column.category))
        return table.filter(wanted)

    def categories(self, benchmark: str) -> list[str]:
        """What a benchmark's items are counted under, besides the total."""
        table = self.table(benchmark)
        return [] if table is None else sorted(filter(None, table["category"].unique().to_pylist()))

    def facts(self, benchmark: str) -> dict[str, str]:
        """What a benchmark's results say of themselves (``benchmarks/base.py``); nothing if there are none."""
        table = self.table(benchmark)
        raw = {} if table is None else table.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in raw.items()}

    @property
    def embedded(self) -> bool:
        """Whether any result is of Playroom, the embedded world, and so compares with no result on real data."""
        return any(self.facts(column.benchmark).get("world") == "playroom" for column in MAIN)

    @property
    def trained(self) -> bool:
        """Whether it was trained here, or tests again what was; upper bounds are not."""
        return (self.path / "checkpoints").is_dir() or bool(self.begun_from(*BEGINNINGS))

    def begun_from(self, *settings: str) -> list[Path]:
        """Folders of the runs that some settings of its model name, or name a checkpoint of."""
        named = (self.settings("model").get(name) for name in settings)
        paths = [Path(name) for name in named if name]
        return [path.parent.parent if path.is_file() else path for path in paths]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the command line wrote of its settings; nothing for a run of a user's own script.

        Raises:
            UserError: it is there and no YAML.
        """
        file = self.path / "config.yaml"
        try:
            config = yaml.safe_load(file.read_text()) if file.is_file() else None
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read as a config ({first_line(error)})") from None
        return config if isinstance(config, dict) else {}

    @property
    def seed(self) -> int | None:
        """Of the training; None if that is not known."""
        seed = self.config.get("seed_everything")
        return seed if isinstance(seed, int) else None

    def settings(self, section: str) -> dict[str, Any]:
        """``init_args`` of the model or the data; nothing where there are none."""
        return (self.config.get(section) or {}).get("init_args") or {}

    @property
    def trunk_from_scratch(self) -> bool:
        """Whether its vision encoder began from random weights, where the paper's begins from DINO's."""
        before = self.begun_from("init_from", "source")  # all weights are of these
        if before:
            return Run(before[0]).trunk_from_scratch
        vision = self.settings("model").get("vision") or {}
        options = vision.get("init_args") or {} if "class_path" in vision else {}
        return bool(options) and options.get("weights") is None and not options.get("pretrained")


class Row:
    """A row of the tables: the runs of one model and mix, one for each seed.

    Args:
        runs: at least one; of one row and one world.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.name = runs[0].row
        self.embedded, self.trained = runs[0].embedded, runs[0].trained
        self.trunk_from_scratch = any(run.trunk_from_scratch for run in runs)

    def items(self, column: Column, control: str = "") -> list[str]:
        """The items that all its runs that were tested so were tested on, in the order of the list."""
        tested = self._tested(column, control)
        return [item for item in tested[0] if all(item in other for other in tested[1:])] if tested else []

    def credits(self, column: Column, control: str = "", items: Sequence[str] | None = None) -> Credits:
        """(S, N) credit of S seeds on N items, all shared ones by default; (0, 0) if it was not tested so."""
        chosen = self.items(column, control) if items is None else items
        tested = self._tested(column, control)
        return np.array([[run[item] for item in chosen] for run in tested]).reshape(len(tested), len(chosen))

    def _tested(self, column: Column, control: str) -> list[dict[str, float]]:
        return [items for run in self.runs if (items := run.items(column, control))]

    def categories(self, benchmark: str) -> list[str]:
        """What a benchmark's items are counted under, besides the total."""
        return sorted({category for run in self.runs for category in run.categories(benchmark)})

    def missing(self, benchmark: str) -> int:
        """Items of a list that were left out since their images were missing."""
        return max(int(run.facts(benchmark).get("missing_items", 0)) for run in self.runs)

    def derived(self, benchmark: str) -> bool:
        """Whether what the items are counted under stands not in their list."""
        return any("derived_categories" in run.facts(benchmark) for run in self.runs)


def find_rows(logs: Path) -> list[Row]:
    """All rows below ``logs``, upper bounds first, then as in the paper; the newest tested run of each seed counts.

    A run is ``<logs>/<row>/version_<n>`` or ``<logs>/<row>/seed_<n>``.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    rows: dict[tuple[str, bool], list[Run]] = {}
    for run in newest_runs(logs):
        rows.setdefault((run.row, run.embedded), []).append(run)
    if not rows:
        raise UserError(f"{logs}: holds no tested run; run `python -m babyvlm fit --config ...` first")
    return sorted(map(Row, rows.values()), key=lambda row: (row.trained, place_of(row.name), row.name))


def newest_runs(logs: Path, row: str = "*") -> list[Run]:
    """The newest tested run of each seed of each row, by seed."""
    folders = [folder for folder in logs.glob(f"{glob.escape(row) if row != '*' else row}/*") if is_tested(folder)]
    newest = {(run.row, run.seed): run for run in map(Run, sorted(folders, key=_when_tested))}
    return sorted(newest.values(), key=lambda run: -1 if run.seed is None else run.seed)


def is_tested(folder: Path) -> bool:
    """Whether it is a run's, with test results."""
    return bool(RUN_FOLDER.fullmatch(folder.name)) and any((folder / "results").glob("*-test.parquet"))


def _when_tested(folder: Path) -> tuple[int, int]:
    """When, in nanoseconds; of two that were copied at once the later number is the later."""
    number = int(folder.name.rpartition("_")[2])
    return max(file.stat().st_mtime_ns for file in (folder / "results").glob("*-test.parquet")), number
