"""The guard: no frame and no utterance of licensed data leaves the machine, nor what may repeat one.

Everything that shows pictures or words of a run, or sends a model away, asks here. What is not known to be free is
licensed.
"""

from __future__ import annotations

from pathlib import Path

from babyvlm.benchmarks.results import licensed
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.artifacts import read_manifest
from babyvlm.report.curves import provenance
from babyvlm.report.phases import phases
from babyvlm.report.runs import Run
from babyvlm.report.trial_lists import trial_list

LEFT_OUT = "left out: licensed, or not known to be free"


def free_list(run: Run, benchmark: str) -> tuple[Path, Path] | None:
    """The list that a run was tested on and the folder of its images, if both are here and free to show; else None."""
    found = trial_list(run, benchmark)
    if found is None or run.facts(benchmark).get("licensed", "False") != "False":
        return None
    try:
        return None if not found[0].is_file() or licensed(*found) else found
    except UserError:  # what says so cannot be read
        return None


def trained_on_free(folder: Path) -> bool:
    """Whether all that a model learnt words from is known to be free, back to its first phase.

    Args:
        folder: a run, or what `export` made of one.
    """
    return all(map(_learnt_freely, phases(Run(folder))))


def _learnt_freely(run: Run) -> bool:
    """Of what a run itself read, by what it noted or by what is there now."""
    if (run.path / "babyvlm.json").is_file():
        return read_manifest(run.path, "babyvlm").get("licensed") is False
    if not run.config.get("model"):
        return False
    if run.config.get("data") is None:  # it was only tested
        return True
    noted = provenance(run.path).get("stores")
    if noted:
        return all(store["licensed"] is False for store in noted.values())
    data = run.settings("data")
    sources = data.get("sources") or ()
    return bool(sources) and all(_free(Path(data["stores"], source["store"])) for source in sources)


def _free(store: Path) -> bool:
    try:
        return not PairStore(store).licensed
    except UserError:
        return False
