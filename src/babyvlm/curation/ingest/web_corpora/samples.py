"""What readers of captioned images have in common: a source is cut into chunks, a chunk is read into samples.

A reader yields what it finds and says what is wrong with it; it judges neither picture nor caption. A chunk is read by
itself, in any process: so much work is lost at most if that is killed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHUNK_SAMPLES = 4096  # seconds of work; an archive is read as a whole, img2dataset's hold 10,000
LONGEST = 200  # of what a file that is no table has for columns, shown
CAPTION_COLUMNS = ("caption", "text")


class Sample(NamedTuple):
    """One captioned image as found; ``problem`` says why it cannot be had."""

    id: str
    image: bytes | None
    caption: str | None
    problem: str | None


class Chunk(Protocol):
    """Some samples of a source."""

    @property
    def name(self) -> str:
        """Of the chunk within its source."""
        ...

    @property
    def count(self) -> int | None:
        """How many samples; None if only reading it tells."""
        ...

    @property
    def hash(self) -> str:
        """Over what is known of its contents without opening images."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Its samples, the broken ones too."""
        ...


def stem(path: Path) -> str:
    """``a.b.tar.gz`` -> ``a.b``."""
    return re.sub(r"(\.tar\.gz|\.[^.]+)$", "", path.name)


def column(path: Path, columns: Iterable[str], names: tuple[str, ...]) -> str:
    """The first of ``names`` that a table has.

    Raises:
        UserError: it has none of them.
    """
    present = list(columns)
    found = next((name for name in names if name in present), None)
    if found is None:
        wanted, there = " or ".join(map(repr, names)), " ".join(", ".join(present).split())[:LONGEST] or "nothing"
        raise UserError(f"{path}: no column {wanted} (found {there})")
    return found
