"""What a run was made from and by, beside its results: ``provenance.json`` in its folder."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import babyvlm
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.files import atomic_write

FILE = "provenance.json"


class Provenance(Callback):
    """Writes hashes of stores and vocabulary, versions of code and packages, and how many samples were seen."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to go on with other data than the run was begun with.

        Raises:
            UserError: a store or the vocabulary was replaced.
        """
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        begun = _known(Path(folder)) if folder is not None else {}
        if "stores" in begun:
            _check_same(begun, made_from(trainer), getattr(trainer, "datamodule", None))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before the first step."""
        _write(trainer, made_by() | made_from(trainer) | {"parameters": _parameters(pl_module)})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add how long training was."""
        steps, batches = trainer.global_step, trainer.fit_loop.total_batch_idx + 1
        size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)  # global
        _write(trainer, {"steps": steps} | ({"samples": batches * size} if isinstance(size, int) else {}))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say by what it was tested, if nothing is said yet: an upper bound was not trained here."""
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if folder is not None and not Path(folder, FILE).is_file():
            _write(trainer, made_by() | {"parameters": _parameters(pl_module)})


def trained(run: Path) -> bool:
    """Whether a run's training is over, and all that it leaves is written."""
    return "steps" in _known(run)


def made_by() -> dict[str, Any]:
    """Versions of the code, of Python and of the packages that the project names, and the kind of machine."""
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


def made_from(trainer: Trainer) -> dict[str, Any]:
    """Hashes of the stores that a mix reads, and of its vocabulary; nothing for other data."""
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


def _check_same(begun: dict[str, Any], now: dict[str, Any], data: Any) -> None:  # noqa: ANN401 - of whatever mix
    changed = [
        data.stores / name
        for name, facts in begun["stores"].items()
        if now["stores"].get(name, {}).get("fingerprint") != facts["fingerprint"]
    ]
    if begun.get("vocabulary") != now.get("vocabulary"):
        changed.append(data.vocabulary.path)
    if changed:
        raise UserError(
            f"{changed[0]}: not what the run was begun with; put that one back and resume, or begin a new run by fit"
        )


def _parameters(model: LightningModule) -> dict[str, int]:
    weights = list(model.parameters())
    return {
        "total": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def _write(trainer: Trainer, facts: dict[str, Any]) -> None:
    """Add to the file, whole or not at all, on the first rank."""
    folder = trainer.log_dir
    if folder is None or not trainer.is_global_zero or not trainer.loggers:  # nothing is to be kept
        return
    with atomic_write(Path(folder, FILE)) as beside:
        beside.write(json.dumps(_known(Path(folder)) | facts, indent=2) + "\n")


def _known(run: Path) -> dict[str, Any]:
    """What the file says; nothing if there is none."""
    file = run / FILE
    try:
        return dict(json.loads(file.read_text())) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); put back what was there, or remove it") from None
