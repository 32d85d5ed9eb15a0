"""``python -m babyvlm submission``: a folder for the leaderboard of the BabyVLM challenge.

Format: karthiksrikumar/BabyVLM-Leaderboard-2026, ``submissions/README.md``: ``model.py``, a model of lmms-eval, and
``submission.json``, which names the checkpoint.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from babyvlm.errors import UserError
from babyvlm.io.artifacts import read_manifest
from babyvlm.io.license_gate import require_free
from babyvlm.io.printing import echo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MODEL = '''"""Model for lmms-eval: a model of babyvlm, which the evaluation machine needs: pip install babyvlm."""

from lmms_eval.api.registry import register_model

from babyvlm.adapters.lmms_eval_model import BabyVLM


@register_model("{registered}")
class Submission(BabyVLM):
    """Loads the checkpoint of submission.json, unless another one is passed as ``pretrained``."""

    skips = True  # what this model cannot answer is answered with an empty text, and the other tasks go on

    def __init__(self, pretrained={checkpoint!r}, device="cuda:0", batch_size=1, conv_template=None, **kwargs):
        super().__init__(source=pretrained, device=device, batch_size=batch_size)
'''


def submission(
    export: Path,
    checkpoint: str,
    out: Path,
    name: str,
    description: str = "",
    contributions: str = "",
    licensed_export: bool = False,
) -> None:
    """Write a submission to the leaderboard of the BabyVLM challenge: `model.py` and `submission.json`.

    Nothing is uploaded. The checkpoint must be where the organizers can download it, for example on the hub by
    `export --hub`. Add the folder to their repository as `submissions/NAME` in a pull request.

    For example:
        python -m babyvlm submission --export FOLDER --checkpoint ORG/NAME --name my-model --out submissions/my-model

    Args:
        export: folder that `export` created, from which type, size and training data are read.
        checkpoint: name on the Hugging Face hub, or public URL, of the same folder.
        out: folder to create.
        name: name on the leaderboard.
        description: what the model is.
        contributions: its main contributions.
        licensed_export: allow the submission of a model that was trained on licensed data; you are responsible for the
            distribution of its weights.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: use letters, digits, dots, hyphens and underscores only")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: already exists. Delete it or pass a different --out")
    if not checkpoint.startswith("https://") and not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint):
        raise UserError(f"--checkpoint {checkpoint}: must be ORG/NAME on the Hugging Face hub, or an https URL")
    manifest = read_manifest(export, "babyvlm")
    model = manifest.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{export}: has no complete model. Pass a folder that `export` created without --format timm")
    require_free(export, licensed=bool(manifest.get("licensed")), permitted=licensed_export)
    registered = re.sub(r"\W", "_", name).lower()
    is_hub = not checkpoint.startswith("https://")
    content = {
        "model_name": name,
        "checkpoint": checkpoint,
        "registered_model": registered,
        "conv_template": "",
        "hf_model_url": f"https://huggingface.co/{checkpoint}" if is_hub else "",
        "metadata": _facts(export, model) | {"main_contributions": contributions, "model_description": description},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "submission.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "model.py").write_text(MODEL.format(registered=registered, checkpoint=checkpoint))
    echo(f"{out}: model.py and submission.json of {name}")


def _facts(export: Path, model: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that follow from an exported model."""
    from safetensors import safe_open

    with safe_open(export / "model.safetensors", "np") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 - not a dictionary
    parameters = 0
    for shape in shapes:
        count = 1
        for size in shape:
            count *= size
        parameters += count
    arguments = model.get("init_args") or {}
    vision = (arguments.get("vision") or {}).get("init_args") or {}
    language = (arguments.get("language") or {}).get("init_args") or arguments.get("language") or {}
    card = (export / "README.md").read_text() if (export / "README.md").is_file() else ""
    mix = re.search(r"^- mix: (.*)$", card, re.MULTILINE)
    return {
        "model_type": str(model.get("class_path", "")).rpartition(".")[2],
        "vision_encoder": str(vision.get("backbone", "resnext50_32x4d")),
        "language_model": str(language.get("family", "")) or "none",
        "training_data": mix[1].replace("\\", "") if mix else "",
        "num_parameters": parameters,
    }
