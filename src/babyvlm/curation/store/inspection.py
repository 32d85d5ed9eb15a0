"""The commands ``store info``, ``store head`` and ``store sample``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from babyvlm.curation.contact_sheet import PAGE_BEGINNING, Card, contact_sheet
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import AGE, CHILD, DATE, RECORDING_FIELDS, PairStore
from babyvlm.errors import require_at_least
from babyvlm.io.files import atomic_write, require_replaceable
from babyvlm.io.printing import Console, echo

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

MAX_CELL_LENGTH = 60
MAX_ARGUMENT_LENGTH = 100


def info(store: Path) -> None:
    """Print the contents of a store by split, source and child, and how it was built, back to the raw files.

    For example:
        python -m babyvlm store info --store stores/frames

    Args:
        store: pair store.
    """
    source = PairStore(store)
    manifest = source.manifest
    size = sum(file.stat().st_size for file in source.files if file.is_file())
    license_note = "licensed: must not leave this machine" if source.licensed else "free to share"
    echo(f"{store}: {len(source):,} pairs, {size / 1e6:,.1f} MB in {len(source.files)} shards, {license_note}")
    echo(f"schema {manifest['schema_version']}, written by babyvlm {manifest['code_version']}, {source.fingerprint}")
    echo(f"columns: {', '.join(manifest['columns'])}\n")
    Console(width=100).print(_counts(source))
    if set(RECORDING_FIELDS) <= set(manifest["columns"]):
        Console(width=100).print(_recordings(source))
    echo("\nbuilt by (last stage first):")
    for fingerprint, stage in reversed(source.lineage.items()):
        rows = stage.get("rows", "?")
        echo(f"- {stage['kind']} {fingerprint[:12]}, {rows} rows, babyvlm {stage['code_version']}")
        for name, value in stage["arguments"].items():
            echo(f"    {name}: {_shortened(str(value), MAX_ARGUMENT_LENGTH)}")
        if "funnel" in stage:
            echo(textwrap.indent(str(Funnel.from_dict(stage["funnel"])), "    "))
        for name, raw in stage.get("raw", {}).items():
            files = raw["files"]
            echo(f"    raw files of {name}: {len(files)}, {files[0]} to {files[-1]}; format of a key: {raw['key']}")


def _counts(source: PairStore) -> Table:
    table = source.columns("source", "split", "group")
    counts = table.group_by(["source", "split"]).aggregate([([], "count_all"), ("group", "count_distinct")])
    shown = Table("source", "split", "pairs", "groups")
    for row in counts.sort_by([("source", "ascending"), ("split", "ascending")]).to_pylist():
        shown.add_row(
            escape(row["source"]), escape(row["split"]), f"{row['count_all']:,}", f"{row['group_count_distinct']:,}"
        )
    shown.add_row("all", "all", f"{len(table):,}", f"{pc.count_distinct(table['group']).as_py():,}", style="bold")
    return shown


def _recordings(source: PairStore) -> Table:
    """Return pairs, dates and ages by child; "-" where they are not known."""
    table = source.columns(*RECORDING_FIELDS)
    wanted = [(name, bound) for name in (DATE, AGE) for bound in ("min", "max")]
    shown = Table("child", "pairs", "first recording", "last recording", "age in months")
    for row in table.group_by(CHILD).aggregate([([], "count_all"), *wanted]).sort_by(CHILD).to_pylist():
        first, last, youngest, oldest = (row[f"{name}_{bound}"] for name, bound in wanted)
        ages = "-" if youngest is None else f"{youngest:.1f} to {oldest:.1f}"
        shown.add_row(escape(row[CHILD] or "-"), f"{row['count_all']:,}", first or "-", last or "-", ages)
    return shown


def head(store: Path, num_pairs: int = 10) -> None:
    """Print the first pairs of a store, without their images, and how their keys lead to the raw files.

    Pairs that `curate frames` extracted from videos have the columns `file`, `time_ms` and `frame`: the video, the time
    in milliseconds from its start, and the number of the frame in it, from 0, at its average rate.

    For example:
        python -m babyvlm store head --store stores/frames --num_pairs 20

    Args:
        store: pair store.
        num_pairs: number of pairs.
    """
    require_at_least(1, num_pairs=num_pairs)
    source = PairStore(store)
    _show(source, np.arange(min(num_pairs, len(source))), None)


def sample(store: Path, num_pairs: int = 10, seed: int = 0, out: Path | None = None) -> None:
    """Print random pairs of a store, or write a page that shows them with their images.

    For example:
        python -m babyvlm store sample --store stores/frames --out frames.html

    Args:
        store: pair store.
        num_pairs: number of pairs.
        seed: random seed.
        out: HTML file to write instead of printing a table.
    """
    require_at_least(1, num_pairs=num_pairs)
    require_at_least(0, seed=seed)
    source = PairStore(store)
    chosen = np.random.default_rng(seed).choice(len(source), min(num_pairs, len(source)), replace=False)
    _show(source, np.sort(chosen), out)


def _show(source: PairStore, rows_M: npt.NDArray[np.int64], out: Path | None) -> None:
    names = [name for name in source.manifest["columns"] if name != "image"]
    if out is None:
        table = Table(*(Column(escape(name), no_wrap=True) for name in names), box=SIMPLE_HEAD, padding=(0, 1))
        for row in source.columns(*names).take(rows_M).to_pylist():
            table.add_row(*(_printable(str(row[name])) for name in names))
        Console(width=len(names) * (MAX_CELL_LENGTH + 2)).print(table)  # no cell is cut, whatever the terminal
        _explain_keys(source)
        return
    require_replaceable(out, PAGE_BEGINNING)
    cards = [
        Card(row["image"], row["utterance"], " · ".join(f"{name} {row[name]}" for name in names if name != "utterance"))
        for _, row in source.take(rows_M)
    ]
    title = f"{len(cards)} of {len(source):,} pairs of {source.path.name}"
    with atomic_write(out) as file:
        file.write(contact_sheet(title, f"Store {source.fingerprint}.", {"": cards}, licensed=source.licensed))
    echo(f"{out}: {title}")


def _explain_keys(source: PairStore) -> None:
    """Print how the key of a pair leads to its raw file."""
    shown = set(source.columns("source")["source"].to_pylist())
    keys = {name: raw["key"] for stage in source.lineage.values() for name, raw in stage.get("raw", {}).items()}
    for name in sorted(shown & keys.keys()):
        echo(f"key of {name}: {keys[name]}")


def _printable(text: str) -> str:
    """Return what a terminal can show safely: control characters could rewrite it."""
    text = text.encode(errors="replace").decode()
    return escape(_shortened("".join(letter if letter.isprintable() else "·" for letter in text), MAX_CELL_LENGTH))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
