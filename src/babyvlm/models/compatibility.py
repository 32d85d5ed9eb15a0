"""Names of version 0.1.0 in configs and checkpoints: one mapping, used wherever either is read.

Version 0.2.0 moved the networks out of the LightningModules, so that weights have other names, moved modules, and
renamed options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor, nn

Config: TypeAlias = "dict[str, Config] | list[Config] | str | int | float | bool | None"

# Class paths: prefix in 0.1.0 -> prefix today.
CLASS_PATHS = {
    "babyvlm.models.vision.": "babyvlm.models.networks.vision.",
    "babyvlm.models.text.": "babyvlm.models.networks.text.",
    "babyvlm.models.connector.": "babyvlm.models.networks.connector.",
    "babyvlm.models.hf_vision_language.": "babyvlm.models.zero_shot.",
    "babyvlm.data.mixes.": "babyvlm.data.pair_mix.",
    "babyvlm.data.frames.": "babyvlm.data.frame_mix.",
}
# Options of a class: name in 0.1.0 -> name today.
OPTIONS = {
    "babyvlm.models.babyllava.BabyLLaVA": {"recompute": "gradient_checkpointing"},
    "babyvlm.models.language.LanguageModel": {"recompute": "gradient_checkpointing"},
    "babyvlm.models.zero_shot.HFVisionLanguage": {"weights": "precision", "rows": "batch_size"},
}
# Weights of a model: prefix in 0.1.0 -> prefix today. Those without a prefix in the table kept their names.
WEIGHTS = {
    "babyvlm.models.cvcl.CVCL": {
        "vision.": "network.vision_encoder.",
        "projection.": "network.projection.",
        "text.": "network.text_encoder.",
        "log_temperature": "network.log_temperature",
    },
    "babyvlm.models.babyllava.BabyLLaVA": {"vlm.": "network.llava."},
    "babyvlm.models.language.LanguageModel": {"lm.": "network."},
    "babyvlm.models.clip.ClipTraining": {"model.": "network."},
    "babyvlm.models.dino.DINO": {
        "student.": "network.student.",
        "student_head.": "network.student_head.",
        "teacher.": "network.teacher.",
        "teacher_head.": "network.teacher_head.",
    },
}


def upgrade_config(config: Config) -> Config:
    """Return a config with today's class paths and options, at any depth; a config of today is unchanged."""
    if isinstance(config, list):
        return [upgrade_config(value) for value in config]
    if isinstance(config, str):
        old = next((prefix for prefix in CLASS_PATHS if config.startswith(prefix)), None)
        return config if old is None else CLASS_PATHS[old] + config.removeprefix(old)
    if not isinstance(config, dict):
        return config
    upgraded = {name: upgrade_config(value) for name, value in config.items()}
    options, init_args = OPTIONS.get(str(upgraded.get("class_path")), {}), upgraded.get("init_args")
    if isinstance(init_args, dict):
        upgraded["init_args"] = {options.get(name, name): value for name, value in init_args.items()}
    return upgraded


def upgrade_state_dict(state: Mapping[str, Tensor], model: type[nn.Module]) -> dict[str, Tensor]:
    """Return a checkpoint's weights under today's names.

    Args:
        state: weights by name, as 0.1.0 or today's version saved them.
        model: the class that saved them.
    """
    paths = (f"{base.__module__}.{base.__qualname__}" for base in model.__mro__)
    prefixes = next((WEIGHTS[path] for path in paths if path in WEIGHTS), {})
    if any(name.startswith("network.") for name in state):
        return dict(state)

    def rename(name: str) -> str:
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        return name if old is None else prefixes[old] + name.removeprefix(old)

    return {rename(name): tensor for name, tensor in state.items()}
