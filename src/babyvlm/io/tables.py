"""Read CSV files that users bring."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_csv(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 CSV file, with or without a byte order mark, for the readers of the module ``csv``.

    Raises:
        UserError: the file is missing or cannot be read, or what the block reads from it is not UTF-8 CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}). Export it again as UTF-8") from None
