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
    """Lightning's writer deletes the rows that it finds in a folder; this one appends to them."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            columns, rows = _read(path)
            if not path.read_text().endswith("\n"):  # otherwise the next row would be appended to an incomplete one
                _write(path, columns, rows)
            self.metrics_keys = columns


class AppendingCSVLogger(CSVLogger):
    """A CSVLogger that appends to the rows of an interrupted run and can go back to an earlier step.

    A row is identified by its step and its columns; a row that is already in the file is not written again.
    """

    @property
    def experiment(self) -> _ExperimentWriter:
        """The writer of ``metrics.csv``."""
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)  # noqa: PTH103 - Lightning's path is a string
            self._experiment = _AppendingWriter(self.log_dir)
            self._written = {_identity(row) for row in _read(self._path)[1]}
        return self._experiment

    @property
    def _path(self) -> Path:
        return Path(self.log_dir) / "metrics.csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]
        """Write a row, unless the file has a row of this step with these columns."""
        writer = self.experiment
        row = {"step": str(step)} | {name: "." for name in metrics}
        if _identity(row) not in self._written:
            self._written.add(_identity(row))
            writer.log_metrics(dict(metrics), step)
            self.save()  # immediately: a row must be on disk before a checkpoint of a later step

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Delete the rows after ``step``, from which a run resumes: they will be written again."""
        columns, rows = _read(self._path)
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            _write(self._path, columns, kept)
        self._written = {_identity(row) for row in kept}


def _identity(row: Row) -> tuple[int, frozenset[str]]:
    return int(row["step"]), frozenset(name for name, value in row.items() if value and name != "step")


def _read(path: Path) -> tuple[list[str], list[Row]]:
    """Return columns and rows, without an incomplete last row."""
    if not path.is_file():
        return [], []
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(complete.splitlines())
    return list(reader.fieldnames or []), list(reader)


def _write(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
