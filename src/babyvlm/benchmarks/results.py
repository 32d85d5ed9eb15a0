"""What a benchmark leaves on disk: one row for each item, measure and control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.io.artifacts import read_manifest
from babyvlm.types import TrialResult

RESULT_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("half", pa.string()),
        ("category", pa.string()),
        ("control", pa.string()),
        ("measure", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("choice", pa.int32()),
        ("credit", pa.float64()),
        ("said", pa.string()),
    ]
)


def world_of(path: Path) -> str:
    """``playroom`` for a list of the embedded world, which is told by the manifest above it; else ``real``."""
    if (path.parent / "benchmark.json").is_file():  # made by `benchmark build assemble`
        return str(read_manifest(path.parent, "benchmark")["world"])
    embedded = any((folder / "playroom.json").is_file() for folder in path.resolve().parents)
    return "playroom" if embedded else "real"


def licensed(path: Path, images: Path) -> bool:
    """Whether a list's phrases and images may never leave the machine: yes, unless what it stands in says no.

    Args:
        path: the list.
        images: where its images are; elsewhere than what says no, they are others.
    """
    path, images = path.resolve(), images.resolve()
    for folder in path.parents:
        made = folder == path.parent and (folder / "benchmark.json").is_file()
        if made or (folder / "playroom.json").is_file():
            told = read_manifest(folder, "benchmark").get("licensed") if made else False
            return told is not False or not images.is_relative_to(folder)
    return True


def write_results(path: Path, results: Sequence[TrialResult], facts: Mapping[str, str]) -> None:
    """Write results beside and rename them in.

    Args:
        path: Parquet file.
        results: its rows.
        facts: what every table made of them has to know, for the file's metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    schema = RESULT_SCHEMA.with_metadata(dict(facts))
    pq.write_table(pa.Table.from_pylist([asdict(result) for result in results], schema), beside)
    beside.rename(path)
