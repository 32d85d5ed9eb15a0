"""What colors and blurred pixels alone give away: a floor under every model, and the test that a world has no shortcut.

Ridge regression from the features of an image to the words of its utterance. Where it is above chance, a benchmark can
be solved without recognizing anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.images import open_rgb
from babyvlm.models.evaluation_only import EvaluationOnly
from babyvlm.text import normalize

Features = Literal["colors", "pixels"]
_LEVELS = 6  # of each color channel: 216 bins
_SIDE = 16  # pixels
_RIDGES = 10.0 ** np.arange(-1, 7)  # in units of one training image; leave-one-out error chooses
_RARE = 3  # words that are in fewer training utterances are ignored


class ImageStatistics(EvaluationOnly):
    """Ridge regression from simple statistics of an image to the words of its utterance, as an ``ImageTextScorer``.

    The score of a text is the mean of the standardized predictions of its words; words without training data count 0.

    Args:
        store: pair store; its training pairs are used.
        features: ``colors``, a histogram of 6 x 6 x 6 colors, or ``pixels``, the image at 16 x 16 pixels.

    Raises:
        UserError: the store has no training pairs.
    """

    def __init__(self, store: Path, features: Features = "colors") -> None:
        super().__init__()
        self.features: Features = features
        pairs = [pair for pair in PairStore(store) if pair.split == "train"]
        if not pairs:
            raise UserError(f"{store}: has no training pairs")
        images_ND = np.stack([image_features(open_rgb(pair.image), features) for pair in pairs])
        self.regression = WordRegression(images_ND, [pair.utterance for pair in pairs])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the features of an RGB image, (D,)."""
        return torch.from_numpy(image_features(image, self.features))

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) scores of features (B, D)."""
        scores_BT = self.regression.score(images_BCHW.cpu().numpy(), texts)
        return torch.from_numpy(scores_BT).to(images_BCHW)


def image_features(image: Image.Image, features: Features) -> NDArray[np.float32]:
    """Return an image's histogram of colors, (216,), or its pixels at 16 x 16, (768,)."""
    if features == "pixels":
        pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
        return (pixels.ravel() / 255).astype(np.float32)
    bins = np.asarray(image.convert("RGB"), int) * _LEVELS // 256 @ [_LEVELS**2, _LEVELS, 1]
    return (np.bincount(bins.ravel(), minlength=_LEVELS**3) / bins.size).astype(np.float32)


class WordRegression:
    """Ridge regression from N images to the words of their texts.

    Args:
        images_ND: features.
        texts: N texts.
    """

    def __init__(self, images_ND: NDArray[np.float32], texts: Sequence[str]) -> None:
        words = [frozenset(normalize(text).split()) for text in texts]
        counts = Counter(word for found in words for word in found)
        self.words = {word: place for place, word in enumerate(sorted(w for w, n in counts.items() if n >= _RARE))}
        said_NW = np.zeros((len(texts), len(self.words)), np.float32)
        for row, found in enumerate(words):
            said_NW[row, [self.words[word] for word in found if word in self.words]] = 1
        self.mean_D, self.scale_D = images_ND.mean(0), images_ND.std(0) + 1e-6
        said_NW = (said_NW - said_NW.mean(0)) / (said_NW.std(0) + 1e-6)
        self.weights_DW = _ridge((images_ND - self.mean_D) / self.scale_D, said_NW)

    def score(self, images_BD: NDArray[np.float32], texts: Iterable[str]) -> NDArray[np.float32]:
        """Return (B, T) means of the words' predictions."""
        predicted_BW = ((images_BD - self.mean_D) / self.scale_D) @ self.weights_DW
        places = [[self.words[word] for word in normalize(text).split() if word in self.words] for text in texts]
        none = np.zeros(len(predicted_BW), np.float32)
        return np.stack([predicted_BW[:, found].mean(1) if found else none for found in places], 1)


def _ridge(images_ND: NDArray[np.float32], said_NW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights (D, W); the penalty is the one with the lowest leave-one-out error."""
    left_NK, scales_K, right_KD = np.linalg.svd(images_ND, full_matrices=False)
    projected_KW = left_NK.T @ said_NW

    def error(ridge: float) -> float:
        shrunk_K = scales_K**2 / (scales_K**2 + ridge)
        leverage_N = 1 / len(left_NK) + left_NK**2 @ shrunk_K
        residuals_NW = said_NW - left_NK @ (shrunk_K[:, None] * projected_KW)
        return float(np.mean((residuals_NW / (1 - leverage_N)[:, None].clip(1e-3)) ** 2))

    ridge = min(_RIDGES, key=error)
    weights: NDArray[np.float32] = right_KD.T @ ((scales_K / (scales_K**2 + ridge))[:, None] * projected_KW)
    return weights.astype(np.float32)
