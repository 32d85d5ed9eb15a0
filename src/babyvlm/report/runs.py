"""Runs on disk: which there are, what they were, how each item came out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import yaml

from babyvlm.contracts import UserError, first_line

# Each benchmark's measure that stands in the main table.
BENCHMARKS = {"labeled_s": "accuracy", "vtwt": "accuracy", "baby_winoground": "overall"}


@dataclass(frozen=True)
class Run:
    """A run folder that holds test results.

    Attributes:
        path: the folder, ``<logs>/<model>-<mix>/version_<n>``.
        row: what a table calls it, ``<model>-<mix>``.
    """

    path: Path
    row: str

    def credits(self, benchmark: str) -> npt.NDArray[np.float64] | None:
        """Credit of each test item, in the order of the list; None where the run was not tested on it.

        Raises:
            UserError: the results cannot be read, or hold no item.
        """
        file = self.path / "results" / f"{benchmark}-test.parquet"
        if not file.is_file():
            return None
        wanted = [("control", "=", ""), ("measure", "=", BENCHMARKS[benchmark])]
        try:
            column = pq.read_table(file, columns=["credit"], filters=wanted)["credit"]
        except (OSError, ValueError) as error:
            again = "run `python -m babyvlm test` again"
            raise UserError(f"{file}: cannot be read as results ({first_line(error)}); {again}") from None
        if not len(column):
            raise UserError(f"{file}: holds no item; run `python -m babyvlm test` again")
        values: npt.NDArray[np.float64] = column.to_numpy()
        return values

    def missing(self, benchmark: str) -> int:
        """Items of a list that were left out since their images were missing."""
        file = self.path / "results" / f"{benchmark}-test.parquet"
        return int(_facts(file).get(b"missing_items", 0)) if file.is_file() else 0

    @property
    def embedded(self) -> bool:
        """Whether any result is of Playroom, the embedded world, and so compares with no result on real data."""
        files = (self.path / "results").glob("*-test.parquet")
        return any(_facts(file).get(b"world") == b"playroom" for file in files)

    @property
    def trained(self) -> bool:
        """Whether it was trained here; upper bounds are not."""
        return (self.path / "checkpoints").is_dir()

    @property
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
    return sorted((Run(path, row) for row, path in newest.items()), key=lambda run: (run.trained, run.row))


def _facts(file: Path) -> dict[bytes, bytes]:
    return pq.read_schema(file).metadata or {}


def _version(run: Path) -> int:
    number = re.fullmatch(r"version_(\d+)", run.name)
    return int(number[1]) if number else -1
