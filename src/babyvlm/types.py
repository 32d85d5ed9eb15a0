"""The few types that stages share.

Shape letters: B images, T texts, L tokens, C channels, H height, W width, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # torch costs seconds; the commands that train nothing never load it
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor, nn


@dataclass(frozen=True)
class Pair:
    """One image and what was said while it was seen: a row of a pair store.

    Attributes:
        key: stable and unique within its store.
        image: JPEG, PNG or WebP bytes.
        utterance: lower-case text; ``<unk>`` stands for what could not be heard.
        source: the corpus the pair came from.
        group: the utterance that several frames share; equal to ``key`` for single images.
        split: ``train``, ``val`` or ``test``; one group is always in one split.
    """

    key: str
    image: bytes
    utterance: str
    source: str
    group: str
    split: str


@dataclass
class Batch:
    """What a model trains on.

    Attributes:
        keys: B store keys, for messages and per-item randomness.
        images_BCHW: float32, normalised.
        tokens_BL: int64, ``<sos> words <eos>`` padded at the right with 0.
        utterances: the B texts as written, for models with a tokenizer of their own.
        features: what the model's frozen vision encoder makes of the images, where that is cached: (B, D) pooled or
            (B, P, D) for P image tokens; then ``images_BCHW`` is empty.
    """

    keys: list[str]
    images_BCHW: Tensor
    tokens_BL: Tensor
    utterances: list[str]
    features: Tensor | None = None


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial by one measure.

    Attributes:
        item: id of the trial in its list.
        split: ``dev`` (may choose a checkpoint) or ``test`` (reported).
        category: what the trial is counted under besides the total (object category, word class).
        control: what was taken from the model (``blank``, ``shuffled``, ``text_only``); empty for the trial itself.
        measure: how it was judged (``accuracy``; Winoground and METEOR have several).
        scores: score of each option, in the order of the list.
        choice: index of the option with the highest score, the first if tied; None if no option is chosen.
        credit: 1 correct, 0 wrong, 1/k if the right option is among k tied best; for a caption, its METEOR.
        output: the generated text, if the benchmark asks for one.
        group: trials of one group are not independent; empty for a trial that is.
    """

    item: str
    split: str
    category: str
    control: str
    measure: str
    scores: tuple[float, ...]
    choice: int | None
    credit: float
    output: str = ""
    group: str = ""


@runtime_checkable
class ImageTextScorer(Protocol):
    """Says how well texts fit images. Higher is better; the scale is the model's own."""

    def preprocess(self, image: Image) -> Tensor:
        """Turn an RGB picture into the (C, H, W) tensor that ``score`` takes."""
        ...

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Score every text against every image.

        Args:
            images_BCHW: preprocessed images.
            texts: T texts.
            wanted_BT: bool; the pairs that will be read. A scorer for which a pair is dear may leave NaN elsewhere.

        Returns:
            (B, T) float scores.
        """
        ...


@runtime_checkable
class TextScorer(Protocol):
    """Says how likely texts are by themselves, so that a benchmark can tell what looking was worth."""

    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """(T,) scores on the scale of ``score``, no image given."""
        ...


@runtime_checkable
class FrozenVision(Protocol):
    """A model whose vision encoder may not learn, so that its features can be computed once."""

    def frozen_vision(self) -> nn.Module | None:
        """The module that turns images into ``Batch.features``, in evaluation mode; None if it learns."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Says what it sees."""

    def preprocess(self, image: Image) -> Tensor:
        """Turn an RGB picture into the (C, H, W) tensor that ``caption`` takes."""
        ...

    def caption(self, images_BCHW: Tensor, max_new_tokens: int = 25) -> list[str]:
        """Caption B images greedily, each with at most ``max_new_tokens`` tokens."""
        ...
