"""Read WebDataset archives from untrusted sources: nothing is written to disk, and no header can request much memory.

Consecutive members with the same name up to the first dot form a sample. ``tarfile`` is not used directly,
because it reads headers of any size and remembers every member.
"""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from babyvlm.curation.ingest.web_corpora.samples import Chunk, Sample, stem
from babyvlm.io.files import fingerprint_files
from babyvlm.io.images import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES
from babyvlm.io.limits import (
    FREE_MEMBERS,
    FREE_UNPACKED_BYTES,
    MAX_HEADER_BYTES,
    MAX_IMAGE_BYTES,
    MAX_SAMPLE_BYTES,
    MAX_TEXT_BYTES,
    MAX_UNPACKED_RATIO,
    load_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT_SUFFIXES = {"txt", "json"}


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
                if sum(map(len, members.values())) + len(content) > MAX_SAMPLE_BYTES:
                    members.clear()
                    yield Sample(f"{archive}/{name}", None, None, "sample over 96 MiB")
                    continue
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
    """The stream that tarfile reads headers from. It refuses long headers and remembers the last read.

    tarfile reads as many bytes at once as a header says, and keeps those of all headers of one member.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.last_read = b""
        self.left = MAX_HEADER_BYTES  # set again before each member

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError("header too long")
        self.last_read = self._stream.read(size)
        return self.last_read


def _read_members(path: Path) -> Iterator[tuple[str, bytes | str]]:
    """Yield the name of each file in an archive and its content (bytes), or the reason why it is not read (str)."""
    packed = path.stat().st_size
    with path.open("rb") as file, _decompressed(file) as stream:
        max_unpacked = packed if stream is file else FREE_UNPACKED_BYTES + MAX_UNPACKED_RATIO * packed
        headers = _HeaderStream(stream)
        tar = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
        count = 0
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them, possibly millions
            headers.left = MAX_HEADER_BYTES
            count += not member.isdir()
            if count > FREE_MEMBERS + packed // 32:
                raise tarfile.ReadError("more members than an archive of its size can hold")
            problem = _problem(member)
            if problem:
                yield member.name, problem
            # Skipping a member of a compressed archive means decompressing it.
            if member.offset_data + member.size > max_unpacked:
                raise tarfile.ReadError("truncated, or unpacks to many times its size")
            if not problem and not member.isdir():
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
    if _split_name(member.name)[1] in TEXT_SUFFIXES and member.size > MAX_TEXT_BYTES:
        return "text over 1 MiB"
    return "over 64 MiB" if member.size > MAX_IMAGE_BYTES else None


def _split_name(name: str) -> tuple[str, str]:
    """``a/b.c.jpg`` -> (``a/b``, ``c.jpg``), as WebDataset does."""
    folder, _, base = name.rpartition("/")
    first, _, suffix = base.partition(".")
    return f"{folder}/{first}" if folder else first, suffix.lower()


def _sample(archive: str, name: str, members: dict[str, bytes]) -> Iterator[Sample]:
    if not members:
        return
    # img2dataset stores originals without a suffix if it does not know their format.
    image = next((content for suffix, content in members.items() if f".{suffix}" in (*IMAGE_SUFFIXES, ".")), None)
    caption, problem = _caption(members)
    if image is None:
        unsupported = next((suffix for suffix in members if f".{suffix}" in UNSUPPORTED_SUFFIXES), None)
        problem = f"image format is not supported (.{unsupported})" if unsupported else "image missing"
    yield Sample(f"{archive}/{name}", image, caption, problem)


def _caption(members: dict[str, bytes]) -> tuple[str | None, str | None]:
    """Return the caption, and the problem if it cannot be decoded."""
    try:
        if "txt" in members:
            return members["txt"].decode(), None
        metadata: Any = load_json(members.get("json", b"{}"))
        caption = metadata.get("caption")
    except (ValueError, AttributeError):
        return None, "caption is not valid text"
    return caption if isinstance(caption, str) else None, None
