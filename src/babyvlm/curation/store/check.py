"""The command ``store check``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from babyvlm.curation.store.pair_store import FIELDS, GROUP_ROWS, PairStore
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.io.printing import Console, echo
from babyvlm.io.processes import process_pool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SPLITS = {"train", "val", "test"}


@dataclass
class _ShardReport:
    """The keys and groups of a shard, and the first problem in it; ``problem`` is empty for a sound shard."""

    problem: str = ""
    keys: list[str] = field(default_factory=list)
    split_of: dict[str, str] = field(default_factory=dict)


def check(store: Path, decode_images: bool = True, num_workers: int = 2) -> None:
    """Check a store: all checksums, schemas and rows, that keys are unique, and that every image can be decoded.

    Exits with status 2 and names the first invalid shard and row, if there is one.

    For example:
        python -m babyvlm store check --store stores/frames

    Args:
        store: pair store.
        decode_images: decode every image; without it only the tables are checked, which takes seconds.
        num_workers: processes; each checks one shard at a time.
    """
    require_at_least(1, num_workers=num_workers)
    source = PairStore(store)
    shards = source.manifest["shards"]
    missing = ", ".join(sorted(set(FIELDS) - set(source.manifest["columns"])))
    if missing:
        raise UserError(f"{source.path}/store.json: lacks the columns {missing}. Build the store again")
    unlisted = sorted({file.name for file in source.path.glob("*.parquet")} - {file.name for file in source.files})
    if unlisted:
        raise UserError(f"{source.path / unlisted[0]}: is not part of the store. Delete it")
    keys: set[str] = set()
    split_of: dict[str, str] = {}
    check_one = partial(_check_shard, source.path, source.manifest["columns"], decode_images)
    # The bar has a block of its own, so that it ends before an error is printed.
    with Progress(console=Console(stderr=True)) as bar, process_pool(num_workers, [__name__]) as run:
        reports = bar.track(run(check_one, shards), total=len(shards), description="checking")
        for shard, report in zip(shards, reports, strict=True):
            problem = report.problem or _conflict(report, keys, split_of)
            if problem:
                raise UserError(f"{source.path / shard['file']}: {problem}. Build the store again")
            keys.update(report.keys)
            split_of |= report.split_of
    decoded = "all images can be decoded" if decode_images else "images were not decoded"
    count = f"{len(keys):,} pairs in {len(shards)} shards"
    echo(f"{store}: valid. {count}; checksums, schema and keys are correct, {decoded}")


def _check_shard(folder: Path, columns: list[str], decode_images: bool, shard: Mapping[str, Any]) -> _ShardReport:
    path = folder / shard["file"]
    if not path.is_file():
        return _ShardReport("is missing")
    if artifacts.sha256_file(path) != shard["sha256"]:
        return _ShardReport("its checksum is not that of store.json: the file was changed or damaged")
    try:
        return _check_table(pq.ParquetFile(path), columns, decode_images, shard["rows"])
    except (OSError, pa.ArrowException) as error:
        return _ShardReport(f"cannot be read as Parquet ({error})")


def _check_table(file: pq.ParquetFile, columns: list[str], decode_images: bool, rows: int) -> _ShardReport:
    schema = file.schema_arrow
    if schema.names != columns or any(schema.field(name).type != kind for name, kind in FIELDS.items()):
        return _ShardReport(f"has the schema {', '.join(f'{column.name} {column.type}' for column in schema)}")
    if file.metadata.num_rows != rows:
        return _ShardReport(f"has {file.metadata.num_rows} rows, store.json says {rows}")
    report = _ShardReport()
    read = columns if decode_images else [name for name in columns if name != "image"]
    for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=read):
        for row in batch.to_pylist():
            problem = _problem(row, report.split_of)
            if problem:
                report.problem = f"row {len(report.keys)} (key {row['key']!r}): {problem}"
                return report
            report.keys.append(row["key"])
            report.split_of[row["group"]] = row["split"]
    return report


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
        return f"image cannot be decoded ({error})"
    return ""


def _conflict(report: _ShardReport, keys: set[str], split_of: Mapping[str, str]) -> str:
    """Return the problem that a shard has only together with the shards before it."""
    seen: set[str] = set()
    for row, key in enumerate(report.keys):
        if key in keys or key in seen:
            return f"row {row}: key {key!r} occurs more than once"
        seen.add(key)
    split = next((group for group, split in report.split_of.items() if split_of.get(group, split) != split), None)
    return "" if split is None else f"group {split!r} is in two splits"
