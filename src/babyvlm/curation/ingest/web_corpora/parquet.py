"""Read captioned images from Parquet files, with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.curation.ingest.web_corpora.samples import CAPTION_COLUMNS, CHUNK_SAMPLES, Chunk, Sample
from babyvlm.io.files import combine_hashes, fingerprint_files
from babyvlm.io.limits import TooLargeError
from babyvlm.io.processes import bounded_memory
from babyvlm.io.tables import find_column

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1 << 20  # read from a file at a time, instead of a column of a complete row group
BATCH_ROWS = 16
MAX_BATCH_BYTES = 1 << 29  # extra memory for unpacking a batch; no table of web images needs more
IMAGE_COLUMNS = ("image", "jpg")  # the second is img2dataset's


@dataclass(frozen=True)
class ParquetChunk:
    """Consecutive row groups of a Parquet file."""

    path: Path
    groups: tuple[int, ...]
    first_row: int
    count: int

    @property
    def name(self) -> str:
        """File name and first row."""
        return f"{self.path.stem}/{self.first_row:09d}"

    @property
    def hash(self) -> str:
        """Hash of the file and the position in it."""
        return combine_hashes([fingerprint_files([self.path]), self.name, str(self.groups)])

    def samples(self) -> Iterator[Sample]:
        """Yield one sample per row."""
        try:
            file = open_table(self.path)
            columns = file.schema_arrow.names
            if file.metadata.num_rows > self.path.stat().st_size:  # less than a byte for an image
                raise TooLargeError
            image, caption = (find_column(self.path, columns, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS))
            batches = file.iter_batches(BATCH_ROWS, list(self.groups), [image, caption])
            number = self.first_row
            while rows := next_rows(batches):
                for row in rows:
                    yield _sample(f"{self.path.stem}/{number:09d}", row[image], row[caption])
                    number += 1
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            problem = f"file is damaged ({type(error).__name__}); the rest of the chunk was not read"
            yield Sample(self.name, None, None, problem)


def parquet_chunks(path: Path) -> Iterator[Chunk]:
    """Divide a table with a column of image bytes (or of structs with a field ``bytes``) and one of captions."""
    try:
        metadata = pq.ParquetFile(path).metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowException):
        sizes = [0]  # reading the chunk reports the error
    start, first_row = 0, 0
    for group in range(len(sizes)):
        count = sum(sizes[start : group + 1])
        if count >= CHUNK_SAMPLES or group + 1 == len(sizes):
            yield ParquetChunk(path, tuple(range(start, group + 1)), first_row, count)
            start, first_row = group + 1, first_row + count


def open_table(path: Path) -> pq.ParquetFile:
    """Open a Parquet file that is read in small pieces."""
    return pq.ParquetFile(path, buffer_size=READ_BYTES)


def next_rows(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    """Return the rows of the next batch; none at the end.

    Raises:
        MemoryError: unpacking the batch takes more than ``MAX_BATCH_BYTES``.
    """
    with bounded_memory(MAX_BATCH_BYTES):
        batch = next(batches, None)
        return [] if batch is None else list(batch.to_pylist())


def _sample(id_: str, image: object, caption: object) -> Sample:
    image = image.get("bytes") if isinstance(image, dict) else image
    text = caption if isinstance(caption, str) else None
    return Sample(id_, image, text, None) if isinstance(image, bytes) else Sample(id_, None, text, "image missing")
