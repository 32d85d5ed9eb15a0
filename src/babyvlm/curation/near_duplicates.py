"""Images that are nearly the same: by their embeddings, and by a perceptual hash that needs no model.

Shape letters: N and M images, D embedding width, W words of a hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

# Of the grey thumbnail, and of the low frequencies of its cosine transform: `imagehash.phash(image, hash_size=16)`.
# The usual 64 bits are too few: of 4,134 frames of Playroom and 3,104 unrelated test images, the nearest differ in 4
# bits, as many as a recoded copy; of 256 bits, unrelated ones differ in at least 42, and copies in at most 24.
HASHED_SIDE, KEPT_SIDE = 64, 16
HASH_BITS = KEPT_SIDE * KEPT_SIDE
WORDS = HASH_BITS // 64
SAME_BITS = 24
CHUNK_ROWS = 1024  # with 5,000 images on the other side, 20 MB of cosines and 40 MB of hashes at a time


@dataclass(frozen=True)
class Looks:
    """What some images look like.

    Attributes:
        hashes_NW: their perceptual hashes.
        vectors_ND: their L2-normalised embeddings, if two sets are to be compared by them.
    """

    hashes_NW: NDArray[np.uint64]
    vectors_ND: NDArray[np.float16] | NDArray[np.float32] | None = None


class NearDuplicate(NamedTuple):
    """Two images that are nearly the same: their rows, the cosine of their embeddings (NaN without), differing bits."""

    first: int
    second: int
    cosine: float
    distance: int


def perceptual_hashes(images: Iterable[Image.Image]) -> NDArray[np.uint64]:
    """(N, W) hashes of 256 bits: pHash (hackerfactor.com/blog, 2011).

    A bit says whether one of the 16 x 16 lowest frequencies of the 64 x 64 grey image is above their median.
    """
    from scipy.fft import dctn

    grey = [
        np.asarray(image.convert("L").resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.LANCZOS)) for image in images
    ]
    if not grey:
        return np.empty((0, WORDS), np.uint64)
    low = dctn(np.stack(grey), axes=(1, 2))[:, :KEPT_SIDE, :KEPT_SIDE].reshape(len(grey), -1)
    low = low.round(6)  # of an image of one colour all but the first are zero, and their rounding errors no picture
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)


def near_duplicates(
    first: Looks, second: Looks, *, cosine: float = 1.0, distance: int = SAME_BITS
) -> Iterator[NearDuplicate]:
    """All pairs of an image of ``first`` and one of ``second`` that are nearly the same, in order.

    Args:
        first: N images; gone through in chunks, so they may be a memory map.
        second: M images.
        cosine: pairs whose embeddings are above it count too, if both sides have embeddings.
        distance: pairs whose hashes differ in at most so many bits count.
    """
    with_vectors = first.vectors_ND is not None and second.vectors_ND is not None
    other_DM = np.asarray(second.vectors_ND, np.float32).T if with_vectors else None
    for start in range(0, len(first.hashes_NW), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        distance_NM = np.zeros((len(first.hashes_NW[rows]), len(second.hashes_NW)), np.uint16)
        for word_N, word_M in zip(first.hashes_NW[rows].T, second.hashes_NW.T, strict=True):
            distance_NM += np.bitwise_count(word_N[:, None] ^ word_M)
        near_NM = distance_NM <= distance
        cosine_NM = None
        if other_DM is not None and first.vectors_ND is not None:
            cosine_NM = np.asarray(first.vectors_ND[rows], np.float32) @ other_DM
            near_NM |= cosine_NM > cosine
        for n, m in np.argwhere(near_NM).tolist():
            alike = float("nan") if cosine_NM is None else float(cosine_NM[n, m])
            yield NearDuplicate(start + n, m, alike, int(distance_NM[n, m]))


def distinct(vectors_ND: NDArray[np.float16], parts: Sequence[str], cosine: float) -> NDArray[np.bool_]:
    """Thin out near-identical images: within a part each is kept unless an earlier kept one is too much like it.

    Args:
        vectors_ND: L2-normalised embeddings.
        parts: N names; only images of the same part are compared.
        cosine: above it two images count as the same.

    Returns:
        (N,) bool, which to keep.
    """
    kept_N = np.ones(len(parts), bool)
    rows_of: dict[str, list[int]] = {}
    for row, part in enumerate(parts):
        rows_of.setdefault(part, []).append(row)
    for rows in rows_of.values():
        if len(rows) > 1:
            kept_N[rows] = _distinct_in_part(np.asarray(vectors_ND[rows], np.float32), cosine)
    return kept_N


def _distinct_in_part(vectors_ND: NDArray[np.float32], cosine: float) -> NDArray[np.bool_]:
    """Chunk by chunk: first against what earlier chunks kept, by one matrix product, then one by one within it."""
    kept_N = np.zeros(len(vectors_ND), bool)
    for start in range(0, len(vectors_ND), CHUNK_ROWS):
        chunk = vectors_ND[start : start + CHUNK_ROWS]
        free = ~_any_above(chunk, vectors_ND[:start][kept_N[:start]], cosine)
        alike = chunk @ chunk.T > cosine
        for row in range(len(chunk)):
            if free[row]:
                free[row + 1 :] &= ~alike[row, row + 1 :]
        kept_N[start : start + CHUNK_ROWS] = free
    return kept_N


def _any_above(vectors_ND: NDArray[np.float32], others_MD: NDArray[np.float32], cosine: float) -> NDArray[np.bool_]:
    """(N,) whether a vector is above ``cosine`` with one of the others."""
    found = np.zeros(len(vectors_ND), bool)
    for start in range(0, len(others_MD), CHUNK_ROWS):
        found |= (vectors_ND @ others_MD[start : start + CHUNK_ROWS].T > cosine).any(axis=1)
    return found
