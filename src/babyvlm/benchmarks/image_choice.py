"""Choices between images by their similarity to another image, with any ``ImageEmbedder``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from babyvlm.benchmarks.base import ForcedChoice
from babyvlm.benchmarks.trials import Trial, file_of, with_images
from babyvlm.io.images import open_rgb
from babyvlm.types import ImageEmbedder, TrialResult

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views

Embeddings = dict[str, npt.NDArray[np.float64]]  # image -> unit vector
PIXELS = 16  # side of the images that `pixel match` compares: our choice, small enough to forgive a shift


class ImageChoice(ForcedChoice):
    """Correct if the right image is most similar to the query.

    The options of a trial are pairs (image, query), whose second part is the path of the query instead of a text.
    """

    reads_text = False

    def accepts(self, model: object) -> bool:
        """Return whether the model is an ``ImageEmbedder``."""
        return isinstance(model, ImageEmbedder)

    def reads_text_alone(self, model: object) -> bool:
        """Return False: there is no text."""
        return False

    def load(self) -> tuple[list[Trial], int]:
        """Return the trials whose images and queries exist, and the number of other trials."""
        listed = self.read(self.path)
        swapped = with_images(list(map(_swapped, listed)), self.images, self.path, allow_missing=self.allow_missing)
        trials = with_images(list(map(_swapped, swapped)), self.images, self.path, allow_missing=self.allow_missing)
        return trials, len(listed) - len(trials)

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Judge each trial by the cosines of its images with the query."""
        from babyvlm.benchmarks.scoring import embed_images

        assert isinstance(model, ImageEmbedder)
        images = {one for view in views.values() for trial in view for option in trial.options for one in option}
        found = embed_images(model, images, self.images, device=device, batch_size=batch_size, label=self.name)
        return self.judged(
            views, lambda trial: tuple(float(found[image] @ found[query]) for image, query in trial.options)
        )

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what a constant reaches, and a comparison of pixels (``pixel match``)."""
        floors = super().floors(trials)
        pixels = pixels_of({one for trial in trials for option in trial.options for one in option}, self.images)
        credits = [
            self.judge(trial, tuple(-_difference(pixels[image], pixels[query]) for image, query in trial.options))
            for trial in trials
        ]
        floors["accuracy"]["pixel match"] = sum(credit for ((_, credit, _),) in credits) / len(credits)
        return floors


def _difference(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(((one - other) ** 2).mean())


def _swapped(trial: Trial) -> Trial:
    return replace(trial, options=tuple((query, image) for image, query in trial.options))


def pixels_of(images: Iterable[str], root: Path) -> Embeddings:
    """Return the (PIXELS, PIXELS, 3) colors of images, from 0 to 1."""
    return {
        image: np.asarray(open_rgb(root / file_of(image)).resize((PIXELS, PIXELS)), dtype=np.float64) / 255
        for image in images
    }
