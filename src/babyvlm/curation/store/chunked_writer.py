"""Write a store in parts, so that a stage that was killed resumes where it stopped.

Half a terabyte of video takes days. A part holds what one input contributes (a video, a chunk of a list). It is a
Parquet file in ``<store>.parts``, renamed into place when it is complete, and named by a hash of everything that
determines it. A later call builds only the parts that are missing, then assembles the store.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from babyvlm import __version__
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.stage import parts_folder, slice_of_share
from babyvlm.curation.store.pair_store import FIELDS, GROUP_ROWS, write_pairs
from babyvlm.io import artifacts
from babyvlm.io.files import require_replaceable, write_list
from babyvlm.io.printing import Console, echo
from babyvlm.io.processes import run_in_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass
class Log:
    """What became of the inputs of a part.

    Attributes:
        funnel: counts.
        lines: rows of the stage's list of inputs.
        warnings: messages to print.
    """

    funnel: Funnel = field(default_factory=lambda: Funnel("part"))
    lines: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class UnusableInputError(Exception):
    """An input contributes nothing; the message is the reason that the funnel shows."""


class Part(Protocol):
    """One input of a stage. It is sent to another process, so it must be picklable."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Everything that determines the rows, as JSON."""
        ...

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """Yield rows of the store, and count them in ``log``.

        Raises:
            UnusableInputError: the input cannot be used; what was yielded and logged before is discarded.
        """
        ...

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that the part has no row, and why."""
        ...


def part_name(part: Part) -> str:
    """Return the file name of a part: a hash of what determines it, including the version of the code."""
    text = json.dumps({"code_version": __version__, **part.arguments}, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"


def write_share(
    out: Path,
    parts: Sequence[Part],
    share: str,
    *,
    stage: str,
    num_workers: int,
    extra_fields: Mapping[str, pa.DataType] | None = None,
) -> str:
    """Build one share of the parts of a store (``slice_of_share``); a later call with all parts assembles the store.

    Args:
        out: the store that ``write_parts`` will assemble.
        parts: all parts of the store.
        share: number of the share, from 1, and the number of shares.
        stage: name of the stage, for the progress bar.
        num_workers: processes.
        extra_fields: columns that the stage adds.

    Returns:
        A summary.

    Raises:
        UserError: ``share`` is not a share.
    """
    own = parts[slice_of_share(share)]
    if out.exists():
        return "already complete, skipping"
    artifacts.create_marked(parts_folder(out))
    _build_missing(out, own, stage, num_workers, _schema(extra_fields))
    return f"share {share}: {len(own):,} of {len(parts):,} parts are complete"


def write_parts(
    folder: Path,
    parts: Sequence[Part],
    *,
    funnel: Funnel,
    licensed: bool,
    num_workers: int,
    raw: Mapping[str, Any] | None = None,
    input_list: Path | None = None,
    heading: Sequence[str] = (),
    extra_fields: Mapping[str, pa.DataType] | None = None,
) -> artifacts.Manifest:
    """Build the parts that are missing in several processes, then write all of them, in order, as a store.

    Args:
        folder: the folder that the stage received.
        parts: in the order of their rows.
        funnel: receives the counts of all parts.
        licensed: whether images and utterances must not leave the machine.
        num_workers: processes; with 1 the work is done in this process, where a crash of a decoder ends the command.
        raw: for a store that is built from raw files: these files and what a key means, see ``write_pairs``.
        input_list: CSV file to write the lines of all parts to; None if they have none.
        heading: its columns.
        extra_fields: columns that the stage adds.

    Returns:
        The entries of ``store.json``, see ``write_pairs``.

    Raises:
        UserError: no row is left, or a key occurs twice.
    """
    out = folder.with_suffix("")  # without .partial
    state = parts_folder(out)
    if input_list:
        require_replaceable(input_list, ",".join(heading))
    artifacts.create_marked(state)  # refuses a folder of the user before anything in it is deleted
    for unfinished in state.glob(".*"):  # left by a call that was killed
        unfinished.unlink(missing_ok=True)
    paths = _build_missing(out, parts, funnel.stage, num_workers, _schema(extra_fields))
    lines: list[list[str]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for path in paths:
            yield from _read_part(path, funnel, lines)
        if input_list:
            write_list(input_list, [heading, *lines])

    return write_pairs(folder, rows(), funnel=funnel, licensed=licensed, extra_fields=extra_fields, raw=raw)


def _schema(extra_fields: Mapping[str, pa.DataType] | None) -> pa.Schema:
    return pa.schema(list((FIELDS | dict(extra_fields or {})).items()))


def _build_missing(out: Path, parts: Sequence[Part], stage: str, num_workers: int, schema: pa.Schema) -> list[Path]:
    """Build the parts that are missing in several processes; return the files of all parts in order."""
    state = parts_folder(out)
    paths = [state / part_name(part) for part in parts]
    missing = [(part, path) for part, path in zip(parts, paths, strict=True) if not path.exists()]
    done = len(parts) - len(missing)
    if done:
        echo(f"{out}: resuming, {done:,} of {len(parts):,} parts are complete")
    build = partial(_build_part, schema)
    # pyarrow imports pandas, where it is installed, in each process that converts rows: 0.3 s, for each video.
    imports = {type(part).__module__ for part in parts} | {"pandas"}
    built = run_in_processes(missing, build, num_workers, imports)
    for (part, path), crash in track(built, stage, len(parts), done, console=Console(stderr=True)):
        if crash:
            _write_failure(part, path, f"decoder crashed ({crash})", schema)
    return paths


def _read_part(path: Path, funnel: Funnel, lines: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a complete part; add its log to ``funnel`` and ``lines``."""
    file = pq.ParquetFile(path)
    log = json.loads(file.metadata.metadata[b"log"])
    funnel.keep(log["kept"])
    for reason, count in log["dropped"].items():
        funnel.drop(reason, count)
    lines += log["lines"]
    for warning in log["warnings"]:
        echo(warning, file=sys.stderr)
    for batch in file.iter_batches(batch_size=GROUP_ROWS):
        yield from batch.to_pylist()


def _build_part(schema: pa.Schema, task: tuple[Part, Path]) -> None:
    part, path = task
    log = Log()
    try:
        _write_part(path, part.rows(log), log, schema)
    except UnusableInputError as error:
        _write_failure(part, path, str(error), schema)


def _write_failure(part: Part, path: Path, reason: str, schema: pa.Schema) -> None:
    log = Log()
    part.record_failure(reason, log)
    _write_part(path, iter(()), log, schema)


def _write_part(path: Path, rows: Iterator[dict[str, Any]], log: Log, schema: pa.Schema) -> None:
    """Write rows as they come, ``GROUP_ROWS`` in memory at a time, and then the log, which is complete by then."""
    temporary = path.with_name(f".{uuid4().hex}.{path.name}")  # machines that share the folder reuse process numbers
    with pq.ParquetWriter(temporary, schema, compression="none") as writer:  # image bytes are compressed already
        while chunk := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))
        counts = {"kept": log.funnel.kept, "dropped": log.funnel.dropped, "lines": log.lines, "warnings": log.warnings}
        writer.add_key_value_metadata({"log": json.dumps(counts, sort_keys=True)})
    temporary.replace(path)
