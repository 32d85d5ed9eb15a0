"""Lists of images in folders: LLaVA's JSON, or a CSV. No path leads out of the folders."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from babyvlm.curation.ingest.image_validation import MAX_BYTES
from babyvlm.curation.ingest.web_corpora.samples import CAPTION_COLUMNS, CHUNK_SAMPLES, Chunk, Sample, column
from babyvlm.errors import UserError
from babyvlm.io.files import combine_hashes, resolve_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Listed(NamedTuple):
    """An entry of a list of images."""

    id: str
    image: str | None
    caption: str | None
    problem: str | None


@dataclass(frozen=True)
class ListChunk:
    """Consecutive entries of a list, with the folders their images may be in."""

    folders: tuple[Path, ...]
    entries: tuple[Listed, ...]

    @property
    def name(self) -> str:
        """The first entry's."""
        return self.entries[0].id

    @property
    def count(self) -> int:
        """Of the entries."""
        return len(self.entries)

    @property
    def hash(self) -> str:
        """Of the entries; the images are not opened for it."""
        return combine_hashes(repr(entry) for entry in self.entries)

    def samples(self) -> Iterator[Sample]:
        """A sample an entry."""
        for entry in self.entries:
            image, problem = (None, entry.problem) if entry.problem else _read_image(self.folders, entry.image)
            yield Sample(entry.id, image, entry.caption, problem)


def _list_chunks(folders: Iterable[Path], entries: Iterator[Listed]) -> Iterator[Chunk]:
    kept = tuple(folders)
    while chunk := tuple(islice(entries, CHUNK_SAMPLES)):
        yield ListChunk(kept, chunk)


def cut_llava(path: Path) -> Iterator[Chunk]:
    """LLaVA's list ``[{"id", "image", "conversations": [question, caption]}]``; images in ``images/`` or beside it."""
    folders = [folder for folder in (path.parent / "images", path.parent) if folder.is_dir()]
    return _list_chunks(folders, _llava_entries(path))


def _llava_entries(path: Path) -> Iterator[Listed]:
    seen: set[str] = set()
    for number, entry in enumerate(_json_list(path)):
        try:
            name, caption = entry["image"], entry["conversations"][1]["value"]
        except (KeyError, IndexError, TypeError):
            yield Listed(f"entry {number}", None, None, "malformed entry")
            continue
        given = entry.get("id")
        id_ = str(given if isinstance(given, str | int) else number)
        name, caption = (value if isinstance(value, str) else None for value in (name, caption))
        yield Listed(id_, name, caption, "id came before" if id_ in seen else None)
        seen.add(id_)


def _json_list(path: Path) -> Iterator[Any]:
    """The elements of a JSON list, one as an object at a time: half a million of LLaVA's take a gigabyte at once.

    Raises:
        UserError: it is no JSON list.
    """
    text = path.read_text("utf-8-sig", "surrogateescape")
    decode, skip = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*")

    def past_space(place: int) -> int:
        found = skip.match(text, place)
        return found.end() if found else place

    place = past_space(0)
    if text[place : place + 1] != "[":
        raise UserError(f"{path}: not a JSON list of samples as LLaVA's")
    place = past_space(place + 1)
    try:
        while text[place : place + 1] != "]":
            element, place = decode(text, place)
            yield element
            place = past_space(place)
            if text[place : place + 1] == ",":
                place = past_space(place + 1)
            elif text[place : place + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def cut_csv(path: Path) -> Iterator[Chunk]:
    """A table with columns ``image`` (path relative to the table's folder) and ``caption`` or ``text``."""
    return _list_chunks([path.parent], _csv_entries(path))


def _csv_entries(path: Path) -> Iterator[Listed]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            image_column, caption_column = (column(path, columns, names) for names in (("image",), CAPTION_COLUMNS))
            for number, row in enumerate(rows):
                yield Listed(f"{number:09d}", row[image_column], row[caption_column], None)
    except csv.Error as error:
        raise UserError(f"{path}: not readable as CSV ({error})") from None


def _read_image(folders: Iterable[Path], name: str | None) -> tuple[bytes | None, str | None]:
    """The bytes of a file that a list names, or the reason why it cannot be had."""
    if not name:
        return None, "image missing"
    paths = [resolve_inside(folder, name) for folder in folders]
    if None in paths:
        return None, "unsafe path"
    try:
        path = next((path for path in paths if path and path.is_file()), None)
        if path is None:
            return None, "image missing"
        return (path.read_bytes(), None) if path.stat().st_size <= MAX_BYTES else (None, "over 64 MiB")
    except OSError:  # no right to read it, or a name too long for the file system
        return None, "image not readable"
