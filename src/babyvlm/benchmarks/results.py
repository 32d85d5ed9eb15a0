"""Result files of benchmarks: one row for each item, measure and control."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.io.artifacts import is_licensed, read_manifest
from babyvlm.playroom.credit import is_in_playroom
from babyvlm.types import TrialResult

if TYPE_CHECKING:
    from babyvlm.benchmarks.base import Benchmark

RESULT_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("split", pa.string()),
        ("category", pa.string()),
        ("group", pa.string()),
        ("images", pa.list_(pa.string())),
        ("texts", pa.list_(pa.string())),
        ("control", pa.string()),
        ("measure", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("choice", pa.int32()),
        ("credit", pa.float64()),
        ("output", pa.string()),
    ]
)


def benchmark_facts(benchmark: Benchmark) -> dict[str, str]:
    """Return the metadata of a benchmark's results, from which a report builds its tables.

    Returns:
        ``title``, ``suite``, ``order``, ``measures`` (JSON list of the fields of ``Measure``, and its name),
        ``category`` (what categories stand for), ``trials`` and ``images`` (paths), ``has_images`` (``False`` if items
        show none), ``world`` and ``licensed`` (see below), for Playroom ``world_seed`` and ``world_parameters``, and
        ``Benchmark.facts``. An evaluation adds ``floors`` (JSON, what a model that knows nothing reaches by each
        measure), ``prior``, and facts about the model.
    """
    measures = [{"name": name, **asdict(measure)} for name, measure in benchmark.measures.items()]
    return {
        "title": benchmark.title,
        "suite": benchmark.suite,
        "order": str(benchmark.order),
        "measures": json.dumps(measures),
        "category": benchmark.category,
        "trials": str(benchmark.path),
        "images": str(benchmark.images),
        "has_images": str(benchmark.has_images),
        "world": world_of(benchmark.path),
        "licensed": str(licensed(benchmark.path, benchmark.images)),
        **_world_facts(benchmark.path),
        **benchmark.facts(),
    }


def _world_facts(path: Path) -> dict[str, str]:
    """Return the seed and the other parameters of the Playroom that a list belongs to; empty for other lists."""
    folder = next((folder for folder in path.resolve().parents if (folder / "playroom.json").is_file()), None)
    arguments = None if folder is None else read_manifest(folder, "playroom").get("arguments")
    if not isinstance(arguments, dict):
        return {}
    others = (f"{name} {value}" for name, value in sorted(arguments.items()) if name not in ("command", "seed"))
    return {"world_seed": str(arguments.get("seed", "")), "world_parameters": ", ".join(others)}


def world_of(path: Path) -> str:
    """Return ``playroom`` for a list of Playroom, by the manifest in a folder above it; else ``real``."""
    for folder in path.resolve().parents:
        if (folder / "benchmark.json").is_file():  # built by `benchmark build`
            return str(read_manifest(folder, "benchmark")["world"])
    return "playroom" if is_in_playroom(path) else "real"


def licensed(path: Path, images: Path) -> bool:
    """Return whether a list's phrases and images must stay on this machine: yes, unless a manifest says no.

    Args:
        path: The list.
        images: Folder of its images; the manifest says nothing about images outside of its own folder.
    """
    path, images = path.resolve(), images.resolve()
    for folder in path.parents:
        built = (folder / "benchmark.json").is_file()
        if built or (folder / "playroom.json").is_file():
            return (built and is_licensed(read_manifest(folder, "benchmark"))) or not images.is_relative_to(folder)
    return True


def result_table(results: Sequence[TrialResult], facts: Mapping[str, str]) -> pa.Table:
    """Return results as a table, with facts about them as its metadata."""
    return pa.Table.from_pylist([asdict(result) for result in results], RESULT_SCHEMA.with_metadata(dict(facts)))


def write_results(path: Path, table: pa.Table) -> None:
    """Write a table of results as Parquet, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.rename(path)
