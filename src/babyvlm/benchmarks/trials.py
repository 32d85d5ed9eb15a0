"""Trials of a benchmark, and the CSV lists that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from babyvlm.curation.benchmark_images import missing_images, stored_path
from babyvlm.errors import UserError
from babyvlm.io.tables import read_complete_rows

ImageText = tuple[str, str]  # an image's path below the root of the list, and a text
SPLITS = ("dev", "test")
COMPOSITIONS = ("seen", "unseen")
# Parts of an image that can be an option: left, top, right, and bottom edge as shares of width and height.
QUADRANTS = {
    "top left": (0.0, 0.0, 0.5, 0.5),
    "top right": (0.5, 0.0, 1.0, 0.5),
    "bottom left": (0.0, 0.5, 0.5, 1.0),
    "bottom right": (0.5, 0.5, 1.0, 1.0),
}


@dataclass(frozen=True)
class Trial:
    """(image, text) pairs that are compared with each other.

    Attributes:
        item: id, unique in its list.
        split: ``dev`` (may choose a checkpoint) or ``test`` (reported).
        category: the trial's object category or word class, for results by category.
        options: the pairs.
        answer: index of the right option.
        group: trials of one group are not independent, which intervals take into account; empty for a trial that
            is in none.
        composition: ``seen`` if the combinations of words that its images show occur in training, ``unseen`` if one of
            them does not, empty if the list does not say.
    """

    item: str
    split: str
    category: str
    options: tuple[ImageText, ...]
    answer: int = 0
    group: str = ""
    composition: str = ""

    @property
    def images(self) -> tuple[str, ...]:
        """Its images, each once; of parts of an image, the image."""
        return tuple(dict.fromkeys(filter(None, (file_of(image) for image, _ in self.options))))


def part_of(image: str, part: str) -> str:
    """Return the name of a part of an image (``QUADRANTS``) in the options of a trial; no path contains a NUL."""
    return f"{image}\0{part}"


def file_of(image: str) -> str:
    """Return the path of an image, or of the image that a part belongs to."""
    return image.partition("\0")[0]


@dataclass(frozen=True)
class Row:
    """A row of a list: the line of the file where it ends, and its cells by column."""

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    @property
    def item(self) -> str:
        """Name in results of an item that is one row: its line and its image."""
        return f"{self.line}:{self['image']}"


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a list. Blank lines are skipped.

    Raises:
        UserError: the file is missing or not a CSV, lacks one of ``columns``, has an empty cell in one of them, or has
            no rows.
    """
    return [Row(row.line, row.cells) for row in read_complete_rows(path, columns)]


def group_rows(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Return the rows by their value in a column, in the order of the list."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def same_in(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    """Return whether rows have the same values in some columns, or all lack them."""
    return len({tuple(row.cells.get(column) for column in columns) for row in rows}) == 1


def split_of(row: Row, item: str, dev_fraction: float, path: Path) -> str:
    """Return the split of a trial: the list's column ``half``, else by a hash of the item.

    Raises:
        UserError: the column holds something other than ``dev`` or ``test``.
    """
    if "half" not in row.cells:
        position = int.from_bytes(hashlib.sha256(item.encode()).digest()[:4], "big") / 2**32
        return "dev" if position < dev_fraction else "test"
    if row["half"] not in SPLITS:
        raise UserError(f"{path}: item {item}: half is {row['half']!r}, must be dev or test")
    return row["half"]


def composition_of(rows: Sequence[Row], path: Path) -> str:
    """Return whether all rows of a trial are ``seen`` in the list's column ``composition``; empty without the column.

    Raises:
        UserError: the column holds something other than ``seen`` or ``unseen``.
    """
    found = [row.cells["composition"] for row in rows if "composition" in row.cells]
    if wrong := [value for value in found if value not in COMPOSITIONS]:
        raise UserError(f"{path}: item {rows[0].item}: composition is {wrong[0]!r}, must be seen or unseen")
    return "" if not found else "unseen" if "unseen" in found else "seen"


def with_images(trials: Sequence[Trial], root: Path, path: Path, *, allow_missing: bool = False) -> list[Trial]:
    """Return the trials whose images all exist below ``root``, with the paths under which these are stored.

    Raises:
        UserError: an image path leaves ``root``; images are missing and ``allow_missing`` is false (the message names
            all of them); or no trial is left.
    """
    images = [file_of(image) for trial in trials for image, _ in trial.options]
    hint = "allow_missing: true scores the rest"
    absent = missing_images(path, images, root, root_option="images:", allow_missing=allow_missing, hint=hint)
    kept = [trial for trial in trials if not any(file_of(image) in absent for image, _ in trial.options)]
    if not kept:
        raise UserError(f"{path}: every trial lacks an image in {root}")
    return [
        replace(trial, options=tuple((_stored(image, root), text) for image, text in trial.options)) for trial in kept
    ]


def _stored(image: str, root: Path) -> str:
    file, separator, part = image.partition("\0")
    return f"{stored_path(file, root)}{separator}{part}"
