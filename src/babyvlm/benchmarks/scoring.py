"""Score (image, text) pairs with any ``ImageTextScorer``: each distinct pair once, each distinct image once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from babyvlm.benchmarks.controls import ABSENT, BLANK
from babyvlm.benchmarks.trials import QUADRANTS, ImageText
from babyvlm.data.vocabulary import UNK, Vocabulary
from babyvlm.errors import UserError
from babyvlm.io.distributed import is_rank_zero, map_over_ranks, progress
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.io.printing import echo
from babyvlm.io.processes import available_cores
from babyvlm.types import Captioner, ImageEmbedder, ImageTextScorer, TextEmbedder, TextScorer

Scores = dict[ImageText, float]
TEXTS_AT_ONCE = 256  # with one image or none: our choice, it bounds the memory
MAX_THREADS = 16  # that decode images; our choice
KEPT_BYTES = 1 << 30  # of preprocessed images of a model: 1,700 images of 224 pixels
MEAN_COLOR = (124, 116, 104)  # ImageNet's: about zero after the normalization of any model
BLANK_SIZE = 224  # side of the blank image in pixels; a model's preprocessing resizes it


def loaded_batches(
    model: ImageTextScorer | Captioner | ImageEmbedder,
    batches: Iterable[Sequence[str]],
    root: Path,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield (B, C, H, W) for each batch: images below ``root``, preprocessed by the model.

    While the model works on a batch, threads decode the next one. Images are kept for the next evaluation of the model,
    up to ``KEPT_BYTES``.

    Raises:
        UserError: an image cannot be read.
    """
    kept = _images_of(model)
    with ThreadPoolExecutor(min(MAX_THREADS, available_cores())) as pool:
        waiting: list[Future[Tensor]] = []
        try:
            for images in chain(batches, [()]):
                requested = [pool.submit(kept.get, model.preprocess, root, image) for image in images]
                if waiting:
                    yield torch.stack([one.result() for one in waiting]).to(device)
                waiting = requested
        finally:
            pool.shutdown(cancel_futures=True)


class _Images:
    """Preprocessed images of one model."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int, int], Tensor] = {}
        self._bytes = 0

    def get(self, preprocess: Callable[[Image.Image], Tensor], root: Path, image: str) -> Tensor:
        """Return an image (C, H, W); it is read again if the file has changed."""
        found = (root / image).stat() if image != BLANK and (root / image).is_file() else None
        key = (str(root / image), found.st_mtime_ns, found.st_size) if found else (image, 0, 0)
        if key in self._kept:
            return self._kept[key]
        image_CHW = preprocess(_open(root, image))
        size = image_CHW.numel() * image_CHW.element_size()
        if self._bytes + size <= KEPT_BYTES:
            self._bytes += size
            self._kept[key] = image_CHW
        return image_CHW


_images: WeakKeyDictionary[Any, _Images] = WeakKeyDictionary()


def _images_of(model: object) -> _Images:
    try:
        return _images.setdefault(model, _Images())
    except TypeError:  # of a class whose objects cannot be keys
        return _Images()


def _open(root: Path, image: str) -> Image.Image:
    if image == BLANK:
        return Image.new("RGB", (BLANK_SIZE, BLANK_SIZE), MEAN_COLOR)
    file, _, part = image.partition("\0")
    try:
        opened = open_rgb(root / file)
    except BrokenImageError as error:
        raise UserError(f"{root / file}: cannot be read as an image ({error})") from None
    return cut(opened, part)


def cut(image: Image.Image, part: str) -> Image.Image:
    """Return a part of an image (``QUADRANTS``); all of it if the part is empty."""
    if not part:
        return image
    box = (share * side for share, side in zip(QUADRANTS[part], image.size * 2, strict=True))
    left, top, right, bottom = map(round, box)
    return image.crop((left, top, right, bottom))


def embed_images(
    model: ImageEmbedder,
    images: Iterable[str],
    root: Path,
    *,
    device: torch.device,
    batch_size: int = 64,
    label: str = "",
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the embedding of each image as a unit vector, on all ranks of a distributed run; each is encoded once.

    Args:
        model: The model.
        images: Below ``root``.
        root: Folder of the images.
        device: Where the model is.
        batch_size: Images encoded at once.
        label: Of the progress bar.

    Raises:
        UserError: an image cannot be read, or an embedding is not finite.
    """
    order = sorted(set(images))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]

    def work(batches: Sequence[Sequence[str]]) -> dict[str, npt.NDArray[np.float64]]:
        found: dict[str, npt.NDArray[np.float64]] = {}
        loaded = loaded_batches(model, batches, root, device)
        for batch, images_BCHW in zip(progress(batches, label), loaded, strict=True):
            with torch.no_grad():
                vector_BD = model.embed_images(images_BCHW).cpu().double()
            if not vector_BD.isfinite().all():
                raise UserError(
                    f"the model's embedding of one of {len(batch)} images, {batch[0]!r} to {batch[-1]!r}, is not finite"
                )
            found.update(zip(batch, torch.nn.functional.normalize(vector_BD, dim=-1).numpy(), strict=True))
        return found

    return {image: vector for part in map_over_ranks(batches, work) for image, vector in part.items()}


def embed_texts(model: TextEmbedder, texts: Iterable[str], *, label: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return the embedding of each text as a unit vector.

    Args:
        model: The model.
        texts: To embed at once.
        label: Names the benchmark in errors.

    Raises:
        UserError: an embedding is not finite, or 0.
    """
    order = sorted(set(texts))
    with torch.no_grad():
        vector_TD = model.embed_texts(order).cpu().double().numpy()
    norm_T = np.linalg.norm(vector_TD, axis=1)
    wrong_T = ~np.isfinite(norm_T) | (norm_T == 0)
    if wrong_T.any():
        raise UserError(f"{label}: the model's embedding of {order[int(wrong_T.argmax())]!r} is not a vector")
    return dict(zip(order, vector_TD / norm_T[:, None], strict=True))


@dataclass(frozen=True)
class _Batch:
    """Images that are encoded together, and the texts that are scored with each."""

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
    references: Sequence[str] = (),
) -> Scores:
    """Score pairs, on all ranks of a distributed run.

    A model whose ``likelihood`` is ``evidence`` returns log p(text | image). Its score is that less the logarithm of
    the mean of p(text | image') over reference images: how much more likely the image makes the text than an image
    does on average. The likelihood of a text without an image would be no such baseline: BabyLLaVA's language model
    never sees text alone while it learns to see (phases 1 and 2).

    The batches are the same for any number of ranks, since the other items of a batch change the last digits.

    Args:
        scorer: The model; also a ``TextScorer`` if there are pairs with ``ABSENT`` instead of an image.
        pairs: Images below ``root`` with texts.
        root: Folder of the images.
        device: Where the model is.
        batch_size: Images encoded at once.
        label: Of the progress bar.
        references: Reference images below ``root``, for ``evidence``.

    Raises:
        UserError: an image cannot be read, a score is NaN, or ``evidence`` has no references.
    """
    pairs = list(dict.fromkeys(pairs))
    if is_evidence(scorer):
        if not references:
            raise UserError("likelihood evidence needs reference images, and the list has none")
        texts = dict.fromkeys(text for _, text in pairs)
        baseline = [(image, text) for text in texts for image in references]
        total = _score_pairs(scorer, list(dict.fromkeys([*pairs, *baseline])), root, device, batch_size, label)
        logs = torch.tensor([[total[image, text] for image in references] for text in texts], dtype=torch.float64)
        mean = dict(zip(texts, (logs.logsumexp(1) - math.log(len(references))).tolist(), strict=True))
        return {(image, text): total[image, text] - mean[text] for image, text in pairs}
    return _score_pairs(scorer, pairs, root, device, batch_size, label)


def is_evidence(model: object) -> bool:
    """Return whether the scores of a model are relative to reference images."""
    return getattr(model, "likelihood", None) == "evidence"


def _score_pairs(
    scorer: ImageTextScorer,
    pairs: Sequence[ImageText],
    root: Path,
    device: torch.device,
    batch_size: int,
    label: str,
) -> Scores:
    same = indistinguishable(scorer, {text for _, text in pairs})
    batches = _plan({(image, same[text]) for image, text in pairs}, batch_size)

    def work(batches: Sequence[_Batch]) -> Scores:
        images = loaded_batches(scorer, (one.images for one in batches if ABSENT not in one.images), root, device)
        return {
            pair: score
            for batch in progress(batches, label)
            for pair, score in _score_batch(scorer, batch, images, device)
        }

    scores = {pair: score for part in map_over_ranks(batches, work) for pair, score in part.items()}
    return {(image, text): scores[image, same[text]] for image, text in pairs}


def indistinguishable(scorer: object, texts: Iterable[str]) -> dict[str, str]:
    """Map each text to the first text, by alphabet, that is the same to the model: scored once, they tie exactly.

    This is known only for a model with a ``vocabulary``: two out-of-vocabulary words are both ``<unk>``, and a text is
    truncated to ``max_tokens``.
    """
    texts = sorted(texts)
    vocabulary = getattr(scorer, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        return {text: text for text in texts}
    first: dict[tuple[int, ...], str] = {}
    codes = [tuple(ids) for ids in vocabulary.encode_raw(texts, getattr(scorer, "max_tokens", None))]
    return {text: first.setdefault(code, text) for text, code in zip(texts, codes, strict=True)}


def report_truncated_texts(model: object, texts: Iterable[str], path: Path) -> None:
    """Print, once, how many texts are longer than the model reads. Silent for a model without a ``vocabulary``.

    Args:
        model: Has ``max_tokens`` if there is a limit.
        texts: Of a list.
        path: Of the list.
    """
    vocabulary, limit = getattr(model, "vocabulary", None), getattr(model, "max_tokens", None)
    if isinstance(vocabulary, Vocabulary) and limit is not None:
        lengths = [len(ids) for ids in vocabulary.encode_raw(sorted(set(texts)), max_tokens=None)]
        cut = sum(length > limit for length in lengths)
        if cut:
            _print_once(
                f"{path}: {cut} of {len(lengths)} texts are truncated to the model's {limit} tokens "
                f"(data.max_tokens), <sos> and <eos> included; the longest has {max(lengths)}"
            )


@cache
def _print_once(text: str) -> None:
    if is_rank_zero():
        echo(text)


def score_facts(model: object) -> dict[str, str]:
    """Return what the scores of a model are (``score``), if it is not self-evident."""
    likelihood = getattr(model, "likelihood", None)
    if not getattr(model, "score_sos_eos", True):
        return {"score": "cosine, texts without <sos> and <eos>"}
    if likelihood is None:
        return {}
    return {"score": f"{likelihood}, {'with' if getattr(model, 'score_eos', False) else 'without'} the end token"}


def vocabulary_facts(model: object, texts_of_items: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return how well the vocabulary of a model covers the texts of a benchmark; empty for a model without one.

    Returns:
        ``unknown_words``, the share of out-of-vocabulary words, and ``items_alike``, the number of items with different
        texts that are the same to the model.
    """
    vocabulary = getattr(model, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        return {}
    texts = [text for texts in texts_of_items for text in texts]
    words = [token for ids in vocabulary.encode_raw(texts, max_tokens=None) for token in ids[1:-1]]
    same = indistinguishable(model, set(texts))
    alike = sum(len({same[text] for text in texts}) < len(set(texts)) for texts in texts_of_items)
    return {"unknown_words": f"{words.count(UNK) / max(1, len(words)):.4f}", "items_alike": str(alike)}


def _plan(pairs: Iterable[ImageText], batch_size: int) -> list[_Batch]:
    texts_of: dict[str, set[str]] = {}
    for image, text in pairs:
        texts_of.setdefault(image, set()).add(text)
    single = {image: sorted(texts_of.pop(image)) for image in (BLANK, ABSENT) if image in texts_of}
    # Images with the same texts are neighbors, so that a batch needs few other texts.
    images = sorted(texts_of, key=lambda image: (sorted(texts_of[image]), image))
    plan = [_Batch(images[first : first + batch_size], texts_of) for first in range(0, len(images), batch_size)]
    for image, texts in single.items():  # one image, or none, with all texts
        chunks = [set(texts[first : first + TEXTS_AT_ONCE]) for first in range(0, len(texts), TEXTS_AT_ONCE)]
        plan += [_Batch([image], {image: chunk}) for chunk in chunks]
    return plan


def _score_batch(
    scorer: ImageTextScorer, batch: _Batch, images: Iterator[Tensor], device: torch.device
) -> Iterator[tuple[ImageText, float]]:
    texts = sorted(set().union(*(batch.texts_of[image] for image in batch.images)))
    wanted_BT = torch.tensor([[text in batch.texts_of[image] for text in texts] for image in batch.images])
    with torch.no_grad():
        if ABSENT in batch.images:
            assert isinstance(scorer, TextScorer)
            score_BT = scorer.score_texts(texts)[None]
        else:
            score_BT = scorer.score(next(images), texts, wanted_BT.to(device))
    score_BT = score_BT.cpu().double()
    for b, t in wanted_BT.nonzero().tolist():
        score = score_BT[b, t].item()
        if math.isnan(score):
            image = batch.images[b].replace("\0", "")
            raise UserError(f"the model's score of {image!r} with {texts[t]!r} is not a number")
        yield (batch.images[b], texts[t]), score
