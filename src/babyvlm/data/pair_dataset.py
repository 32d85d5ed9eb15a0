"""Pair stores as map-style datasets: one item per pair, or per utterance with one of its frames in each epoch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from cv2.typing import MatLike
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from babyvlm.curation.store.pair_store import AGE, CHILD, DATE, PairStore
from babyvlm.data.transforms import View, normalized
from babyvlm.data.vocabulary import PAD, Vocabulary
from babyvlm.errors import UserError, first_line
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.types import Batch

if TYPE_CHECKING:  # the cache reads images by this module
    from babyvlm.data.feature_cache import CachedFeatures


@dataclass(frozen=True)
class Item:
    """An utterance with, if it has one, an image or its cached features.

    Attributes:
        key: of the pair in its store.
        tokens_L: ``<sos> words <eos>``.
        utterance: the text.
        image_HWC: uint8.
        features: (D,) pooled or (P, D) for P image tokens.
    """

    key: str
    tokens_L: Tensor
    utterance: str
    image_HWC: MatLike | None = None
    features: Tensor | None = None


def open_rows(store: PairStore, cache_dir: Path | None = None) -> datasets.Dataset:
    """Return the rows of a store, memory-mapped.

    The first call writes an Arrow copy, as large as the shards; later calls map it.

    Args:
        store: to read.
        cache_dir: folder of the copies of several stores; by default the copy lies beside the shards.

    Raises:
        UserError: the copy cannot be written.
    """
    columns = ["key", "image", "utterance"]
    cache = store.path / "arrow" if cache_dir is None else cache_dir / f"{store.path.name}-{store.fingerprint[:16]}"
    files = [str(file) for file in store.files]
    try:
        return datasets.Dataset.from_parquet(files, cache_dir=str(cache), columns=columns)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(
            f"{cache}: the memory-mapped copy of the store cannot be written ({reason}). Set data.cache_dir to a "
            "folder on a disk that can be written"
        ) from error


def open_image(store: PairStore, key: str, image: bytes) -> Image:
    """Decode the image of a row.

    Args:
        store: named in the error.
        key: of the row.
        image: encoded.

    Raises:
        UserError: the image cannot be decoded.
    """
    with reading_image(store, key):
        return open_rgb(image)


@contextmanager
def reading_image(store: PairStore, key: str) -> Iterator[None]:
    """Name the row of an image that cannot be decoded.

    The image is never replaced by another one: the training data would not be what the store contains.
    """
    try:
        yield
    except BrokenImageError as error:
        raise UserError(
            f"{store.path}: image of {key} cannot be read ({error}). Run: python -m babyvlm store check"
        ) from error


# What an item is. `pairs`: each image with its utterance, as in BabyVLM (arjunchandra2/multimodal-baby,
# multimodal_saycamllava_data_module.py). `utterances`: each utterance with one of its frames, drawn anew in each epoch,
# as in the original CVCL (wkvong/multimodal-baby, `--multiple_frames`). `first_frames`: each utterance with its first
# frame only, the control of CVCL (Vong et al. 2024) for how much several frames of an utterance help.
Sample = Literal["pairs", "utterances", "first_frames"]
Split = Literal["train", "val", "test"]
Order = Literal["shuffled", "date", "age"]


@dataclass(frozen=True)
class Subset:
    """Which utterances of a store are used, besides their split.

    Attributes:
        children: those recorded with these children; by default, all.
        months: those recorded when the child was this old, in months: from the first number up to, but without, the
            second. Utterances whose age is not known are left out. By default, all.
        fraction: share of the utterances that are left, drawn by the run's seed. A smaller share is a part of a larger
            one.

    Raises:
        UserError: a number is out of range.
    """

    children: tuple[str, ...] = ()
    months: tuple[float, float] | None = None
    fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.months is not None and not 0 <= self.months[0] < self.months[1]:
            raise UserError(f"months {list(self.months)}: must be two ascending ages, such as [6, 12]")
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction {self.fraction}: must be above 0 and at most 1")

    def of(self, store: PairStore, groups: Groups, seed: int) -> Groups:
        """Return the utterances of the subset.

        Raises:
            UserError: the store does not know children or ages, or nothing is left.
        """
        kept_N = np.ones(len(groups), bool)
        if self.children:
            child_N = _recordings(store, CHILD, groups.first)
            kept_N &= pc.is_in(child_N, pa.array(self.children)).to_numpy(zero_copy_only=False)
            if not kept_N.any():
                known = ", ".join(sorted(filter(None, child_N.unique().to_pylist())))
                wanted = " or ".join(self.children)
                raise UserError(f"{store.path}: no utterance of the child {wanted}, only of {known}")
        if self.months is not None:
            age_N = _recordings(store, AGE, groups.first).to_numpy(zero_copy_only=False)  # NaN where it is not known
            kept_N &= (self.months[0] <= age_N) & (age_N < self.months[1])
            if not kept_N.any():
                raise UserError(
                    f"{store.path}: no utterance at {self.months[0]:g} to {self.months[1]:g} months; ages are"
                    f" {np.nanmin(age_N):.1f} to {np.nanmax(age_N):.1f} months"
                )
        kept = np.flatnonzero(kept_N)
        if self.fraction < 1:
            count = max(1, round(self.fraction * len(kept)))
            kept = np.sort(np.random.default_rng([seed, FRACTION_STREAM]).permutation(kept)[:count])
        return groups if len(kept) == len(groups) else groups.take(kept)


EVERY = Subset()
FRACTION_STREAM, SHUFFLE_STREAM = 0xF, 0x5  # other streams of random numbers than those of the run


def _recordings(store: PairStore, column: str, rows_N: npt.NDArray[np.int64]) -> pa.Array:
    """Return a column about the recording for some rows.

    Raises:
        UserError: the store has no such column, or no value in it.
    """
    values = store.columns(column)[column].combine_chunks() if column in store.extra_fields else None
    if values is None or values.null_count == len(values):
        raise UserError(
            f"{store.path}: {column} is not known for its pairs. Add it with a profile that has `recording` and"
            " `birth_dates`: python -m babyvlm curate add-recordings"
        )
    return values.take(pa.array(rows_N))


class Pairs(Dataset[Item]):
    """The pairs of some splits of a store.

    Args:
        store: contains the pairs.
        splits: the splits to use.
        view: encoded image and randomness -> uint8 (H, W, C).
        vocabulary: encodes the utterances.
        sample: what an item is.
        max_tokens: longest utterance, in tokens, ``<sos>`` and ``<eos>`` included.
        keep_eos: end an utterance that is too long with ``<eos>``; otherwise cut it after ``max_tokens``.
        seed: with the epoch and the item it determines the frame and its augmentation.
        limit: number of utterances, drawn by ``seed``; all by default.
        cache_dir: see ``open_rows``.
        subset: which utterances.

    Attributes:
        groups: the rows of each item.
        features: read instead of the images, if set.

    Raises:
        UserError: the splits are empty or smaller than ``limit``.
    """

    def __init__(
        self,
        store: PairStore,
        splits: Sequence[Split],
        view: View,
        vocabulary: Vocabulary,
        *,
        sample: Sample = "pairs",
        max_tokens: int = 25,
        keep_eos: bool = True,
        seed: int = 0,
        limit: int | None = None,
        cache_dir: Path | None = None,
        subset: Subset = EVERY,
    ) -> None:
        self.cache_dir = cache_dir
        self.store, self.view, self.vocabulary = store, view, vocabulary
        self.max_tokens, self.keep_eos, self.seed = max_tokens, keep_eos, seed
        self.features: CachedFeatures | None = None
        texts = store.columns("key", "utterance")
        self._keys, self._utterances = texts["key"], texts["utterance"]
        self._spoken = chosen_groups(store, splits, seed, limit, subset)
        self.groups = items_of(self._spoken, sample)
        self._text_rows_N: npt.NDArray[np.int64] | None = None  # of shuffled utterances

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index_epoch: tuple[int, int]) -> Item:
        """Return the item of (index, epoch)."""
        index, epoch = index_epoch
        rows = self.groups[index]
        draw = np.random.default_rng([self.seed, epoch, stable_hash(self._keys[int(rows[0])].as_py())])
        row = int(rows[draw.integers(len(rows))])
        text_row = row if self._text_rows_N is None else int(self._text_rows_N[index])
        key, utterance = self._keys[row].as_py(), self._utterances[text_row].as_py()
        tokens = torch.tensor(self._encode([utterance])[0])
        if self.features is not None:
            return Item(key, tokens, utterance, features=self.features[row])
        with reading_image(self.store, key):
            return Item(key, tokens, utterance, image_HWC=self.view(self._images[row]["image"], draw))

    @cached_property
    def _images(self) -> datasets.Dataset:
        """The rows with images, opened for the first image; with cached features they are never opened."""
        return open_rows(self.store, self.cache_dir)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each item."""
        return np.fromiter(map(len, self._encode(self.utterances())), np.int64)

    def utterances(self) -> list[str]:
        """Return the utterance of each item."""
        if self._text_rows_N is None:
            return utterances(self.store, self.groups)
        texts: list[str] = self._utterances.take(pa.array(self._text_rows_N)).to_pylist()
        return texts

    def shuffle_utterances(self) -> None:
        """Give all frames of each utterance the text of another one; each text is used for one utterance.

        Raises:
            UserError: there is only one utterance.
        """
        count = len(self._spoken)
        if count < 2:
            raise UserError(f"{self.store.path}: has one utterance, which cannot be exchanged. Set another store")
        around_N = np.random.default_rng([self.seed, SHUFFLE_STREAM]).permutation(count)
        text_rows_N = np.empty(count, np.int64)
        text_rows_N[around_N] = self._spoken.first[np.roll(around_N, 1)]
        frames_N = np.diff(self._spoken.starts) if len(self.groups) != count else np.ones(count, np.int64)
        self._text_rows_N = np.repeat(text_rows_N, frames_N)

    def recorded(self, order: Order) -> list[tuple[str | float, list[str | int]]] | None:
        """Return a key by which the items of this and other stores sort by their recordings; None if it has none.

        Items of one day or age sort by their keys, which begin with the name of the video: numbers in it by value.

        Args:
            order: ``date`` or ``age``.

        Raises:
            UserError: it is known for some items only.
        """
        column = {"date": DATE, "age": AGE}[order]
        if column not in self.store.extra_fields:
            return None
        values = self.store.columns(column)[column].combine_chunks().take(pa.array(self.groups.first))
        if values.null_count == len(values):
            return None
        if values.null_count:
            key = self._keys[int(self.groups.first[values.is_null().to_numpy(zero_copy_only=False).argmax()])]
            raise UserError(
                f"{self.store.path}: {column} is not known for {values.null_count} pairs, for example {key}. Correct"
                " `recording` or `birth_dates` in the profile, or data.order: shuffled"
            )
        keys = self._keys.take(pa.array(self.groups.first)).to_pylist()
        parts = ([int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)] for key in keys)
        return list(zip(values.to_pylist(), parts, strict=True))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if self.keep_eos:
            return self.vocabulary.encode(texts, self.max_tokens)
        return [tokens[: self.max_tokens] for tokens in self.vocabulary.encode(texts, max_tokens=None)]


@dataclass(frozen=True)
class Groups:
    """The row numbers of some items' frames, in two arrays: half a million small arrays would take 100 MB.

    >>> groups = Groups(np.array([4, 5, 9]), np.array([0, 2, 3]))
    >>> len(groups), groups[0], groups[1]
    (2, array([4, 5]), array([9]))

    Attributes:
        rows: of all frames, utterance after utterance.
        starts: index in ``rows`` of each utterance's first frame; the last element is the length of ``rows``.
    """

    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        """Return the rows of one utterance."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[self.starts[index] : self.starts[index + 1]]

    def take(self, indices: npt.NDArray[np.int64]) -> Groups:
        """Return a selection of utterances."""
        rows = [self[index] for index in indices]
        return Groups(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    def single(self) -> Groups:
        """Return the same rows, each as an item of its own."""
        return Groups(self.rows, np.arange(len(self.rows) + 1))

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """The first row of each utterance."""
        return self.rows[self.starts[:-1]]


def items_of(groups: Groups, sample: Sample) -> Groups:
    """Return the rows of each item, given those of each utterance."""
    if sample == "first_frames":
        return Groups(groups.first, np.arange(len(groups) + 1))
    return groups.single() if sample == "pairs" else groups


def chosen_groups(
    store: PairStore, splits: Sequence[Split], seed: int, limit: int | None, subset: Subset = EVERY
) -> Groups:
    """Return the rows of each utterance of some splits, or of ``limit`` of them, drawn by ``seed``.

    Args:
        store: contains the pairs.
        splits: the splits to use.
        seed: of the draw.
        limit: number of utterances; all by default.
        subset: which utterances of the splits.

    Raises:
        UserError: the splits are empty or smaller than ``limit``.
    """
    groups, named = _rows_by_group(store, splits), " and ".join(splits)
    if not len(groups):
        raise UserError(f"{store.path}: split {named} is empty")
    groups = subset.of(store, groups, seed)
    if limit is None:
        return groups
    if limit > len(groups):
        raise UserError(f"{store.path}: {limit} utterances requested, but split {named} has {len(groups)}")
    return groups.take(np.sort(np.random.default_rng([seed, limit]).permutation(len(groups))[:limit]))


def utterances(store: PairStore, groups: Groups) -> list[str]:
    """Return the utterance of each group, once for all frames that share it."""
    texts: list[str] = store.columns("utterance")["utterance"].take(groups.first).to_pylist()
    return texts


def _rows_by_group(store: PairStore, splits: Sequence[Split]) -> Groups:
    """Return the groups of some splits, in order of first appearance."""
    table = store.columns("group", "split")
    codes = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows = np.flatnonzero(pc.is_in(table["split"], pa.array(splits)).to_numpy())
    rows = rows[np.argsort(codes[rows], kind="stable")]
    begins = np.flatnonzero(np.diff(codes[rows], prepend=-1))
    return Groups(rows, np.append(begins, len(rows)))


def stable_hash(text: str) -> int:
    """Return a number that is the same in every process, for seeds."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def collate(items: Sequence[Item]) -> Batch:
    """Stack items into a batch, with images normalized and tokens padded on the right."""
    return _collate(items, normalized)


def collate_pixels(items: Sequence[Item]) -> Batch:
    """Do the same, but leave the images as uint8."""
    return _collate(items, lambda images: torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


def _collate(items: Sequence[Item], stack: Callable[[Sequence[MatLike]], Tensor]) -> Batch:
    images = [item.image_HWC for item in items if item.image_HWC is not None]
    features = [item.features for item in items if item.features is not None]
    return Batch(
        keys=[item.key for item in items],
        images_BCHW=stack(images) if images else torch.empty(len(items), 0),
        tokens_BL=pad_sequence([item.tokens_L for item in items], batch_first=True, padding_value=PAD),
        utterances=[item.utterance for item in items],
        features=torch.stack(features) if features else None,
    )


class Mixed(Dataset[Item]):
    """Several datasets, concatenated.

    Args:
        parts: the datasets.
    """

    def __init__(self, parts: Sequence[Pairs]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each item."""
        return np.concatenate([part.lengths() for part in self.parts])

    def recording_order(self, order: Order, seed: int) -> npt.NDArray[np.int64]:
        """Return all items in the order of their recordings.

        Items of stores without recordings, such as web pairs, are shuffled and spread evenly among the others (our
        choice), so that each stretch of the stream has the proportions of the mix.

        Args:
            order: ``date`` or ``age``.
            seed: of the shuffled items.

        Raises:
            UserError: no store knows it, or one knows it for some of its items only.
        """
        position_N = np.empty(len(self))
        begins = self._ends - [len(part) for part in self.parts]
        dated: list[tuple[tuple[str | float, list[str | int]], int]] = []
        for number, (part, begin) in enumerate(zip(self.parts, begins.tolist(), strict=True)):
            keys = part.recorded(order)
            if keys is None:
                shuffled = np.random.default_rng([seed, number]).permutation(len(part))
                position_N[begin + shuffled] = (np.arange(len(part)) + 0.5) / len(part)
            else:
                dated += zip(keys, range(begin, begin + len(part)), strict=True)
        if not dated:
            raise UserError(
                f"data.order {order}: the {order} of the recording is not known for any source. Add it with a profile"
                " that has `recording` and, for ages, `birth_dates`: python -m babyvlm curate add-recordings"
            )
        position_N[[item for _, item in sorted(dated)]] = (np.arange(len(dated)) + 0.5) / len(dated)
        return np.argsort(position_N, kind="stable")

    def __getitem__(self, index_epoch: tuple[int, int]) -> Item:
        """Return the item of (index, epoch)."""
        index, epoch = index_epoch
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part[index - int(self._ends[number]) + len(part), epoch]
