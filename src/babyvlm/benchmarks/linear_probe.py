"""Linear probes: how well do a model's frozen image embeddings separate object categories, given few labels?"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from babyvlm.benchmarks.base import Benchmark, Measure
from babyvlm.benchmarks.image_choice import pixels_of
from babyvlm.benchmarks.object_trials import ObjectTrials
from babyvlm.benchmarks.trials import Trial, file_of, with_images
from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra
from babyvlm.types import ImageEmbedder, TrialResult

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views

FRACTIONS = (1.0, 0.1, 0.01)  # of the labels, as in CVCL (Vong et al. 2024)
Vectors = Mapping[str, npt.NDArray[np.float64]]


class LinearProbe(Benchmark):
    """Accuracy of logistic regression on image embeddings, trained on 100%, 10%, and 1% of the labels.

    The pictures are those of a list of Labeled-S or of object trials, or of a folder with one subfolder for each
    category. Pictures of the dev split are the training set, those of the test split are tested; a list without a
    column ``half`` is split by a hash of the pictures. A subset has the same share of every category, and at least one
    picture of each; smaller subsets are part of larger ones. A model without ``embed_images`` skips the benchmark.

    The regression is scikit-learn's, with its default regularization (C = 1), on unit vectors scaled by the square root
    of their length (our choice, so that C means the same for every model). ``floors`` has the accuracy of the most
    frequent category and of the same regression on pixels (16 x 16).

    Args:
        trials: as in ``ObjectTrials``.
        images: as in ``ObjectTrials``.
        allow_missing: as in ``Benchmark``.
        train_fraction: share of the pictures of a list without a column ``half`` that is trained on.
        seed: of the subsets.
        variant: as in ``Benchmark``.

    Raises:
        UserError: ``train_fraction`` is not between 0 and 1, or scikit-learn is not installed.
    """

    name = "linear_probe"
    title = "Linear probe"
    suite = "CVCL"
    order = 120
    category = "object category"
    reads_text = False

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        allow_missing: bool = False,
        train_fraction: float = 0.5,
        seed: int = 0,
        variant: str = "",
    ) -> None:
        if not 0 < train_fraction < 1:
            raise UserError(f"train_fraction {train_fraction}: must be above 0 and below 1")
        with require_extra("probe", "LinearProbe"):
            import sklearn.linear_model  # noqa: F401
        self._source = ObjectTrials(trials, images)
        super().__init__(trials, self._source.images, allow_missing=allow_missing, variant=variant)
        self.train_fraction, self.seed = train_fraction, seed
        self.measures = {_measure(one): Measure(f"{one:.0%} of labels") for one in FRACTIONS}
        self._training: list[Trial] = []
        self._categories: list[str] = []

    def read(self, path: Path) -> list[Trial]:
        """Return a trial for each picture of the list.

        Raises:
            UserError: the list is malformed, a picture has two categories, or a category has no picture to train on or
                to test.
        """
        found = self._source.labeled_pictures(path)
        for image, (_, splits) in found.items():
            if len(splits) > 1:
                raise UserError(f"{path}: image {image} is in both splits, so that it cannot be held out")
        trials = [
            Trial(image, self._split(image, *splits), name, ((image, name),)) for image, (name, splits) in found.items()
        ]
        self._categories = sorted({name for name, _ in found.values()})
        if len(self._categories) < 2:
            raise UserError(f"{path}: has {len(self._categories)} category; a probe needs at least 2")
        for split, what in (("dev", "train on"), ("test", "test")):
            missing = set(self._categories) - {trial.category for trial in trials if trial.split == split}
            if missing:
                raise UserError(f"{path}: category {min(missing)!r} has no picture to {what}")
        self.measures = {
            name: Measure(measure.title, 1 / len(self._categories)) for name, measure in self.measures.items()
        }
        return trials

    def _split(self, image: str, half: str = "") -> str:
        position = int.from_bytes(hashlib.sha256(image.encode()).digest()[:4], "big") / 2**32
        return half or ("dev" if position < self.train_fraction else "test")

    def load(self) -> tuple[list[Trial], int]:
        """Return the test pictures that exist, and the number of missing pictures; keep the others for training."""
        listed = self.read(self.path)
        found = with_images(listed, self.images, self.path, allow_missing=self.allow_missing)
        self._training = [trial for trial in found if trial.split == "dev"]
        return [trial for trial in found if trial.split == "test"], len(listed) - len(found)

    def accepts(self, model: object) -> bool:
        """Return whether the model is an ``ImageEmbedder``."""
        return isinstance(model, ImageEmbedder)

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Train a probe for each share of the labels, and test it on every view."""
        from babyvlm.benchmarks.scoring import embed_images

        assert isinstance(model, ImageEmbedder)
        images = {trial.options[0][0] for trial in (*self._training, *(one for view in views.values() for one in view))}
        found = embed_images(model, images, self.images, device=device, batch_size=batch_size, label=self.name)
        shown = {trial.item: trial.images for trial in views[""]}
        return [
            TrialResult(
                trial.item,
                trial.split,
                trial.category,
                control,
                _measure(fraction),
                (),
                self._categories.index(guess),
                float(guess == trial.category),
                images=shown[trial.item],
            )
            for fraction in FRACTIONS
            for control, guesses in self._guesses(found, fraction, views).items()
            for trial, guess in zip(views[control], guesses, strict=True)
        ]

    def _guesses(self, vectors: Vectors, fraction: float, views: Views) -> dict[str, list[str]]:
        """Return the categories that a probe gives to the trials of each view."""
        from sklearn.linear_model import LogisticRegression

        chosen = self.subset(fraction)
        width = math.sqrt(len(next(iter(vectors.values()))))
        train_NC = np.stack([vectors[trial.options[0][0]] for trial in chosen]) * width
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes")  # with 1% of the labels, by design
            probe = LogisticRegression(max_iter=2000).fit(train_NC, [trial.category for trial in chosen])
        return {
            control: probe.predict(np.stack([vectors[trial.options[0][0]] for trial in view]) * width).tolist()
            for control, view in views.items()
        }

    def subset(self, fraction: float) -> list[Trial]:
        """Return the training pictures of a share of the labels."""
        by_category: dict[str, list[Trial]] = {}
        for trial in self._training:
            by_category.setdefault(trial.category, []).append(trial)
        chosen = []
        for name, trials in sorted(by_category.items()):
            order = random.Random(f"{self.seed} {name}").sample(trials, len(trials))
            chosen += order[: max(1, math.ceil(fraction * len(trials) - 1e-9))]
        return chosen

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return the accuracy of the most frequent category, and of a probe on pixels."""
        images = {file_of(trial.options[0][0]) for trial in (*trials, *self._training)}
        pixels = {image: _unit(colors.ravel() - 0.5) for image, colors in pixels_of(images, self.images).items()}
        counts = [trial.category for trial in trials]
        constant = max(map(counts.count, self._categories)) / len(trials)
        floors = {}
        for fraction in FRACTIONS:
            guesses = self._guesses(pixels, fraction, {"": list(trials)})[""]
            right = sum(guess == trial.category for guess, trial in zip(guesses, trials, strict=True))
            floors[_measure(fraction)] = {"constant": constant, "pixels": right / len(trials)}
        return floors


def _measure(fraction: float) -> str:
    return f"labels_{fraction * 100:g}"


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    unit: npt.NDArray[np.float64] = vector / (np.linalg.norm(vector) or 1.0)
    return unit
