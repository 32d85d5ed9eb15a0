"""The funnels of a whole chain of stages, from the raw files to the given stores, in one table and one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.plots import draw_funnels
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io import artifacts


@artifacts.one_at_a_time
def funnel(stores: list[Path], out: Path) -> None:
    """Report what every stage took in, kept and dropped on the way to some stores, and why.

    Each store carries the funnels of all that it was made from, so the last stores of a chain are enough.

    For example:
        python -m babyvlm curate funnel --stores '[stores/filtered,stores/aug]' --out funnel

    Args:
        stores: pair stores; a stage that several of them share is shown once.
        out: folder to make: `funnel.json` (numbers) and `funnel.png` (picture).
    """
    if not stores:
        raise UserError("--stores: name at least one store")
    arguments = {"command": "funnel", "stores": [PairStore(path).fingerprint for path in stores]}
    if artifacts.is_complete(out, "report", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    stages = chain(stores)
    with artifacts.create(out, "report", {"arguments": arguments}) as partial:
        (partial / "funnel.json").write_text(json.dumps({"stages": stages}, indent=2) + "\n")
        draw_funnels(partial / "funnel.png", stages)
    for stage in stages:
        print(Funnel.from_dict(stage))
    print(f"{out}: funnel.json, funnel.png")


def chain(stores: list[Path]) -> list[dict[str, Any]]:
    """The funnel of every stage of some stores, each after what it was made from.

    Each has the fields of ``Funnel.as_dict`` and ``name``, ``fingerprint``, ``made_from`` (fingerprints of artefacts)
    and ``rows``. Stages of the same name are told apart by a number.
    """
    found: dict[str, artifacts.Manifest] = {}
    for path in stores:
        found |= PairStore(path).lineage
    stages = [
        {
            "name": made["funnel"]["stage"],
            "fingerprint": fingerprint,
            "made_from": artifacts.parents(made, found),
            "rows": made["rows"],
            **made["funnel"],
        }
        for fingerprint, made in found.items()
        if "funnel" in made
    ]
    names = [stage["name"] for stage in stages]
    for number, stage in enumerate(stages):
        if names.count(stage["name"]) > 1:
            stage["name"] += f" {names[: number + 1].count(stage['name'])}"
    return stages
