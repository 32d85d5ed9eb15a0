"""Runs on disk: which there are, what they were, how each item came out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from babyvlm.contracts import UserError, first_line


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
        path: the folder, ``<logs>/<model>-<mix>/version_<n>``.
        row: what a table calls it; ``<model>-<mix>`` by default.
    """

    def __init__(self, path: Path, row: str | None = None) -> None:
        self.path = path
        self.row = row or path.parent.name
        self._tables: dict[str, pa.Table] = {}

    def table(self, benchmark: str) -> pa.Table | None:
        """Results of a benchmark's test half, one row for each item, measure and control; None if not tested on it.

        Raises:
            UserError: the results cannot be read, or hold no item.
        """
        file = self.path / "results" / f"{benchmark}-test.parquet"
        if benchmark not in self._tables and file.is_file():
            try:
                columns = ["item", "category", "control", "measure", "credit"]
                self._tables[benchmark] = pq.read_table(file, columns=columns)
            except (OSError, ValueError) as error:
                again = "run `python -m babyvlm test` again"
                raise UserError(f"{file}: cannot be read as results ({first_line(error)}); {again}") from None
            if not len(self._tables[benchmark]):
                raise UserError(f"{file}: holds no item; run `python -m babyvlm test` again")
        return self._tables.get(benchmark)

    def items(self, column: Column, control: str = "") -> dict[str, float]:
        """Credit of each test item, in the order of the list; none where the run was not tested so."""
        table = self.table(column.benchmark)
        if table is None:
            return {}
        wanted = pc.and_(pc.equal(table["measure"], column.measure), pc.equal(table["control"], control))
        if column.category is not None:
            wanted = pc.and_(wanted, pc.equal(table["category"], column.category))
        kept = table.filter(wanted)
        return dict(zip(kept["item"].to_pylist(), kept["credit"].to_pylist(), strict=True))

    def credits(self, column: Column, control: str = "") -> npt.NDArray[np.float64]:
        """(N,) of ``items``."""
        return np.array(list(self.items(column, control).values()), dtype=np.float64)

    def categories(self, benchmark: str) -> list[str]:
        """What a benchmark's items are counted under, besides the total."""
        table = self.table(benchmark)
        return [] if table is None else sorted(filter(None, table["category"].unique().to_pylist()))

    def facts(self, benchmark: str) -> dict[str, str]:
        """What a benchmark's results say of themselves (``benchmarks/callback.py``); nothing if there are none."""
        table = self.table(benchmark)
        raw = {} if table is None else table.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in raw.items()}

    def missing(self, benchmark: str) -> int:
        """Items of a list that were left out since their images were missing."""
        return int(self.facts(benchmark).get("missing_items", 0))

    @property
    def embedded(self) -> bool:
        """Whether any result is of Playroom, the embedded world, and so compares with no result on real data."""
        return any(self.facts(column.benchmark).get("world") == "playroom" for column in MAIN)

    @property
    def trained(self) -> bool:
        """Whether it was trained here; upper bounds are not."""
        return (self.path / "checkpoints").is_dir()

    @cached_property
    def trunk_from_scratch(self) -> bool:
        """Whether its vision encoder began from random weights, where the paper's begins from DINO's."""
        file = self.path / "config.yaml"  # written by the command line; a user's own script may have none
        config = (yaml.safe_load(file.read_text()) if file.is_file() else None) or {}
        vision = ((config.get("model") or {}).get("init_args") or {}).get("vision") or {}
        options = vision.get("init_args") or {} if "class_path" in vision else {}
        return bool(options) and options.get("weights") is None and not options.get("pretrained")


def find_runs(logs: Path) -> list[Run]:
    """The newest tested version of every row below ``logs``: upper bounds first, then by name.

    Raises:
        UserError: there is none.
    """
    newest: dict[str, Path] = {}
    for results in sorted(logs.glob("*/version_*/results"), key=lambda path: _version(path.parent)):
        if any(results.glob("*-test.parquet")):
            newest[results.parent.parent.name] = results.parent
    if not newest:
        raise UserError(f"{logs}: holds no tested run; run `python -m babyvlm fit --config ...` first")
    return sorted((Run(path) for path in newest.values()), key=lambda run: (run.trained, run.row))


def _version(run: Path) -> int:
    number = re.fullmatch(r"version_(\d+)", run.name)
    return int(number[1]) if number else -1
