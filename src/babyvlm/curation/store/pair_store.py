"""The pair store: Parquet shards with the image bytes inside, and a ``store.json`` that says where they came from."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from babyvlm.errors import UserError, first_line
from babyvlm.io import artifacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from babyvlm.curation.funnel import Funnel

SCHEMA_VERSION = 1
MANIFEST = ("arguments", "columns", "licensed", "rows", "shards")  # what no reader can do without
SHARD_ROWS = 4096  # about 60 MB of 224-pixel JPEGs
GROUP_ROWS = 256  # rows read at once; divides SHARD_ROWS, so that row n is in group n // 256
FIELDS = {
    "key": pa.string(),
    "image": pa.binary(),
    "utterance": pa.string(),
    "source": pa.string(),
    "group": pa.string(),
    "split": pa.string(),
}


def split_of(group: str) -> str:
    """The split of a group: 90 % train, 5 % val, 5 % test (paper), by a hash, so that it survives every later stage."""
    bucket = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 90 else "val" if bucket < 95 else "test"


def write_store(
    out: Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    arguments: Mapping[str, Any],
    funnel: Funnel,
    licensed: bool,
    extra_fields: Mapping[str, pa.DataType] | None = None,
    ancestors: Mapping[str, artifacts.Manifest] | None = None,
    raw: Mapping[str, Any] | None = None,
    attach: Callable[[Path], None] | None = None,
) -> PairStore:
    """Write a pair store ``out``, whole or not at all.

    Args:
        out: the folder to make.
        rows: the columns of ``Pair`` and of ``extra_fields``; read once, a few hundred held at a time.
        arguments: what the store is a function of, inputs' fingerprints included; compared by ``made_already``.
        funnel: filled while ``rows`` is read; kept in ``store.json``.
        licensed: whether its frames and utterances may never leave the machine.
        extra_fields: columns that this stage adds.
        ancestors: the ``lineage`` of what it is made from.
        raw: by source, if it is made from raw files: the ``files``, and how a ``key`` leads to what is in them.
        attach: called with the folder when all rows are written, to lay reading aids beside the manifest.

    Raises:
        UserError: no row was left, or a key came twice.
    """
    schema = pa.schema(list((FIELDS | dict(extra_fields or {})).items()))
    manifest: artifacts.Manifest = {
        "schema_version": SCHEMA_VERSION,
        "arguments": dict(arguments),
        "licensed": licensed,
        "ancestors": dict(ancestors or {}),
        "raw": dict(raw or {}),
    }
    keys: set[str] = set()
    with artifacts.create(out, "store", manifest) as partial:
        shards: list[dict[str, Any]] = []
        groups = _groups(rows)
        while first := next(groups, None):
            path = partial / f"part-{len(shards):05d}.parquet"
            written = _write_shard(path, schema, chain([first], islice(groups, SHARD_ROWS // GROUP_ROWS - 1)))
            shards.append({"file": path.name, "rows": len(written), "sha256": artifacts.sha256_file(path)})
            keys.update(written)
        count = sum(shard["rows"] for shard in shards)
        if not count:
            raise UserError(f"{out}: nothing was left to write. {funnel}".replace("\n", ";"))
        if len(keys) != count:
            raise UserError(f"{out}: {count - len(keys)} keys came more than once; keys must be unique in a store")
        if attach:
            attach(partial)
        manifest |= {"rows": count, "columns": schema.names, "shards": shards, "funnel": funnel.as_dict()}
    return PairStore(out)


def write_rows(
    out: Path,
    source: PairStore,
    rows_M: NDArray[np.int64],
    *,
    arguments: Mapping[str, Any],
    funnel: Funnel,
    ancestors: Mapping[str, artifacts.Manifest] | None = None,
) -> PairStore:
    """Write some rows of a store, as they are, as another store; as ``write_store``.

    Args:
        out: the folder to make.
        source: where the rows are.
        rows_M: their numbers, ascending.
        arguments: what the store is a function of.
        funnel: filled already.
        ancestors: the ``lineage`` of what chose the rows; that of ``source`` goes without saying.
    """
    with Progress(console=Console(stderr=True)) as bar:
        picked = bar.track(source.picked(rows_M), total=len(rows_M), description="copying")
        return write_store(
            out,
            (row for _, row in picked),
            arguments=arguments,
            funnel=funnel,
            licensed=source.licensed,
            extra_fields=source.extra_fields,
            ancestors=source.lineage | dict(ancestors or {}),
        )


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    stream = iter(rows)
    while group := list(islice(stream, GROUP_ROWS)):
        yield group


def _write_shard(path: Path, schema: pa.Schema, groups: Iterable[list[Mapping[str, Any]]]) -> list[str]:
    """Write groups of rows as they come, one held at a time; return their keys."""
    keys: list[str] = []
    short = [name for name in schema.names if name != "image"]  # image bytes are compressed already, and do not repeat
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=short) as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pylist(group, schema))
            keys += [row["key"] for row in group]
    return keys


@dataclass(frozen=True)
class PairStore:
    """A pair store on disk, read by column or row without loading images that nobody asked for.

    Raises:
        UserError: on first use, if ``path`` is no whole store of this schema version.
    """

    path: Path

    @cached_property
    def manifest(self) -> artifacts.Manifest:
        """The contents of ``store.json``."""
        manifest = artifacts.read_manifest(self.path, "store")
        if (found := manifest.get("schema_version")) != SCHEMA_VERSION:
            raise UserError(f"{self.path}: store schema {found}, this version reads {SCHEMA_VERSION}; make it again")
        lacking = ", ".join(name for name in MANIFEST if name not in manifest)
        if lacking or sum(shard["rows"] for shard in manifest["shards"]) != manifest["rows"]:
            wrong = f"lacks {lacking}" if lacking else "its shards do not add up to its rows"
            raise UserError(f"{self.path}/store.json: {wrong}; make the store again")
        return manifest

    @property
    def files(self) -> list[Path]:
        """The Parquet shards, in order."""
        return [self.path / shard["file"] for shard in self.manifest["shards"]]

    @property
    def fingerprint(self) -> str:
        """Hash over the contents."""
        return artifacts.fingerprint(self.path, "store")

    @property
    def lineage(self) -> dict[str, artifacts.Manifest]:
        """This store and all that it was made from, by fingerprint."""
        return artifacts.lineage(self.path, "store") if self.manifest else {}

    @property
    def licensed(self) -> bool:
        """Whether frames and utterances may never leave the machine."""
        return bool(self.manifest["licensed"])

    @property
    def extra_fields(self) -> dict[str, pa.DataType]:
        """Columns that stages added to those of ``Pair``."""
        with _reading(self.files[0]):
            schema = pq.read_schema(self.files[0])
        return {name: schema.field(name).type for name in schema.names if name not in FIELDS}

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def columns(self, *names: str) -> pa.Table:
        """The named columns of all rows, in store order."""
        tables = []
        for file in self.files:
            with _reading(file):
                # Five times as fast as read_table on many shards; select, since read leaves out what is missing.
                tables.append(pq.ParquetFile(file).read(list(names)).select(list(names)))
        return pa.concat_tables(tables)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows in store order, a row group in memory at a time."""
        for number in range(len(self.files)):
            yield from self.shard_rows(number, columns)

    def shard_rows(self, number: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows of one shard, a row group in memory at a time."""
        for batch in _batches(self.files[number], columns):
            yield from batch.to_pylist()

    def picked(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row numbers and rows, for ascending row numbers; only these become Python objects."""
        start = 0
        for file in self.files:
            for batch in _batches(file):
                inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(batch))]
                yield from zip(inside.tolist(), batch.take(pa.array(inside - start)).to_pylist(), strict=True)
                start += len(batch)

    def part(self, number: int, rows: int) -> list[dict[str, Any]]:
        """Rows ``number * rows`` to ``(number + 1) * rows``; reads only the row groups that hold them.

        Args:
            number: which part, from 0.
            rows: its size; a multiple of ``GROUP_ROWS`` that divides ``SHARD_ROWS``.
        """
        shard, offset = divmod(number * rows, SHARD_ROWS)
        first = offset // GROUP_ROWS
        with _reading(self.files[shard]):
            file = pq.ParquetFile(self.files[shard])
            groups = range(first, min(first + rows // GROUP_ROWS, file.num_row_groups))
            return list(file.read_row_groups(list(groups)).to_pylist())


def _batches(file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    with _reading(file):
        yield from pq.ParquetFile(file).iter_batches(batch_size=GROUP_ROWS, columns=columns)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Tell in one line of a shard that is gone or damaged."""
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); make the store again") from None
