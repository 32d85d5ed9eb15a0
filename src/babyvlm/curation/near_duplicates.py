"""Near-duplicate images, by their embeddings and by a perceptual hash that needs no model.

Shape letters: N and M images, D embedding width, W 64-bit words of a hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

# Sides of the gray thumbnail and of the low frequencies of its cosine transform that are kept: the same as
# `imagehash.phash(image, hash_size=16)`. The usual 64 bits are too few: among 4,134 Playroom frames and 3,104 unrelated
# benchmark images, the two nearest differ in 4 bits, as many as a recompressed copy. With 256 bits, unrelated images
# differ in at least 42 bits and copies in at most 24.
THUMBNAIL_SIDE, KEPT_SIDE = 64, 16
HASH_BITS = KEPT_SIDE * KEPT_SIDE
WORDS = HASH_BITS // 64
MAX_HASH_DISTANCE = 24
CHUNK_ROWS = 1024  # with 5,000 images on the other side, 20 MB of cosines and 40 MB of hashes at a time


@dataclass(frozen=True)
class Signatures:
    """What some images are compared by.

    Attributes:
        hashes_NW: their perceptual hashes.
        vectors_ND: their L2-normalized embeddings, if they are to be compared by these too.
    """

    hashes_NW: NDArray[np.uint64]
    vectors_ND: NDArray[np.float16] | NDArray[np.float32] | None = None


class NearDuplicate(NamedTuple):
    """Two near-duplicate images.

    Attributes:
        first: row of the first image.
        second: row of the second image.
        cosine: cosine similarity of their embeddings; NaN without embeddings.
        hash_distance: bits in which their hashes differ.
    """

    first: int
    second: int
    cosine: float
    hash_distance: int


def perceptual_hashes(images: Iterable[Image.Image]) -> NDArray[np.uint64]:
    """Return (N, W) hashes of 256 bits: pHash (hackerfactor.com/blog, 2011).

    A bit says whether one of the 16 x 16 lowest frequencies of the 64 x 64 gray image is above their median.
    """
    from scipy.fft import dctn

    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    gray = [np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS)) for image in images]
    if not gray:
        return np.empty((0, WORDS), np.uint64)
    low = dctn(np.stack(gray), axes=(1, 2))[:, :KEPT_SIDE, :KEPT_SIDE].reshape(len(gray), -1)
    low = low.round(6)  # in an image of one color, all but the first are zero up to rounding errors
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)


def near_duplicates(
    first: Signatures, second: Signatures, *, threshold: float = 1.0, max_hash_distance: int = MAX_HASH_DISTANCE
) -> Iterator[NearDuplicate]:
    """Yield all near-duplicates of an image of ``first`` and an image of ``second``, in order.

    Args:
        first: N images; read in chunks, so the embeddings may be a memory map.
        second: M images.
        threshold: cosine similarity above which images are near-duplicates, if both sides have embeddings.
        max_hash_distance: number of different bits up to which images are near-duplicates.
    """
    with_vectors = first.vectors_ND is not None and second.vectors_ND is not None
    other_DM = np.asarray(second.vectors_ND, np.float32).T if with_vectors else None
    for start in range(0, len(first.hashes_NW), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        distance_NM = np.zeros((len(first.hashes_NW[rows]), len(second.hashes_NW)), np.uint16)
        for word_N, word_M in zip(first.hashes_NW[rows].T, second.hashes_NW.T, strict=True):
            distance_NM += np.bitwise_count(word_N[:, None] ^ word_M)
        near_NM = distance_NM <= max_hash_distance
        cosine_NM = None
        if other_DM is not None and first.vectors_ND is not None:
            cosine_NM = np.asarray(first.vectors_ND[rows], np.float32) @ other_DM
            near_NM |= cosine_NM > threshold
        for n, m in np.argwhere(near_NM).tolist():
            cosine = float("nan") if cosine_NM is None else float(cosine_NM[n, m])
            yield NearDuplicate(start + n, m, cosine, int(distance_NM[n, m]))


def select_distinct(vectors_ND: NDArray[np.float16], groups: Sequence[str], threshold: float) -> NDArray[np.bool_]:
    """Select images greedily: each is kept unless it is a near-duplicate of one kept earlier in its group.

    Args:
        vectors_ND: L2-normalized embeddings.
        groups: N names; only images of the same group are compared.
        threshold: cosine similarity above which images are near-duplicates.

    Returns:
        (N,) bool, which images to keep.
    """
    kept_N = np.ones(len(groups), bool)
    rows_of: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    for rows in rows_of.values():
        if len(rows) > 1:
            kept_N[rows] = _select_in_group(np.asarray(vectors_ND[rows], np.float32), threshold)
    return kept_N


def _select_in_group(vectors_ND: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Select by chunks: first against what earlier chunks kept, by matrix products, then row by row in the chunk."""
    kept_N = np.zeros(len(vectors_ND), bool)
    for start in range(0, len(vectors_ND), CHUNK_ROWS):
        chunk = vectors_ND[start : start + CHUNK_ROWS]
        free = np.ones(len(chunk), bool)
        earlier = vectors_ND[:start][kept_N[:start]]
        for other in range(0, len(earlier), CHUNK_ROWS):
            free &= ~(chunk @ earlier[other : other + CHUNK_ROWS].T > threshold).any(axis=1)
        similar = chunk @ chunk.T > threshold
        for row in range(len(chunk)):
            if free[row]:
                free[row + 1 :] &= ~similar[row, row + 1 :]
        kept_N[start : start + CHUNK_ROWS] = free
    return kept_N
