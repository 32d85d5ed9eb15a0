"""``python -m babyvlm store``: what is in a pair store, where it came from, and whether it is sound."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from babyvlm.curation.contact_sheet import Card, sheet
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.options import at_least
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from babyvlm.io.artifacts import Manifest

SHOWN_LETTERS = 60  # of a cell; longer ones are cut
LONG_VALUE = 100  # letters of an argument that is told by its length alone


def info(store: Path) -> None:
    """Say what a store holds, by split and source, and what it was made from, back to the raw files.

    For example:
        python -m babyvlm store info --store stores/frames

    Args:
        store: pair store.
    """
    source = PairStore(store)
    manifest = source.manifest
    size = sum(file.stat().st_size for file in source.files if file.is_file())
    licence = "licensed: may not leave this machine" if source.licensed else "free to share"
    print(f"{store}: {len(source):,} pairs, {size / 1e6:,.1f} MB in {len(source.files)} shards, {licence}")
    print(f"schema {manifest['schema_version']}, written by babyvlm {manifest['code_version']}, {source.fingerprint}")
    print(f"columns: {', '.join(manifest['columns'])}\n")
    Console(width=100).print(_counts(source))
    print("\nmade by, the last first:")
    lineage = source.lineage
    for fingerprint in reversed(lineage):
        _print_step(fingerprint, lineage[fingerprint])


def _counts(source: PairStore) -> Table:
    table = source.columns("source", "split", "group")
    counts = table.group_by(["source", "split"]).aggregate([([], "count_all"), ("group", "count_distinct")])
    shown = Table("source", "split", "pairs", "groups")
    for row in counts.sort_by([("source", "ascending"), ("split", "ascending")]).to_pylist():
        shown.add_row(row["source"], row["split"], f"{row['count_all']:,}", f"{row['group_count_distinct']:,}")
    shown.add_row("all", "all", f"{len(table):,}", f"{pc.count_distinct(table['group']).as_py():,}", style="bold")
    return shown


def _print_step(fingerprint: str, manifest: Manifest) -> None:
    print(
        f"- {manifest['kind']} {fingerprint[:12]}, {manifest.get('rows', '?')} rows, babyvlm {manifest['code_version']}"
    )
    for name, value in manifest["arguments"].items():
        text = str(value)
        print(f"    {name}: {text if len(text) <= LONG_VALUE else f'{text[:LONG_VALUE]}…'}")
    if "funnel" in manifest:
        print(textwrap.indent(str(Funnel.from_dict(manifest["funnel"])), "    "))
    for source, raw in manifest.get("raw", {}).items():
        files = raw["files"]
        print(f"    raw files of {source}: {len(files)}, {files[0]} to {files[-1]}; a key is {raw['key']}")


def head(store: Path, rows: int = 10) -> None:
    """Show the first pairs of a store, without their images.

    For example:
        python -m babyvlm store head --store stores/frames --rows 20

    Args:
        store: pair store.
        rows: how many.
    """
    source = PairStore(store)
    at_least(1, rows=rows)
    _show(source, np.arange(min(rows, len(source))), None)


def sample(store: Path, rows: int = 10, seed: int = 0, out: Path | None = None) -> None:
    """Show random pairs of a store: a table, or a page with their images to look at on this machine.

    For example:
        python -m babyvlm store sample --store stores/frames --out frames.html

    Args:
        store: pair store.
        rows: how many.
        seed: of the choice.
        out: HTML file to write instead of the table.
    """
    source = PairStore(store)
    at_least(1, rows=rows)
    at_least(0, seed=seed)
    chosen = np.random.default_rng(seed).choice(len(source), min(rows, len(source)), replace=False)
    _show(source, np.sort(chosen), out)


def _show(source: PairStore, rows: npt.NDArray[np.int64], out: Path | None) -> None:
    names = [name for name in source.manifest["columns"] if name != "image"]
    if out is None:
        Console().print(_table(names, source.columns(*names).take(rows).to_pylist()))
        return
    cards = [
        Card(row["image"], row["utterance"], " · ".join(f"{name} {row[name]}" for name in names if name != "utterance"))
        for _, row in source.picked(rows)
    ]
    title = f"{len(cards)} of {len(source):,} pairs of {source.path.name}"
    with atomic_write(out) as file:
        file.write(sheet(title, f"Store {source.fingerprint}.", {"": cards}, licensed=source.licensed))
    print(f"{out}: {title}")


def _table(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(*names)
    for row in rows:
        cells = (str(row[name]).encode(errors="replace").decode() for name in names)
        # Control characters could rewrite the terminal.
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _plain(text: str) -> str:
    """What a terminal may show: no markup, no control characters, not too long."""
    from rich.markup import escape

    clean = "".join(letter if letter.isprintable() else "·" for letter in text)
    return escape(clean if len(clean) <= SHOWN_LETTERS else clean[: SHOWN_LETTERS - 1] + "…")
