"""What all readers of web corpora share: a source is divided into chunks, and a chunk is read into samples.

A reader yields every sample that it finds, with the problem if it cannot be read; it validates neither image nor
caption. Each chunk can be read independently, in any process, so an interruption costs at most the chunks in progress.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_SAMPLES = 4096  # seconds of work. An archive is one chunk; img2dataset's contain 10,000 samples
CAPTION_COLUMNS = ("caption", "text", "title", "txt")  # the last two are those of open_clip and WebDataset


class Sample(NamedTuple):
    """One captioned image as found; ``problem`` says why it cannot be read."""

    id: str
    image: bytes | None
    caption: str | None
    problem: str | None


class Chunk(Protocol):
    """Some samples of a source."""

    @property
    def name(self) -> str:
        """Name of the chunk within its source."""
        ...

    @property
    def count(self) -> int | None:
        """Number of samples; None if it is unknown before reading."""
        ...

    @property
    def hash(self) -> str:
        """Hash of what is known of the contents without reading images."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Yield all samples, including those that cannot be read."""
        ...


def stem(path: Path) -> str:
    """Return the file name without its suffix; ``.tar.gz`` counts as one suffix."""
    return re.sub(r"(\.tar\.gz|\.[^.]+)$", "", path.name, flags=re.IGNORECASE)


def decode_text(content: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: it is in another encoding.
    """
    has_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if has_mark else "utf-8-sig")
    if 3 * text.count("\0") > len(text):
        raise ValueError("UTF-16 without a byte order mark, or UTF-32")
    return text


def caption_of(metadata: object) -> str | None:
    """Return the caption in the metadata of a sample, or None. If there are several, the first.

    Raises:
        AttributeError: the metadata are not an object.
    """
    fields = {str(name).lower(): value for name, value in metadata.items()}  # type: ignore[attr-defined]
    return first_text(next((fields[name] for name in CAPTION_COLUMNS if fields.get(name)), None))


def first_text(value: object) -> str | None:
    """Return a caption, or the first of a list of captions; None if there is none."""
    first = next(iter(value), None) if isinstance(value, list) else value
    return first if isinstance(first, str) else None
