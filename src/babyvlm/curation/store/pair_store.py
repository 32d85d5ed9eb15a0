"""Pair stores: Parquet shards that hold image bytes, and ``store.json``, which records how they were built."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from babyvlm.errors import UserError, first_line
from babyvlm.io import artifacts
from babyvlm.io.files import resolve_inside
from babyvlm.io.printing import Console
from babyvlm.types import Pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from babyvlm.curation.funnel import Funnel

SCHEMA_VERSION = 1
REQUIRED_ENTRIES = ("arguments", "columns", "licensed", "rows", "shards")  # of store.json
ORIGINAL_CAPTION = "original_caption"  # additional column of web pairs: the caption as found, before any rewriting
SHARD_ROWS = 4096  # about 60 MB of 224-pixel JPEGs
GROUP_ROWS = 256  # rows read at once; divides SHARD_ROWS, so that row n is in row group n // 256
HELD_OUT = 0.05  # share of the validation and of the test split, as in BabyVLM
FIELDS = {
    "key": pa.string(),
    "image": pa.binary(),
    "utterance": pa.string(),
    "source": pa.string(),
    "group": pa.string(),
    "split": pa.string(),
}
# Additional columns of pairs whose recording is known. Null: not known.
CHILD, DATE, AGE = "child", "date", "age_months"  # name, ISO 8601 date of the recording, age on that day
RECORDING_FIELDS = {CHILD: pa.string(), DATE: pa.string(), AGE: pa.float64()}


class PairStore:
    """A dataset of (image, utterance) pairs on disk.

    Columns and rows are read on demand; images are read only where they are asked for.

    >>> from tempfile import mkdtemp
    >>> from babyvlm.curation.funnel import Funnel
    >>> row = {"key": "a", "image": b"...", "utterance": "a ball", "source": "demo", "group": "a", "split": "train"}
    >>> made = write_store(Path(mkdtemp()) / "demo", [row], arguments={}, funnel=Funnel("demo"), licensed=False)
    >>> store = PairStore(made.path)
    >>> len(store), store[0].utterance, [pair.key for pair in store]
    (1, 'a ball', ['a'])
    >>> store.columns("utterance", "split").to_pydict()
    {'utterance': ['a ball'], 'split': ['train']}

    Args:
        path: folder of the store.

    Raises:
        UserError: on first use, if ``path`` is not a complete store of this schema version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        try:
            columns, license_note = ", ".join(self.manifest["columns"]), ", licensed" if self.licensed else ""
        except UserError:
            return f"PairStore({str(self.path)!r}, not a readable store)"
        return f"PairStore({str(self.path)!r}, {len(self):,} pairs{license_note}, columns: {columns})"

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def __getitem__(self, index: int) -> Pair:
        """Return one pair; reads one row group of ``GROUP_ROWS`` rows."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: index {index} is out of range for {len(self)} pairs")
        part, offset = divmod(index % len(self), GROUP_ROWS)
        return _pair(self.part(part, GROUP_ROWS)[offset])

    def __iter__(self) -> Iterator[Pair]:
        return map(_pair, self.rows(list(FIELDS)))

    @cached_property
    def manifest(self) -> artifacts.Manifest:
        """The contents of ``store.json``."""
        manifest = artifacts.read_manifest(self.path, "store")
        if (found := manifest.get("schema_version")) != SCHEMA_VERSION:
            raise UserError(
                f"{self.path}: has store schema {found}, this version reads {SCHEMA_VERSION}. Build the store again"
            )
        missing = ", ".join(name for name in REQUIRED_ENTRIES if name not in manifest)
        if missing or sum(shard["rows"] for shard in manifest["shards"]) != manifest["rows"]:
            problem = f"lacks {missing}" if missing else "the rows of its shards do not add up"
            raise UserError(f"{self.path}/store.json: {problem}. Build the store again")
        for name in (str(shard["file"]) for shard in manifest["shards"]):
            if resolve_inside(self.path, name) is None:
                raise UserError(f"{self.path}/store.json: {name!r} is not a file of the store. Build the store again")
        return manifest

    @cached_property
    def files(self) -> list[Path]:
        """The Parquet shards, in order."""
        return [self.path / shard["file"] for shard in self.manifest["shards"]]

    @property
    def fingerprint(self) -> str:
        """Hash of the contents."""
        return artifacts.fingerprint(self.path, "store")

    @property
    def lineage(self) -> dict[str, artifacts.Manifest]:
        """This store and all that it was built from, by fingerprint."""
        return artifacts.lineage(self.path, "store") if self.manifest else {}

    @property
    def licensed(self) -> bool:
        """Whether images and utterances must not leave the machine: its own flag, or that of any ancestor."""
        return artifacts.is_licensed(self.manifest)

    @property
    def extra_fields(self) -> dict[str, pa.DataType]:
        """Columns that stages added to those of ``Pair``."""
        with _explain_unreadable(self.files[0]):
            schema = pq.read_schema(self.files[0])
        return {name: schema.field(name).type for name in schema.names if name not in FIELDS}

    def columns(self, *names: str) -> pa.Table:
        """Return the named columns of all rows, in store order."""
        tables = []
        for file in self.files:
            with _explain_unreadable(file):
                # Five times as fast as read_table on many shards; `read` ignores missing columns, `select` does not.
                tables.append(pq.ParquetFile(file).read(list(names)).select(list(names)))
        return pa.concat_tables(tables)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield all rows in store order; one row group is in memory at a time."""
        for number in range(len(self.files)):
            yield from self.shard_rows(number, columns)

    def shard_rows(self, number: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of one shard; one row group is in memory at a time."""
        for batch in _batches(self.files[number], columns):
            yield from batch.to_pylist()

    def take(self, rows_M: NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the given rows with their numbers.

        Args:
            rows_M: row numbers, ascending; only these rows become Python objects.
        """
        start = 0
        for file in self.files:
            for batch in _batches(file):
                inside = rows_M[np.searchsorted(rows_M, start) : np.searchsorted(rows_M, start + len(batch))]
                yield from zip(inside.tolist(), batch.take(pa.array(inside - start)).to_pylist(), strict=True)
                start += len(batch)

    def part(self, number: int, rows: int) -> list[dict[str, Any]]:
        """Return the rows from ``number * rows`` up to ``(number + 1) * rows``.

        Args:
            number: index of the part, from 0.
            rows: size of a part; a multiple of ``GROUP_ROWS`` that divides ``SHARD_ROWS``.
        """
        shard, offset = divmod(number * rows, SHARD_ROWS)
        first = offset // GROUP_ROWS
        with _explain_unreadable(self.files[shard]):
            file = pq.ParquetFile(self.files[shard])
            groups = range(first, min(first + rows // GROUP_ROWS, file.num_row_groups))
            return list(file.read_row_groups(list(groups)).to_pylist())


def _pair(row: Mapping[str, Any]) -> Pair:
    return Pair(**{name: row[name] for name in FIELDS})


def _batches(file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    with _explain_unreadable(file):
        yield from pq.ParquetFile(file).iter_batches(batch_size=GROUP_ROWS, columns=columns)


@contextmanager
def _explain_unreadable(file: Path) -> Iterator[None]:
    """Report a missing or damaged shard in one line."""
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}). Build the store again") from None


def split_of(group: str) -> str:
    """Return the split of a group: 90% train, 5% val, 5% test (BabyVLM), by a hash, so that later stages keep it."""
    bucket = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 90 else "val" if bucket < 95 else "test"


SplitBy = Literal["utterance", "video", "child"]


def split_units(groups: Iterable[str], split_by: SplitBy) -> dict[str, str]:
    """Return the split of each group so that a video or a child is in one split only.

    Neighboring utterances of a video share nearly identical frames. Videos, or children, are sorted by a hash of their
    names: the first 5%, but at least one, are for test, as many for validation, and the others for training.

    Args:
        groups: utterances, named VIDEO_N. The name of a video begins with that of its child, up to the first ``_``.
        split_by: ``utterance`` assigns each group on its own, see ``split_of``.

    Raises:
        UserError: there are fewer than three videos or children.
    """
    if split_by == "utterance":
        return {group: split_of(group) for group in groups}
    video_of = {group: group.rpartition("_")[0] or group for group in groups}
    unit_of = {group: video if split_by == "video" else video.partition("_")[0] for group, video in video_of.items()}
    units = sorted(set(unit_of.values()), key=lambda unit: hashlib.sha256(unit.encode()).digest())
    if len(units) < 3:
        raise UserError(
            f"--split_by {split_by}: train, val and test need one each, but there are only {len(units)}"
            f" ({', '.join(units)}). Pass --split_by utterance"
        )
    held_out = max(1, round(HELD_OUT * len(units)))
    split = dict.fromkeys(units, "train")
    split |= dict.fromkeys(units[:held_out], "test") | dict.fromkeys(units[held_out : 2 * held_out], "val")
    return {group: split[unit] for group, unit in unit_of.items()}


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
) -> PairStore:
    """Write a complete pair store ``out``, or nothing. Commands use ``stage`` and ``write_pairs`` instead.

    Args:
        out: folder to create.
        rows: the columns of ``Pair`` and ``extra_fields``; read once.
        arguments: what determines the contents.
        funnel: filled while ``rows`` is read; recorded in ``store.json``.
        licensed: whether images and utterances must not leave the machine.
        extra_fields: additional columns.
        ancestors: lineage of the inputs.
        raw: see ``write_pairs``.

    Raises:
        UserError: there is no row, or a key occurs twice.
    """
    manifest: artifacts.Manifest = {"arguments": dict(arguments), "ancestors": dict(ancestors or {})}
    with artifacts.create(out, "store", manifest) as folder:
        manifest |= write_pairs(folder, rows, funnel=funnel, licensed=licensed, extra_fields=extra_fields, raw=raw)
        manifest["funnel"] = funnel.as_dict()
    return PairStore(out)


def write_pairs(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    funnel: Funnel,
    licensed: bool,
    extra_fields: Mapping[str, pa.DataType] | None = None,
    raw: Mapping[str, Any] | None = None,
) -> artifacts.Manifest:
    """Write the shards of a store into the folder that a stage received.

    Args:
        folder: the unfinished artifact.
        rows: the columns of ``Pair`` and ``extra_fields``; read once, ``GROUP_ROWS`` in memory at a time.
        funnel: filled while ``rows`` is read; quoted if no row is left.
        licensed: whether images and utterances must not leave the machine.
        extra_fields: columns that the stage adds.
        raw: by source, for a store that is built from raw files: the ``files``, and how a ``key`` leads into them.

    Returns:
        The entries of ``store.json`` that describe the store.

    Raises:
        UserError: there is no row, or a key occurs twice.
    """
    out = folder.with_suffix("")  # without .partial
    schema = pa.schema(list((FIELDS | dict(extra_fields or {})).items()))
    keys: set[str] = set()
    shards: list[dict[str, Any]] = []
    stream = iter(rows)
    groups = iter(lambda: list(islice(stream, GROUP_ROWS)), [])
    for first in groups:
        path = folder / f"part-{len(shards):05d}.parquet"
        written = _write_shard(path, schema, chain([first], islice(groups, SHARD_ROWS // GROUP_ROWS - 1)))
        shards.append({"file": path.name, "rows": len(written), "sha256": artifacts.sha256_file(path)})
        keys.update(written)
    count = sum(shard["rows"] for shard in shards)
    if not count:
        raise UserError(f"{out}: no pair is left. {funnel}".replace("\n", ";"))
    if len(keys) != count:
        raise UserError(f"{out}: {count - len(keys)} keys occur more than once. Keys must be unique in a store")
    return {
        "schema_version": SCHEMA_VERSION,
        "licensed": licensed,
        "raw": dict(raw or {}),
        "rows": count,
        "columns": schema.names,
        "shards": shards,
    }


def copy_pairs(folder: Path, source: PairStore, rows_M: NDArray[np.int64], *, funnel: Funnel) -> artifacts.Manifest:
    """Write some rows of a store, unchanged, into the folder that a stage received; see ``write_pairs``.

    Args:
        folder: the unfinished artifact.
        source: the store to copy from.
        rows_M: row numbers, ascending.
        funnel: already filled.
    """
    with Progress(console=Console(stderr=True)) as bar:
        taken = bar.track(source.take(rows_M), total=len(rows_M), description="copying")
        rows = (row for _, row in taken)
        return write_pairs(folder, rows, funnel=funnel, licensed=source.licensed, extra_fields=source.extra_fields)


def _write_shard(path: Path, schema: pa.Schema, groups: Iterable[list[Mapping[str, Any]]]) -> list[str]:
    """Write groups of rows as they come, one in memory at a time; return their keys."""
    keys: list[str] = []
    repetitive = [name for name in schema.names if name != "image"]
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=repetitive) as writer:  # images are JPEGs
        for group in groups:
            writer.write_table(pa.Table.from_pylist(group, schema))
            keys += [row["key"] for row in group]
    return keys
