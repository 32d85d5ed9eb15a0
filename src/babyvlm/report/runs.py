"""Read runs: settings, provenance, training log and test results. Each file is read once, when it is needed."""

from __future__ import annotations

import csv
import glob
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from babyvlm.benchmarks.intervals import Credits
from babyvlm.errors import UserError, first_line
from babyvlm.io.artifacts import json_sha256
from babyvlm.io.limits import load_json, load_yaml
from babyvlm.io.printing import printable_line
from babyvlm.io.runs import BestCheckpoint
from babyvlm.report.columns import PAPER, BenchmarkColumns, Column
from babyvlm.report.paper import paper_order
from babyvlm.report.reading import DAMAGE, Config, mapping, read_bytes
from babyvlm.report.results import SUFFIX, Results, Scores, read_metadata, read_results

RUN_FOLDER = re.compile(r"(world_\d+-)?(version|seed)_\d+")
ALL_WEIGHTS = ("init_from", "source")  # settings of a model that name the run that all of its weights come from
PARENT_SETTINGS = ("init_language", *ALL_WEIGHTS)


MAX_BYTES = {"config.yaml": 1 << 20, "provenance.json": 16 << 20, "metrics.csv": 256 << 20}
MAX_REASON = 400  # characters
MAX_COUNT = 1 << 62  # of samples, seeds and steps


class Run:
    """A run folder. Each file in it is read at most once.

    Args:
        path: the folder, ``<log_dir>/<row>/<run>``.
        row: name in tables; the name of the parent folder by default.
        opened: runs that were opened before, by folder: a run that others start from is opened once.
    """

    def __init__(self, path: Path, row: str | None = None, opened: dict[Path, Run] | None = None) -> None:
        self.path = path
        self.row = printable_line(row or path.parent.name)
        self._by_category: dict[tuple[Column, str], Scores | None] = {}
        self._opened = {} if opened is None else opened
        self._opened[path.absolute()] = self

    @property
    def name(self) -> str:
        """Its row and folder, by which a report names it wherever the report is made."""
        return f"{self.row}/{self.path.name}"

    def located(self, recorded: str | Path) -> Path:
        """Return where a file or folder is that the run names.

        A relative path starts from the folder that the run was started in, which is not recorded: it is the closest
        folder above the run in which the path exists. The working directory does not count, so that the same runs give
        the same report everywhere.
        """
        path = Path(recorded)
        folders = [*self.path.absolute().parents] or [self.path]
        return next((folder / path for folder in folders if _exists(folder / path)), folders[0] / path)

    def check(self) -> None:
        """Read all files of the run, and the settings of the runs that it was initialized from.

        Raises:
            UserError: a file cannot be read, or contains values of a wrong type; the message names it.
        """
        try:
            for phase in self.phases:
                _ = phase.trained, phase.seed, phase.provenance, phase.samples_seen
            _ = self.vision_from_scratch, self.embedded, self.setting, self.tested_checkpoint
        except DAMAGE as error:
            raise UserError(_reason(self.path, error)) from None

    @cached_property
    def results(self) -> dict[str, Results]:
        """Test results by benchmark.

        Raises:
            UserError: results cannot be read or are empty.
        """
        files = sorted((self.path / "results").glob(f"*{SUFFIX}"))
        return {printable_line(file.name.removesuffix(SUFFIX)): read_results(file) for file in files}

    def scores(self, column: Column, control: str = "") -> Scores | None:
        """Return the credit of a column's items; None if the run has no such results."""
        results = self.results.get(column.benchmark)
        found = None if results is None else results.credit.get((column.measure, control))
        if results is None or found is None or column.category is None:
            return found
        if (column, control) not in self._by_category:
            chosen = tuple(item for item in found.items if results.category[item] == column.category)
            self._by_category[column, control] = Scores(chosen, found.of(chosen)) if chosen else None
        return self._by_category[column, control]

    def items(self, column: Column, control: str = "") -> dict[str, float]:
        """Return item -> credit in the order of the list; empty if the run has no such results."""
        found = self.scores(column, control)
        return {} if found is None else dict(zip(found.items, found.credit_N.tolist(), strict=True))

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
        """Whether results are on Playroom, the synthetic dataset, which is not comparable with real data."""
        return any(results.metadata.get("world") == "playroom" for results in self.results.values())

    @cached_property
    def world(self) -> str:
        """The world whose benchmarks the run was tested on: Playroom's seed; empty for real data and older results.

        Raises:
            UserError: results cannot be read.
        """
        return self._world_facts.get("world_seed", "")

    @cached_property
    def setting(self) -> str:
        """Parameters of the world other than its seed; rows of different parameters are different experiments."""
        return printable_line(self._world_facts.get("world_parameters", ""))

    @cached_property
    def _world_facts(self) -> dict[str, str]:
        """Facts about the world, which all results of a run share; read without the items."""
        if "results" in self.__dict__:
            every = iter([dict(results.metadata) for results in self.results.values()])
        else:
            every = map(read_metadata, sorted((self.path / "results").glob(f"*{SUFFIX}")))
        facts: dict[str, str] = {}
        for metadata in every:
            facts = metadata | facts
            if {"world_seed", "world_parameters"} <= facts.keys():
                break
        return facts

    @cached_property
    def tested_checkpoint(self) -> BestCheckpoint | None:
        """The checkpoint that was tested; None if it is not recorded, as for upper bounds.

        Raises:
            UserError: the record is damaged.
        """
        trained = (run for run in reversed(self.phases) if (run.path / "checkpoints").is_dir())
        run = next(trained, None)
        return None if run is None else BestCheckpoint.read(run.path)

    @property
    def trained(self) -> bool:
        """Whether the model was trained here; upper bounds were not."""
        return (self.path / "checkpoints").is_dir() or bool(self.parents)

    @property
    def is_floor(self) -> bool:
        """Whether the model is a floor under all others, such as a regression on colors (``babyvlm.models.floors``)."""
        return str(mapping(self.config.get("model")).get("class_path")).startswith("babyvlm.models.floors.")

    @cached_property
    def config(self) -> Config:
        """Settings that the command line saved; empty for a run of a user's own script.

        Raises:
            UserError: the file is not a YAML mapping.
        """
        file = self.path / "config.yaml"
        try:
            config = load_yaml(self.config_bytes) if self.config_bytes else {}
        except DAMAGE as error:
            raise UserError(f"{file}: cannot be read as a config ({first_line(error)})") from None
        if not isinstance(config, dict):
            raise UserError(f"{file}: cannot be read as a config (it is not a mapping of settings)")
        return config

    @cached_property
    def config_bytes(self) -> bytes:
        """Content of ``config.yaml``; empty if the file does not exist."""
        return read_bytes(self.path / "config.yaml", MAX_BYTES["config.yaml"])

    def settings(self, section: str) -> Config:
        """Return ``init_args`` of the ``model`` or the ``data``; empty if there are none."""
        return mapping(mapping(self.config.get(section)).get("init_args"))

    @property
    def seed(self) -> int | None:
        """Random seed of the training; None if unknown."""
        seed = self.config.get("seed_everything")
        return seed if isinstance(seed, int) and abs(seed) < MAX_COUNT else None

    @cached_property
    def provenance(self) -> Config:
        """Content of ``provenance.json``; empty for runs of versions that did not write it.

        Raises:
            UserError: the file cannot be read, or a value has a wrong type.
        """
        file = self.path / "provenance.json"
        content = read_bytes(file, MAX_BYTES[file.name])
        try:
            recorded = load_json(content, MAX_BYTES[file.name]) if content else {}
            return _check_provenance(recorded)
        except DAMAGE as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)}). Delete it") from None

    @property
    def stores(self) -> list[Path] | None:
        """Folders of the stores that the model was trained on; None if the settings do not name them in our form."""
        recorded = self.recorded_stores
        return None if recorded is None else list(map(self.located, recorded))

    @property
    def recorded_stores(self) -> list[Path] | None:
        """The same as the settings name them."""
        data = self.settings("data")
        folder, sources = data.get("stores"), data.get("sources")
        if not isinstance(folder, str) or not isinstance(sources, list) or not sources:
            return None
        names = [name for source in sources if isinstance(name := mapping(source).get("store"), str)]
        return [Path(folder, name) for name in names] if len(names) == len(sources) else None

    @cached_property
    def parents(self) -> list[Run]:
        """Runs that the model was initialized from."""
        return self._initialized_from(PARENT_SETTINGS)

    def _initialized_from(self, settings: Sequence[str]) -> list[Run]:
        # A run that tested a checkpoint, or started from one, has its weights.
        named = [*(self.settings("model").get(name) for name in settings), self.config.get("ckpt_path")]
        paths = [self.located(name) for name in named if isinstance(name, str) and name]
        folders = [_run_of(path) if is_file(path) else path for path in paths]
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
        vision = mapping(run.settings("model").get("vision"))
        options = mapping(vision.get("init_args")) if "class_path" in vision else {}
        return bool(options) and options.get("weights") is None and not options.get("pretrained")

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (samples seen, value) for each logged value of a metric; empty if it was never logged."""
        size = self.samples_per_step or 1
        return [((step + 1) * size, value) for step, value in self._logged(metric)]

    @property
    def samples_seen(self) -> int | None:
        """Training samples of this run without those of its parents; None if unknown."""
        noted = self.provenance.get("samples")
        if noted is not None:
            return int(noted)
        size, logged = self.samples_per_step, self._logged("train_loss")
        return (logged[-1][0] + 1) * size if size and logged else None

    @property
    def samples_per_step(self) -> int | None:
        """Samples of an optimizer step; None if unknown."""
        sizes = (
            self.settings("data").get("batch_size"),
            mapping(self.config.get("trainer")).get("accumulate_grad_batches"),
        )
        batch_size, batches = (size if isinstance(size, int) and 0 < size < MAX_COUNT else None for size in sizes)
        return batch_size * (batches or 1) if batch_size else None

    @cached_property
    def _metrics(self) -> list[dict[str, str]]:
        """Complete rows of ``metrics.csv``: the last row of an interrupted run may be incomplete."""
        file = self.path / "metrics.csv"
        text = read_bytes(file, MAX_BYTES["metrics.csv"]).decode(errors="replace")
        try:
            return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        except csv.Error as error:
            raise UserError(f"{file}: cannot be read as CSV ({error})") from None

    def _logged(self, metric: str) -> list[tuple[int, float]]:
        found = []
        for row in self._metrics:
            try:
                step, value = int(row["step"]), float(row[metric])
            except (KeyError, TypeError, ValueError):  # the row has other metrics
                continue
            if math.isfinite(value) and 0 <= step < MAX_COUNT:
                found.append((step, value))
        return found


class Row:
    """A row of the tables: the runs of one model and mix, one for each seed and world.

    Args:
        runs: at least one; all of the same row and setting.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.name = runs[0].row
        self.embedded, self.setting, self.trained = runs[0].embedded, runs[0].setting, runs[0].trained
        self.is_floor = runs[0].is_floor
        self.vision_from_scratch = any(run.vision_from_scratch for run in runs)
        self.cache: dict[object, Any] = {}  # of ``comparisons.score``

    @property
    def seeds(self) -> list[int | None]:
        """Its seeds."""
        return sorted({run.seed for run in self.runs}, key=lambda seed: -1 if seed is None else seed)

    def worlds(self, column: Column, control: str = "") -> list[str]:
        """Return the worlds in which it has such results."""
        return list(dict.fromkeys(run.world for run in self.runs if run.scores(column, control) is not None))

    def tested(self, column: Column, control: str = "") -> bool:
        """Return whether it has such results."""
        return any(run.scores(column, control) is not None for run in self.runs)

    def items(self, column: Column, control: str = "", world: str = "") -> tuple[str, ...]:
        """Return the items that all of its runs in a world with such results share, in the order of the list."""
        return shared([found.items for found in self._scores(column, control, world)])

    def credits(
        self, column: Column, control: str = "", world: str = "", items: Sequence[str] | None = None
    ) -> Credits:
        """Return (S, N) credit of S seeds on N items of a world, by default all shared ones; (0, 0) without results."""
        chosen = self.items(column, control, world) if items is None else items
        found = [scores.of(chosen) for scores in self._scores(column, control, world)]
        return np.array(found).reshape(len(found), len(chosen))

    def _scores(self, column: Column, control: str, world: str) -> list[Scores]:
        found = (run.scores(column, control) for run in self.runs if run.world == world)
        return [scores for scores in found if scores is not None]

    def missing(self, benchmark: str) -> int:
        """Return the number of items that were skipped because their images were missing."""
        return max(int(run.metadata(benchmark).get("missing_items", 0)) for run in self.runs)

    def has_derived_categories(self, benchmark: str) -> bool:
        """Return whether the categories are not in the list but were derived."""
        return any("derived_categories" in run.metadata(benchmark) for run in self.runs)


def shared(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the items that are in all lists, in the order of the first."""
    first = lists[0] if lists else ()
    others = [set(one) for one in lists[1:] if one is not first and one != first]
    return tuple(item for item in first if all(item in other for other in others)) if others else first


def benchmarks_of(rows: Sequence[Row]) -> list[BenchmarkColumns]:
    """Return all benchmarks that rows have results on, the paper's first."""
    found: dict[str, BenchmarkColumns] = {}
    for columns in (results.columns for row in rows for run in row.runs for results in run.results.values()):
        if found.get(columns.name, columns) in (columns, PAPER.get(columns.name)):  # what results declare is preferred
            found[columns.name] = columns
    return sorted(found.values(), key=lambda columns: (columns.name not in PAPER, columns.order, columns.name))


def main_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of the main table in which any row has a number."""
    return tested_columns(rows, [one for columns in benchmarks_of(rows) if not columns.suite for one in columns.main])


def tested_columns(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """Return the columns in which any row has a number."""
    return [column for column in columns if any(row.tested(column) for row in rows)]


@dataclass(frozen=True)
class SkippedRun:
    """A run that cannot be reported.

    Attributes:
        path: its folder.
        reason: what is wrong, on one line.
    """

    path: Path
    reason: str

    @property
    def name(self) -> str:
        """Its row and folder, by which a report names it wherever the report is made."""
        return printable_line(f"{self.path.parent.name}/{self.path.name}")

    def __str__(self) -> str:
        return f"{self.path}: not reported: {self.reason}"


def find_rows(log_dir: Path) -> tuple[list[Row], list[SkippedRun]]:
    """Return all rows below ``log_dir``, and the runs that are damaged.

    Floors come first, then upper bounds, then the others in the paper's order.

    A run is ``<log_dir>/<row>/version_<n>`` or ``<log_dir>/<row>/seed_<n>``. For each seed and world the newest run
    with test results that can be read counts.

    Raises:
        UserError: there is no run that can be read.
    """
    rows: dict[tuple[str, bool, str], list[Run]] = {}
    runs, skipped = newest_runs(log_dir)
    for run in runs:
        rows.setdefault((run.row, run.embedded, run.setting), []).append(run)
    if not rows:
        if skipped:
            raise UserError(f"{log_dir}: no run can be read. {skipped[0]}")
        raise UserError(f"{log_dir}: no run with test results found. Run `python -m babyvlm fit --config ...` first")
    order = sorted(map(Row, rows.values()), key=lambda row: (row.trained, paper_order(row.name), row.name))
    return sorted(order, key=lambda row: not row.is_floor), skipped


def newest_runs(log_dir: Path, row: str | None = None) -> tuple[list[Run], list[SkippedRun]]:
    """Return the newest tested run for each row, seed and world, sorted by both, and other runs that are damaged.

    Args:
        log_dir: folder of all runs.
        row: name of one row; by default all rows.
    """
    pattern = "*/*" if row is None else f"{glob.escape(row)}/*"
    tested: list[tuple[tuple[int, int], Path]] = []
    skipped: list[SkippedRun] = []
    for folder in sorted(log_dir.glob(pattern)):
        try:
            if has_test_results(folder):
                tested.append((_tested_at(folder), folder))
        except (OSError, ValueError) as error:
            skipped.append(SkippedRun(folder, _reason(folder, error)))
    opened: dict[Path, Run] = {}
    newest: dict[tuple[str, str, str, int | None], Run] = {}
    for _, folder in sorted(tested, key=lambda entry: entry[0], reverse=True):
        run = Run(folder, opened=opened)
        try:
            key = run.row, run.setting, run.world, run.seed
            if key not in newest:
                run.check()
                newest[key] = run
        except UserError as error:
            skipped.append(SkippedRun(folder, _reason(folder, error)))
    runs = sorted(reversed(newest.values()), key=lambda run: (run.world, -1 if run.seed is None else run.seed))
    return runs, sorted(skipped, key=lambda run: str(run.path))


def has_test_results(folder: Path) -> bool:
    """Return whether a folder is a run's and has test results."""
    return bool(RUN_FOLDER.fullmatch(folder.name)) and any((folder / "results").glob(f"*{SUFFIX}"))


def _run_of(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's run; the folder above its own if no run is found."""
    folders = (folder for folder in checkpoint.parents if is_file(folder / "config.yaml"))
    return next(folders, checkpoint.parent.parent)


def is_file(path: Path) -> bool:
    """Return whether a path, which a run names, is a file; False if that cannot be determined."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or no permission
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or no permission
        return False


def _tested_at(folder: Path) -> tuple[int, int]:
    """Return the time of the test in nanoseconds and the run's number, which decides between copies."""
    number = int(folder.name.rpartition("_")[2])
    return max(file.stat().st_mtime_ns for file in (folder / "results").glob(f"*{SUFFIX}")), number


def _reason(folder: Path, error: Exception) -> str:
    """Return an error's message on one line, with paths from the run's folder."""
    name = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
    text = printable_line(f"{name}{first_line(error)}".replace(f"{folder}/", ""))
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON // 2]} … {text[-MAX_REASON // 2 :]}"


_PROVENANCE: dict[str, type] = {
    "samples": int,
    "parameters": dict,
    "stores": dict,
    "vocabulary": str,
    "code_version": str,
    "code_sha256": str,
    "packages": dict,
    "python": str,
    "platform": str,
    "mix": dict,
}
_MIX: dict[str, type] = {"store": str, "items": int, "utterances": int, "share": float}


def _check_provenance(recorded: object) -> Config:
    """Return what a run recorded, if the values that the report reads have the right types.

    Raises:
        ValueError: one is wrong.
    """

    def check(value: object, kind: type, name: str) -> None:
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise ValueError(f"{name} is not of type {kind.__name__}")
        if isinstance(value, int) and not 0 <= value < MAX_COUNT:
            raise ValueError(f"{name} is not a count")

    if not isinstance(recorded, dict):
        raise ValueError("it is not a JSON object")
    if "sha256" in recorded and recorded["sha256"] != json_sha256(recorded):  # version 0.1 wrote none
        raise ValueError("it was edited after it was written")
    parts = mapping(recorded.get("mix")).get("contents") or []
    facts = [(recorded.get(name), kind, name) for name, kind in _PROVENANCE.items()]
    facts += [(part[name], kind, f"mix.contents.{name}") for part in parts for name, kind in _MIX.items()]
    for value, kind, name in facts:
        check(value, kind, name)
    check(mapping(recorded.get("parameters")).get("total"), int, "parameters.total")
    for name, store in mapping(recorded.get("stores")).items():
        check(store, dict, f"stores.{name}")
        if not isinstance(mapping(store).get("fingerprint"), str):
            raise ValueError(f"stores.{name}.fingerprint is not of type str")
    return recorded
