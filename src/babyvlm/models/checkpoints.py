"""Reading weights: runs of this project, their best checkpoint, files of other projects, the authors' BabyLLaVA.

Nothing in a file is ever executed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from babyvlm.data.vocabulary import IMAGE_TOKEN, Vocabulary
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json, require_uncompressed
from babyvlm.io.runs import recorded_best
from babyvlm.models.compatibility import upgrade_state_dict

# Runs of this project.


def init_from(
    module: nn.Module,
    source: Path,
    prefixes: Mapping[str, str] | None = None,
    *,
    saved_by: type[nn.Module] | None = None,
) -> None:
    """Initialize a model with weights of another run, without its optimizer, schedule and step.

    Args:
        module: to fill. If it has a ``vocabulary`` or ``heads``, the source must have been trained with the same.
        source: folder of a run (its best checkpoint is used, or the last if there is no best), a ``.ckpt`` file or a
            ``.safetensors`` file.
        prefixes: prefix of weights in ``module`` -> prefix of the same weights in the source. Every weight of the
            module with one of these prefixes is initialized, and no other. Default: all weights, under their own names.
        saved_by: class of the model that was saved; by default that of ``module``.

    Raises:
        UserError: the file cannot be read safely, a weight is missing or has another shape, or it belongs to another
            vocabulary or number of heads.
        ValueError: no weight of the module has a given prefix.
    """
    if not source.exists():
        raise UserError(f"{source}: run folder or checkpoint not found")
    file = best_checkpoint(source) if source.is_dir() else source
    saved, info = _read_checkpoint(file)
    state = upgrade_state_dict(saved, saved_by or type(module))
    vocabulary = getattr(module, "vocabulary", None)
    if vocabulary is not None:
        check_vocabulary(str(file), info.get("vocabulary"), vocabulary)
    _check_heads(str(file), info.get("heads"), getattr(module, "heads", None))
    taken: dict[str, Tensor] = {}
    for here, there in (prefixes or {"": ""}).items():
        wanted = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(here)}
        if not wanted:
            raise ValueError(f"no weight of {type(module).__name__} has the prefix {here}")
        for name, tensor in wanted.items():
            other = there + name.removeprefix(here)
            if other not in state:
                raise UserError(f"{file}: weight {other} is missing, which initializes {name}")
            if state[other].shape != tensor.shape:
                raise UserError(
                    f"{file}: shape of {other} is {tuple(state[other].shape)}, but {name} needs {tuple(tensor.shape)}"
                )
            taken[name] = state[other]
    if not is_weightless(module):
        module.load_state_dict(taken, strict=False)


def is_weightless(module: nn.Module) -> bool:
    """Return whether a network was built without its weights (``networks.vision.weightless``)."""
    return any(parameter.is_meta for parameter in module.parameters())


def best_checkpoint(run: Path) -> Path:
    """Return the checkpoint that a run recorded as its best one (``io.runs.BestCheckpoint``).

    In runs of earlier versions and of a Trainer of your own, which have no such record, it is the one that the run's
    own criterion selected, or its last one if there was no criterion.

    Raises:
        UserError: the run does not exist, its best checkpoint is missing, or it has no checkpoint, or several and none
            of them is called ``last.ckpt``.
    """
    if not run.is_dir():
        raise UserError(f"{run}: run not found")
    if (recorded := recorded_best(run)) is not None:
        return recorded
    folder = run / "checkpoints"
    last, files = folder / "last.ckpt", sorted(folder.glob("*.ckpt"))
    if not last.is_file():
        if len(files) == 1:
            return files[0]
        problem = "several checkpoints, none of them called last.ckpt" if files else "no checkpoint"
        raise UserError(f"{run}: has {problem}. Name a checkpoint file")
    for state in _load(last).get("callbacks", {}).values():  # without reading the weights
        if state.get("monitor") and state.get("best_model_path"):
            best = Path(state["best_model_path"])
            parts = best.parts
            if folder.name in parts:  # in the run, which may have been moved
                best = folder.joinpath(*parts[len(parts) - parts[::-1].index(folder.name) :])
            if not best.is_file():
                raise UserError(
                    f"{run}: its best checkpoint, {best}, is missing. Restore it, or name a checkpoint file"
                )
            return best
    return last


def check_vocabulary(source: str, trained_with: str | None, vocabulary: Vocabulary) -> None:
    """Make sure that weights belong to a vocabulary.

    Args:
        source: names the weights in the error.
        trained_with: hash of their vocabulary, if known.
        vocabulary: of the model that takes them.

    Raises:
        UserError: it is another vocabulary.
    """
    if trained_with is not None and trained_with != vocabulary.hash:
        raise UserError(
            f"{source} was trained with another vocabulary ({trained_with[:12]}) than {vocabulary.path} "
            f"({vocabulary.hash[:12]}). Use the same vocabulary for all phases of a model"
        )


def _check_heads(source: str, trained_with: list[int] | None, heads: tuple[int, int] | None) -> None:
    """Compare numbers of heads where both are known: weights of other heads have the same shapes."""
    if trained_with is not None and heads is not None and tuple(trained_with) != heads:
        raise UserError(
            f"{source}: its language model has {trained_with[0]} heads and {trained_with[1]} key and value heads, but "
            f"this model has {heads[0]} and {heads[1]}. Set heads and kv_heads as in that run"
        )


def _read_checkpoint(file: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """Return weights by name, and their metadata in the file: ``vocabulary`` (its hash), ``heads``."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as content:
                info = content.metadata() or {}
            return load_file(file), info
        except Exception as error:
            raise UserError(f"{file}: cannot be read as weights ({first_line(error)})") from error
    checkpoint = _load(file)
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise UserError(f"{file}: not a checkpoint of a run (state_dict is missing)")
    return checkpoint["state_dict"], checkpoint


def _load(file: Path) -> dict[str, Any]:
    """Return the content of a file that torch saved; its tensors are mapped, so that all ranks of a host share them."""
    try:
        require_uncompressed(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        raise UserError(f"{file}: cannot be read as weights ({_reason(error)})") from error
    return content if isinstance(content, dict) else {}


def _reason(error: Exception) -> str:
    """Return why torch did not read a file. It names a refused class only far below the first line of its message."""
    if found := re.search(r"\bGLOBAL (\S+)", str(error)):
        return f"it contains a pickled {found[1]}, which is not loaded. Save its weights alone, as safetensors"
    return first_line(error)


# Files of other projects.


def read_state_dict(file: Path, source: str) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint of any project.

    Args:
        file: ``.safetensors``, or any file that torch saved.
        source: names it in errors.

    Raises:
        UserError: the file cannot be read safely or has no state dict.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        require_uncompressed(file)
        with torch.serialization.safe_globals(_inert_globals(file)):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        raise UserError(f"{source}: cannot be read as weights ({_reason(error)})") from error
    for key in ("teacher", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{source}: no state dict found (a mapping of names to tensors)")
    return dict(content)


# Names in pickled files that are read as empty objects. DINO saves its options, an `argparse.Namespace`. CVCL's
# `save_hyperparameters()` saves its two encoders: classes of its package `multimodal`, and of torch and torchvision
# other than tensors (`torch.nn.modules.*`, `torchvision.models.resnet.*`, the optimizer's class `torch.optim.*`).
# Lightning saves the classes of callbacks; options may hold paths, dates and NumPy's numbers. PyTorch itself builds
# tensors, storages and ordered dictionaries; any other name is an error.
INERT = (
    "argparse.Namespace",
    "datetime",
    "lightning",
    "multimodal",
    "numpy",
    "pathlib",
    "pytorch_lightning",
    "torch",
    "torchvision",
)


class _Inert:
    """Replaces an object that is saved beside the weights; discards everything that unpickling passes to it."""

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _inert_globals(file: Path) -> list[Any]:
    """Return the names in a checkpoint, other than tensors, that may be skipped; torch refuses all others.

    The names in ``INERT`` become ``_Inert``: none of them is imported, called or given its state.
    """
    named = torch.serialization.get_unsafe_globals_in_checkpoint(file) if zipfile.is_zipfile(file) else []
    skipped = {name for name in named if name.partition(".")[0] in INERT or name in INERT}
    return [(_Inert, name) for name in sorted(skipped | {"argparse.Namespace"})]


# The authors' BabyLLaVA (ShawnKing98/BabyLLaVA, ``llava/model``): LLaVA's layout, their tokenizer, torchvision's names
# for the vision tower. Two differences to this project remain: they keep a ViT's class token along with its patches,
# and the batch norm of their frozen ResNeXt was updated in training.

# torchvision's names of a ViT -> timm's. Those of a ResNeXt are the same in both.
_VIT_NAMES = [
    (r"class_token$", "cls_token"),
    (r"conv_proj\.", "patch_embed.proj."),
    (r"encoder\.pos_embedding$", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"ln_([12])\.", r"norm\1."),
    (r"self_attention\.in_proj_", "attn.qkv."),
    (r"self_attention\.out_proj\.", "attn.proj."),
    (r"mlp\.0\.", "mlp.fc1."),
    (r"mlp\.3\.", "mlp.fc2."),
]
_CONNECTOR_NAMES = {"mm_projector.0.": "linear_1.", "mm_projector.2.": "linear_2."}  # mlp2x_gelu


def is_authors_checkpoint(folder: Path) -> bool:
    """Return whether the authors' code saved a folder: its ``model_type`` is ``llava_gpt2`` or ``llava_llama``."""
    try:
        found = load_json(read_bounded(folder / "config.json", MAX_JSON_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") in ("llava_gpt2", "llava_llama")


def load_authors_checkpoint(llava: nn.Module, folder: Path, vocabulary: Vocabulary) -> None:
    """Load weights of the authors' BabyLLaVA.

    Words find their embeddings by the checkpoint's ``tokenizer.json``; ``<image>``, which is not a word there, keeps
    its own.

    Args:
        llava: a ``BabyLlavaForConditionalGeneration`` to fill.
        folder: with ``config.json``, ``tokenizer.json`` and ``pytorch_model.bin`` or ``model.safetensors``; or, for
            phase 1, with ``mm_projector.bin``, which contains only the connector.
        vocabulary: the model's; the authors' tokenizer must contain all of its words.

    Raises:
        UserError: files are missing or cannot be read, or a weight is missing or has another shape.
    """
    names = ("model.safetensors", "pytorch_model.bin", "mm_projector.bin")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: none of {', '.join(names)} found")
    theirs = dict(rename_authors_weights(read_state_dict(file, str(file))))
    ours = {name: tensor for name, tensor in llava.state_dict().items() if "num_batches_tracked" not in name}
    if file.name == "mm_projector.bin":
        ours = {name: tensor for name, tensor in ours.items() if "multi_modal_projector" in name}
    else:
        _reorder_embeddings(theirs, ours, folder / "tokenizer.json", vocabulary)
    for name, tensor in ours.items():
        if name not in theirs:
            raise UserError(f"{file}: weight {name} is missing")
        if theirs[name].shape != tensor.shape:
            raise UserError(
                f"{file}: shape of {name} is {tuple(theirs[name].shape)}, but the model needs {tuple(tensor.shape)}"
            )
    llava.load_state_dict({name: theirs[name] for name in ours}, strict=False)


def rename_authors_weights(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Give the weights our names: they are below ``transformer.`` (GPT-2) or ``model.`` (Llama)."""
    for name, tensor in state.items():
        body = re.sub(r"^(transformer|model)\.", "", name)
        if body == name:
            yield name, tensor  # lm_head
        elif body.startswith("vision_tower.vision_tower."):
            body = body.removeprefix("vision_tower.vision_tower.")
            for theirs, ours in _VIT_NAMES:
                body = re.sub(rf"(?:^|(?<=\.)){theirs}", ours, body)
            yield f"model.vision_tower.timm_model.{body}", tensor
        elif body.startswith("mm_projector."):
            head = body[: len("mm_projector.0.")]
            yield f"model.multi_modal_projector.{_CONNECTOR_NAMES.get(head, head)}{body.removeprefix(head)}", tensor
        else:
            yield f"model.language_model.{body}", tensor


def _reorder_embeddings(
    theirs: dict[str, Tensor], ours: Mapping[str, Tensor], file: Path, vocabulary: Vocabulary
) -> None:
    """Put the rows of embeddings and output layer into the order of our vocabulary."""
    try:
        rows = Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(f"{file}: cannot be read as a tokenizer ({first_line(error)})") from None
    missing = [word for word in vocabulary.words if word not in rows and word != IMAGE_TOKEN]
    if missing:
        raise UserError(f"{file}: lacks {len(missing)} words of {vocabulary.path}, for example {missing[0]!r}")
    embeddings = next(name for name in ours if name.endswith(("language_model.wte.weight", "embed_tokens.weight")))
    theirs.setdefault("lm_head.weight", theirs[embeddings])  # safetensors stores tied weights once
    order = [rows.get(word, 0) for word in vocabulary.words]
    for name in (embeddings, "lm_head.weight"):
        theirs[name] = theirs[name][order]
        image = vocabulary.image_token
        theirs[name][image] = ours[name][image].to(theirs[name].dtype)
