"""Test items to look at, with their pictures: what models say of them, which of two models got them right.

All of it goes by the guard (``licence.py``): of a list that is not known to be free nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from babyvlm.benchmarks.trials import read_rows
from babyvlm.curation.contact_sheet import thumbnail
from babyvlm.errors import UserError
from babyvlm.io.files import resolve_inside
from babyvlm.io.images import BrokenImageError
from babyvlm.report.licence import free_list, trained_on_free
from babyvlm.report.runs import MAIN, Row, Run
from babyvlm.report.table_formats import Section

SHOWN = 8  # examples on a page
SCORED = "In brackets METEOR 1.5."


@dataclass(frozen=True)
class Example:
    """A test item.

    Attributes:
        pictures: JPEGs.
        text: what belongs to it.
        said: by model, what it makes of it.
    """

    pictures: Sequence[bytes]
    text: str
    said: Sequence[tuple[str, str]] = ()


@dataclass
class Examples:
    """Items that may be shown.

    Attributes:
        shown: the items.
        left_out: which rows' words are not shown.
    """

    shown: list[Example] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def caption_examples(rows: Iterable[Row]) -> Examples:
    """Pictures with their reference and what each row's first seed says of them, evenly spread over the list."""
    found = Examples()
    said: dict[str, dict[str, tuple[str, float]]] = {}
    lists: dict[Path, Path] = {}
    for row in rows:
        captions = _captions(row.runs[0])
        if not captions:
            continue
        free = free_list(row.runs[0], "caption") if trained_on_free(row.runs[0].path) else None
        if free is None:
            found.left_out.append(row.name)
        else:
            lists[free[0]] = free[1]
            said[row.name] = captions
    for trials, images in list(lists.items())[:1]:  # of one world there is one list
        found.shown = list(_spread(trials, images, said))
    return found


def caption_sections(rows: Sequence[Row]) -> Iterator[Section]:
    """The same in words alone, for the terminal; nothing if no row was tested on captions that may be shown."""
    shown = caption_examples(rows).shown
    if shown:
        heading = ["a caregiver said", *(f"{row} says" for row, _ in shown[0].said)]
        yield Section("Captions", [heading, *([one.text, *(said for _, said in one.said)] for one in shown)], SCORED)


def _captions(run: Run) -> dict[str, tuple[str, float]]:
    """Item -> caption and METEOR 1.5."""
    kept = run.selected(MAIN[3])
    if kept is None:
        return {}
    columns = (kept[name].to_pylist() for name in ("item", "said", "credit"))
    return {item: (caption, credit) for item, caption, credit in zip(*columns, strict=True)}


def _spread(trials: Path, images: Path, said: dict[str, dict[str, tuple[str, float]]]) -> Iterable[Example]:
    known = [row for row in _read(trials) if all(f"{row[0]}:{row[1]}" in captions for captions in said.values())]
    for line, image, text in known[:: max(1, -(-len(known) // SHOWN))]:
        picture = show(images, image)
        if picture is not None:
            told = [(row, captions[f"{line}:{image}"]) for row, captions in said.items()]
            yield Example([picture], text, [(row, f"{caption} ({meteor:.2f})") for row, (caption, meteor) in told])


def _read(trials: Path) -> list[tuple[int, str, str]]:
    try:
        return [(row.line, row["image"], row["text"]) for row in read_rows(trials, ("image", "text"))]
    except UserError:  # another list by now
        return []


def show(images: Path, name: str) -> bytes | None:
    """A picture of a free list, small; None if it is gone, broken, or a link to elsewhere."""
    path = resolve_inside(images, name)
    try:
        return None if path is None else thumbnail(path)
    except BrokenImageError:
        return None
