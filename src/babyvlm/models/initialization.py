"""Where a phase begins: weights, and nothing else, out of a run that went before; and what a checkpoint must say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError, first_line


class VocabularyModule(LightningModule):
    """A model whose weights mean something with one vocabulary only: its runs hold it, its checkpoints name it.

    Attributes:
        vocabulary: its own.
        heads: of its language model's attention, and of keys and values: no shape of a weight tells them.
    """

    vocabulary: Vocabulary
    heads: tuple[int, int] | None = None

    def on_fit_start(self) -> None:
        """Copy the vocabulary to the run's folder, so that the run can be used without what it was made from."""
        folder = self.trainer.log_dir  # asked on every rank: it is broadcast
        if folder is None or not self.trainer.loggers:  # nothing is to be kept
            return
        if self.trainer.is_global_zero and not Path(folder, "vocabulary").exists():
            partial = Path(folder, "vocabulary.partial")
            shutil.copytree(self.vocabulary.path, partial, dirs_exist_ok=True)
            partial.rename(partial.with_suffix(""))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the vocabulary, and the heads."""
        checkpoint["vocabulary"] = self.vocabulary.hash
        if self.heads is not None:
            checkpoint["heads"] = list(self.heads)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another vocabulary.

        Raises:
            UserError: the checkpoint names another one.
        """
        _check_vocabulary("the checkpoint", checkpoint.get("vocabulary"), self.vocabulary)


def init_from(module: nn.Module, source: Path, renamed: Mapping[str, str], vocabulary: Vocabulary | None) -> None:
    """Take weights from another run; its optimizer, schedule and step stay behind.

    Args:
        module: to fill.
        source: a run's folder (its best checkpoint, or its last if none is called best), a ``.ckpt`` or a
            ``.safetensors`` file.
        renamed: prefix in ``module`` -> prefix of the same weights in the source; ``{"": ""}`` takes all of them as
            they are called. Every weight of the module below one of these prefixes is taken, and no other.
        vocabulary: the module's; the source must name the same one, if it names any.

    Raises:
        UserError: the file cannot be read safely, lacks a weight, holds it in another shape, or belongs to another
            vocabulary or number of heads.
        ValueError: a prefix begins no weight of the module.
    """
    if not source.exists():
        raise UserError(f"{source}: no such run folder or checkpoint")
    file = best_checkpoint(source) if source.is_dir() else source
    state, said = _read(file)
    if vocabulary is not None:
        _check_vocabulary(str(file), said.get("vocabulary"), vocabulary)
    _check_heads(str(file), said.get("heads"), getattr(module, "heads", None))
    wanted = {
        name: (there + name.removeprefix(here), tensor)
        for here, there in renamed.items()
        for name, tensor in module.state_dict().items()
        if name.startswith(here)
    }
    for here in renamed:
        if not any(name.startswith(here) for name in wanted):
            raise ValueError(f"{here} begins no weight of {type(module).__name__}")
    for name, (other, tensor) in wanted.items():
        if other not in state:
            raise UserError(f"{file}: {other} is missing, which {name} begins from")
        if state[other].shape != tensor.shape:
            raise UserError(f"{file}: {other} is {tuple(state[other].shape)}, {name} needs {tuple(tensor.shape)}")
    module.load_state_dict({name: state[other] for name, (other, _) in wanted.items()}, strict=False)


def best_checkpoint(run: Path) -> Path:
    """The checkpoint that a run's own criterion chose, or its last one if it chose none.

    Raises:
        UserError: the run is not there, holds no checkpoint, or several and none of them is called last.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run")
    folder = run / "checkpoints"
    last, files = folder / "last.ckpt", sorted(folder.glob("*.ckpt"))
    if not last.is_file():
        if len(files) == 1:
            return files[0]
        raise UserError(f"{run}: holds {'several checkpoints' if files else 'no checkpoint'}; name a file")
    for state in _load(last).get("callbacks", {}).values():
        if state.get("monitor") and state.get("best_model_path"):
            best = folder / Path(state["best_model_path"]).name  # the run may have been moved
            if best.is_file():
                return best
    return last


def _read(file: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """Weights by name, and what the file says of what they belong to: ``vocabulary`` (its hash), ``heads``."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as content:
                said = content.metadata() or {}
            return load_file(file), said
        except Exception as error:
            raise UserError(f"{file}: cannot be read as weights ({first_line(error)})") from error
    checkpoint = _load(file)
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise UserError(f"{file}: is no checkpoint of a run (it has no state_dict)")
    return checkpoint["state_dict"], checkpoint


def _load(file: Path) -> dict[str, Any]:
    """A checkpoint's contents; nothing in it is ever executed."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{file}: cannot be read as weights ({first_line(error)})") from error
    return content if isinstance(content, dict) else {}


def _check_vocabulary(source: str, named: str | None, vocabulary: Vocabulary) -> None:
    if named is not None and named != vocabulary.hash:
        raise UserError(
            f"{source} was trained with another vocabulary ({named[:12]}) than {vocabulary.path} "
            f"({vocabulary.hash[:12]}); one vocabulary serves all phases of a row"
        )


def _check_heads(source: str, named: list[int] | None, heads: tuple[int, int] | None) -> None:
    """Where both are known; a run made before they were named says nothing."""
    if named is not None and heads is not None and tuple(named) != heads:
        raise UserError(
            f"{source}: its language model has {named[0]} heads and {named[1]} of keys and values, this one {heads[0]} "
            f"and {heads[1]}: its weights would fit and mean nothing"
        )
