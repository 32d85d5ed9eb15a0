"""Stores made in parts, each committed once, so that a stage that was killed goes on where it was.

Half a terabyte of video takes days. A part is what becomes of one input (a video, a chunk of a list); it is a Parquet
file in ``<store>.parts``, renamed in when it is whole, and named by a hash of all that it is a function of. A later
call makes only the parts that are missing, then puts the store together and removes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from babyvlm import __version__
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import FIELDS, GROUP_ROWS, PairStore, write_store
from babyvlm.io import artifacts
from babyvlm.io.files import write_csv
from babyvlm.io.processes import run_in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

SCHEMA = pa.schema(list(FIELDS.items()))


@dataclass
class Log:
    """What became of a part's inputs: counts for the funnel, lines for the stage's list, and what to tell at once."""

    funnel: Funnel = field(default_factory=lambda: Funnel("part"))
    lines: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class UnusableInputError(Exception):
    """An input that cannot serve as a whole; the message is the reason the funnel shows."""


class Part(Protocol):
    """One input of a stage. Crosses to another process, so it must be picklable."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """All that the rows are a function of, as JSON."""
        ...

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """The store's rows, counted in ``log``.

        Raises:
            UnusableInputError: the input cannot serve; what was yielded and logged before does not count.
        """
        ...

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that there is no row, and why."""
        ...


def part_name(part: Part) -> str:
    """File name of a part: a hash of what it is a function of, the code's version included."""
    text = json.dumps({"code_version": __version__, **part.arguments}, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"


def store_from_parts(
    out: Path,
    parts: Sequence[Part],
    funnel: Funnel,
    heading: Sequence[str],
    *,
    arguments: Mapping[str, Any],
    raw: Mapping[str, Any],
    licensed: bool,
    workers: int,
    listed: Path | None = None,
    check: Callable[[], None] | None = None,
) -> PairStore | None:
    """Make a store from parts: those that are missing first, in several processes; then all of them, in their order.

    Args:
        out: store to make.
        parts: in the order of their rows.
        funnel: takes the counts of all parts.
        heading: columns of the list.
        arguments: what the store is a function of.
        raw: the raw files and what a key means, as for ``write_store``.
        licensed: whether it may never leave the machine.
        workers: processes; 1 works in this one, where a crash of a decoder is the end.
        listed: CSV for the parts' lines; ``<out>.<stage>.csv`` if not given.
        check: called when all is counted and listed; may raise to refuse the store.

    Returns:
        The store, or None if it was whole already.

    Raises:
        UserError: no row was left, or ``out`` was made from other arguments.
    """
    folder = out.with_name(f"{out.name}.parts")
    if artifacts.is_complete(out, "store", arguments):
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{out}: whole already, nothing to do")
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):  # half a part, of a call that was killed
        leftover.unlink(missing_ok=True)
    paths = [folder / part_name(part) for part in parts]
    missing = [(part, path) for part, path in zip(parts, paths, strict=True) if not path.exists()]
    done = len(parts) - len(missing)
    if done:
        print(f"{out}: goes on, {done:,} of {len(parts):,} parts are made already")
    committed = run_in_processes(missing, _commit, workers, {type(part).__module__ for part in parts})
    for (part, path), crash in track(committed, funnel.stage, len(parts), done, console=Console(stderr=True)):
        if crash:
            _commit_spoiled(part, path, f"decoder crashed ({crash})")
    lines: list[list[str]] = []
    rows = (row for path in paths for row in _read(path, funnel, lines))
    listed = listed or out.with_name(f"{out.name}.{funnel.stage}.csv")
    store = write_store(
        out,
        _then_list(rows, listed, heading, lines, check),
        arguments=arguments,
        funnel=funnel,
        licensed=licensed,
        raw=raw,
    )
    shutil.rmtree(folder, ignore_errors=True)
    return store


def _then_list(
    rows: Iterator[dict[str, Any]],
    path: Path,
    heading: Sequence[str],
    lines: list[list[str]],
    check: Callable[[], None] | None,
) -> Iterator[dict[str, Any]]:
    yield from rows
    write_csv(path, [heading, *lines])
    if check:
        check()


def _read(path: Path, funnel: Funnel, lines: list[list[str]]) -> Iterator[dict[str, Any]]:
    """The rows of a committed part; adds its log to ``funnel`` and ``lines``."""
    file = pq.ParquetFile(path)
    log = json.loads(file.metadata.metadata[b"log"])
    funnel.keep(log["kept"])
    for reason, count in log["dropped"].items():
        funnel.drop(reason, count)
    lines += log["lines"]
    for warning in log["warnings"]:
        print(warning, file=sys.stderr)
    for batch in file.iter_batches(batch_size=GROUP_ROWS):
        yield from batch.to_pylist()


def _commit(task: tuple[Part, Path]) -> None:
    """Make a part: written beside and renamed in."""
    part, path = task
    log = Log()
    try:
        _write(path, part.rows(log), log)
    except UnusableInputError as error:
        _commit_spoiled(part, path, str(error))


def _commit_spoiled(part: Part, path: Path, reason: str) -> None:
    log = Log()
    part.record_failure(reason, log)
    _write(path, iter(()), log)


def _write(path: Path, rows: Iterator[dict[str, Any]], log: Log) -> None:
    """Write rows as they come, a few hundred held at a time, and the log that is complete after the last."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with pq.ParquetWriter(temporary, SCHEMA, compression="none") as writer:  # image bytes are compressed already
        while chunk := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, SCHEMA))
        said = {"kept": log.funnel.kept, "dropped": log.funnel.dropped, "lines": log.lines, "warnings": log.warnings}
        writer.add_key_value_metadata({"log": json.dumps(said, sort_keys=True)})
    temporary.replace(path)
