"""A pair store as other tools want it: WebDataset archives, or an image folder with a CSV."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import track

from babyvlm.curation.store.pair_store import SHARD_ROWS, PairStore
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))


@artifacts.one_at_a_time
def export(
    store: Path, out: Path, format: Literal["webdataset", "folder"] = "webdataset", licensed_export: bool = False
) -> None:
    """Export a store for other tools, whole or not at all. `curate web` reads both forms again.

    `webdataset` makes archives `00000.tar`, ... of `000000000.jpg`, `.txt` (utterance) and `.json` (all other
    columns). `folder` makes `images/00000/000000000.jpg`, ... and `pairs.csv`. An export that was interrupted goes on
    where it was.

    For example:
        python -m babyvlm store export --store stores/web --format folder --out pictures

    Args:
        store: pair store.
        out: folder to make.
        format: what to make.
        licensed_export: export also a licensed store. You answer for where its frames and utterances go.
    """
    source = PairStore(store)
    if source.licensed and not licensed_export:
        raise UserError(
            f"{store}: is licensed, its frames and utterances may not leave this machine; "
            "if your licence allows what you want with them, say --licensed_export true"
        )
    arguments = {"command": "export", "store": source.fingerprint, "format": format}
    if artifacts.is_complete(out, "export", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    manifest = {"arguments": arguments, "licensed": source.licensed, "rows": len(source), "ancestors": source.lineage}
    with artifacts.create(out, "export", manifest, keep_partial=True) as partial:
        write = _write_tar if format == "webdataset" else _write_images
        for number in track(range(len(source.files)), "exporting", console=Console(stderr=True)):
            write(partial, number, source)
        if format == "folder":
            _join_lists(partial, source)
    print(f"{out}: {len(source):,} pairs")


def _write_tar(folder: Path, number: int, source: PairStore) -> None:
    """Commit the archive of one shard, unless it is there."""
    path = folder / f"{number:05d}.tar"
    if path.exists():
        return
    beside = folder / artifacts.SCRATCH / path.name
    with tarfile.open(beside, "w") as tar:
        for name, row in _named(number, source):
            image = row.pop("image")
            others = json.dumps({column: row[column] for column in row if column != "utterance"}, ensure_ascii=True)
            for suffix, content in (
                (_suffix(image), image),
                ("txt", row["utterance"].encode()),
                ("json", others.encode()),
            ):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    beside.rename(path)


def _write_images(folder: Path, number: int, source: PairStore) -> None:
    """Commit the images of one shard and the rows that name them, unless they are there."""
    images = folder / "images" / f"{number:05d}"
    if images.exists():
        return
    beside = folder / artifacts.SCRATCH / "images"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    rows = []
    for name, row in _named(number, source):
        image = row.pop("image")
        file = f"{name}.{_suffix(image)}"
        (beside / file).write_bytes(image)
        rows.append([f"images/{number:05d}/{file}", *row.values()])
    _list_of(folder, number).write_text(json.dumps(rows))
    images.parent.mkdir(exist_ok=True)
    beside.rename(images)


def _join_lists(folder: Path, source: PairStore) -> None:
    columns = ["caption" if name == "utterance" else name for name in source.manifest["columns"] if name != "image"]
    lists = (json.loads(_list_of(folder, number).read_text()) for number in range(len(source.files)))
    write_csv(folder / "pairs.csv", chain([["image", *columns]], chain.from_iterable(lists)))


def _list_of(folder: Path, number: int) -> Path:
    return folder / artifacts.SCRATCH / f"{number:05d}.json"


def _named(number: int, source: PairStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a shard, each with a name that is safe in every file system; the key stands beside it."""
    for offset, row in enumerate(source.shard_rows(number)):
        yield f"{number * SHARD_ROWS + offset:09d}", row


def _suffix(image: bytes) -> str:
    return next((suffix for magic, suffix in MAGIC if image.startswith(magic)), "jpg")
