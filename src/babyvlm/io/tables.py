"""Read CSV files that users bring: one strict reader for transcripts, caption lists, web lists and benchmark lists.

A table that says something other than it seems to is rejected in one line: a quotation mark that nothing closes, a row
with more or fewer cells than the heading (an unquoted comma or line break), a column that occurs twice, text in an
unknown encoding. Cells that stand for a missing value, such as R's ``NA``, are empty.
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from babyvlm.errors import UserError
from babyvlm.io.encodings import detect_encoding, shorten
from babyvlm.io.limits import MAX_COLUMNS
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# Cells that pandas reads as missing (the words of pandas.read_csv that R, spreadsheets and Python write).
MISSING = frozenset(("NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "<NA>", "#N/A"))
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
SEPARATOR_LINE = re.compile(r"sep=([,;\t])\s*", re.IGNORECASE)  # Excel's first line, which is no row of the table


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        number: number of the row in a spreadsheet; the heading is row 1.
        line: line of the file in which it ends.
        cells: the cells by column, as written; "" for missing values.
    """

    number: int
    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


class Table:
    """A table in a CSV file, separated by commas, semicolons or tabs. Iterating reads the rows, one at a time.

    Blank lines are skipped.

    Attributes:
        path: the file.
        columns: names of the columns, without surrounding spaces.
        encoding: encoding of the file.
        notes: observations for the user, one line each.

    Args:
        path: the file.
        encoding: its encoding; "" to detect it.
        names: names of the columns if the file has no heading.
        escape_invalid: read bytes that are not valid in the encoding as lone surrogates.

    Raises:
        UserError: the file cannot be read, its encoding is unknown, its heading is invalid; while iterating: a row is.
    """

    def __init__(
        self, path: Path, *, encoding: str = "", names: Sequence[str] = (), escape_invalid: bool = False
    ) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self.encoding, self._delimiter = encoding, ","
        self._errors = "surrogateescape" if escape_invalid else "strict"
        self._has_heading = not names
        try:
            if not encoding:
                self.encoding, self.notes = detect_encoding(path, strict=not escape_invalid)
            with path.open(newline="", encoding=self.encoding, errors=self._errors) as file:
                heading = file.readline()
                separator = SEPARATOR_LINE.fullmatch(heading)
                heading = file.readline() if separator else heading
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (UnicodeError, LookupError) as error:
            raise self._not_decodable(error) from None
        self._num_skipped_lines = 1 if separator else 0
        self._delimiter = separator[1] if separator else max(DELIMITER_NAMES, key=lambda it: len(_cells(heading, it)))
        self._quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
        if names:
            self.columns = tuple(names)
        else:
            _, _, heading_cells = next(self._records(), (1, 1, []))
            self.columns = tuple(name.strip().lstrip("\ufeff") for name in heading_cells)
        require_few_columns(path, self.columns)
        repeated = [name for name in self.columns if name and self.columns.count(name) > 1]
        if repeated:
            raise UserError(f"{path}, row 1: two columns are named {repeated[0]!r}. Rename one of them")
        is_quoted = self._has_heading and heading.startswith('"')  # as R writes it
        if self._delimiter == "\t" and not is_quoted and not self._is_quoted():
            self._quoting = csv.QUOTE_NONE

    def require(self, *columns: str, hint: str = "") -> None:
        """Check that the table has some columns.

        Raises:
            UserError: one is missing. The message has ``hint`` at its end.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise UserError(f"{self.path}, row 1: no column {', '.join(map(repr, missing))} {self._found()}{hint}")

    def find(self, names: Sequence[str], hint: str = "") -> str:
        """Return the first of ``names`` that is a column.

        Raises:
            UserError: none is. The message has ``hint`` at its end.
        """
        return find_column(self.path, self.columns, names, hint)

    def _is_quoted(self) -> bool:
        """Return whether quotation marks enclose cells. In tables of ELAN and Whisper they are part of the text."""
        try:
            return all(True for _ in self)
        except UserError:
            return False

    def __iter__(self) -> Iterator[Row]:
        width = len(self.columns)
        records = self._records()
        if self._has_heading:
            next(records, None)
        for number, line, cells in records:
            if len(cells) != width:
                raise UserError(
                    f"{self.path}, row {number}: {len(cells)} cells in a table of {width} columns"
                    f" ({shorten(self._delimiter.join(cells))}). Quote cells that contain"
                    f" {DELIMITER_NAMES[self._delimiter]} or line breaks, and do not leave cells out"
                )
            swallowed = next((cell for cell in cells if "\n" in cell and self._contains_row(cell, cells[0])), "")
            if swallowed:
                raise UserError(
                    f"{self.path}, row {number}: a cell contains another row ({shorten(swallowed)})."
                    " Close its quotation mark, or write a quotation mark in the text as two"
                )
            present = ["" if cell.strip() in MISSING else cell for cell in cells]
            yield Row(number, line, dict(zip(self.columns, present, strict=True)))

    def _records(self) -> Iterator[tuple[int, int, list[str]]]:
        """Yield number, last line and cells of all rows that are not blank, the heading included."""
        number = 0
        try:
            with self.path.open(newline="", encoding=self.encoding, errors=self._errors) as file:
                for _ in range(self._num_skipped_lines):
                    file.readline()
                reader = csv.reader(file, delimiter=self._delimiter, quoting=self._quoting, strict=True)
                for number, cells in enumerate(reader, start=1):
                    if len(cells) > 1 or any(map(str.strip, cells)):
                        yield number, self._num_skipped_lines + reader.line_num, cells
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        except UnicodeError as error:
            raise self._not_decodable(error) from None
        except csv.Error as error:
            raise UserError(
                f"{self.path}, row {number + 1}: quotation marks do not match ({error}). Close each quoted cell, and"
                " write a quotation mark inside of it as two"
            ) from None

    def _contains_row(self, cell: str, first_cell: str) -> bool:
        """Return whether a line inside a cell looks like a row: as many cells, the first one like ``first_cell``."""
        lines = [_cells(line, self._delimiter) for line in cell.splitlines()[1:]]
        return any(len(cells) == len(self.columns) and _shape(cells[0]) == _shape(first_cell) for cells in lines)

    def _found(self) -> str:
        return _found(self.columns)

    def _not_decodable(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: not readable as {self.encoding} CSV ({error}). Save it as CSV in UTF-8")


def _cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of one line; none if a cell is longer than the module ``csv`` reads."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def read_table(path: Path, *, names: Sequence[str] = (), escape_invalid: bool = False) -> Table:
    """Open a table, and print what was noticed about it to standard error. For the arguments see ``Table``."""
    table = Table(path, names=names, escape_invalid=escape_invalid)
    for note in table.notes:
        echo(f"note: {path}: {note}", file=sys.stderr)
    return table


def read_complete_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a list in which some columns must be filled in every row.

    Raises:
        UserError: the file cannot be read, lacks one of ``columns``, has an empty cell in one of them, or has no rows.
    """
    table = read_table(path)
    table.require(*columns)
    rows = list(table)
    for row in rows:
        empty = [column for column in columns if not row[column].strip()]
        if empty:
            raise UserError(f"{path}, row {row.number}: {empty[0]} is empty. Fill it in or remove the row")
    if not rows:
        raise UserError(f"{path}: contains no rows")
    return rows


def require_few_columns(path: Path, columns: Sequence[str]) -> None:
    """Check the heading of a table: every row takes memory and time for each of its columns.

    Raises:
        UserError: there are more than ``MAX_COLUMNS``.
    """
    if len(columns) > MAX_COLUMNS:
        raise UserError(f"{path}: has {len(columns):,} columns, the limit is {MAX_COLUMNS:,}")


def find_column(path: Path, columns: Sequence[str], names: Sequence[str], hint: str = "") -> str:
    """Return the first of ``names`` that is a column of the table ``path``, in any case.

    Raises:
        UserError: none is, or two differ from it in their case only. The message has ``hint`` at its end.
    """
    for name in names:
        found = [name] if name in columns else [column for column in columns if column.lower() == name]
        if len(found) > 1:
            raise UserError(
                f"{path}: the columns {', '.join(map(repr, found))} differ in case only. Rename one of them"
            )
        if found:
            return found[0]
    raise UserError(f"{path}: no column {' or '.join(map(repr, names))} {_found(columns)}{hint}")


def _found(columns: Sequence[str]) -> str:
    return f"(found {shorten(', '.join(columns)) or 'no columns'})"


def _shape(cell: str) -> str:
    """Return a cell with each run of letters as ``a`` and each number as ``0``."""
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d]+", "a", cell.strip()))
