"""Ranges of numbers by the name of their option, in configs and in Python."""

from __future__ import annotations

import sys
from math import inf
from typing import Final

from babyvlm.errors import UserError

# Least and greatest value. Options of the same name have the same meaning in this package.
_AT_LEAST_1 = """
    batch_size val_batch_size image_size utterances width layers heads kv_heads inner positions prototypes embed_dim
    local_size per_category per_word accumulate_grad_batches num_nodes check_val_every_n_epoch step_size step_size_up
    total_iters
"""
_AT_LEAST_0 = "num_workers local_count every_seconds gradient_clip_val log_every_n_steps patience"
_FINITE = sys.float_info.max
_FRACTIONS = "dropout momentum warmup dev_fraction grayscale solarize"
RANGES: Final[dict[str, tuple[float, float]]] = {
    **dict.fromkeys(_AT_LEAST_1.split(), (1, inf)),
    **dict.fromkeys(_AT_LEAST_0.split(), (0, inf)),
    **dict.fromkeys(_FRACTIONS.split(), (0, 1)),
    **dict.fromkeys(("lr", "weight_decay"), (0, _FINITE)),
    "seed_everything": (0, 2**32 - 1),  # NumPy's global generator
    "seed": (0, inf),
    "max_tokens": (3, inf),  # <sos>, a word, <eos>
    "min_scale": (1e-6, 1),
    "temperature": (1e-6, _FINITE),
}


def check_range(key: str, name: str, value: float) -> None:
    """Check one number.

    Args:
        key: begins the message; the option's name as the user writes it.
        name: of the option in ``RANGES``.
        value: of the option.

    Raises:
        UserError: it is out of range, or NaN.
    """
    least, greatest = RANGES[name]
    if not least <= value <= greatest:
        raise UserError(f"{key} {value}: must be {_in_words(least, greatest)}")


def require_in_range(**options: float | None) -> None:
    """Check arguments of a class or a function; None stands for the default and is not checked.

    >>> require_in_range(min_scale=2.0)
    Traceback (most recent call last):
    babyvlm.errors.UserError: min_scale 2.0: must be above 0 and at most 1

    Raises:
        UserError: an argument is out of range.
    """
    for name, value in options.items():
        if value is not None:
            check_range(name, name, value)


def _in_words(least: float, greatest: float) -> str:
    if greatest == _FINITE:
        return f"{'above 0' if least else 'at least 0'}, and finite"
    if least == 1e-6:
        return f"above 0 and at most {greatest}"
    return f"at least {least}" if greatest == inf else f"between {least} and {greatest}"
