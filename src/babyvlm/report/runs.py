"""Read runs: settings, provenance, training log and test results. Each file is read once, when it is needed."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from babyvlm.benchmarks.intervals import Credits
from babyvlm.errors import UserError, first_line
from babyvlm.report.columns import PAPER, BenchmarkColumns, Column, declared_columns
from babyvlm.report.estimates import Estimate
from babyvlm.report.paper import paper_order

RUN_FOLDER = re.compile(r"(version|seed)_\d+")
SUFFIX = "-test.parquet"
ALL_WEIGHTS = ("init_from", "source")  # settings of a model that name the run that all of its weights come from
PARENT_SETTINGS = ("init_language", *ALL_WEIGHTS)
RESULT_COLUMNS = ["item", "category", "control", "measure", "credit"]
OPTIONAL_COLUMNS = ("group", "output", "said")  # older results have no groups, and captions in the column `said`

Config = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Test results of a run on one benchmark.

    Attributes:
        columns: the benchmark's columns.
        metadata: facts about the list and the model, see ``benchmarks/results.py``.
        sha256: hash of the file.
        credit: (measure, control) -> item -> credit, in the order of the list.
        category: item -> category; empty if it has none.
        groups: item -> group of items that are not independent, for items that are in one.
        captions: item -> generated caption; empty texts for benchmarks without captions.
    """

    columns: BenchmarkColumns
    metadata: Mapping[str, str]
    sha256: str
    credit: Mapping[tuple[str, str], Mapping[str, float]]
    category: Mapping[str, str]
    groups: Mapping[str, str]
    captions: Mapping[str, str]


class Run:
    """A run folder. Each file in it is read at most once.

    Args:
        path: the folder, ``<log_dir>/<row>/<run>``.
        row: name in tables; the name of the parent folder by default.
        opened: runs that were opened before, by folder: a run that others start from is opened once.
    """

    def __init__(self, path: Path, row: str | None = None, opened: dict[Path, Run] | None = None) -> None:
        self.path = path
        self.row = row or path.parent.name
        self._opened = {} if opened is None else opened
        self._opened[path] = self

    @cached_property
    def results(self) -> dict[str, Results]:
        """Test results by benchmark.

        Raises:
            UserError: results cannot be read or are empty.
        """
        files = sorted((self.path / "results").glob(f"*{SUFFIX}"))
        return {file.name.removesuffix(SUFFIX): _read_results(file) for file in files}

    def items(self, column: Column, control: str = "") -> dict[str, float]:
        """Return item -> credit in the order of the list; empty if the run has no such results."""
        results = self.results.get(column.benchmark)
        credit = {} if results is None else results.credit.get((column.measure, control), {})
        if results is None or column.category is None:
            return dict(credit)
        return {item: value for item, value in credit.items() if results.category[item] == column.category}

    def categories(self, benchmark: str) -> set[str]:
        """Return the categories of a benchmark's items."""
        results = self.results.get(benchmark)
        return set() if results is None else set(filter(None, results.category.values()))

    def metadata(self, benchmark: str) -> Mapping[str, str]:
        """Return what a benchmark's results say about themselves; empty if there are none."""
        results = self.results.get(benchmark)
        return {} if results is None else results.metadata

    @property
    def embedded(self) -> bool:
        """Whether results are on Playroom, the embedded world, which is not comparable with real data."""
        return any(results.metadata.get("world") == "playroom" for results in self.results.values())

    @property
    def trained(self) -> bool:
        """Whether the model was trained here; upper bounds were not."""
        return (self.path / "checkpoints").is_dir() or bool(self.parents)

    @cached_property
    def config(self) -> Config:
        """Settings that the command line saved; empty for a run of a user's own script.

        Raises:
            UserError: the file is not valid YAML.
        """
        file = self.path / "config.yaml"
        try:
            config = yaml.safe_load(self.config_bytes) if self.config_bytes else None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read as a config ({first_line(error)})") from None
        return _mapping(config)

    @cached_property
    def config_bytes(self) -> bytes:
        """Content of ``config.yaml``; empty if there is none."""
        file = self.path / "config.yaml"
        try:
            return file.read_bytes() if file.is_file() else b""
        except OSError as error:
            raise UserError(f"{file}: cannot be read as a config ({first_line(error)})") from None

    def settings(self, section: str) -> Config:
        """Return ``init_args`` of the ``model`` or the ``data``; empty if there are none."""
        return _mapping(_mapping(self.config.get(section)).get("init_args"))

    @property
    def seed(self) -> int | None:
        """Random seed of the training; None if unknown."""
        seed = self.config.get("seed_everything")
        return seed if isinstance(seed, int) else None

    @cached_property
    def provenance(self) -> Config:
        """Content of ``provenance.json``; empty for runs of versions that did not write it.

        Raises:
            UserError: the file cannot be read.
        """
        file = self.path / "provenance.json"
        if not file.is_file():
            return {}
        try:
            return _mapping(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}). Delete it") from None

    @cached_property
    def parents(self) -> list[Run]:
        """Runs that the model was initialized from."""
        return self._initialized_from(PARENT_SETTINGS)

    def _initialized_from(self, settings: Sequence[str]) -> list[Run]:
        named = (self.settings("model").get(name) for name in settings)
        paths = [Path(name) for name in named if isinstance(name, str) and name]
        folders = [path.parent.parent if path.is_file() else path for path in paths]  # a checkpoint, or its run
        return [self._opened.get(folder) or Run(folder, opened=self._opened) for folder in folders]

    @property
    def phases(self) -> list[Run]:
        """All runs that led to this one, earliest first and each once, with this one last."""
        found: dict[Path, Run] = {self.path: self}

        def visit(run: Run) -> None:
            for parent in run.parents:
                if parent.path not in found:
                    found[parent.path] = parent
                    visit(parent)
            found[run.path] = found.pop(run.path)  # after its parents

        visit(self)
        return list(found.values())

    @property
    def vision_from_scratch(self) -> bool:
        """Whether the vision encoder started from random weights; the paper's starts from DINO."""
        run, seen = self, {self.path}
        while (parents := run._initialized_from(ALL_WEIGHTS)) and parents[0].path not in seen:
            run = parents[0]
            seen.add(run.path)
        vision = _mapping(run.settings("model").get("vision"))
        options = _mapping(vision.get("init_args")) if "class_path" in vision else {}
        return bool(options) and options.get("weights") is None and not options.get("pretrained")

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (samples seen, value) for each logged value of a metric; empty if it was never logged."""
        size = self._samples_per_step or 1
        return [((step + 1) * size, value) for step, value in self._logged(metric)]

    @property
    def samples_seen(self) -> int | None:
        """Training samples of this run without those of its parents; None if unknown."""
        noted = self.provenance.get("samples")
        if isinstance(noted, int):
            return noted
        size, logged = self._samples_per_step, self._logged("train_loss")
        return (logged[-1][0] + 1) * size if size and logged else None

    @property
    def _samples_per_step(self) -> int | None:
        size = self.settings("data").get("batch_size")
        return size * (_mapping(self.config.get("trainer")).get("accumulate_grad_batches") or 1) if size else None

    @cached_property
    def _metrics(self) -> list[dict[str, str]]:
        """Complete rows of ``metrics.csv``: the last row of an interrupted run may be incomplete."""
        file = self.path / "metrics.csv"
        text = file.read_text(errors="replace") if file.is_file() else ""
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def _logged(self, metric: str) -> list[tuple[int, float]]:
        found = []
        for row in self._metrics:
            try:
                found.append((int(row["step"]), float(row[metric])))
            except (KeyError, TypeError, ValueError):  # the row has other metrics
                continue
        return found


class Row:
    """A row of the tables: the runs of one model and mix, one per seed.

    Args:
        runs: at least one; all of the same row and world.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.name = runs[0].row
        self.embedded, self.trained = runs[0].embedded, runs[0].trained
        self.vision_from_scratch = any(run.vision_from_scratch for run in runs)
        self.scores: dict[tuple[Column, str], Estimate | None] = {}  # filled by ``comparisons.score``

    def items(self, column: Column, control: str = "") -> list[str]:
        """Return the items that all of its runs with such results share, in the order of the list."""
        tested = self._tested(column, control)
        return [item for item in tested[0] if all(item in other for other in tested[1:])] if tested else []

    def credits(self, column: Column, control: str = "", items: Sequence[str] | None = None) -> Credits:
        """Return (S, N) credit of S seeds on N items, by default all shared ones; (0, 0) without such results."""
        chosen = self.items(column, control) if items is None else items
        tested = self._tested(column, control)
        return np.array([[run[item] for item in chosen] for run in tested]).reshape(len(tested), len(chosen))

    def _tested(self, column: Column, control: str) -> list[dict[str, float]]:
        return [items for run in self.runs if (items := run.items(column, control))]

    def missing(self, benchmark: str) -> int:
        """Return the number of items that were skipped because their images were missing."""
        return max(int(run.metadata(benchmark).get("missing_items", 0)) for run in self.runs)

    def has_derived_categories(self, benchmark: str) -> bool:
        """Return whether the categories are not in the list but were derived."""
        return any("derived_categories" in run.metadata(benchmark) for run in self.runs)


def benchmarks_of(rows: Sequence[Row]) -> list[BenchmarkColumns]:
    """Return all benchmarks that rows have results on, the paper's first."""
    found: dict[str, BenchmarkColumns] = {}
    for columns in (results.columns for row in rows for run in row.runs for results in run.results.values()):
        if found.get(columns.name, columns) in (columns, PAPER.get(columns.name)):  # what results declare is preferred
            found[columns.name] = columns
    return sorted(found.values(), key=lambda columns: (columns.name not in PAPER, columns.order, columns.name))


def main_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of the main table in which any row has a number."""
    return tested_columns(rows, [column for columns in benchmarks_of(rows) for column in columns.main])


def tested_columns(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """Return the columns in which any row has a number."""
    return [column for column in columns if any(row.items(column) for row in rows)]


def find_rows(log_dir: Path) -> list[Row]:
    """Return all rows below ``log_dir``, upper bounds first, then in the paper's order.

    A run is ``<log_dir>/<row>/version_<n>`` or ``<log_dir>/<row>/seed_<n>``. For each seed the newest run with test
    results counts.

    Raises:
        UserError: there is no run, or one cannot be read.
    """
    rows: dict[tuple[str, bool], list[Run]] = {}
    for run in newest_runs(log_dir):
        rows.setdefault((run.row, run.embedded), []).append(run)
    if not rows:
        raise UserError(f"{log_dir}: no run with test results found. Run `python -m babyvlm fit --config ...` first")
    return sorted(map(Row, rows.values()), key=lambda row: (row.trained, paper_order(row.name), row.name))


def newest_runs(log_dir: Path, row: str = "*") -> list[Run]:
    """Return the newest tested run for each row and seed, sorted by seed."""
    pattern = f"{glob.escape(row) if row != '*' else row}/*"
    folders = sorted((folder for folder in log_dir.glob(pattern) if has_test_results(folder)), key=_tested_at)
    opened: dict[Path, Run] = {}
    newest = {(run.row, run.seed): run for run in (Run(folder, opened=opened) for folder in folders)}
    return sorted(newest.values(), key=lambda run: -1 if run.seed is None else run.seed)


def has_test_results(folder: Path) -> bool:
    """Return whether a folder is a run's and has test results."""
    return bool(RUN_FOLDER.fullmatch(folder.name)) and any((folder / "results").glob(f"*{SUFFIX}"))


def _tested_at(folder: Path) -> tuple[int, int]:
    """Return the time of the test in nanoseconds and the run's number, which decides between copies."""
    number = int(folder.name.rpartition("_")[2])
    return max(file.stat().st_mtime_ns for file in (folder / "results").glob(f"*{SUFFIX}")), number


def _read_results(file: Path) -> Results:
    try:
        content = file.read_bytes()
        parquet = pq.ParquetFile(pa.BufferReader(content))
        optional = [name for name in OPTIONAL_COLUMNS if name in parquet.schema_arrow.names]
        table = parquet.read(columns=[*RESULT_COLUMNS, *optional])
        results = table.select([*RESULT_COLUMNS, *optional]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file}: cannot be read as results ({first_line(error)}). Run `python -m babyvlm test` again"
        ) from None
    if not len(table):
        raise UserError(f"{file}: contains no item. Run `python -m babyvlm test` again")
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    credit: dict[tuple[str, str], dict[str, float]] = {}
    category: dict[str, str] = {}
    groups: dict[str, str] = {}
    captions: dict[str, str] = {}
    for result in results:
        item, control = result["item"], result["control"]
        credit.setdefault((result["measure"], control), {})[item] = result["credit"]
        category[item] = result["category"]
        if result.get("group"):
            groups[item] = result["group"]
        if not control:
            captions[item] = result.get("output", result.get("said", ""))
    name = file.name.removesuffix(SUFFIX)
    declared = declared_columns(name, metadata, dict.fromkeys(measure for measure, _ in credit), str(file))
    return Results(declared, metadata, hashlib.sha256(content).hexdigest(), credit, category, groups, captions)


def _mapping(value: object) -> Config:
    return value if isinstance(value, dict) else {}
