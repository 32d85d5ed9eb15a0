"""Read lists of image files: LLaVA's JSON, or a CSV. Paths in a list cannot leave its folders."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from babyvlm.curation.ingest.web_corpora.samples import CAPTION_COLUMNS, CHUNK_SAMPLES, Chunk, Sample
from babyvlm.errors import UserError
from babyvlm.io.files import combine_hashes, resolve_inside
from babyvlm.io.limits import MAX_ENTRY_BYTES, MAX_IMAGE_BYTES
from babyvlm.io.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IMAGE_COLUMNS = ("image", "file_name", "filepath")  # the last two are those of imagefolder and open_clip
USUAL_ENTRY_BYTES = 8192  # parsed at first, because a slice is copied
JSON_DECODER = json.JSONDecoder()
JSON_SPACE = re.compile(r"[ \t\r\n]*")


class ListEntry(NamedTuple):
    """An entry of a list: its id, the path of its image, its caption, and the problem if it cannot be read."""

    id: str
    image: str | None
    caption: str | None
    problem: str | None


@dataclass(frozen=True)
class ListChunk:
    """Consecutive entries of a list, and the folders that may contain their images."""

    folders: tuple[Path, ...]
    entries: tuple[ListEntry, ...]

    @property
    def name(self) -> str:
        """Id of the first entry."""
        return self.entries[0].id

    @property
    def count(self) -> int:
        """Number of entries."""
        return len(self.entries)

    @property
    def hash(self) -> str:
        """Hash of the entries; the images are not read."""
        return combine_hashes(repr(entry) for entry in self.entries)

    def samples(self) -> Iterator[Sample]:
        """Yield one sample per entry."""
        for entry in self.entries:
            image, problem = (None, entry.problem) if entry.problem else read_image(self.folders, entry.image)
            yield Sample(entry.id, image, entry.caption, problem)


def llava_chunks(path: Path) -> Iterator[Chunk]:
    """Divide LLaVA's list ``[{"id", "image", "conversations": [question, caption]}]``.

    Its images are in ``images/`` or beside it.
    """
    folders = [folder for folder in (path.parent / "images", path.parent) if folder.is_dir()]
    return _chunks(folders, _llava_entries(path))


def csv_chunks(path: Path) -> Iterator[Chunk]:
    """Divide a table with columns ``image`` (a path relative to the table's folder) and ``caption`` or ``text``."""
    return _chunks([path.parent], _csv_entries(path))


def _chunks(folders: Iterable[Path], entries: Iterator[ListEntry]) -> Iterator[Chunk]:
    folders = tuple(folders)
    while chunk := tuple(islice(entries, CHUNK_SAMPLES)):
        yield ListChunk(folders, chunk)


def _llava_entries(path: Path) -> Iterator[ListEntry]:
    ids: set[str] = set()
    for number, entry in enumerate(_json_elements(path)):
        try:
            image, caption = entry["image"], entry["conversations"][1]["value"]
        except (KeyError, IndexError, TypeError):
            yield ListEntry(f"entry {number}", None, None, "malformed entry")
            continue
        id_ = entry.get("id")
        id_ = str(id_ if isinstance(id_, str | int) else number)
        image, caption = (value if isinstance(value, str) else None for value in (image, caption))
        yield ListEntry(id_, image, caption, "duplicate id" if id_ in ids else None)
        ids.add(id_)


def _json_elements(path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON list one at a time: all objects of LLaVA's list together take a gigabyte.

    Raises:
        UserError: not a JSON list.
    """
    text = path.read_text("utf-8-sig", "surrogateescape")

    def skip_space(position: int) -> int:
        match = JSON_SPACE.match(text, position)
        return match.end() if match else position

    position = skip_space(0)
    if text[position : position + 1] != "[":
        raise UserError(f"{path}: not a JSON list of samples in LLaVA's format")
    position = skip_space(position + 1)
    try:
        while text[position : position + 1] != "]":
            element, position = _decode_entry(text, position)
            yield element
            position = skip_space(position)
            if text[position : position + 1] == ",":
                position = skip_space(position + 1)
            elif text[position : position + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def _decode_entry(text: str, position: int) -> tuple[Any, int]:
    """Return the JSON value at a position, and the position of its end. A long one could hold millions of others.

    Raises:
        ValueError: it is not valid, or exceeds a limit.
    """
    for length in (USUAL_ENTRY_BYTES, MAX_ENTRY_BYTES):
        part = text[position : position + length]
        try:
            element, size = JSON_DECODER.raw_decode(part)
        except ValueError:
            if position + length >= len(text):
                raise
            continue
        if size < length:  # else a number may have been cut
            return element, position + size
    raise json.JSONDecodeError("Invalid entry, or one over 1 MiB", text, position)


def _csv_entries(path: Path) -> Iterator[ListEntry]:
    table = read_table(path, escape_invalid=True)
    image, caption = (table.find(names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS))
    for number, row in enumerate(table):
        yield ListEntry(f"{number:09d}", row[image], row[caption], None)


def read_image(folders: Iterable[Path], name: str | None) -> tuple[bytes | None, str | None]:
    """Return the content of an image file that a list or table names, and the problem if it cannot be read."""
    if not name:
        return None, "image missing"
    paths = [resolve_inside(folder, name) for folder in folders]
    if None in paths:
        return None, "unsafe path"
    try:
        path = next((path for path in paths if path and path.is_file()), None)
        if path is None:
            return None, "image missing"
        return (path.read_bytes(), None) if path.stat().st_size <= MAX_IMAGE_BYTES else (None, "over 64 MiB")
    except OSError:  # no permission, or a name too long for the file system
        return None, "image cannot be read"
