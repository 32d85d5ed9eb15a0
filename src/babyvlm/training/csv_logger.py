"""Metric rows that survive a kill and a resumption."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

Row = dict[str, str]


class _AppendingWriter(ExperimentWriter):
    """Lightning's writer deletes the rows of a folder that it finds; this one goes on below them."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            columns, rows = _read(path)
            if not path.read_text().endswith("\n"):  # what comes next would be written behind half a row
                _write(path, columns, rows)
            self.metrics_keys = columns


class CSVLog(CSVLogger):
    """CSVLogger that appends, knows which rows are there, and can go back to an earlier step.

    A row is known by its step and its columns; a known one is not written again.
    """

    @property
    def experiment(self) -> _ExperimentWriter:
        """The writer of ``metrics.csv``."""
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)  # noqa: PTH103 - Lightning's path is a string
            self._experiment = _AppendingWriter(self.log_dir)
            self._known = {_identity(row) for row in _read(self._path)[1]}
        return self._experiment

    @property
    def _path(self) -> Path:
        return Path(self.log_dir) / "metrics.csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]
        """Write a row, unless one of this step and these columns is there."""
        writer = self.experiment
        row = {"step": str(step)} | {name: "." for name in metrics}
        if _identity(row) not in self._known:
            self._known.add(_identity(row))
            writer.log_metrics(dict(metrics), step)
            self.save()  # at once: a row is on disk before a checkpoint that comes after it

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``: a run goes on from there, and what came later will be made again."""
        columns, rows = _read(self._path)
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            _write(self._path, columns, kept)
        self._known = {_identity(row) for row in kept}


def _identity(row: Row) -> tuple[int, frozenset[str]]:
    return int(row["step"]), frozenset(name for name, value in row.items() if value and name != "step")


def _read(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows; a last row that a kill tore is left out."""
    if not path.is_file():
        return [], []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    return list(reader.fieldnames or []), list(reader)


def _write(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> None:
    beside = path.with_suffix(".partial")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)
