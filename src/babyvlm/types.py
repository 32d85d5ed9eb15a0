"""Types that stages share: data classes for what is passed on, protocols for what a model offers.

Shape letters: B images, T texts, L tokens, P image tokens, C channels, H height, W width, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:  # torch costs seconds; the commands that train nothing never load it
    from collections.abc import Iterable, Sequence

    from PIL.Image import Image
    from torch import Tensor, nn

Fields = TypeVar("Fields", bound=Any)  # a dataclass


@dataclass(frozen=True)
class Pair:
    """An image and the utterance that goes with it: a row of a pair store.

    Attributes:
        key: stable and unique within its store.
        image: JPEG, PNG or WebP bytes.
        utterance: lower-case text; ``<unk>`` stands for unintelligible speech.
        source: the corpus that the pair came from.
        group: the utterance that several frames share; equal to ``key`` for single images.
        split: ``train``, ``val`` or ``test``; all pairs of a group are in the same split.
    """

    key: str
    image: bytes
    utterance: str
    source: str
    group: str
    split: str


@dataclass
class Batch:
    """A batch of training pairs.

    Attributes:
        keys: B store keys, for messages and per-item randomness.
        images_BCHW: float32, normalized; empty if ``features`` are given. In a run they are loaded and moved to the
            device as uint8, a quarter of the bytes, and normalized there.
        tokens_BL: int64, ``<sos> words <eos>``, padded on the right with 0.
        utterances: the B texts, for models with their own tokenizer.
        features: cached output of the model's frozen vision encoder: (B, D) pooled, or (B, P, D).
    """

    keys: list[str]
    images_BCHW: Tensor
    tokens_BL: Tensor
    utterances: list[str]
    features: Tensor | None = None

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies while it computes; for DataLoader."""
        return pinned(self)


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
        images: what the trial shows, as paths in its list; trials with a common image are not independent. A control
            has those of the trial itself, since it replaces each image by the same other one.
        texts: what the trial compares: the text of each option, in the order of the list.
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
    images: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@runtime_checkable
class ImageTextScorer(Protocol):
    """A model that scores how well texts describe images. Higher is better; the scale is the model's own."""

    def preprocess(self, image: Image) -> Tensor:
        """Return the (C, H, W) tensor of an RGB image that ``score`` expects."""
        ...

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Score every text against every image.

        Args:
            images_BCHW: preprocessed images.
            texts: T texts.
            wanted_BT: bool; the pairs whose scores are needed. A model for which each pair is expensive may return NaN
                for the others.

        Returns:
            (B, T) float scores.
        """
        ...


@runtime_checkable
class TextScorer(Protocol):
    """A model that also scores texts without an image, for the image-blind baseline."""

    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """Score texts without an image.

        Args:
            texts: T texts.

        Returns:
            (T,) float scores on the scale of ``score``.
        """
        ...


@runtime_checkable
class ImageEmbedder(Protocol):
    """A model that represents an image as a vector."""

    def preprocess(self, image: Image) -> Tensor:
        """Return the (C, H, W) tensor of an RGB image that ``embed_images`` expects."""
        ...

    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, D) float embeddings of preprocessed images."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """A model that represents a text as a vector of the same space as images."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T, D) float embeddings of texts."""
        ...


@runtime_checkable
class SaliencyModel(Protocol):
    """A model that shows where in an image it finds a word.

    Attributes:
        saliency_method: how, such as ``Grad-CAM``.
    """

    saliency_method: str

    def preprocess(self, image: Image) -> Tensor:
        """Return the (C, H, W) tensor of an RGB image that ``saliency`` expects."""
        ...

    def saliency(self, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
        """Return maps of where each image shows its word.

        Args:
            images_BCHW: preprocessed images.
            words: B words, one for each image.

        Returns:
            (B, h, w) maps over the preprocessed images, at least 0.
        """
        ...


@runtime_checkable
class FrozenVision(Protocol):
    """A model whose vision encoder may be frozen, so that its features can be cached."""

    def frozen_vision(self) -> nn.Module | None:
        """Return the module that maps images to ``Batch.features``, in evaluation mode; None if it is trained."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """A model that describes images."""

    def preprocess(self, image: Image) -> Tensor:
        """Return the (C, H, W) tensor of an RGB image that ``caption`` expects."""
        ...

    def caption(self, images_BCHW: Tensor, max_new_tokens: int = 25) -> list[str]:
        """Caption images greedily.

        Args:
            images_BCHW: preprocessed images.
            max_new_tokens: maximum number of tokens per caption.

        Returns:
            B captions.
        """
        ...


def pinned(batch: Fields) -> Fields:
    """Return a copy of a dataclass whose tensors are in page-locked memory."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(
        batch, **{name: value.pin_memory() for name, value in values.items() if hasattr(value, "pin_memory")}
    )


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list.

    >>> checked_texts("ball")
    Traceback (most recent call last):
    TypeError: texts must be a list of strings, such as ['ball'], not one string

    Raises:
        TypeError: it is one string, whose letters would count as texts.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings, such as [{texts[:40]!r}], not one string")
    return list(texts)
