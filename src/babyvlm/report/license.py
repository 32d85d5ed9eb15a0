"""License guard of runs and benchmark lists: what reports may show, and which weights may be uploaded.

Frames and utterances of licensed data, and text that may repeat them, never leave the machine. Data that is not known
to be free is treated as licensed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from babyvlm.benchmarks.results import licensed
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.io.artifacts import is_licensed, read_manifest
from babyvlm.report.reading import DAMAGE
from babyvlm.report.runs import Run, is_file
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
    """Return whether everything that a model was trained on is known to be free.

    That is: the stores and the vocabulary of all of its phases, and of the run that its vision trunk comes from.

    Args:
        run: a run, or a folder that ``export`` wrote.
    """
    waiting, seen = [run], set()
    while waiting:
        phase = waiting.pop()
        if phase.path in seen:
            continue
        seen.add(phase.path)
        try:
            trunks = [_run_of_trunk(phase.located(file)) for file in _trunk_files(phase.config.get("model"))]
            if None in trunks or not _phase_is_free(phase):
                return False
        except DAMAGE:
            return False
        waiting += [*phase.parents, *filter(None, trunks)]
    return True


def _phase_is_free(run: Run) -> bool:
    """Decide by what the run recorded, and by its vocabulary and its stores as they are now."""
    if (run.path / "babyvlm.json").is_file():
        return not is_licensed(read_manifest(run.path, "babyvlm"))
    if not run.config.get("model"):
        return False
    if run.config.get("data") is None:  # a run that only tested a model
        return True
    if not _vocabulary_is_free(run):
        return False
    recorded = run.provenance.get("stores")
    if recorded:
        return all(store.get("licensed") is False for store in recorded.values())
    return run.stores is not None and all(not PairStore(store).licensed for store in run.stores)


def _vocabulary_is_free(run: Run) -> bool:
    """Return whether the run has no vocabulary, or one whose words come from free stores."""
    named = run.settings("data").get("vocabulary")
    copy = run.path / "vocabulary"
    if named is None and not copy.is_dir():
        return True
    folder = copy if copy.is_dir() else run.located(str(named))
    manifest = read_manifest(folder, "vocabulary")
    if "ancestors" in manifest:
        return not is_licensed(manifest)
    # Version 0.1 recorded only the fingerprints of the stores.
    recorded = (run.provenance.get("stores") or {}).values()
    free = {store["fingerprint"] for store in recorded if store.get("licensed") is False}
    free |= {store.fingerprint for store in map(PairStore, run.stores or ()) if not store.licensed}
    return set(manifest["arguments"]["stores"]) <= free


def _trunk_files(settings: object) -> Iterator[str]:
    """Yield the weights that vision encoders in the settings of a model start from, except shipped ones."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            if name == "weights" and isinstance(value, str) and value != "playroom":
                yield value
            yield from _trunk_files(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _trunk_files(value)


def _run_of_trunk(path: Path) -> Run | None:
    """Return the run that wrote a trunk; None if it is unknown what the trunk was trained on."""
    # backbone.safetensors, checkpoints/last.ckpt, or the run's folder
    folders = (path.parent, path.parent.parent) if is_file(path) else (path,)
    return next((Run(folder) for folder in folders if is_file(folder / "config.yaml")), None)
