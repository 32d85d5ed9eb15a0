"""Read WebDataset archives from untrusted sources: nothing is written to disk, and no header can request much memory.

Consecutive members of the same name form a sample, as in WebDataset. ``tarfile`` is not used directly,
because it reads headers of any size and remembers every member.
"""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.web_corpora.samples import Chunk, Sample, caption_of, decode_text, stem
from babyvlm.errors import UserError
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

# Members that contain a caption, in the order of preference.
TEXT_SUFFIXES = ("txt", "caption", "text", "json")
SEVERAL = "several captions, none of which has the name of its image"
MAX_REMEMBERED = 20_000  # samples that lack their image or caption; an archive of img2dataset has 10,000 samples


class Compression(NamedTuple):
    """A kind of archive that is not read: its name, first bytes and suffixes, and the command that unpacks it."""

    name: str
    magic: bytes
    suffixes: tuple[str, ...]
    command: str


# Besides gzip. Python's readers cannot limit the memory of xz, and it has none for Zstandard.
UNSUPPORTED = (
    Compression("xz", b"\xfd7zXZ", (".tar.xz", ".txz"), "xz --decompress"),
    Compression("bzip2", b"BZh", (".tar.bz2", ".tbz2", ".tbz"), "bzip2 --decompress"),
    Compression("Zstandard", b"\x28\xb5\x2f\xfd", (".tar.zst", ".tzst"), "zstd --decompress"),
    Compression("zip", b"PK\x03\x04", (".zip",), "unzip"),
)


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

        The caption is the ``.txt`` member (or ``.caption``, ``.text``), else the caption in the ``.json`` member.
        Members that are not regular files or whose names lead out of the archive are never read.

        Raises:
            UserError: the members of a sample are not next to each other.
        """
        archive = stem(self.path)
        has_image_of: dict[int, bool] = {}  # by hash of the name, of samples that have only an image or only a caption
        for name, found in self._groups():
            if isinstance(found, str):
                yield Sample(f"{archive}/{name}" if name else archive, None, None, found)
                continue
            for key, members in _divide(name, found):
                has_image = _image(members) is not None
                if has_image != (not members.keys().isdisjoint(TEXT_SUFFIXES)):
                    self._require_sorted(key, has_image, has_image_of)
                yield _sample(f"{archive}/{key}", members)

    def _groups(self) -> Iterator[tuple[str, dict[str, bytes] | str]]:
        """Yield consecutive members of one name, by suffix, and problems: those of the archive have no name."""
        name, members, size = "", dict[str, bytes](), 0
        try:
            for member, content in _read_members(self.path):
                if isinstance(content, str):
                    yield member, content
                    continue
                base, suffix = _split_name(member)
                if base != name:
                    yield name, members
                    name, members, size = base, {}, 0
                size += len(content)
                if size > MAX_SAMPLE_BYTES:
                    members, size = {}, 0
                    yield name, "sample over 96 MiB"
                    continue
                members[suffix] = content
        except Exception:  # damaged bytes make tarfile and zlib raise many kinds of errors, including RecursionError
            yield name, members
            yield "", "archive is damaged; the rest was not read"
        else:
            yield name, members

    def _require_sorted(self, key: str, has_image: bool, has_image_of: dict[int, bool]) -> None:
        if has_image_of.get(hash(key), has_image) != has_image:
            raise UserError(
                f"{self.path}: image and caption of {key!r} are not next to each other. Sort the archive: mkdir"
                f" sorted && tar -xf {self.path.name} -C sorted && tar -cf {self.path.name} --sort=name -C sorted ."
            )
        if len(has_image_of) < MAX_REMEMBERED:
            has_image_of[hash(key)] = has_image


def tar_chunks(path: Path) -> Iterator[Chunk]:
    """Return a WebDataset archive as one chunk.

    Raises:
        UserError: it is compressed in a way that is not read.
    """
    require_supported(path)
    yield TarChunk(path)


def require_supported(path: Path) -> None:
    """Check the name and the first bytes of an archive.

    Raises:
        UserError: it is compressed in a way that is not read.
    """
    with path.open("rb") as file:
        beginning = file.read(8)
    for name, magic, suffixes, command in UNSUPPORTED:
        if not beginning.startswith(magic) and not path.name.lower().endswith(suffixes):
            continue
        fix = f"Unpack it ({command} {path.name}), or compress it with gzip"
        if name == "zip":
            tar = f"tar -cf {path.stem}.tar --sort=name -C unpacked ."
            fix = f"Convert it: mkdir unpacked && unzip {path.name} -d unpacked && {tar}"
        raise UserError(f"{path}: is compressed with {name}, which is not supported. {fix}")


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
    if member.name.lower().endswith(TEXT_SUFFIXES) and member.size > MAX_TEXT_BYTES:
        return "text over 1 MiB"
    return "over 64 MiB" if member.size > MAX_IMAGE_BYTES else None


def _split_name(name: str) -> tuple[str, str]:
    """Return the name of a sample and the rest of its member's name.

    WebDataset divides at the first dot: ``a/b.jpg`` -> (``a/b``, ``jpg``), ``a/b.input.jpg`` -> (``a/b``,
    ``input.jpg``). Where what lies between the dots is not a word, the name itself contains dots: ``photo.1.jpg`` ->
    (``photo.1``, ``jpg``).
    """
    folder, _, base = name.rpartition("/")
    first, _, suffix = base.partition(".")
    if "." in suffix and not suffix.rpartition(".")[0].replace(".", "").isalpha():
        first, _, suffix = base.rpartition(".")
    return f"{folder}/{first}" if folder else first, suffix.lower()


def _divide(name: str, members: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Divide consecutive members into samples, and yield the members of each by the last part of their suffix.

    ``b.input.jpg`` and ``b.output.txt`` are one sample. If there are several images, as in ``b.left.jpg``,
    ``b.left.txt``, ``b.right.jpg``, ``b.right.txt``, each is a sample. A second image without a caption beside
    ``b.jpg``, such as ``b.mask.png``, is not a sample. Of several texts for one image, ``b.txt`` is the caption; if it
    is missing, as in ``b.question.txt``, ``b.answer.txt``, the sample has no text but a member ``SEVERAL``.
    """
    parts: dict[str, dict[str, bytes]] = {}
    for suffix, content in members.items():
        field, _, kind = suffix.rpartition(".")
        parts.setdefault(field, {})[kind] = content
    with_image = [field for field, part in parts.items() if _image(part) is not None]
    if len(with_image) > 1:
        for field, part in parts.items():
            if "" not in with_image or not field or (field in with_image and not part.keys().isdisjoint(TEXT_SUFFIXES)):
                yield f"{name}.{field}" if field else name, part
    elif parts:
        merged: dict[str, bytes] = {}
        for field in sorted(parts, key=len, reverse=True):  # `b.jpg` comes before `b.input.jpg`
            merged |= parts[field]
        kind = next((kind for kind in TEXT_SUFFIXES if kind in merged), "")
        if kind not in parts.get("", {}) and sum(kind in part for part in parts.values()) > 1:
            merged = {suffix: content for suffix, content in merged.items() if suffix not in TEXT_SUFFIXES}
            merged[SEVERAL] = b""
        only = next(iter(parts)) if len(parts) == 1 else ""
        yield f"{name}.{only}" if only else name, merged


def _image(members: dict[str, bytes]) -> bytes | None:
    # img2dataset stores originals without a suffix if it does not know their format.
    suffixes = (*(suffix[1:] for suffix in IMAGE_SUFFIXES), "")
    return next((members[suffix] for suffix in suffixes if suffix in members), None)


def _sample(id_: str, members: dict[str, bytes]) -> Sample:
    image = _image(members)
    caption, problem = (None, SEVERAL) if SEVERAL in members else _caption(members)
    if image is None:
        unsupported = next((suffix for suffix in members if f".{suffix}" in UNSUPPORTED_SUFFIXES), None)
        problem = f"image format is not supported (.{unsupported})" if unsupported else "image missing"
    return Sample(id_, image, caption, problem)


def _caption(members: dict[str, bytes]) -> tuple[str | None, str | None]:
    """Return the caption, and the problem if it cannot be decoded."""
    try:
        for suffix in TEXT_SUFFIXES:
            content = members.get(suffix, b"")
            caption = caption_of(load_json(content)) if suffix == "json" and content else decode_text(content)
            if caption and caption.strip():
                return caption, None
    except (ValueError, AttributeError):
        return None, "caption is not valid text"
    return None, None
