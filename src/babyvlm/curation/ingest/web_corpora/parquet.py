"""Captioned images in Parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.curation.ingest.web_corpora.samples import CAPTION_COLUMNS, CHUNK_SAMPLES, Chunk, Sample, column
from babyvlm.io.files import combine_hashes, fingerprint_files
from babyvlm.io.processes import bounded_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1 << 20  # of a file at a time, instead of a column of a whole row group
BATCH_ROWS = 16
# That a batch may take while it is unpacked; what unpacks to more is no table of web images.
MAX_MEMORY = 1 << 29
IMAGE_COLUMNS = ("image", "jpg")  # img2dataset's output says "jpg"


@dataclass(frozen=True)
class ParquetChunk:
    """Consecutive row groups of a Parquet file."""

    path: Path
    groups: tuple[int, ...]
    first_row: int
    count: int

    @property
    def name(self) -> str:
        """File and first row."""
        return f"{self.path.stem}/{self.first_row:09d}"

    @property
    def hash(self) -> str:
        """Of the file and the place in it."""
        return combine_hashes([fingerprint_files([self.path]), self.name, str(self.groups)])

    def samples(self) -> Iterator[Sample]:
        """A sample a row."""
        try:
            file = open_table(self.path)
            names = [column(self.path, file.schema_arrow.names, choice) for choice in (IMAGE_COLUMNS, CAPTION_COLUMNS)]
            batches = file.iter_batches(BATCH_ROWS, list(self.groups), names)
            number = self.first_row
            while rows := unpacked(batches):
                for row in rows:
                    yield _sample(f"{self.path.stem}/{number:09d}", row[names[0]], row[names[1]])
                    number += 1
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            reason = f"file damaged ({type(error).__name__}): the rest of the chunk is not read"
            yield Sample(self.name, None, None, reason)


def open_table(path: Path) -> pq.ParquetFile:
    """A Parquet file that is read in small pieces."""
    return pq.ParquetFile(path, buffer_size=READ_BYTES)


def unpacked(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    """The rows of the next batch, none at the end; ``MemoryError`` if they ask for too much."""
    with bounded_memory(MAX_MEMORY):
        batch = next(batches, None)
        return [] if batch is None else list(batch.to_pylist())


def _sample(name: str, image: object, caption: object) -> Sample:
    image = image.get("bytes") if isinstance(image, dict) else image
    text = caption if isinstance(caption, str) else None
    return Sample(name, image, text, None) if isinstance(image, bytes) else Sample(name, None, text, "image missing")


def cut_parquet(path: Path) -> Iterator[Chunk]:
    """A table with a column of image bytes (or of structs that hold ``bytes``) and one of captions."""
    try:
        metadata = pq.ParquetFile(path).metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowException):
        sizes = [0]  # the chunk says what is wrong
    start, first_row = 0, 0
    for group in range(len(sizes)):
        if sum(sizes[start : group + 1]) >= CHUNK_SAMPLES or group + 1 == len(sizes):
            count = sum(sizes[start : group + 1])
            yield ParquetChunk(path, tuple(range(start, group + 1)), first_row, count)
            start, first_row = group + 1, first_row + count
