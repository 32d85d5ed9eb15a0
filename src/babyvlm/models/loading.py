"""Any model trained here on texts, given back by its run, by an exported folder or by its name on a hub."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule
from safetensors.torch import save_file

from babyvlm import allowed
from babyvlm.config import LINKED, CheckedParser, one_line
from babyvlm.errors import UserError, first_line
from babyvlm.io.artifacts import read_manifest
from babyvlm.io.hub import fetch, refuse_code
from babyvlm.models import initialization
from babyvlm.models.babyllava import BabyLLaVA

EXPORT = "babyvlm"  # kind of the artefact that ``export`` makes
WEIGHTS = "model.safetensors"
FILES = ("*.json", "*.safetensors", "vocabulary/*.json")  # nothing else goes to a hub or comes from it
# What only training asks for. Weights come from the checkpoint, wherever training began.
TRAINING_ONLY = ("weights", "pretrained", "init_from", "init_language", "optimizer", "scheduler")


def load(source: str | Path, device: str = "cpu", allow: Sequence[str] = ()) -> LightningModule:
    """Give back a model with its tokenizer and its transform, ready to ``score`` or ``caption``.

    Args:
        source: a run's folder (its best checkpoint is taken), a folder made by ``export``, or such a folder's name on
            the Hugging Face hub, ``ORG/NAME``.
        device: where to put it.
        allow: modules of your own whose classes the model may name, as ``--allow`` on the command line.

    Returns:
        The module of the run's config, in evaluation mode. Only classes listed in ``babyvlm.allowed`` are instantiated,
        and no pickled object is executed.

    Raises:
        UserError: there is no such model, or config and weights do not belong together.
    """
    allowed.allow(*allow)
    folder = Path(source) if Path(source).is_dir() else fetch(str(source), FILES)
    model = _exported(folder) if (folder / f"{EXPORT}.json").is_file() else load_run(folder)[0]
    return model.to(device).eval()


def load_run(run: Path) -> tuple[LightningModule, dict[str, Any]]:
    """The model of a run with the weights of its best checkpoint, and what makes it: ``class_path`` and ``init_args``.

    Raises:
        UserError: the folder is no run of this project's command line, or cannot be read.
    """
    config = _config(run)
    section, data = config["model"], (config.get("data") or {}).get("init_args") or {}
    recipe = without(section, TRAINING_ONLY)
    recipe["init_args"] = recipe.get("init_args", {}) | {name: data[name] for name in LINKED if name in data}
    if (run / "vocabulary").is_dir():  # the run's own copy; what it was made from may be gone
        recipe["init_args"]["vocabulary"] = str(run / "vocabulary")
    model = build(recipe, run)
    initialization.init_from(model, run, {"": ""}, getattr(model, "vocabulary", None))
    return model, recipe


def write(model: LightningModule, folder: Path) -> None:
    """Write weights and vocabulary as ``load`` reads them, nothing but safetensors and JSON."""
    vocabulary = getattr(model, "vocabulary", None)
    if vocabulary is not None:
        shutil.copytree(vocabulary.path, folder / "vocabulary")
    if isinstance(model, BabyLLaVA):  # as transformers reads it too
        model.save_pretrained(folder)
    else:
        # Clones, as tied weights stand under both names; in the order of rows, as safetensors stores them.
        state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / WEIGHTS)


def build(recipe: dict[str, Any], where: Path) -> LightningModule:
    """Make a module, with weights of no meaning, of what a config says.

    Raises:
        UserError: it says nothing that can be made; names ``where`` it stands.
    """
    path = str(recipe.get("class_path"))
    if path not in allowed.TRAINED_MODELS and not allowed.is_user_allowed(path):
        raise UserError(f"{where}: {allowed.refusal(path, 'model.class_path')}")
    parser = CheckedParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    known = recipe | {"init_args": {k: v for k, v in recipe["init_args"].items() if k not in LINKED}}
    for name in LINKED:
        parser.add_argument(f"--{name}")
        parser.link_arguments(name, f"model.init_args.{name}")  # left out where the model has no such argument
    linked = {name: recipe["init_args"][name] for name in LINKED if name in recipe["init_args"]}
    try:
        model = parser.instantiate_classes(parser.parse_object({"model": known, **linked})).model
    except Exception as error:
        raise UserError(f"{where}: its model cannot be made: {one_line(str(error))}") from error
    assert isinstance(model, LightningModule)
    return model


def without(config: Any, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - YAML
    """A config without some keys, at any depth."""
    if not isinstance(config, dict):
        return config
    return {key: without(value, names) for key, value in config.items() if key not in names}


def _exported(folder: Path) -> LightningModule:
    refuse_code(folder)
    recipe = without(read_manifest(folder, EXPORT)["model"], TRAINING_ONLY)
    if not isinstance(recipe, dict) or not isinstance(recipe.setdefault("init_args", {}), dict):
        raise UserError(f"{folder / EXPORT}.json: `model` is not a class with its arguments")
    if unknown := sorted(recipe.keys() - {"class_path", "init_args"}):
        raise UserError(
            f"{folder / EXPORT}.json: model.{unknown[0]}: unknown key; a model has class_path and init_args"
        )
    vocabulary = folder / "vocabulary"
    if vocabulary.is_dir():
        recipe["init_args"]["vocabulary"] = str(vocabulary)
    model = build(recipe, folder)
    if isinstance(model, BabyLLaVA):
        model.load_pretrained(folder)
    else:
        initialization.init_from(model, folder / WEIGHTS, {"": ""}, getattr(model, "vocabulary", None))
    return model


def _config(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{run}: neither a run nor an exported model ({first_line(error)})") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{file}: names no model")
    return config
