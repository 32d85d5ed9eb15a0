"""Read lists of image files: LLaVA's JSON, or a CSV. Paths in a list cannot leave its folders."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from babyvlm.curation.ingest.image_validation import InvalidSampleError
from babyvlm.curation.ingest.web_corpora.samples import CAPTION_COLUMNS, CHUNK_SAMPLES, Chunk, Sample
from babyvlm.errors import UserError
from babyvlm.io.files import combine_hashes, resolve_inside, stored_name
from babyvlm.io.limits import MAX_ENTRY_BYTES, MAX_IMAGE_BYTES
from babyvlm.io.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IMAGE_COLUMNS = ("image", "file_name", "filepath", "images")  # the others are those of imagefolder, open_clip and TRL
ANSWERING_ROLES = ("gpt", "assistant")  # of LLaVA, and of lists in the form of chat templates
NO_LIST = "not a JSON list of samples in LLaVA's format, nor JSON lines with the fields image and conversations"
IMAGE_TOKEN = "<image>"  # the place of the image in a conversation
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
    """Divide LLaVA's list ``[{"id", "image", "conversations": [{"from": "human", ...}, {"from": "gpt", ...}]}]``.

    Its images are in ``images/`` or beside it. Lists in JSON lines are read too, and entries with a field ``text`` or
    ``caption`` instead of a conversation.
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
        image, caption, problem = None, None, None
        try:
            image, caption = image_and_caption(entry)
        except InvalidSampleError as error:
            problem = str(error)
        id_ = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id_, str | int):
            id_ = number if isinstance(entry, dict) else f"entry {number}"
        yield ListEntry(str(id_), image, caption, "duplicate id" if str(id_) in ids else problem)
        ids.add(str(id_))


def image_and_caption(entry: object) -> tuple[str, str]:
    """Return the path of the image of an entry, and its caption: what the model answers, wherever it stands.

    Raises:
        InvalidSampleError: the entry has no image or several, or not exactly one answer.
    """
    if not isinstance(entry, dict):
        raise InvalidSampleError("malformed entry")
    image = next((entry[name] for name in IMAGE_COLUMNS if entry.get(name)), None)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, list) and len(image) > 1:
        raise InvalidSampleError("several images")
    if not isinstance(image, str):
        raise InvalidSampleError("no image named")
    turns = next((entry[name] for name in ("conversations", "messages") if name in entry), None)
    if turns is None:
        caption = next((entry[name] for name in CAPTION_COLUMNS if name in entry), None)
    elif isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        answers = [turn.get("value", turn.get("content")) for turn in turns if _role(turn) in ANSWERING_ROLES]
        if len(answers) != 1:
            raise InvalidSampleError("several answers" if answers else "no answer by gpt or assistant")
        caption = answers[0]
        if isinstance(caption, list):  # the parts of a chat template
            caption = " ".join(str(part["text"]) for part in caption if isinstance(part, dict) and "text" in part)
    else:
        raise InvalidSampleError("malformed entry")
    if not isinstance(caption, str):
        raise InvalidSampleError("no caption")
    return image, caption.replace(IMAGE_TOKEN, " ")


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("from", turn.get("role"))).lower()


def _json_elements(path: Path) -> Iterator[Any]:
    """Yield the elements of a list, as JSON or JSON lines, one at a time: all together take a gigabyte.

    Raises:
        UserError: it is neither.
    """
    text = path.read_text("utf-8-sig", "surrogateescape")

    def skip_space(position: int) -> int:
        match = JSON_SPACE.match(text, position)
        return match.end() if match else position

    start = position = skip_space(0)
    try:
        if text[position : position + 1] == "{":  # JSON lines
            while position < len(text):
                element, end = _decode_entry(text, position)
                if position == start and not element.keys() & IMAGE_COLUMNS:
                    raise UserError(f"{path}: {NO_LIST}")
                position = end
                yield element
                position = skip_space(position)
            return
        if text[position : position + 1] != "[":
            raise UserError(f"{path}: {NO_LIST}")
        position = skip_space(position + 1)
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
        return None, "no image named"
    if any(resolve_inside(folder, name) is None for folder in folders):
        return None, "unsafe path"
    try:
        path = next((path for path in (_stored_file(folder, name) for folder in folders) if path), None)
        if path is None:
            return None, "image missing"
        return (path.read_bytes(), None) if path.stat().st_size <= MAX_IMAGE_BYTES else (None, "over 64 MiB")
    except OSError:  # no permission, or a name too long for the file system
        return None, "image cannot be read"


def _stored_file(folder: Path, name: str) -> Path | None:
    def find(name: str) -> Path | None:
        path = resolve_inside(folder, name)
        return path if path and path.is_file() else None

    return find(stored_name(name, lambda spelling: find(spelling) is not None))
