"""Image-blind baselines: the same trials with blank, shuffled or no images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from babyvlm.benchmarks.trials import Trial

# Used in place of an image's path; no path can contain a NUL.
BLANK = "\0blank"  # an empty image
ABSENT = "\0absent"  # no image: the likelihood of the text only
CONTROLS = {"blank": "blank image", "shuffled": "shuffled images", "text_only": "text only"}  # titles in tables

Views = dict[str, list[Trial]]  # the trials themselves under "", and those of each control under its name


def controlled(trials: Sequence[Trial], *, text_only: bool, seed: int) -> Views:
    """Return the trials of each control.

    - ``blank``: every image is the same empty one;
    - ``shuffled``: every image is replaced by another image of these trials;
    - ``text_only``: no image.

    Args:
        trials: The trials themselves.
        text_only: Whether the model can score texts without an image.
        seed: Of the shuffle.
    """
    views = {"blank": _with_images(trials, lambda image: BLANK)}
    other = derangement({image for trial in trials for image, _ in trial.options}, seed)
    if other:
        views["shuffled"] = _with_images(trials, other.__getitem__)
    if text_only:
        views["text_only"] = _with_images(trials, lambda image: ABSENT)
    return views


def derangement(images: set[str], seed: int) -> dict[str, str]:
    """Map each image to another one, each used once: the next in a random circle. Empty for fewer than two images."""
    around = sorted(images)
    random.Random(seed).shuffle(around)
    return dict(zip(around, around[1:] + around[:1], strict=True)) if len(around) > 1 else {}


def _with_images(trials: Sequence[Trial], image_for: Callable[[str], str]) -> list[Trial]:
    return [replace(t, options=tuple((image_for(image), text) for image, text in t.options)) for t in trials]
