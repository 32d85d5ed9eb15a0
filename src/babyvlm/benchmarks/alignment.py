"""Alignment of images and words: is the mean image of a category close to the embedding of its word?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from babyvlm.benchmarks.base import Benchmark, Measure
from babyvlm.benchmarks.object_trials import ObjectTrials
from babyvlm.benchmarks.trials import Trial
from babyvlm.errors import UserError
from babyvlm.types import ImageEmbedder, TextEmbedder, TrialResult

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views

Matrix = npt.NDArray[np.float64]
DECIMALS = 6  # of the recorded cosines


class Alignment(Benchmark):
    """Cosine of a category's mean image embedding with the embedding of its word (Vong et al. 2024).

    The mean is that of unit vectors (our choice). A model that gives everything the same embedding has a cosine of 1;
    therefore the second measure, ``contrast``, subtracts the mean cosine with the words of the other categories, and is
    0 for that model.

    The pictures are those of a list of Labeled-S or of object trials, or of a folder with one subfolder for each
    category; of a list with a column ``half``, those that a test trial shows. The credit of a picture is the measure of
    its category plus the picture's influence on it (the delta method), so that the mean of the credits is the measure,
    and their variance is that of the measure over pictures. Means over all pictures weigh a category by its pictures.

    The cosines between all mean images and all words are recorded as ``cosines``; from them, the report has the rank of
    each word, and a figure. A model without ``embed_images`` and ``embed_texts`` skips the benchmark.

    Args:
        trials: as in ``ObjectTrials``.
        images: as in ``ObjectTrials``.
        allow_missing: as in ``Benchmark``.
        categories: as in ``ObjectTrials``.
        variant: as in ``Benchmark``.
    """

    name = "alignment"
    title = "Alignment"
    suite = "CVCL"
    order = 110
    category = "object category"

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        allow_missing: bool = False,
        categories: list[str] | None = None,
        variant: str = "",
    ) -> None:
        self._source = ObjectTrials(trials, images, categories=categories)
        super().__init__(trials, self._source.images, allow_missing=allow_missing, variant=variant)
        self.measures = {"cosine": Measure("cosine"), "contrast": Measure("contrast")}
        self._cosines = ""

    def read(self, path: Path) -> list[Trial]:
        """Return a trial for each picture.

        Raises:
            UserError: the list is malformed, a picture has two categories, or there are fewer than two categories.
        """
        found = self._source.labeled_pictures(path)
        trials = [
            Trial(image, "dev" if splits == {"dev"} else "test", name, ((image, name.replace("_", " ")),))
            for image, (name, splits) in found.items()
        ]
        count = len({trial.category for trial in trials if trial.split == "test"})
        if count < 2:
            raise UserError(f"{path}: has pictures of {count} category to test; alignment needs at least 2")
        return trials

    def accepts(self, model: object) -> bool:
        """Return whether the model is an ``ImageEmbedder`` and a ``TextEmbedder``."""
        return isinstance(model, ImageEmbedder) and isinstance(model, TextEmbedder)

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Compare the mean images of each view with the words."""
        from babyvlm.benchmarks.scoring import embed_images, embed_texts

        assert isinstance(model, ImageEmbedder)
        assert isinstance(model, TextEmbedder)
        images = {trial.options[0][0] for view in views.values() for trial in view}
        found = embed_images(model, images, self.images, device=device, batch_size=batch_size, label=self.name)
        word_of = {trial.category: trial.options[0][1] for trial in views[""]}
        names = sorted(word_of)
        texts = embed_texts(model, word_of.values(), label=self.name)
        word_CD = np.stack([texts[word_of[name]] for name in names])
        results = []
        for control, view in views.items():
            vectors = {
                name: np.stack([found[one.options[0][0]] for one in view if one.category == name]) for name in names
            }
            results += list(self._judged(views[""], control, vectors, word_CD))
            if not control:
                mean_CD = np.stack([vectors[name].mean(0) for name in names])
                self._cosines = json.dumps({"categories": names, "cosines": _cosines(mean_CD, word_CD)})
        return results

    def _judged(
        self, trials: Sequence[Trial], control: str, vectors: Mapping[str, Matrix], word_CD: Matrix
    ) -> Iterator[TrialResult]:
        for place, (name, image_ND) in enumerate(vectors.items()):
            others_D = (word_CD.sum(0) - word_CD[place]) / max(1, len(word_CD) - 1)
            directions = {"cosine": word_CD[place], "contrast": word_CD[place] - others_D}
            credits = {measure: linearized_cosine(image_ND, one_D).tolist() for measure, one_D in directions.items()}
            shown = [trial for trial in trials if trial.category == name]
            for number, trial in enumerate(shown):
                scores = tuple((word_CD @ image_ND[number]).tolist())
                for measure, values in credits.items():
                    yield TrialResult(
                        trial.item,
                        trial.split,
                        name,
                        control,
                        measure,
                        scores,
                        None,
                        values[number],
                        images=trial.images,
                        texts=(trial.options[0][1],),
                    )

    def facts(self) -> dict[str, str]:
        """Return the cosines of the last evaluation, and how many categories were chosen."""
        return self._source.facts() | ({"cosines": self._cosines} if self._cosines else {})

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return the scores of a model that gives everything the same embedding."""
        return {"cosine": {"constant": 1.0}, "contrast": {"constant": 0.0}}


def linearized_cosine(image_ND: Matrix, direction_D: Matrix) -> Matrix:
    """Return (N,) values whose mean is ``mean image / its length @ direction``, with the influence of each image.

    >>> image_ND = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> linearized_cosine(image_ND, np.array([1.0, 0.0])).round(3).tolist()
    [1.118, 0.671]

    Args:
        image_ND: embeddings of N images.
        direction_D: what their mean is compared with.
    """
    mean_D = image_ND.mean(0)
    length = float(np.linalg.norm(mean_D))
    if length < 1e-12:  # images that cancel out have no direction
        return np.zeros(len(image_ND))
    value = float(mean_D @ direction_D) / length
    gradient_D = (direction_D - value * mean_D / length) / length
    values_N: Matrix = value + (image_ND - mean_D) @ gradient_D
    return values_N


def _cosines(mean_CD: Matrix, word_CD: Matrix) -> list[list[float]]:
    """Return the cosines between C mean images, followed by C words."""
    length_C1 = np.linalg.norm(mean_CD, axis=1, keepdims=True)
    unit_KD = np.concatenate([mean_CD / np.where(length_C1 < 1e-12, 1.0, length_C1), word_CD])
    found: list[list[float]] = (unit_KD @ unit_KD.T).round(DECIMALS).tolist()
    return found
