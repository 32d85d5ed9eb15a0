"""Bodies of responses as they arrive: no more bytes, packed or unpacked, and no more time than a reply may take."""

from __future__ import annotations

import zlib
from time import monotonic
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
MAX_REPLY_BYTES = 16 * MIB  # a completion with its reasoning takes some kilobytes
MAX_IMAGE_REPLY_BYTES = 96 * MIB  # an image in base64
MAX_RESULTS_BYTES = 1024 * MIB  # of a batch: 50,000 answers of at most 20 KB
FILE_CONTENT = "/content"  # end of the path of a file's content
GZIP_OR_ZLIB = 47  # zlib's code for finding out which


class OversizedError(httpx2.DecodingError):
    """A response is too large, or packed in a way that is not read. The message is the reason."""


class BoundedResponses:
    """A hook that an HTTP client calls with each response before it reads the body.

    The client would unpack a body of any size, a gigabyte from a megabyte, and wait for every byte anew.

    Args:
        max_bytes: of a body, but for the content of files.
        seconds: from the beginning of a body to its end, but for the content of files.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds

    def __call__(self, response: httpx2.Response) -> None:
        """Replace the stream of a response by one that keeps the limits, unpacked.

        Raises:
            OversizedError: it is packed in another way than by gzip, which alone was offered.
        """
        packing = response.headers.get("Content-Encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip"):
            raise OversizedError(f"a response packed by {packing!r}, which was not offered")
        response.headers.pop("Content-Encoding", None)  # or the client unpacks it again
        assert isinstance(response.stream, httpx2.SyncByteStream)
        is_file = response.request.url.path.endswith(FILE_CONTENT)
        response.stream = _Bounded(
            response.stream,
            is_packed=packing == "gzip",
            max_bytes=MAX_RESULTS_BYTES if is_file else self.max_bytes,
            seconds=None if is_file else self.seconds,
        )


class _Bounded(httpx2.SyncByteStream):
    def __init__(
        self, stream: httpx2.SyncByteStream, *, is_packed: bool, max_bytes: int, seconds: float | None
    ) -> None:
        self._stream, self._max_bytes, self._seconds = stream, max_bytes, seconds
        self._unpacker = zlib.decompressobj(GZIP_OR_ZLIB) if is_packed else None

    def __iter__(self) -> Iterator[bytes]:
        start, left = monotonic(), self._max_bytes
        for packed in self._stream:
            try:
                content = self._unpacker.decompress(packed, left + 1) if self._unpacker else packed
            except zlib.error as error:
                raise httpx2.DecodingError(str(error)) from None
            left -= len(content)
            if left < 0:
                raise OversizedError(f"a response of over {self._max_bytes // MIB} MiB")
            if self._seconds is not None and monotonic() - start > self._seconds:
                raise httpx2.ReadTimeout(f"the response was not complete after {self._seconds:g} s")
            yield content

    def close(self) -> None:
        self._stream.close()
