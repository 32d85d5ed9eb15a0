"""Captioned images in the four forms that people bring, each read as a stream of samples.

A reader yields what it finds and says what is wrong with it; it judges neither picture nor caption.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.contracts import UserError
from babyvlm.curation.files import inside
from babyvlm.curation.sound_images import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp"}
IMAGE_COLUMNS = ("image", "jpg")  # img2dataset's Parquet output says "jpg"
CAPTION_COLUMNS = ("caption", "text")


class Sample(NamedTuple):
    """One captioned image as found; ``problem`` says why it cannot be had."""

    id: str
    image: bytes | None
    caption: str | None
    problem: str | None


class Source(NamedTuple):
    """One thing the user named: its files, how to read them, and how a key leads back into them."""

    name: str
    files: list[Path]
    read: Callable[[Path], Iterator[Sample]]
    key: str


def find_source(path: Path) -> Source:
    """Say what ``path`` is: an archive, a Parquet file, a LLaVA list, a CSV, or a folder of one of these kinds.

    In a folder the first kind present counts, in this order: img2dataset leaves Parquet tables and JSON counts that
    hold no picture beside its tars.

    Raises:
        UserError: it is none of these, or a folder with several lists.
    """
    kinds = (((".tar", ".tar.gz", ".tgz"), read_tar), ((".parquet",), read_parquet), ((".csv",), read_csv),
             ((".json",), read_llava))  # fmt: skip
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    for suffixes, read in kinds:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.name.endswith(suffixes))
        else:
            files = [path] if path.name.endswith(suffixes) else []
        if len(files) > 1 and read in (read_csv, read_llava):
            raise UserError(f"{path}: holds {len(files)} {suffixes[0]} lists; name the one that is meant")
        if files:
            return Source(path.name if path.is_dir() else _stem(path), files, read, KEYS[read])
    raise UserError(f"{path}: holds no .tar, .parquet, .csv or .json of captioned images")


def _stem(path: Path) -> str:
    """``a.b.tar.gz`` -> ``a.b``."""
    return re.sub(r"(\.tar\.gz|\.[^.]+)$", "", path.name)


def read_llava(path: Path) -> Iterator[Sample]:
    """LLaVA's list ``[{"id", "image", "conversations": [question, caption]}]``; images in ``images/`` or beside it."""
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a list of samples as LLaVA's (found {type(entries).__name__})")
    folders = [folder for folder in (path.parent / "images", path.parent) if folder.is_dir()]
    for number, entry in enumerate(entries):
        try:
            name, caption = entry["image"], entry["conversations"][1]["value"]
        except (KeyError, IndexError, TypeError):
            yield Sample(f"entry {number}", None, None, "malformed entry")
            continue
        image, problem = _read_image(folders, name)
        yield Sample(str(entry.get("id", number)), image, caption if isinstance(caption, str) else None, problem)


def read_csv(path: Path) -> Iterator[Sample]:
    """A table with columns ``image`` (path relative to the table's folder) and ``caption`` or ``text``."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            image_column, caption_column = (_column(path, columns, names) for names in (("image",), CAPTION_COLUMNS))
            for number, row in enumerate(rows):
                image, problem = _read_image([path.parent], row[image_column])
                yield Sample(f"{number:09d}", image, row[caption_column], problem)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}); export it again as UTF-8") from None


def read_parquet(path: Path) -> Iterator[Sample]:
    """A table with a column of image bytes (or of structs that hold ``bytes``) and one of captions."""
    try:
        file = pq.ParquetFile(path)
        names = [_column(path, file.schema_arrow.names, choice) for choice in (IMAGE_COLUMNS, CAPTION_COLUMNS)]
        number = 0
        for batch in file.iter_batches(batch_size=64, columns=names):
            for row in batch.to_pylist():
                image, caption = row[names[0]], row[names[1]]
                image = image.get("bytes") if isinstance(image, dict) else image
                problem = None if isinstance(image, bytes) else "image missing"
                yield Sample(f"{path.stem}/{number:09d}", image, caption if isinstance(caption, str) else None, problem)
                number += 1
    except (OSError, pa.ArrowException) as error:
        yield Sample(path.stem, None, None, f"file damaged ({type(error).__name__}): the rest of it is not read")


def read_tar(path: Path) -> Iterator[Sample]:
    """A WebDataset archive: members with the same name up to the first dot, one after another, are a sample.

    The caption is the ``.txt`` member, else ``caption`` in the ``.json`` one. Members that are no plain files or
    whose names lead out of the archive are never read.
    """
    shard = _stem(path)
    name, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if member.isdir():
                    continue
                problem = _refuse(member)
                if problem:
                    yield Sample(f"{shard}/{member.name}", None, None, problem)
                    continue
                stem, suffix = _split_name(member.name)
                if stem != name:
                    yield from _sample(shard, name, parts)
                    name, parts = stem, {}
                content = tar.extractfile(member)
                parts[suffix] = content.read() if content else b""
            yield from _sample(shard, name, parts)
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        yield Sample(shard, None, None, "archive damaged: the rest of it is not read")


def _refuse(member: tarfile.TarInfo) -> str | None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if not member.isfile() or path.is_absolute() or ".." in path.parts:
        return "unsafe member"
    return "over 64 MiB" if member.size > MAX_BYTES else None


def _split_name(name: str) -> tuple[str, str]:
    """``a/b.c.jpg`` -> (``a/b``, ``c.jpg``), as WebDataset does."""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def _sample(shard: str, name: str, parts: dict[str, bytes]) -> Iterator[Sample]:
    if not parts:
        return
    image = next((content for suffix, content in parts.items() if suffix in IMAGE_SUFFIXES), None)
    caption, problem = _tar_caption(parts)
    yield Sample(f"{shard}/{name}", image, caption, "image missing" if image is None else problem)


def _tar_caption(parts: dict[str, bytes]) -> tuple[str | None, str | None]:
    try:
        if "txt" in parts:
            return parts["txt"].decode(), None
        caption: Any = json.loads(parts.get("json", b"{}")).get("caption")
    except (ValueError, AttributeError):
        return None, "caption not readable"
    return caption if isinstance(caption, str) else None, None


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise if the archive did not end with an empty block: tarfile takes a damaged header for its end."""
    if tar.fileobj is not None:
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("damaged header")


def _read_image(folders: list[Path], name: object) -> tuple[bytes | None, str | None]:
    """The bytes of a file that a list names, or the reason why it cannot be had."""
    if not isinstance(name, str) or not name:
        return None, "image missing"
    paths = [inside(folder, name) for folder in folders]
    if None in paths:
        return None, "unsafe path"
    path = next((path for path in paths if path and path.is_file()), None)
    if path is None:
        return None, "image missing"
    if path.stat().st_size > MAX_BYTES:
        return None, "over 64 MiB"
    try:
        return path.read_bytes(), None
    except OSError:
        return None, "image not readable"


def _column(path: Path, columns: Any, names: tuple[str, ...]) -> str:  # noqa: ANN401  a list or a tuple, by library
    found: str | None = next((name for name in names if name in columns), None)
    if found is None:
        raise UserError(f"{path}: no column {' or '.join(map(repr, names))} (found {', '.join(columns)})")
    return found


KEYS = {
    read_tar: "SOURCE/ARCHIVE/NAME: the members NAME.* of the archive of that name",
    read_parquet: "SOURCE/FILE/ROW: that row, from 0, of the file of that name",
    read_csv: "SOURCE/ROW: that row, from 0, below the heading",
    read_llava: "SOURCE/ID: the first sound entry with that id, or the entry of that number, from 0, if it has none",
}
