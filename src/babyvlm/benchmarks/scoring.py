"""Scores of (image, text) pairs by any ``ImageTextScorer``: each distinct pair once, each distinct image once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from babyvlm.benchmarks.ranks import share
from babyvlm.benchmarks.trials import ImageText
from babyvlm.contracts import ImageTextScorer, UserError
from babyvlm.data.vocabulary import UNK, Vocabulary
from babyvlm.images import BrokenImageError, open_rgb

Scores = dict[ImageText, float]


@dataclass(frozen=True)
class _Batch:
    """Images that are encoded together, and which texts are wanted with each."""

    images: Sequence[str]
    texts_of: Mapping[str, set[str]]


def score_pairs(
    scorer: ImageTextScorer, pairs: Iterable[ImageText], root: Path, *, device: torch.device, batch_size: int = 64
) -> Scores:
    """Score pairs, on all ranks of a distributed run.

    The batches are the same for any number of ranks, since what stands in a batch together changes the last digits.

    Raises:
        UserError: an image cannot be read, or a score is NaN.
    """
    pairs = list(dict.fromkeys(pairs))
    same = alike(scorer, {text for _, text in pairs})
    batches = _plan({(image, same[text]) for image, text in pairs}, batch_size)

    def work(batches: Sequence[_Batch]) -> Scores:
        return {pair: score for batch in batches for pair, score in _score_batch(scorer, batch, root, device)}

    scores: Scores = {}
    for part in share(batches, work):
        scores |= part
    return {(image, text): scores[image, same[text]] for image, text in pairs}


def alike(scorer: object, texts: Iterable[str]) -> dict[str, str]:
    """For each text the first by alphabet that the model cannot tell from it: scored once, the two tie exactly.

    Told only for a model with a ``vocabulary``: two words that it has not are both ``<unk>`` to it.
    """
    texts = sorted(texts)
    vocabulary = getattr(scorer, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        return {text: text for text in texts}
    first: dict[tuple[int, ...], str] = {}
    codes = [tuple(ids) for ids in vocabulary.encode(texts, max_tokens=_LONGEST)]
    return {text: first.setdefault(code, text) for text, code in zip(texts, codes, strict=True)}


_LONGEST = 1 << 16  # tokens: no text is cut


def unknown_share(scorer: object, texts: Iterable[str]) -> float | None:
    """Share of the words of some texts that a model's vocabulary has not; None for a model without a ``vocabulary``."""
    vocabulary = getattr(scorer, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        return None
    words = [token for ids in vocabulary.encode(list(texts), max_tokens=_LONGEST) for token in ids[1:-1]]
    return words.count(UNK) / max(1, len(words))


def _plan(pairs: Iterable[ImageText], batch_size: int) -> list[_Batch]:
    texts_of: dict[str, set[str]] = {}
    for image, text in pairs:
        texts_of.setdefault(image, set()).add(text)
    # Images with the same texts stand together, so that a batch asks for few others.
    images = sorted(texts_of, key=lambda image: (sorted(texts_of[image]), image))
    return [_Batch(images[first : first + batch_size], texts_of) for first in range(0, len(images), batch_size)]


def _score_batch(
    scorer: ImageTextScorer, batch: _Batch, root: Path, device: torch.device
) -> Iterator[tuple[ImageText, float]]:
    texts = sorted(set().union(*(batch.texts_of[image] for image in batch.images)))
    wanted_BT = torch.tensor([[text in batch.texts_of[image] for text in texts] for image in batch.images])
    images_BCHW = torch.stack([scorer.preprocess(open_image(root / image)) for image in batch.images]).to(device)
    with torch.no_grad():
        score_BT = scorer.score(images_BCHW, texts, wanted_BT.to(device)).cpu().double()
    for b, t in wanted_BT.nonzero().tolist():
        score = score_BT[b, t].item()
        if math.isnan(score):
            raise UserError(f"the model's score of {batch.images[b]!r} with {texts[t]!r} is not a number")
        yield (batch.images[b], texts[t]), score


def open_image(path: Path) -> Image.Image:
    """A picture of a list.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return open_rgb(path)
    except BrokenImageError as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
