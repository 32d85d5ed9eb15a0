"""Links that a download lost. An archive holds the survivors only; img2dataset says beside it what did not come."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.curation.ingest.web_corpora.parquet import open_table, unpacked
from babyvlm.curation.ingest.web_corpora.samples import Sample, stem
from babyvlm.errors import UserError
from babyvlm.io.files import fingerprint_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE, COUNTS = ".parquet", "_stats.json"  # beside NAME.tar: a row a link, with its status; or their counts alone
FAILURES = ("failed_to_download", "failed_to_resize")
BATCH_ROWS = 1024


def find_sidecar(archive: Path) -> Path | None:
    """What tells beside an archive which links were lost, if anything does: the table, else the counts.

    Raises:
        UserError: the table cannot be read.
    """
    table, counts = (archive.with_name(stem(archive) + ending) for ending in (TABLE, COUNTS))
    try:
        if table.is_file() and "status" in pq.read_schema(table).names:
            return table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(table, error) from None
    return counts if counts.is_file() else None


@dataclass(frozen=True)
class LostLinks:
    """The samples that an archive's list named and that never came, as its sidecar tells them."""

    path: Path

    @property
    def name(self) -> str:
        """The archive's."""
        return self.path.name.removesuffix(COUNTS).removesuffix(TABLE)

    @property
    def count(self) -> int:
        """Of the lost links; reads the sidecar."""
        return sum(1 for _ in self.samples())

    @property
    def hash(self) -> str:
        """Of the sidecar."""
        return fingerprint_files([self.path])

    def samples(self) -> Iterator[Sample]:
        """A sample a lost link, with the reason as its problem."""
        lost = _rows(self.path) if self.path.name.endswith(TABLE) else _counted(self.path)
        for name, reason in lost:
            yield Sample(f"{self.name}/{name}", None, None, f"link lost: {reason}")


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    try:
        file = open_table(path)
        columns = [name for name in ("key", "status", "error_message") if name in file.schema_arrow.names]
        batches = file.iter_batches(BATCH_ROWS, columns=columns)
        number = 0
        while rows := unpacked(batches):
            for row in rows:
                if row["status"] != "success":
                    yield str(row.get("key", f"row {number}")), _reason(row["status"], row.get("error_message"))
                number += 1
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _reason(status: object, message: object) -> str:
    """A few for the funnel: messages name hosts and addresses, so there are thousands of them."""
    code = re.search(r"HTTP Error \d{3}", str(message))
    return code[0] if code else str(status).replace("_", " ")


def _counted(path: Path) -> Iterator[tuple[str, str]]:
    try:
        counts = json.loads(path.read_bytes())
        failures = [(failure, int(counts[failure])) for failure in FAILURES]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from None
    for failure, count in failures:
        for number in range(count):
            yield f"{failure} {number}", failure.replace("_", " ")


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not readable as img2dataset's record of lost links ({type(error).__name__}); make it again, or remove"
        " it and say by --expected_count how many samples were listed"
    )
