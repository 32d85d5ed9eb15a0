"""The authors' own BabyLLaVA checkpoints: LLaVA's layout, their tokenizer, torchvision's names for the vision tower.

Source: their code (ShawnKing98/BabyLLaVA, ``llava/model``). What it does otherwise than this project: a ViT's class
token goes along with its patches, and a frozen ResNeXt's batch norm went on learning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from babyvlm.data.vocabulary import IMAGE, Vocabulary
from babyvlm.errors import UserError, first_line
from babyvlm.models.networks.babyllava_hf import BabyLlavaForConditionalGeneration
from babyvlm.models.networks.vision import read_state

# torchvision's names of a ViT -> timm's. Those of a ResNeXt are the same in both.
VIT = [
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
CONNECTOR = {"mm_projector.0.": "linear_1.", "mm_projector.2.": "linear_2."}  # mlp2x_gelu


def is_authors(folder: Path) -> bool:
    """Whether a folder was saved by the authors' code: it says ``llava_gpt2`` or ``llava_llama``."""
    try:
        return str(json.loads((folder / "config.json").read_text())["model_type"]).startswith("llava_")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_authors(vlm: BabyLlavaForConditionalGeneration, folder: Path, vocabulary: Vocabulary) -> None:
    """Take a checkpoint's weights; nothing in it is ever executed.

    Words find their rows by the checkpoint's ``tokenizer.json``; ``<image>``, which is no word there, keeps its own.

    Args:
        vlm: to fill.
        folder: with ``config.json``, ``tokenizer.json`` and ``pytorch_model.bin`` or ``model.safetensors``; or, of
            phase 1, with ``mm_projector.bin``, which fills the connector alone.
        vocabulary: the model's; words of it that the authors' tokenizer lacks are refused.

    Raises:
        UserError: the files are missing or cannot be read, or a weight is missing or of another shape.
    """
    names = ("model.safetensors", "pytorch_model.bin", "mm_projector.bin")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: holds none of {', '.join(names)}")
    theirs = dict(_renamed(read_state(file, str(file))))
    ours = {name: tensor for name, tensor in vlm.state_dict().items() if "num_batches_tracked" not in name}
    if file.name == "mm_projector.bin":
        ours = {name: tensor for name, tensor in ours.items() if "multi_modal_projector" in name}
    else:
        _match_words(theirs, ours, folder / "tokenizer.json", vocabulary)
    for name, tensor in ours.items():
        if name not in theirs or theirs[name].shape != tensor.shape:
            found = f"is {tuple(theirs[name].shape)}, not {tuple(tensor.shape)}" if name in theirs else "is missing"
            raise UserError(f"{file}: {name} {found}")
    vlm.load_state_dict({name: theirs[name] for name in ours}, strict=False)


def _renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The authors' weights under the names of ours: what is below ``transformer.`` (GPT-2) or ``model.`` (Llama)."""
    for name, tensor in state.items():
        body = re.sub(r"^(transformer|model)\.", "", name)
        if body == name:
            yield name, tensor  # lm_head
        elif body.startswith("vision_tower.vision_tower."):
            body = body.removeprefix("vision_tower.vision_tower.")
            for theirs, ours in VIT:
                body = re.sub(rf"(?:^|(?<=\.)){theirs}", ours, body)
            yield f"model.vision_tower.timm_model.{body}", tensor
        elif body.startswith("mm_projector."):
            head = body[: len("mm_projector.0.")]
            yield f"model.multi_modal_projector.{CONNECTOR.get(head, head)}{body.removeprefix(head)}", tensor
        else:
            yield f"model.language_model.{body}", tensor


def _match_words(theirs: dict[str, Tensor], ours: Mapping[str, Tensor], file: Path, vocabulary: Vocabulary) -> None:
    """Put the rows of embeddings and output layer into the order of our vocabulary."""
    try:
        rows = Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(f"{file}: cannot be read as a tokenizer ({first_line(error)})") from None
    lacking = [word for index, word in enumerate(vocabulary.words) if word not in rows and index != IMAGE]
    if lacking:
        raise UserError(f"{file}: {len(lacking)} words of {vocabulary.path} are not in it, the first is {lacking[0]!r}")
    embeddings = next(name for name in ours if name.endswith(("language_model.wte.weight", "embed_tokens.weight")))
    theirs.setdefault("lm_head.weight", theirs[embeddings])  # tied: safetensors holds it once
    order = [rows.get(word, 0) for word in vocabulary.words]
    for name in (embeddings, "lm_head.weight"):
        theirs[name] = theirs[name][order]
        theirs[name][IMAGE] = ours[name][IMAGE].to(theirs[name].dtype)
