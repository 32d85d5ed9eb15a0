"""Read captioned images from Parquet files, with bounded memory."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.curation.ingest.web_corpora.lists import read_image
from babyvlm.curation.ingest.web_corpora.samples import CAPTION_COLUMNS, CHUNK_SAMPLES, Chunk, Sample, first_text
from babyvlm.io.files import combine_hashes, fingerprint_files
from babyvlm.io.limits import FREE_COLUMN_BYTES, TooLargeError
from babyvlm.io.parquet_pages import require_little_compressed
from babyvlm.io.processes import bounded_memory
from babyvlm.io.tables import find_column

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1 << 20  # read from a file at a time, instead of a column of a complete row group
BATCH_ROWS = 1  # one image may take 64 MiB, and several times that while it is unpacked
MAX_BATCH_BYTES = 1 << 28  # extra memory for unpacking a batch; no table of web images needs more
IMAGE_COLUMNS = ("image", "jpg", "images", "jpeg", "png", "webp")  # the second is img2dataset's


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
            with self.path.open("rb") as opened:
                require_little_compressed(opened, file.metadata, self.groups, (image, caption), FREE_COLUMN_BYTES)
            batches = file.iter_batches(BATCH_ROWS, list(self.groups), [image, caption])
            number = self.first_row
            while rows := next_rows(batches):
                for row in rows:
                    content, problem = self._image(row[image])
                    yield Sample(f"{self.path.stem}/{number:09d}", content, first_text(row[caption]), problem)
                    number += 1
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            problem = f"file is damaged ({type(error).__name__}); the rest of the chunk was not read"
            yield Sample(self.name, None, None, problem)

    def _image(self, value: object) -> tuple[bytes | None, str | None]:
        """Return an image and the problem if it cannot be read."""
        if isinstance(value, list):
            if value and isinstance(value[0], int):
                return bytes(value), None
            if len(value) > 1:
                return None, "several images in one row"
            value = value[0] if value else None
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes")
            if not value and isinstance(path, str) and path:
                return read_image([self.path.parent], path)
        if isinstance(value, str) and value:
            try:
                return base64.b64decode(value, validate=True), None
            except ValueError:
                return None, "image is a path or URL, not bytes"
        return (value, None) if isinstance(value, bytes) else (None, "image missing")


def parquet_chunks(path: Path) -> Iterator[Chunk]:
    """Divide a table with a column of images and one of captions.

    Images are bytes, in base64 too, lists of one, or structs of Hugging Face with the bytes or the path of a file.
    """
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
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve memory beforehand, which no limit can take back
    return pq.ParquetFile(path, buffer_size=READ_BYTES)


def next_rows(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    """Return the rows of the next batch; none at the end.

    Raises:
        MemoryError: unpacking the batch takes more than ``MAX_BATCH_BYTES``.
    """
    with bounded_memory(MAX_BATCH_BYTES):
        batch = next(batches, None)
        return [] if batch is None else list(batch.to_pylist())
