"""Read CSV files that users bring."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from babyvlm.errors import UserError
from babyvlm.io.limits import MAX_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@contextmanager
def open_csv(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 CSV file, with or without a byte order mark, for the readers of the module ``csv``.

    Raises:
        UserError: the file is missing or cannot be read, has too many columns, or what the block reads from it is not
            UTF-8 CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            require_few_columns(path, next(csv.reader(file), []))
            file.seek(0)
            yield file
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}). Export it again as UTF-8") from None


def require_few_columns(path: Path, columns: Sequence[str]) -> None:
    """Check the heading of a table: every row takes memory and time for each of its columns.

    Raises:
        UserError: there are more than ``MAX_COLUMNS``.
    """
    if len(columns) > MAX_COLUMNS:
        raise UserError(f"{path}: has {len(columns):,} columns, the limit is {MAX_COLUMNS:,}")
