"""Where a report's numbers come from: runs, seeds, hashes, versions, budgets, and the funnels of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from babyvlm.curation.funnel_report import chain
from babyvlm.errors import UserError
from babyvlm.io.artifacts import sha256_file
from babyvlm.report.curves import provenance, samples_seen
from babyvlm.report.paper import model_of
from babyvlm.report.phases import phases
from babyvlm.report.runs import Row, Run
from babyvlm.report.table_formats import Section

SHORT = 12  # digits of a hash


def run_section(rows: Iterable[Row]) -> Section:
    """One line a run: where it is, its seed, size, budget, settings and what it read."""
    body = [
        [row.name, run.path.name, "-" if run.seed is None else str(run.seed), *_run(run)]
        for row in rows
        for run in row.runs
    ]
    heading = ["row", "run", "seed", "parameters", "samples seen", "config", "stores", "vocabulary", "code"]
    note = (
        "Samples seen: those of the phases before it first, each trained once for all rows that begin from it. config: "
        "first digits of the SHA-256 of config.yaml; stores, vocabulary: of their fingerprints; code: its version and "
        "the SHA-256 of its files."
    )
    return Section("Runs", [heading, *body], note)


def _run(run: Run) -> list[str]:
    noted, config = provenance(run.path), run.path / "config.yaml"
    stores = noted.get("stores") or {}
    told = [f"{name} {store['fingerprint'][:SHORT]}" for name, store in stores.items()]
    parameters = noted.get("parameters", {}).get("total")
    code = " ".join(filter(None, [noted.get("code_version"), noted.get("code_sha256", "")[:SHORT]]))
    return [
        "not noted" if parameters is None else f"{parameters:,}",
        budget(run),
        sha256_file(config)[:SHORT] if config.is_file() else "-",
        ", ".join(told) or ("-" if run.config.get("data") is None else "not noted"),
        noted.get("vocabulary", "-")[:SHORT],
        code or "not noted",
    ]


def budget(run: Run) -> str:
    """Samples that each phase of a run saw, the first phase first; none of what only tests a model."""
    trained = [phase for phase in phases(run) if not phase.config or phase.config.get("data") is not None]
    counts = map(samples_seen, trained)
    return " + ".join("not known" if count is None else f"{count:,}" for count in counts) or "-"


def budget_lines(rows: Iterable[Row]) -> list[str]:
    """For each model, whether all its rows saw as many samples."""
    seen: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.trained:
            told = " or ".join(dict.fromkeys(budget(run) for run in row.runs))
            seen.setdefault(model_of(row.name), {})[row.name] = told
    lines = []
    for model, budgets in seen.items():
        equal = len(set(budgets.values())) == 1
        told = next(iter(budgets.values())) if equal else "; ".join(f"{row} {count}" for row, count in budgets.items())
        lines.append(f"{model}: {told} samples" + ("" if equal else ". THE ROWS DIFFER."))
    return lines


def package_lines(rows: Iterable[Row]) -> list[str]:
    """The versions that runs were made with; runs that were made with the same ones share a line."""
    made: dict[str, list[str]] = {}
    for row in rows:
        for run in row.runs:
            noted = provenance(run.path)
            if "packages" in noted:
                versions = ", ".join(f"{name} {version}" for name, version in noted["packages"].items())
                told = f"Python {noted['python']} on {noted['platform']}; {versions}"
                made.setdefault(told, []).append(f"{row.name}/{run.path.name}")
    return [f"{', '.join(runs)}: {told}" for told, runs in made.items()]


def funnels(rows: Iterable[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """The funnel of every stage that the rows' stores went through, and the stores that are not here."""
    paths: dict[Path, None] = {}
    for data in (run.settings("data") for row in rows for run in row.runs):
        for source in data.get("sources") or ():
            paths[Path(data["stores"], source["store"])] = None
    here, gone = [], []
    for path in paths:
        try:
            chain([path])
            here.append(path)
        except UserError:
            gone.append(str(path))
    return (chain(here) if here else []), gone


def funnel_section(stages: Sequence[dict[str, Any]]) -> Section:
    """What every stage took in, kept and dropped."""
    heading = ["stage", "in", "kept", "dropped, and why"]
    body = [
        [
            stage["name"],
            f"{stage['in']:,} {stage['unit']}",
            f"{stage['kept']:,} ({stage['kept'] / max(stage['in'], 1):.1%})",
            "; ".join(f"{count:,} {reason}" for reason, count in Counter(stage["dropped"]).most_common()) or "-",
        ]
        for stage in stages
    ]
    return Section("Data funnels", [heading, *body])
