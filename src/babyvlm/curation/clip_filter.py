"""Keep the pairs whose image and utterance CLIP finds alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from babyvlm import artefact
from babyvlm.contracts import UserError
from babyvlm.curation.embed import Embeddings
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store import Store, write_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

CHUNK_ROWS = 8192  # two float32 blocks of 25 MB at CLIP's widest
FIELD = "clip_similarity"


def filter_pairs(store: Path, embeddings: Path, out: Path, threshold: float = 0.2) -> None:
    """Keep the pairs whose CLIP image-text cosine is above a threshold.

    Args:
        store: pair store to filter.
        embeddings: embeddings of this very store.
        out: store to make; it has the cosine in the new field `clip_similarity`.
        threshold: cosine that a kept pair exceeds (0.2 in the paper; it belongs to the CLIP model that measured it).
    """
    source, vectors = Store(store), Embeddings(embeddings)
    arguments = {"command": "filter", "store": source.fingerprint, "embeddings": vectors.fingerprint,
                 "clip": vectors.clip, "threshold": threshold}  # fmt: skip
    if artefact.made_already(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    if not -1 <= threshold <= 1:
        raise UserError(f"--threshold {threshold}: a cosine lies within -1 and 1")
    if FIELD in source.extra_fields:
        raise UserError(f"{store}: has {FIELD} already; filter the store it was made from")
    _check_belongs(source, vectors)
    similarity_N = cosines(vectors.image, vectors.text)
    if not np.isfinite(similarity_N).all():
        row = int(np.argmin(np.isfinite(similarity_N)))
        raise UserError(f"{embeddings}: row {row} ({vectors.keys[row]}) has no cosine; embed the store again")
    funnel = Funnel("filter", unit="pairs")
    rows = track(source.rows(), "filtering", total=len(source), console=Console(stderr=True))
    store_out = write_store(
        out, _above(rows, similarity_N, threshold, funnel), arguments=arguments, funnel=funnel,
        licensed=source.licensed, extra_fields={**source.extra_fields, FIELD: pa.float32()},
    )  # fmt: skip
    print(f"{funnel}\n{out}: {len(store_out):,} pairs, similarity by {vectors.clip}")


def cosines(image_ND: npt.NDArray[np.float16], text_ND: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Row-wise cosine in float32, by chunks; NaN where a vector is zero or not finite.

    The rows are normalised once more, because rounding to float16 moves their lengths by up to 0.05 %.
    """
    similarity_N = np.empty(len(image_ND), np.float32)
    for start in range(0, len(image_ND), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        image, text = image_ND[part].astype(np.float32), text_ND[part].astype(np.float32)
        lengths = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            similarity_N[part] = np.einsum("nd,nd->n", image, text) / lengths
    return similarity_N


def _check_belongs(store: Store, vectors: Embeddings) -> None:
    if vectors.store != store.fingerprint:
        raise UserError(f"{vectors.path}: was computed from another store than {store.path}; embed this one")
    if vectors.keys != store.columns("key")["key"].to_pylist() or not (
        len(vectors.keys) == len(vectors.image) == len(vectors.text)
    ):
        raise UserError(f"{vectors.path}: its rows are not those of {store.path}; remove it and embed the store again")


def _above(
    rows: Iterable[dict[str, Any]], similarity_N: npt.NDArray[np.float32], threshold: float, funnel: Funnel
) -> Iterator[dict[str, Any]]:
    for row, similarity in zip(rows, similarity_N.tolist(), strict=True):
        if similarity > threshold:
            funnel.keep()
            yield row | {FIELD: similarity}
        else:
            funnel.drop(f"similarity <= {threshold:g}")
