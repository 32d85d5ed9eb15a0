"""Summarize a pipeline: what every stage kept and dropped, from the raw files to the final stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.plots import draw_funnels
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.printing import echo


@stage
def summarize(stores: list[Path], out: Path) -> Stage:
    """Report what every stage of a pipeline kept and dropped, and why.

    Each store records the funnels of all stages before it, so pass only the last stores of the pipeline.

    For example:
        python -m babyvlm curate summarize --stores '[stores/filtered,stores/aug]' --out funnel

    Args:
        stores: pair stores; a stage that several of them share is shown once.
        out: folder to create: `funnel.json` (numbers) and `funnel.png` (figure).
    """
    if not stores:
        raise UserError("--stores: name at least one store")
    folder = yield Artifact("report", {"command": "summarize", "stores": [PairStore(path) for path in stores]})
    stages = pipeline_funnels(stores)
    (folder / "funnel.json").write_text(json.dumps({"stages": stages}, indent=2) + "\n")
    draw_funnels(folder / "funnel.png", stages)
    for counts in stages:
        echo(Funnel.from_dict(counts))
    return "funnel.json, funnel.png"


def pipeline_funnels(stores: list[Path]) -> list[dict[str, Any]]:
    """Return the funnel of every stage that led to some stores; each stage comes after those that it reads.

    Returns:
        The fields of ``Funnel.as_dict`` with ``name``, ``fingerprint``, ``made_from`` (fingerprints of inputs) and
        ``rows``. Stages of the same name are numbered.
    """
    lineage: dict[str, artifacts.Manifest] = {}
    for path in stores:
        lineage |= PairStore(path).lineage
    stages = [
        {
            "name": manifest["funnel"]["stage"],
            "fingerprint": fingerprint,
            "made_from": artifacts.parents(manifest, lineage),
            "rows": manifest["rows"],
            **manifest["funnel"],
        }
        for fingerprint, manifest in lineage.items()
        if "funnel" in manifest
    ]
    names = [stage["name"] for stage in stages]
    for number, counts in enumerate(stages):
        if names.count(counts["name"]) > 1:
            counts["name"] += f" {names[: number + 1].count(counts['name'])}"
    return stages
