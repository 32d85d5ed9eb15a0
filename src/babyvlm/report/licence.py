"""The guard: no frame and no utterance of licensed data leaves the machine, nor what may repeat one.

Everything that shows pictures or words of a run, or sends a model away, asks here. What is not known to be free is
licensed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babyvlm.artefact import read_manifest
from babyvlm.benchmarks.results import licensed
from babyvlm.contracts import UserError
from babyvlm.curation.store import Store
from babyvlm.report.runs import Run

LEFT_OUT = "left out: licensed, or not known to be free"
CLASSES = {"LabeledS": "labeled_s", "VisualTwoWord": "vtwt", "BabyWinoground": "baby_winoground", "Caption": "caption"}


def free_list(run: Run, benchmark: str) -> tuple[Path, Path] | None:
    """The list that a run was tested on and the folder of its images, if both are here and free to show; else None."""
    found = trial_list(run, benchmark)
    if found is None or run.facts(benchmark).get("licensed", "False") != "False":
        return None
    try:
        return None if not found[0].is_file() or licensed(*found) else found
    except UserError:  # what says so cannot be read
        return None


def trial_list(run: Run, benchmark: str) -> tuple[Path, Path] | None:
    """The list that a run's config names for a benchmark, and the folder of its images; None if it names none."""
    for callback in (run.config.get("trainer") or {}).get("callbacks") or ():
        if CLASSES.get(str(callback.get("class_path")).rpartition(".")[2]) == benchmark:
            options = callback.get("init_args") or {}
            trials = Path(options["trials"])
            return trials, Path(options.get("images") or trials.parent)
    return None


def trained_on_free(folder: Path) -> bool:
    """Whether all that a model learnt words from is known to be free, back to its first phase.

    Args:
        folder: a run, or what `export` made of one.
    """
    if (folder / "babyvlm.json").is_file():
        return read_manifest(folder, "babyvlm").get("licensed") is False
    config = Run(folder).config
    model = (config.get("model") or {}).get("init_args") or {}
    before = [model[name] for name in ("init_from", "init_language", "source") if model.get(name)]
    if not config.get("model") or not all(trained_on_free(_run_of(Path(path))) for path in before):
        return False
    return config.get("data") is None or all(_stores(folder, config["data"].get("init_args") or {}))


def _run_of(path: Path) -> Path:
    """The run that a checkpoint belongs to."""
    return path if path.is_dir() else path.parent.parent


def _stores(run: Path, data: dict[str, Any]) -> list[bool]:
    """Of each store of a mix whether it is free: by what the run noted, or by what is there now."""
    noted = run / "provenance.json"
    if noted.is_file() and (stores := json.loads(noted.read_text()).get("stores")):
        return [store["licensed"] is False for store in stores.values()]
    names = [source["store"] for source in data.get("sources") or ()]
    return [_free(Path(data["stores"], name)) for name in names] or [False]


def _free(store: Path) -> bool:
    try:
        return not Store(store).licensed
    except UserError:
        return False
