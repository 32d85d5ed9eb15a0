"""Scores of (image, text) pairs by any ``ImageTextScorer``: each distinct pair once, each distinct image once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from babyvlm.benchmarks.controls import ABSENT, BLANK
from babyvlm.benchmarks.trial_images import load_images
from babyvlm.benchmarks.trials import ImageText
from babyvlm.data.vocabulary import UNK, Vocabulary
from babyvlm.errors import UserError
from babyvlm.io.distributed import is_rank_zero, map_over_ranks, progress
from babyvlm.types import ImageTextScorer, TextScorer

Scores = dict[ImageText, float]
TEXTS_AT_ONCE = 256  # with one image or none: our choice, it bounds the memory


@dataclass(frozen=True)
class _Batch:
    """Images that are encoded together, and which texts are wanted with each."""

    images: Sequence[str]
    texts_of: Mapping[str, set[str]]


def score_pairs(
    scorer: ImageTextScorer,
    pairs: Iterable[ImageText],
    root: Path,
    *,
    device: torch.device,
    batch_size: int = 64,
    label: str = "",
) -> Scores:
    """Score pairs, on all ranks of a distributed run.

    The batches are the same for any number of ranks, since what stands in a batch together changes the last digits.

    Args:
        scorer: the model; a ``TextScorer`` too, if there are pairs with ``ABSENT`` in the image's place.
        pairs: images below ``root`` with texts.
        root: folder of the images.
        device: where the model is.
        batch_size: images encoded at once.
        label: of the progress bar.

    Raises:
        UserError: an image cannot be read, or a score is NaN.
    """
    pairs = list(dict.fromkeys(pairs))
    same = alike(scorer, {text for _, text in pairs})
    batches = _plan({(image, same[text]) for image, text in pairs}, batch_size)

    def work(batches: Sequence[_Batch]) -> Scores:
        return {
            pair: score
            for batch in progress(batches, label)
            for pair, score in _score_batch(scorer, batch, root, device)
        }

    scores = {pair: score for part in map_over_ranks(batches, work) for pair, score in part.items()}
    return {(image, text): scores[image, same[text]] for image, text in pairs}


def alike(scorer: object, texts: Iterable[str]) -> dict[str, str]:
    """For each text the first by alphabet that the model cannot tell from it: scored once, the two tie exactly.

    Told only for a model with a ``vocabulary``: two words that it has not are both ``<unk>`` to it, and with
    ``max_tokens`` it reads no further.
    """
    texts = sorted(texts)
    vocabulary = getattr(scorer, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        return {text: text for text in texts}
    first: dict[tuple[int, ...], str] = {}
    codes = [tuple(ids) for ids in vocabulary.encode(texts, getattr(scorer, "max_tokens", None))]
    return {text: first.setdefault(code, text) for text, code in zip(texts, codes, strict=True)}


def tell_cut_texts(model: object, texts: Iterable[str], path: Path) -> None:
    """Say, once, how many texts are longer than the model reads; nothing of a model without a ``vocabulary``.

    Args:
        model: with ``max_tokens``, if there is a limit.
        texts: of a list.
        path: of the list.
    """
    vocabulary, most = getattr(model, "vocabulary", None), getattr(model, "max_tokens", None)
    if isinstance(vocabulary, Vocabulary) and most is not None:
        lengths = [len(ids) for ids in vocabulary.encode(sorted(set(texts)), max_tokens=None)]
        cut = sum(length > most for length in lengths)
        if cut:
            _say_once(
                f"{path}: {cut} of {len(lengths)} texts are cut to the model's {most} tokens (data.max_tokens), <sos> "
                f"and <eos> among them; the longest has {max(lengths)}"
            )


@cache
def _say_once(text: str) -> None:
    if is_rank_zero():
        print(text)


def vocabulary_facts(model: object, texts_of_items: Sequence[Sequence[str]]) -> dict[str, str]:
    """What a model with a ``vocabulary`` can read of a test's texts; nothing for another.

    Returns:
        ``unknown_words``, the share of the words that are ``<unk>`` to it, and ``items_alike``, how many items have
        different texts that are the same to it.
    """
    vocabulary = getattr(model, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        return {}
    texts = [text for texts in texts_of_items for text in texts]
    words = [token for ids in vocabulary.encode(texts, max_tokens=None) for token in ids[1:-1]]
    same = alike(model, set(texts))
    blurred = sum(len({same[text] for text in texts}) < len(set(texts)) for texts in texts_of_items)
    return {"unknown_words": f"{words.count(UNK) / max(1, len(words)):.4f}", "items_alike": str(blurred)}


def _plan(pairs: Iterable[ImageText], batch_size: int) -> list[_Batch]:
    texts_of: dict[str, set[str]] = {}
    for image, text in pairs:
        texts_of.setdefault(image, set()).add(text)
    alone = {image: sorted(texts_of.pop(image)) for image in (BLANK, ABSENT) if image in texts_of}
    # Images with the same texts stand together, so that a batch asks for few others.
    images = sorted(texts_of, key=lambda image: (sorted(texts_of[image]), image))
    plan = [_Batch(images[first : first + batch_size], texts_of) for first in range(0, len(images), batch_size)]
    for image, texts in alone.items():  # with all the texts there are
        chunks = [set(texts[first : first + TEXTS_AT_ONCE]) for first in range(0, len(texts), TEXTS_AT_ONCE)]
        plan += [_Batch([image], {image: chunk}) for chunk in chunks]
    return plan


def _score_batch(
    scorer: ImageTextScorer, batch: _Batch, root: Path, device: torch.device
) -> Iterator[tuple[ImageText, float]]:
    texts = sorted(set().union(*(batch.texts_of[image] for image in batch.images)))
    wanted_BT = torch.tensor([[text in batch.texts_of[image] for text in texts] for image in batch.images])
    with torch.no_grad():
        if ABSENT in batch.images:
            assert isinstance(scorer, TextScorer)
            score_BT = scorer.score_texts(texts)[None]
        else:
            images_BCHW = load_images(scorer, batch.images, root, device)
            score_BT = scorer.score(images_BCHW, texts, wanted_BT.to(device))
    score_BT = score_BT.cpu().double()
    for b, t in wanted_BT.nonzero().tolist():
        score = score_BT[b, t].item()
        if math.isnan(score):
            image = batch.images[b].replace("\0", "")
            raise UserError(f"the model's score of {image!r} with {texts[t]!r} is not a number")
        yield (batch.images[b], texts[t]), score
