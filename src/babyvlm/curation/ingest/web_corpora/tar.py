"""Read WebDataset archives from untrusted sources: nothing is written to disk, and no header can request much memory.

Consecutive members with the same name up to the first dot form a sample. ``tarfile`` is not used directly,
because it reads headers of any size and remembers every member.
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
# For the names, links and attributes of a member: tarfile reads as many bytes at once as the header says. PATH_MAX is
# 4 KiB.
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class TarChunk:
    """A complete archive."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the archive."""
        return stem(self.path)

    @property
    def count(self) -> None:
        """Unknown before reading."""
        return

    @property
    def hash(self) -> str:
        """Hash of the archive's length, start and end."""
        return fingerprint_files([self.path])

    def samples(self) -> Iterator[Sample]:
        """Yield the samples of the archive.

        The caption is the ``.txt`` member, else ``caption`` in the ``.json`` member. Members that are not regular files
        or whose names lead out of the archive are never read.
        """
        archive = stem(self.path)
        name, members, damaged = "", dict[str, bytes](), False
        try:
            for member, content in _read_members(self.path):
                if isinstance(content, str):
                    yield Sample(f"{archive}/{member}", None, None, content)
                    continue
                base, suffix = _split_name(member)
                if base != name:
                    yield from _sample(archive, name, members)
                    name, members = base, {}
                members[suffix] = content
        except Exception:  # damaged bytes make tarfile and zlib raise many kinds of errors, including RecursionError
            damaged = True
        yield from _sample(archive, name, members)
        if damaged:
            yield Sample(archive, None, None, "archive is damaged; the rest was not read")


def tar_chunks(path: Path) -> Iterator[Chunk]:
    """Return a WebDataset archive as one chunk."""
    yield TarChunk(path)


class _HeaderStream:
    """The stream that tarfile reads headers from. It refuses long reads and remembers the last one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.last_read = b""

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("header too long")
        self.last_read = self._stream.read(size)
        return self.last_read


def _read_members(path: Path) -> Iterator[tuple[str, bytes | str]]:
    """Yield the name of each file in an archive and its content (bytes), or the reason why it is not read (str)."""
    with path.open("rb") as file, _decompressed(file) as stream:
        headers = _HeaderStream(stream)
        tar = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them, possibly millions
            problem = _problem(member)
            if problem:
                yield member.name, problem
                if stream is not file and member.size > MAX_BYTES:
                    raise tarfile.ReadError("skipping this member would mean decompressing it")
            elif not member.isdir():
                stream.seek(member.offset_data)
                content = stream.read(member.size)
                if len(content) < member.size:
                    raise tarfile.ReadError("truncated")
                yield member.name, content
        if headers.last_read.strip(b"\0"):
            raise tarfile.ReadError("tarfile treats a damaged header as the end of the archive")


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """Return the uncompressed archive; its first bytes decide, not its name."""
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[return-value]


def _problem(member: tarfile.TarInfo) -> str | None:
    """Return why a member must not be read."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if member.isdir():
        return None
    if not member.isreg() or member.issparse() or path.is_absolute() or ".." in path.parts:
        return "unsafe archive member"
    return "over 64 MiB" if member.size > MAX_BYTES else None


def _split_name(name: str) -> tuple[str, str]:
    """``a/b.c.jpg`` -> (``a/b``, ``c.jpg``), as WebDataset does."""
    folder, _, base = name.rpartition("/")
    first, _, suffix = base.partition(".")
    return f"{folder}/{first}" if folder else first, suffix.lower()


def _sample(archive: str, name: str, members: dict[str, bytes]) -> Iterator[Sample]:
    if not members:
        return
    image = next((content for suffix, content in members.items() if suffix in IMAGE_SUFFIXES), None)
    caption, problem = _caption(members)
    yield Sample(f"{archive}/{name}", image, caption, "image missing" if image is None else problem)


def _caption(members: dict[str, bytes]) -> tuple[str | None, str | None]:
    """Return the caption, and the problem if it cannot be decoded."""
    try:
        if "txt" in members:
            return members["txt"].decode(), None
        caption: Any = json.loads(members.get("json", b"{}")).get("caption")
    except (ValueError, AttributeError, RecursionError):
        return None, "caption is not valid text"
    return caption if isinstance(caption, str) else None, None
