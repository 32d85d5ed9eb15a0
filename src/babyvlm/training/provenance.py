"""Record the inputs, software versions and extent of a run in ``provenance.json`` in its folder."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import babyvlm
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.pair_mix import Mix
from babyvlm.errors import UserError
from babyvlm.io.artifacts import json_sha256, sha256_file
from babyvlm.io.distributed import device_name
from babyvlm.io.files import atomic_write, read_bounded
from babyvlm.io.hub import commit_of
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.io.printing import echo
from babyvlm.io.runs import run_folder
from babyvlm.models.networks.vision import VisionEncoder

FILE = "provenance.json"


class Provenance(Callback):
    """Write hashes of stores, vocabulary and initial weights, contents of the mix, versions, and the samples seen."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to resume a run with other data than it was started with.

        Raises:
            UserError: a store or the vocabulary was replaced.
        """
        folder = run_folder(trainer)
        recorded = _read_provenance(folder) if folder is not None else {}
        if "stores" in recorded:
            _check_same(recorded, inputs(trainer), getattr(trainer, "datamodule", None))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what the mix contains, and write the facts that are known before the first step."""
        data: Any = getattr(trainer, "datamodule", None)
        mix = {}
        if isinstance(data, Mix):
            mix = {"mix": {"unit": data.unit, "contents": [asdict(part) for part in data.contents()]}}
            if trainer.is_global_zero:
                echo(data.summary())
        facts = versions() | inputs(trainer) | mix | {"parameters": _parameters(pl_module)} | _devices(trainer)
        _write(trainer, facts | _image_weights(trainer, pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the number of steps and samples."""
        steps, batches = trainer.global_step, trainer.fit_loop.total_batch_idx + 1
        size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)  # global
        _write(trainer, {"steps": steps} | ({"samples": batches * size} if isinstance(size, int) else {}))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the versions if the run has no provenance yet, as for an upper bound, which was not trained here."""
        folder = run_folder(trainer)
        if folder is not None and not (folder / FILE).is_file():
            _write(trainer, versions() | {"parameters": _parameters(pl_module)} | _devices(trainer))


def trained(run: Path) -> bool:
    """Return whether a run's training has ended and everything it produces is written."""
    return "steps" in _read_provenance(run)


def versions() -> dict[str, Any]:
    """Return the versions of the code, of Python and of the required packages, and the platform."""
    needed = metadata.requires("babyvlm") or []
    names = [re.split(r"[^\w.-]", line)[0] for line in needed if "extra ==" not in line]
    source = Path(babyvlm.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(source.rglob("*.py")):
        digest.update(file.relative_to(source).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "code_version": babyvlm.__version__,
        "code_sha256": digest.hexdigest(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: metadata.version(name) for name in sorted(names)},
    }


def inputs(trainer: Trainer) -> dict[str, Any]:
    """Return hashes of the stores that a mix reads and of its vocabulary; an empty dictionary for other data."""
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "sources"):
        return {}
    validation, vocabulary = getattr(data, "validation", None), getattr(data, "vocabulary", None)  # DINO's has neither
    names = [*(source.store for source in data.sources), *([validation] if validation else [])]
    stores = {name: PairStore(data.stores / name) for name in names}
    facts = {
        name: {"fingerprint": store.fingerprint, "licensed": store.licensed, "rows": len(store)}
        for name, store in stores.items()
    }
    return {"stores": facts} | ({"vocabulary": vocabulary.hash} if vocabulary is not None else {})


def _check_same(recorded: dict[str, Any], now: dict[str, Any], data: Any) -> None:  # noqa: ANN401 - of whatever mix
    changed = [
        data.stores / name
        for name, facts in recorded["stores"].items()
        if now["stores"].get(name, {}).get("fingerprint") != facts["fingerprint"]
    ]
    if recorded.get("vocabulary") != now.get("vocabulary"):
        changed.append(data.vocabulary.path)
    if changed:
        raise UserError(
            f"{changed[0]}: not the data that the run was started with. Restore it and resume, or start a new run"
        )


def _image_weights(trainer: Trainer, model: LightningModule) -> dict[str, Any]:
    """Return the files that image encoders were initialized with, and print the commit of those that are not pinned.

    A run that is resumed keeps its record: the hub may have newer weights, which its checkpoint replaces.
    """
    folder = run_folder(trainer)
    if folder is None or not trainer.is_global_zero or "image_weights" in _read_provenance(folder):
        return {}
    encoders = [part for part in model.modules() if isinstance(part, VisionEncoder) and part.weights_file is not None]
    found = []
    for encoder in encoders:
        file, source = cast("Path", encoder.weights_file), str(encoder.weights)
        from_hub = source.startswith("hf-hub:")
        commit = commit_of(file) if from_hub else None
        found.append({"source": source, "commit": commit, "sha256": sha256_file(file)})
        if from_hub and commit and "@" not in source:
            owner, name, rest = source.removeprefix("hf-hub:").split("/", 2)
            echo(f"{source}: not pinned, commit {commit}. To pin it, pass hf-hub:{owner}/{name}@{commit}/{rest}")
    return {"image_weights": found} if found else {}


def _devices(trainer: Trainer) -> dict[str, list[str]]:
    """Print the devices of a run and return them, after those on which it ran before it was resumed."""
    used = f"{trainer.world_size} x {device_name(trainer.strategy.root_device)}, precision {trainer.precision}"
    folder = run_folder(trainer)
    before = _read_provenance(folder).get("devices", []) if folder is not None else []
    if trainer.is_global_zero:
        echo(f"devices: {used}")
    return {"devices": [*dict.fromkeys([*before, used])]}


def _parameters(model: LightningModule) -> dict[str, int]:
    weights = list(model.parameters())
    return {
        "total": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def _write(trainer: Trainer, facts: dict[str, Any]) -> None:
    """Add facts to the file atomically, on the first rank."""
    folder = run_folder(trainer)
    if folder is None or not trainer.is_global_zero:
        return
    recorded = _read_provenance(folder) | facts
    with atomic_write(folder / FILE) as file:
        file.write(json.dumps(recorded | {"sha256": json_sha256(recorded)}, indent=2) + "\n")


def _read_provenance(run: Path) -> dict[str, Any]:
    """Return the contents of the file; an empty dictionary if the file does not exist."""
    file = run / FILE
    try:
        recorded = load_json(read_bounded(file, MAX_JSON_BYTES)) if file.is_file() else {}
        if not isinstance(recorded, dict):
            raise ValueError("it is not a JSON object")
        return recorded
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}). Restore the file, or delete it") from None
