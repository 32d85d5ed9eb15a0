"""Read img2dataset's records of failed downloads. Its archives contain only the images that could be downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.curation.ingest.web_corpora.parquet import next_rows, open_table
from babyvlm.curation.ingest.web_corpora.samples import Sample, stem
from babyvlm.errors import UserError
from babyvlm.io.files import fingerprint_files, read_bounded
from babyvlm.io.limits import MAX_FAILED_DOWNLOADS, MAX_TEXT_BYTES, TooLargeError, load_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Beside NAME.tar: a table with one row per link and its status, or only the counts.
TABLE_SUFFIX, COUNTS_SUFFIX = ".parquet", "_stats.json"
FAILURES = ("failed_to_download", "failed_to_resize")
BATCH_ROWS = 1024


def find_download_record(archive: Path) -> Path | None:
    """Return the file beside an archive that records failed downloads: the table, else the counts, else None.

    Raises:
        UserError: the table cannot be read.
    """
    table, counts = (archive.with_name(stem(archive) + suffix) for suffix in (TABLE_SUFFIX, COUNTS_SUFFIX))
    try:
        if table.is_file() and "status" in pq.read_schema(table).names:
            return table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(table, error) from None
    return counts if counts.is_file() else None


@dataclass(frozen=True)
class FailedDownloads:
    """A chunk of the samples that were requested but not downloaded, from the record at ``path``."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the archive."""
        return self.path.name.removesuffix(COUNTS_SUFFIX).removesuffix(TABLE_SUFFIX)

    @property
    def count(self) -> int:
        """Number of failed downloads; reads the record."""
        return sum(1 for _ in self.samples())

    @property
    def hash(self) -> str:
        """Hash of the record."""
        return fingerprint_files([self.path])

    def samples(self) -> Iterator[Sample]:
        """Yield one sample per failed download, with the reason as its problem."""
        is_table = self.path.name.endswith(TABLE_SUFFIX)
        for name, reason in _failures_in_table(self.path) if is_table else _failures_in_counts(self.path):
            yield Sample(f"{self.name}/{name}", None, None, f"download failed: {reason}")


def _failures_in_table(path: Path) -> Iterator[tuple[str, str]]:
    try:
        file = open_table(path)
        if file.metadata.num_rows > MAX_FAILED_DOWNLOADS:
            raise TooLargeError
        columns = [name for name in ("key", "status", "error_message") if name in file.schema_arrow.names]
        batches = file.iter_batches(BATCH_ROWS, columns=columns)
        number = 0
        while rows := next_rows(batches):
            for row in rows:
                if row["status"] != "success":
                    yield str(row.get("key", f"row {number}")), _reason(row["status"], row.get("error_message"))
                number += 1
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _reason(status: object, message: object = None) -> str:
    """Return one of a few reasons: messages name hosts and addresses, so there are thousands of them."""
    code = re.search(r"HTTP Error \d{3}", str(message))
    if code:
        return code[0]
    return {"failed_to_download": "other error", "failed_to_resize": "not an image"}.get(str(status), str(status))


def _failures_in_counts(path: Path) -> Iterator[tuple[str, str]]:
    try:
        counts: Any = load_json(read_bounded(path, MAX_TEXT_BYTES), MAX_TEXT_BYTES)
        failures = [(failure, int(counts[failure])) for failure in FAILURES]
        if sum(count for _, count in failures) > MAX_FAILED_DOWNLOADS:
            raise TooLargeError
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _unreadable(path, error) from None
    for failure, count in failures:
        for number in range(count):
            yield f"{failure} {number}", _reason(failure)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not readable as img2dataset's record of failed downloads ({type(error).__name__}). Create it again,"
        " or remove it and pass the number of links as --expected_count"
    )
