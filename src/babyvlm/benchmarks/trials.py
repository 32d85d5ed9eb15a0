"""Test items, as they stand in CSV lists."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from babyvlm.curation.benchmark_images import missing_images
from babyvlm.errors import UserError

ImageText = tuple[str, str]  # an image's path below the list's root, and a text


@dataclass(frozen=True)
class Trial:
    """Some (image, text) pairs that are compared with each other.

    Attributes:
        item: id, unique in its list.
        half: ``dev`` or ``test``.
        category: what the item is counted under besides the total.
        options: the pairs.
        answer: index of the right one.
    """

    item: str
    half: str
    category: str
    options: tuple[ImageText, ...]
    answer: int = 0


@dataclass(frozen=True)
class Row:
    """A row of a list: the line of the file where it ends, and its cells by column."""

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Rows of a trial list; blank lines are no rows.

    Raises:
        UserError: no such file, a column that is missing, an empty cell in one of ``columns``, or no row at all.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or []
            rows = [Row(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error})") from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; it has {', '.join(found) or 'none'}")
    for row in rows:
        empty = [column for column in columns if not (row[column] or "").strip()]
        if empty:
            raise UserError(f"{path}: row {row.line}: {empty[0]} is empty")
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows


def group_rows(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Rows by what they hold in a column, in the order of the list."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def agree(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    """Whether rows hold the same in some columns, or all lack them."""
    return len({tuple(row.cells.get(column) for column in columns) for row in rows}) == 1


def half_of(row: Row, item: str, dev_fraction: float, path: Path) -> str:
    """The half of an item: its list's own column ``half``, else by a hash of the item.

    Raises:
        UserError: the column holds something else than ``dev`` or ``test``.
    """
    if "half" not in row.cells:
        position = int.from_bytes(hashlib.sha256(item.encode()).digest()[:4], "big") / 2**32
        return "dev" if position < dev_fraction else "test"
    if row["half"] not in ("dev", "test"):
        raise UserError(f"{path}: item {item}: half is {row['half']!r}, must be dev or test")
    return row["half"]


def with_images(trials: Sequence[Trial], root: Path, path: Path, *, allow_missing: bool = False) -> list[Trial]:
    """The trials whose images are all there, below ``root``: all of them, unless a partial list is allowed.

    Raises:
        UserError: an image leaves ``root``; or some are missing and must not, or all are: the message names them all.
    """
    images = [image for trial in trials for image, _ in trial.options]
    hint = "allow_missing: true scores the rest"
    absent = missing_images(path, images, root, root_option="images:", allow_missing=allow_missing, hint=hint)
    whole = [trial for trial in trials if not any(image in absent for image, _ in trial.options)]
    if not whole:
        raise UserError(f"{path}: every item lacks an image in {root}")
    return whole
