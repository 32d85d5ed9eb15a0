"""Export a pair store for other tools: WebDataset archives, or an image folder with a CSV file."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.progress import track

from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import SHARD_ROWS, PairStore
from babyvlm.io import artifacts
from babyvlm.io.files import write_csv
from babyvlm.io.images import image_suffix
from babyvlm.io.license_gate import require_free
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Iterator


@stage
def export(
    store: Path, out: Path, format: Literal["webdataset", "folder"] = "webdataset", licensed_export: bool = False
) -> Stage:
    """Export a store for other tools. `curate web` reads both formats.

    `webdataset` writes archives `00000.tar`, ... of `000000000.jpg`, `.txt` (utterance) and `.json` (all other
    columns). `folder` writes `images/00000/000000000.jpg`, ... and `pairs.csv`. If the export is interrupted, run the
    same command again and it resumes.

    For example:
        python -m babyvlm store export --store stores/web --format folder --out exported

    Args:
        store: pair store.
        out: folder to create.
        format: output format.
        licensed_export: allow the export of a licensed store. You are responsible for where its images and utterances
            go.
    """
    source = PairStore(store)
    record = require_free(store, licensed=source.licensed, permitted=licensed_export)
    folder = yield Artifact(
        "export",
        {"command": "export", "store": source, "format": format, **record},
        manifest={"licensed": source.licensed, "rows": len(source)},
        resumable=True,
    )
    write = _write_tar if format == "webdataset" else _write_images
    numbers = range(len(source.files))
    for number in track(numbers, "exporting", console=Console(stderr=True)):
        write(folder, number, source)
    if format == "folder":
        columns = ["caption" if name == "utterance" else name for name in source.manifest["columns"] if name != "image"]
        lists = (json.loads(_list_path(folder, number).read_text()) for number in numbers)
        write_csv(folder / "pairs.csv", chain([["image", *columns]], chain.from_iterable(lists)))
    return f"{len(source):,} pairs"


def _write_tar(folder: Path, number: int, source: PairStore) -> None:
    """Write the archive of one shard, unless it exists."""
    path = folder / f"{number:05d}.tar"
    if path.exists():
        return
    temporary = folder / artifacts.SCRATCH / path.name
    with tarfile.open(temporary, "w") as tar:
        for name, row in _named_rows(number, source):
            image, utterance = row.pop("image"), row.pop("utterance")
            for suffix, content in (
                (image_suffix(image), image),
                ("txt", utterance.encode()),
                ("json", json.dumps(row, ensure_ascii=True).encode()),
            ):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    temporary.rename(path)


def _write_images(folder: Path, number: int, source: PairStore) -> None:
    """Write the images of one shard and the rows that name them, unless they exist."""
    images = folder / "images" / f"{number:05d}"
    if images.exists():
        return
    temporary = folder / artifacts.SCRATCH / "images"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    rows = []
    for name, row in _named_rows(number, source):
        image = row.pop("image")
        file = f"{name}.{image_suffix(image)}"
        (temporary / file).write_bytes(image)
        rows.append([f"images/{number:05d}/{file}", *row.values()])
    _list_path(folder, number).write_text(json.dumps(rows))
    images.parent.mkdir(exist_ok=True)
    temporary.rename(images)


def _list_path(folder: Path, number: int) -> Path:
    return folder / artifacts.SCRATCH / f"{number:05d}.json"


def _named_rows(number: int, source: PairStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a shard, each with a file name that is valid on every file system (a key may not be)."""
    for offset, row in enumerate(source.shard_rows(number)):
        yield f"{number * SHARD_ROWS + offset:09d}", row
