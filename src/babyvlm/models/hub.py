"""Load models: runs, exported folders and the authors' published checkpoints, from a folder or the Hugging Face hub.

Save models as exported folders.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning import LightningModule
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import CLIPProcessor

from babyvlm import allowed
from babyvlm.config import LINKED, CheckedParser, one_line
from babyvlm.data.transforms import MEAN, STD
from babyvlm.errors import UserError, first_line
from babyvlm.io.artifacts import read_manifest
from babyvlm.io.hub import COMMIT, fetch, refuse_code
from babyvlm.io.limits import load_yaml_file
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.checkpoints import init_from
from babyvlm.models.compatibility import Config, upgrade_config
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.auto_classes import CVCLConfig, ImageTokensModel, register_auto_classes
from babyvlm.models.networks.babyllava import fast_tokenizer, image_processor
from babyvlm.models.networks.vision import VisionEncoder, save_trunk
from babyvlm.models.published import load_published

EXPORT = "babyvlm"  # kind of the artifact that ``export`` creates
WEIGHTS = "model.safetensors"
FILES = ("*.json", "*.json.sha256", "*.safetensors", "chat_template.jinja")  # nothing else is uploaded to a hub
# Of published checkpoints, also the pickled weights; only from a pinned commit, so that they cannot change.
PINNED_FILES = (*FILES, "*.ckpt", "*.pth", "pytorch_model*.bin")
# Options that only training needs. Weights come from the checkpoint, whatever they were initialized from.
TRAINING_ONLY = ("weights", "pretrained", "init_from", "init_language", "optimizer", "scheduler")
Recipe = dict[str, Any]  # ``class_path`` and ``init_args`` of a model


def load(
    source: str | Path, device: str = "cpu", allow: Sequence[str] = (), revision: str | None = None
) -> LightningModule:
    """Load a model with its tokenizer and image transform, ready to ``score`` or ``caption``.

    Also registers CVCL and BabyLLaVA with transformers' Auto classes (``register_auto_classes``).

    Args:
        source: a run's folder (its best checkpoint is used), a folder created by ``export``, a folder with a published
            checkpoint of CVCL, BabyLLaVA or a DINO backbone (``models.published``), or the name of such a folder on the
            Hugging Face hub, ``ORG/NAME``. Runs and folders of version 0.1.0 load too.
        device: to move the model to.
        allow: modules of your own whose classes the model may name, as ``--allow`` on the command line.
        revision: commit of a model on the hub, 40 hexadecimal digits; required for published checkpoints, whose weights
            are pickled.

    Returns:
        The module of the run's config, in evaluation mode. Only classes listed in ``babyvlm.allowed`` are
        instantiated, and no pickled object is executed.

    Raises:
        UserError: there is no such model, or its config and weights do not fit each other.
    """
    if Path(source).is_file():
        raise UserError(f"{source}: is a file. Pass the folder of its run, or the folder that `export` created")
    allowed.allow(*allow)
    register_auto_classes()
    if revision is not None and not COMMIT.fullmatch(revision):
        raise UserError(f"revision {revision}: must be a commit of 40 hexadecimal digits, which cannot change")
    folder = Path(source)
    if not folder.is_dir():
        folder = fetch(str(source), FILES if revision is None else PINNED_FILES, revision)
    if (folder / f"{EXPORT}.json").is_file():
        model = _load_export(folder)
    elif (folder / "config.yaml").is_file():
        model = load_run(folder)[0]
    else:
        refuse_code(folder)
        model = load_published(folder) or _unknown(folder, pinned=revision is not None or Path(source).is_dir())
    return model.to(device).eval()


def _unknown(folder: Path, *, pinned: bool) -> NoReturn:
    hint = "" if pinned else ". A published checkpoint on the hub needs its commit as `revision`"
    raise UserError(f"{folder}: neither a run, an exported model nor a published checkpoint{hint}")


def load_run(run: Path) -> tuple[LightningModule, Recipe]:
    """Load the model of a run with the weights of its best checkpoint.

    Returns:
        The model, and its ``class_path`` and ``init_args``.

    Raises:
        UserError: the folder is not a run of this project's command line, or cannot be read.
    """
    config = _read_config(run)
    recipe = _recipe(config["model"])
    data = (config.get("data") or {}).get("init_args") or {}
    recipe["init_args"] = recipe.get("init_args", {}) | {name: data[name] for name in LINKED if name in data}
    if (run / "vocabulary").is_dir():  # the run's own copy: the original may be gone
        recipe["init_args"]["vocabulary"] = str(run / "vocabulary")
    model = build(recipe, run)
    init_from(model, run)
    return model, recipe


def save(model: LightningModule, folder: Path) -> None:
    """Write weights and vocabulary as ``load`` reads them: only safetensors and JSON.

    The Auto classes of transformers read the same files of BabyLLaVA, and of a CVCL with one of its text encoders.
    """
    vocabulary = getattr(model, "vocabulary", None)
    if vocabulary is not None:
        vocabulary.copy_to(folder / "vocabulary")
    if isinstance(model, BabyLLaVA):  # in transformers' format
        model.save_pretrained(folder)
    else:
        # Clones, because tied weights have two names; contiguous, because safetensors stores rows in order.
        state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / WEIGHTS, {"format": "pt"})  # transformers refuses files that do not say so
        if isinstance(model, CVCL):
            _describe_cvcl(model, folder)


def _describe_cvcl(model: CVCL, folder: Path) -> None:
    """Write ``config.json`` and the files of a processor for transformers, beside the weights."""
    config = CVCLConfig.of(model.network, model.image_size, model.max_tokens)
    if config is None:  # a text encoder of the user's
        return
    config.architectures = ["CVCLModel"]
    config.save_pretrained(folder)
    tokenizer = fast_tokenizer(
        Tokenizer.from_file(str(folder / "vocabulary" / "tokenizer.json")), model_max_length=model.max_tokens
    )
    CLIPProcessor(image_processor(model.image_size, model.resize), tokenizer).save_pretrained(folder)


def save_timm(model: LightningModule, folder: Path) -> None:
    """Write the vision trunk of a model in timm's format: ``timm.create_model("local-dir:FOLDER")`` loads it.

    Args:
        model: CVCL, BabyLLaVA or DINO.
        folder: to write ``config.json`` and ``model.safetensors`` to.

    Raises:
        UserError: the model has no timm trunk.
    """
    encoder = next((part for part in model.modules() if isinstance(part, VisionEncoder)), None)
    tower = next((part for part in model.modules() if isinstance(part, ImageTokensModel)), None)
    if encoder is not None:
        trunk, name, options = encoder.trunk, encoder.backbone, encoder.options
    elif tower is not None:
        trunk, name = tower.timm_model, tower.config.architecture
        options = tower.config.model_args or {}
    else:
        raise UserError(f"{type(model).__name__} has no timm trunk. Export a CVCL, BabyLLaVA or DINO")
    size = getattr(model, "image_size", None)
    described = {"num_classes": 0, "mean": list(MEAN), "std": list(STD), "interpolation": "bilinear"}
    if size is not None:
        described |= {"input_size": [3, size, size], "fixed_input_size": bool(options.get("img_size")), "crop_pct": 1.0}
    content = {
        "architecture": name,
        "num_classes": 0,
        "num_features": trunk.num_features,
        "pretrained_cfg": described,
        "model_args": options,
    }
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    save_trunk(trunk, folder / WEIGHTS)


def build(recipe: Recipe, where: Path) -> LightningModule:
    """Build a model from a config, with random weights.

    Args:
        recipe: ``class_path`` and ``init_args``.
        where: names the config in errors.

    Raises:
        UserError: the config does not describe a model.
    """
    path = str(recipe.get("class_path"))
    if path not in allowed.TRAINED_MODELS and not allowed.is_user_allowed(path):
        raise UserError(f"{where}: {allowed.refusal(path, 'model.class_path')}")
    parser = CheckedParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    init_args = recipe.get("init_args", {})
    own = recipe | {"init_args": {name: value for name, value in init_args.items() if name not in LINKED}}
    for name in LINKED:
        parser.add_argument(f"--{name}")
        parser.link_arguments(name, f"model.init_args.{name}")  # ignored where the model has no such argument
    linked = {name: init_args[name] for name in LINKED if name in init_args}
    try:
        model = parser.instantiate(parser.parse_object({"model": own, **linked})).model
    except Exception as error:
        raise UserError(f"{where}: cannot build its model: {one_line(str(error))}") from error
    assert isinstance(model, LightningModule)
    return model


def _recipe(section: Config) -> Recipe:
    """Return a config's model with today's names and without the options that only training needs."""
    recipe = _without(upgrade_config(section), TRAINING_ONLY)
    assert isinstance(recipe, dict)
    return recipe


def _without(config: Config, names: Collection[str]) -> Config:
    """Return a config without some keys, at any depth."""
    if not isinstance(config, dict):
        return config
    return {key: _without(value, names) for key, value in config.items() if key not in names}


def _load_export(folder: Path) -> LightningModule:
    refuse_code(folder)
    section = read_manifest(folder, EXPORT).get("model")
    if not isinstance(section, dict) or not isinstance(section.setdefault("init_args", {}), dict):
        raise UserError(f"{folder / EXPORT}.json: `model` is not a class with its arguments")
    if unknown := sorted(section.keys() - {"class_path", "init_args"}):
        raise UserError(
            f"{folder / EXPORT}.json: model.{unknown[0]}: unknown key; a model has class_path and init_args"
        )
    recipe = _recipe(section)
    vocabulary = folder / "vocabulary"
    if vocabulary.is_dir():
        recipe["init_args"]["vocabulary"] = str(vocabulary)
    model = build(recipe, folder)
    if isinstance(model, BabyLLaVA):
        model.load_pretrained(folder)
    else:
        init_from(model, folder / WEIGHTS)
    return model


def _read_config(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    try:
        config = load_yaml_file(file)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{run}: neither a run nor an exported model ({first_line(error)})") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{file}: has no model")
    return config
