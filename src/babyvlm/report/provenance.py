"""Where the numbers come from: runs with seeds, hashes and versions, training budgets, and the funnels of the data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from babyvlm.curation.summarize import pipeline_funnels
from babyvlm.report.paper import model_of
from babyvlm.report.reading import DAMAGE
from babyvlm.report.runs import Row, Run
from babyvlm.report.tables import Table

HASH_DIGITS = 12
RUNS_NOTE = (
    "Samples seen: earlier phases first; a phase is trained once for all rows that start from it. config: first digits "
    "of the SHA-256 of config.yaml; stores, vocabulary: of their fingerprints; code: version and SHA-256 of the source "
    "files."
)


def runs_table(rows: Sequence[Row]) -> Table:
    """Return one line per run: folder, seed, size, training budget, settings and data."""
    heading = ["row", "run", "seed", "parameters", "samples seen", "config", "stores", "vocabulary", "code"]
    body = [
        [row.name, run.path.name, "-" if run.seed is None else str(run.seed), *_run_cells(run)]
        for row in rows
        for run in row.runs
    ]
    return Table("Runs", heading, body, RUNS_NOTE)


def mixes_table(rows: Sequence[Row]) -> Table | None:
    """Return what each mix contains, as the runs recorded it; None if none did."""
    rows_by_line: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        for run in row.runs:
            mix = run.provenance.get("mix") or {}
            for part in mix.get("contents", []):
                line = (
                    str(run.settings("data").get("name") or "-"),
                    part["store"],
                    f"{part['items']:,} {mix.get('unit', 'items')}",
                    f"{part['utterances']:,}",
                    f"{part['share']:.1%}",
                )
                rows_by_line.setdefault(line, {})[row.name] = None
    heading = ["mix", "store", "items per epoch", "utterances", "share of items", "rows"]
    body = [[*line, ", ".join(names)] for line, names in sorted(rows_by_line.items())]
    return Table("Training mixes", heading, body) if body else None


def _run_cells(run: Run) -> list[str]:
    recorded = run.provenance
    stores = recorded.get("stores") or {}
    fingerprints = [f"{name} {store['fingerprint'][:HASH_DIGITS]}" for name, store in stores.items()]
    parameters = (recorded.get("parameters") or {}).get("total")
    code = " ".join(filter(None, [recorded.get("code_version"), (recorded.get("code_sha256") or "")[:HASH_DIGITS]]))
    return [
        "not recorded" if parameters is None else f"{parameters:,}",
        budget(run),
        hashlib.sha256(run.config_bytes).hexdigest()[:HASH_DIGITS] if run.config_bytes else "-",
        ", ".join(fingerprints) or ("-" if run.config.get("data") is None else "not recorded"),
        (recorded.get("vocabulary") or "-")[:HASH_DIGITS],
        code or "not recorded",
    ]


def budget(run: Run) -> str:
    """Return the samples that each phase of a run saw, earliest first; a dash for a run that only tested a model."""
    trained = [phase for phase in run.phases if not phase.config or phase.config.get("data") is not None]
    counts = [phase.samples_seen for phase in trained]
    return " + ".join("unknown" if count is None else f"{count:,}" for count in counts) or "-"


def budget_lines(rows: Sequence[Row]) -> list[str]:
    """Return one line per model: its training budget, and whether its rows differ in it."""
    by_model: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.trained:
            budgets = dict.fromkeys(budget(run) for run in row.runs)
            by_model.setdefault(model_of(row.name), {})[row.name] = " or ".join(budgets)
    lines = []
    for model, by_row in by_model.items():
        if len(set(by_row.values())) == 1:
            lines.append(f"{model}: {next(iter(by_row.values()))} samples")
        else:
            listed = "; ".join(f"{row} {samples}" for row, samples in by_row.items())
            lines.append(f"{model}: {listed} samples. THE ROWS DIFFER.")
    return lines


def checkpoint_lines(rows: Sequence[Row]) -> list[str]:
    """Return one line per model: which checkpoint of its runs was tested, and whether its rows differ in the rule."""
    by_model: dict[str, dict[str, None]] = {}
    for row in rows:
        for best in (run.tested_checkpoint for run in row.runs if row.trained):
            if best is not None:
                chosen = "lowest" if best.mode == "min" else "highest"
                rule = "the last one" if best.monitor is None else f"the one with the {chosen} {best.monitor}"
                by_model.setdefault(model_of(row.name), {})[rule] = None
    return [
        f"{model}: tested checkpoint: {' or '.join(rules)}" + (". THE ROWS DIFFER." if len(rules) > 1 else "")
        for model, rules in by_model.items()
    ]


def package_lines(rows: Sequence[Row]) -> list[str]:
    """Return one line per set of package versions, with the runs that used it."""
    runs_by_versions: dict[str, list[str]] = {}
    for run in (run for row in rows for run in row.runs):
        if run.provenance.get("packages"):
            packages = ", ".join(f"{name} {version}" for name, version in run.provenance["packages"].items())
            versions = f"Python {run.provenance.get('python')} on {run.provenance.get('platform')}; {packages}"
            runs_by_versions.setdefault(versions, []).append(run.name)
    return [f"{', '.join(runs)}: {versions}" for versions, runs in runs_by_versions.items()]


def funnel_stages(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the funnel of every stage behind the rows' stores, and the stores that are not on this machine."""
    paths = {run.located(name): name for row in rows for run in row.runs for name in run.recorded_stores or ()}
    present, missing = [], []
    for path, recorded in paths.items():
        try:
            stages = pipeline_funnels([path])
            funnel_table(stages)
            present.append(path)
        except DAMAGE:
            missing.append(str(recorded))
    return (pipeline_funnels(present) if present else []), missing


def funnel_table(stages: Sequence[dict[str, Any]]) -> Table:
    """Return how many items every stage took in, kept and dropped."""
    body = [
        [
            stage["name"],
            f"{stage['in']:,} {stage['unit']}",
            f"{stage['kept']:,} ({stage['kept'] / max(stage['in'], 1):.1%})",
            "; ".join(f"{count:,} {reason}" for reason, count in Counter(stage["dropped"]).most_common()) or "-",
        ]
        for stage in stages
    ]
    return Table("Data funnels", ["stage", "in", "kept", "dropped, by reason"], body)
