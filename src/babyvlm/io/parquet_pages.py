"""How much a column of a Parquet file unpacks to, by the headers of its pages.

The footer says it too, but nothing compares it with the pages: a reader allocates what the header of a page says. Arrow
does not show these headers, so they are read here (parquet-format, ``PageHeader``, in Thrift's compact protocol).
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from babyvlm.io.limits import MAX_UNPACKED_RATIO, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pyarrow.parquet import FileMetaData

# Read at first, and at most: Arrow's own limit for a header, which may contain statistics.
HEADER_BYTES = (1 << 12, 1 << 24)
UNPACKED_SIZE, PACKED_SIZE = 2, 3  # fields of a page header
# Kinds of values; a page header has no lists and no maps.
BOOLEANS, BYTE, INTEGERS, DOUBLE, BINARY, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, 12
MAX_DIGITS = 10  # bytes of an integer


def require_little_compressed(
    file: IO[bytes], metadata: FileMetaData, groups: Iterable[int], columns: Collection[str], free_bytes: int
) -> None:
    """Check that columns do not unpack to many times their size: a page, however large, is unpacked at once.

    Args:
        file: Parquet file.
        metadata: its footer.
        groups: row groups to check.
        columns: columns to check.
        free_bytes: that a column may take in a row group, whatever its size in the file.

    Raises:
        TooLargeError: one does.
        ValueError: the header of a page is damaged.
    """
    for group in groups:
        row_group = metadata.row_group(group)
        for chunk in map(row_group.column, range(row_group.num_columns)):
            if chunk.path_in_schema.partition(".")[0] not in columns or not chunk.num_values:
                continue
            limit = max(free_bytes, MAX_UNPACKED_RATIO * chunk.total_compressed_size)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
                start = chunk.dictionary_page_offset  # as Arrow does
            if max(chunk.total_uncompressed_size, unpacked_bytes(file, start, chunk.total_compressed_size)) > limit:
                raise TooLargeError("a column unpacks to many times its size")


def unpacked_bytes(file: IO[bytes], start: int, length: int) -> int:
    """Return the bytes that the pages of a column in a row group unpack to, with their headers.

    Args:
        file: Parquet file.
        start: position of its first page.
        length: of all of its pages with their headers.

    Raises:
        ValueError: a header is damaged.
    """
    total, end = 0, start + length
    while start < end:
        for size in HEADER_BYTES:
            file.seek(start)
            header = _Header(file.read(size))
            try:
                fields = header.struct()
            except (IndexError, RecursionError):  # longer, or damaged
                continue
            break
        else:
            raise ValueError("a page has no valid header")
        if min(fields.get(UNPACKED_SIZE, -1), fields.get(PACKED_SIZE, -1)) < 0:
            raise ValueError("a page has no size")
        total += header.position + fields[UNPACKED_SIZE]
        start += header.position + fields[PACKED_SIZE]
    return total


class _Header:
    """A reader of Thrift's compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content, self.position = content, 0

    def struct(self) -> dict[int, int]:
        """Return the integers of a struct by their number; other fields are skipped.

        Raises:
            IndexError: it is not complete, or not one that a page has.
        """
        fields: dict[int, int] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            value = self._value(head & 15)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int) -> int | None:
        """Return an integer, or skip another value."""
        if kind in INTEGERS:
            return self._integer()
        if kind == STRUCT:
            self.struct()
        elif kind in (BYTE, DOUBLE, BINARY):
            self._skip({BYTE: 1, DOUBLE: 8}.get(kind) or self._varint())
        elif kind not in BOOLEANS:
            raise IndexError(kind)
        return None

    def _byte(self) -> int:
        self.position += 1
        return self._content[self.position - 1]

    def _skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self._content):
            raise IndexError(size)

    def _varint(self) -> int:
        value = 0
        for digit in range(MAX_DIGITS):
            byte = self._byte()
            value |= (byte & 127) << 7 * digit
            if byte < 128:
                return value
        raise IndexError(value)

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
