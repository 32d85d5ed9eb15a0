"""What looking was worth: the same trials with the pictures taken away, or exchanged."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from babyvlm.benchmarks.trials import Trial

# In an image's place; no path of a file can hold a NUL.
BLANK = "\0blank"  # an empty picture
ABSENT = "\0absent"  # none at all: how likely the text is by itself

Views = dict[str, list[Trial]]  # the trials as they are under "", and by the name of each control


def controlled(trials: Sequence[Trial], *, text_only: bool, seed: int) -> Views:
    """The trials of each control.

    - ``blank``: every image is the same empty one;
    - ``shuffled``: every image is another one of these trials;
    - ``text_only``: no image.

    Args:
        trials: as they are.
        text_only: whether the model can do without an image.
        seed: of the shuffle.
    """
    views = {"blank": _with_images(trials, lambda image: BLANK)}
    other = derangement({image for trial in trials for image, _ in trial.options}, seed)
    if other:
        views["shuffled"] = _with_images(trials, other.__getitem__)
    if text_only:
        views["text_only"] = _with_images(trials, lambda image: ABSENT)
    return views


def derangement(images: set[str], seed: int) -> dict[str, str]:
    """For each image another one, each taken once: the next on a random round. Empty if there are not two."""
    around = sorted(images)
    random.Random(seed).shuffle(around)
    return dict(zip(around, around[1:] + around[:1], strict=True)) if len(around) > 1 else {}


def _with_images(trials: Sequence[Trial], image_for: Callable[[str], str]) -> list[Trial]:
    return [replace(t, options=tuple((image_for(image), text) for image, text in t.options)) for t in trials]
