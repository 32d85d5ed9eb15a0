"""License guard: frames and utterances of licensed data, and text that may repeat them, never leave the machine.

Everything that shows images or texts of a run, or exports a model, asks here. Data that is not known to be free is
treated as licensed.
"""

from __future__ import annotations

from pathlib import Path

from babyvlm.benchmarks.results import licensed
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.io.artifacts import read_manifest
from babyvlm.report.runs import DAMAGE, Run
from babyvlm.report.trial_lists import TrialList, trial_list

LEFT_OUT = "not shown: licensed, or not known to be free"


def free_list(run: Run, benchmark: str) -> TrialList | None:
    """Return the list that a run was tested on if it is on this machine and free to show, else None."""
    found = trial_list(run, benchmark)
    if found is None or run.metadata(benchmark).get("licensed", "False") != "False":
        return None
    try:
        return None if not found.trials.is_file() or licensed(found.trials, found.image_root) else found
    except DAMAGE:  # the manifest cannot be read
        return None


def trained_on_free(run: Run) -> bool:
    """Return whether all text that a model was trained on, in all of its phases, is known to be free.

    Args:
        run: a run, or a folder that ``export`` wrote.
    """
    return all(map(_phase_is_free, run.phases))


def _phase_is_free(run: Run) -> bool:
    """Decide by what the run recorded, or by its stores as they are now."""
    if (run.path / "babyvlm.json").is_file():
        return read_manifest(run.path, "babyvlm").get("licensed") is False
    if not run.config.get("model"):
        return False
    if run.config.get("data") is None:  # a run that only tested a model
        return True
    recorded = run.provenance.get("stores")
    if recorded:
        return all(store.get("licensed") is False for store in recorded.values())
    return run.stores is not None and all(map(_store_is_free, run.stores))


def _store_is_free(store: Path) -> bool:
    try:
        return not PairStore(store).licensed
    except DAMAGE:
        return False
