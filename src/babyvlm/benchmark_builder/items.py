"""Items that one step of building a benchmark hands to the next: an image with a matching and a wrong phrase."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from babyvlm.benchmarks.trials import read_rows
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import resolve_inside, safe_name, write_csv
from babyvlm.io.printing import spreadsheet_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# The authors' columns; VTWT's word class is ours.
LABELED_COLUMNS = ("trial_id", "target_category", "real_category", "image")
VTWT_COLUMNS = ("image", "positive_phrase", "negative_phrase", "word_class")
WINOGROUND_COLUMNS = ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag")
COLUMNS = ("item", "image", "positive_phrase", "negative_phrase", "word_class")
LIST = "items.csv"


@dataclass(frozen=True)
class Item:
    """An image and two phrases.

    Attributes:
        name: unique in its list.
        image: path below the folder of the items.
        positive: the phrase that matches the image.
        negative: the phrase that does not.
        word_class: what differs between them: ``noun``, ``verb``, ``adjective`` or ``both`` words.
        notes: provenance; further columns of the list.
    """

    name: str
    image: str
    positive: str
    negative: str
    word_class: str
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """A folder of items: ``items.csv``, the images, and the manifest ``items.json``.

    Raises:
        UserError: on first use, if the folder is not one of items.
    """

    path: Path

    @cached_property
    def manifest(self) -> artifacts.Manifest:
        """Content of ``items.json``."""
        return artifacts.read_manifest(self.path, "items")

    @property
    def fingerprint(self) -> str:
        """Hash of the contents."""
        return artifacts.fingerprint(self.path, "items")

    @property
    def lineage(self) -> dict[str, artifacts.Manifest]:
        """The items and all artifacts that they were built from, by fingerprint."""
        return artifacts.lineage(self.path, "items")

    @property
    def licensed(self) -> bool:
        """Whether images and phrases must stay on this machine: the items' own flag, or that of any ancestor."""
        return artifacts.is_licensed(self.manifest)

    @cached_property
    def rows(self) -> dict[str, Item]:
        """Items by name, in the order of the list."""
        found: dict[str, Item] = {}
        for row in read_rows(self.path / LIST, COLUMNS):
            notes = {name: cell for name, cell in row.cells.items() if name not in COLUMNS}
            name, path, positive, negative, word_class = (row[column] for column in COLUMNS)
            item = Item(name, path, positive, negative, word_class, notes)
            image = resolve_inside(self.path, item.image)
            if image is None or not image.is_file():
                raise UserError(f"{self.path / LIST}, row {row.line}: image {item.image!r} is not in {self.path}")
            safe_name(item.name, f"{self.path / LIST}, row {row.line}: item")
            if item.name in found:
                raise UserError(f"{self.path / LIST}, row {row.line}: duplicate item {item.name!r}")
            found[item.name] = item
        return found


def write_items(folder: Path, items: Iterable[Item]) -> dict[str, str]:
    """Write the list of items whose images are in ``folder``; all items have the same notes.

    Returns:
        Hashes of the list and of each image, for the manifest.
    """
    items = list(items)
    notes = list(items[0].notes) if items else []
    rows = [
        (
            *(item.name, item.image, item.positive, item.negative, item.word_class),
            *(spreadsheet_cell(item.notes[note]) for note in notes),  # for people; the other columns are read back
        )
        for item in items
    ]
    write_csv(folder / LIST, [(*COLUMNS, *notes), *rows])
    return {name: artifacts.sha256_file(folder / name) for name in [LIST, *dict.fromkeys(item.image for item in items)]}
