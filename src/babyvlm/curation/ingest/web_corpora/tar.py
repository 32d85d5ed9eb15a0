"""WebDataset archives, read without trust: nothing is unpacked, and no header may ask for much memory.

Members with the same name up to the first dot, one after another, are a sample.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from babyvlm.curation.ingest.image_validation import MAX_BYTES
from babyvlm.curation.ingest.web_corpora.samples import Chunk, Sample, stem
from babyvlm.io.files import fingerprint_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp"}
# Names, links and attributes of a member; tarfile reads as much of them at once as the header says. PATH_MAX is 4 KiB.
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class TarChunk:
    """An archive."""

    path: Path

    @property
    def name(self) -> str:
        """The archive's."""
        return stem(self.path)

    @property
    def count(self) -> None:
        """Not known."""
        return

    @property
    def hash(self) -> str:
        """Of its edges and length."""
        return fingerprint_files([self.path])

    def samples(self) -> Iterator[Sample]:
        """Its samples in order."""
        return read_tar(self.path)


def cut_tar(path: Path) -> Iterator[Chunk]:
    """A WebDataset archive."""
    yield TarChunk(path)


class _Headers:
    """What tarfile sees of an archive: as much at a time as a header may need."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.last = b""  # what was read last

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("header too long")
        self.last = self._stream.read(size)
        return self.last


def read_tar(path: Path) -> Iterator[Sample]:
    """The samples of an archive.

    The caption is the ``.txt`` member, else ``caption`` in the ``.json`` one. Members that are no plain files or
    whose names lead out of the archive are never read.
    """
    archive = stem(path)
    name, parts, damaged = "", dict[str, bytes](), False
    try:
        for member, content in _contents(path):
            if isinstance(content, str):
                yield Sample(f"{archive}/{member}", None, None, content)
                continue
            base, suffix = _split_name(member)
            if base != name:
                yield from _sample(archive, name, parts)
                name, parts = base, {}
            parts[suffix] = content
    except Exception:  # hostile bytes make tarfile and zlib raise many things, RecursionError among them
        damaged = True
    yield from _sample(archive, name, parts)
    if damaged:
        yield Sample(archive, None, None, "archive damaged: the rest of it is not read")


def _contents(path: Path) -> Iterator[tuple[str, bytes | str]]:
    """Name and content of each file in an archive, or the reason why it is not read."""
    with path.open("rb") as file, _plain(file) as stream:
        headers = _Headers(stream)
        tar = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers them all, and there may be millions
            problem = _refuse(member)
            if problem:
                yield member.name, problem
                if stream is not file and member.size > MAX_BYTES:
                    raise tarfile.ReadError("to pass over it would mean to unpack it")
            elif not member.isdir():
                stream.seek(member.offset_data)
                content = stream.read(member.size)
                if len(content) < member.size:
                    raise tarfile.ReadError("cut short")
                yield member.name, content
        if headers.last.strip(b"\0"):
            raise tarfile.ReadError("tarfile takes a damaged header for the end")


def _plain(file: IO[bytes]) -> IO[bytes]:
    """The archive as a plain one, whatever its name says."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if compressed else file  # type: ignore[return-value]


def _refuse(member: tarfile.TarInfo) -> str | None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if member.isdir():
        return None
    if not member.isreg() or member.issparse() or path.is_absolute() or ".." in path.parts:
        return "unsafe member"
    return "over 64 MiB" if member.size > MAX_BYTES else None


def _split_name(name: str) -> tuple[str, str]:
    """``a/b.c.jpg`` -> (``a/b``, ``c.jpg``), as WebDataset does."""
    folder, _, base = name.rpartition("/")
    first, _, suffix = base.partition(".")
    return f"{folder}/{first}" if folder else first, suffix.lower()


def _sample(archive: str, name: str, parts: dict[str, bytes]) -> Iterator[Sample]:
    if not parts:
        return
    image = next((content for suffix, content in parts.items() if suffix in IMAGE_SUFFIXES), None)
    caption, problem = _caption(parts)
    yield Sample(f"{archive}/{name}", image, caption, "image missing" if image is None else problem)


def _caption(parts: dict[str, bytes]) -> tuple[str | None, str | None]:
    try:
        if "txt" in parts:
            return parts["txt"].decode(), None
        caption: Any = json.loads(parts.get("json", b"{}")).get("caption")
    except (ValueError, AttributeError, RecursionError):
        return None, "caption not readable"
    return caption if isinstance(caption, str) else None, None
