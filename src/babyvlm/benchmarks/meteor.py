"""METEOR by NLTK, and both common implementations of METEOR as torchmetrics. They differ by tens of points."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from babyvlm.benchmarks.meteor_jar import meteor_15
from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra

DOWNLOAD = "python -m nltk.downloader wordnet punkt_tab"


def meteor_nltk(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return NLTK's METEOR of each hypothesis against its reference, in [0, 1].

    As babylmms-eval @82118a8 (``tasks/saycam_caption/utils.py``): ``word_tokenize``, which splits a text into sentences
    first; exact, stem and WordNet matches; alpha 0.9, beta 3, gamma 0.5 (NLTK's defaults).

    Raises:
        UserError: NLTK or its data are not installed; nothing is downloaded automatically.
    """
    wordnet = load_nltk_data()
    from nltk.tokenize import word_tokenize
    from nltk.translate.meteor_score import single_meteor_score

    tokens = [[word_tokenize(text) for text in texts] for texts in (hypotheses, references)]
    pairs = zip(*tokens, strict=True)
    return [float(single_meteor_score(reference, hypothesis, wordnet=wordnet)) for hypothesis, reference in pairs]


def load_nltk_data() -> Any:  # noqa: ANN401 - NLTK has no types
    """Return NLTK's WordNet, and make sure that the model of its sentence tokenizer is there.

    Raises:
        UserError: one of them is not installed; the message contains the command that downloads both.
    """
    with require_extra("meteor", "NLTK's METEOR"):
        import nltk
        from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        raise UserError(f"NLTK's METEOR needs WordNet and punkt_tab. Download them with: {DOWNLOAD}") from None
    return wordnet


class _Meteor(Metric):
    """Mean over captions, accumulated over batches and ranks."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics' options
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    @staticmethod
    @abstractmethod
    def score(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return the score of each hypothesis."""

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Add hypotheses and their references."""
        self.total += sum(self.score(preds, target))
        self.count += len(preds)

    def compute(self) -> Tensor:
        """Return the mean of the captions' scores, which differs from the corpus score of the Java program and COCO.

        Raises:
            ValueError: there is no caption.
        """
        if not self.count:
            raise ValueError("METEOR of no caption")
        return self.total / self.count


class Meteor15(_Meteor):
    """Mean METEOR 1.5: see ``meteor_jar.meteor_15``."""

    score = staticmethod(meteor_15)


class MeteorNLTK(_Meteor):
    """Mean METEOR by NLTK: see ``meteor_nltk``."""

    score = staticmethod(meteor_nltk)
