"""Check a pair store to the last pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from babyvlm.curation.store.pair_store import FIELDS, GROUP_ROWS, PairStore
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.io.processes import process_pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SPLITS = {"train", "val", "test"}


@dataclass(frozen=True)
class _Shard:
    """What one shard says of its rows; ``problem`` is empty if it is sound."""

    keys: list[str]
    split_of: dict[str, str]
    problem: str


def check(store: Path, images: bool = True, workers: int = 2) -> None:
    """Check a store: every checksum, schema and row, that keys are unique, and that every image can be opened.

    Ends with exit code 2 and the first bad shard and row, if there is one.

    For example:
        python -m babyvlm store check --store stores/frames

    Args:
        store: pair store.
        images: decode every image; without it only the tables are checked, which takes seconds.
        workers: processes, each at one shard.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1")
    source = PairStore(store)
    shards = source.manifest["shards"]
    _check_files(source)
    keys: set[str] = set()
    splits: dict[str, str] = {}
    check_one = partial(_check_shard, source.path, source.manifest["columns"], images)
    # A bar in a block of its own ends before an error is told; that of `track` lives as long as its generator.
    with Progress(console=Console(stderr=True)) as bar, process_pool(workers, [__name__]) as run:
        checked = bar.track(run(check_one, shards), total=len(shards), description="checking")
        for shard, found in zip(shards, checked, strict=True):
            problem = found.problem or _clash(found, keys, splits)
            if problem:
                raise UserError(f"{source.path / shard['file']}: {problem}; make the store again")
            keys.update(found.keys)
            splits |= found.split_of
    opened = "every image opens" if images else "images were not opened"
    print(
        f"{store}: sound. {len(keys):,} pairs in {len(shards)} shards: checksums, schema and keys are right, {opened}"
    )


def _check_files(source: PairStore) -> None:
    manifest = source.manifest
    if not set(FIELDS) <= set(manifest["columns"]):
        missing = ", ".join(sorted(set(FIELDS) - set(manifest["columns"])))
        raise UserError(f"{source.path}/store.json: a pair store has also the columns {missing}; make the store again")
    unlisted = sorted({file.name for file in source.path.glob("*.parquet")} - {file.name for file in source.files})
    if unlisted:
        raise UserError(f"{source.path / unlisted[0]}: is no part of the store; remove it")


def _check_shard(folder: Path, columns: list[str], images: bool, shard: Mapping[str, Any]) -> _Shard:
    path = folder / shard["file"]
    if not path.is_file():
        return _Shard([], {}, "is missing")
    if artifacts.sha256_file(path) != shard["sha256"]:
        return _Shard([], {}, "has another checksum than store.json says: it was changed or damaged")
    try:
        return _check_table(pq.ParquetFile(path), columns, images, shard["rows"])
    except (OSError, pa.ArrowException) as error:
        return _Shard([], {}, f"cannot be read as Parquet ({error})")


def _check_table(file: pq.ParquetFile, columns: list[str], images: bool, rows: int) -> _Shard:
    schema = file.schema_arrow
    if schema.names != columns or any(schema.field(name).type != kind for name, kind in FIELDS.items()):
        return _Shard([], {}, f"has the schema {', '.join(f'{field.name} {field.type}' for field in schema)}")
    if file.metadata.num_rows != rows:
        return _Shard([], {}, f"has {file.metadata.num_rows} rows, store.json says {rows}")
    keys: list[str] = []
    split_of: dict[str, str] = {}
    wanted = columns if images else [name for name in columns if name != "image"]
    for row in _rows(file, wanted):
        problem = _problem(row, split_of)
        if problem:
            return _Shard(keys, split_of, f"row {len(keys)} (key {row['key']!r}): {problem}")
        keys.append(row["key"])
        split_of[row["group"]] = row["split"]
    return _Shard(keys, split_of, "")


def _rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=columns):
        yield from batch.to_pylist()


def _problem(row: Mapping[str, Any], split_of: Mapping[str, str]) -> str:
    empty = [name for name in FIELDS if name in row and row[name] is None]
    if empty:
        return f"{empty[0]} is null"
    if row["split"] not in SPLITS:
        return f"split is {row['split']!r}"
    if split_of.get(row["group"], row["split"]) != row["split"]:
        return f"group {row['group']!r} is in two splits"
    try:
        if "image" in row:
            open_rgb(row["image"])
    except BrokenImageError as error:
        return f"image cannot be opened ({error})"
    return ""


def _clash(shard: _Shard, keys: set[str], splits: Mapping[str, str]) -> str:
    """What is wrong only beside the shards before."""
    seen: set[str] = set()
    for row, key in enumerate(shard.keys):
        if key in keys or key in seen:
            return f"row {row}: key {key!r} came before"
        seen.add(key)
    torn = next((group for group, split in shard.split_of.items() if splits.get(group, split) != split), None)
    return "" if torn is None else f"group {torn!r} is in two splits"
