"""Keep the pairs whose image and utterance CLIP finds alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import Progress

from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.filter_report import SimilarityReport
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.options import at_least
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

CHUNK_ROWS = 8192  # two float32 blocks of 25 MB at CLIP's widest
FIELD = "clip_similarity"
THRESHOLD = 0.2  # the paper's, which belongs to the CLIP it was measured with


class Cut(NamedTuple):
    """Which similarities are kept: those above ``threshold``, or at it too if ``inclusive``."""

    threshold: float
    inclusive: bool
    rule: str

    def keeps(self, similarity_N: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """(N,) bool."""
        threshold = np.float64(self.threshold)  # compared as written, not rounded to the cosines' float32
        return similarity_N >= threshold if self.inclusive else similarity_N > threshold


@artifacts.one_at_a_time
def filter_pairs(
    store: Path,
    embeddings: Path,
    out: Path,
    threshold: float | None = None,
    quantile: float | None = None,
    review: int = 24,
    seed: int = 0,
) -> None:
    """Keep the pairs whose CLIP image-text cosine is above a threshold, or the most alike share of them.

    In go a store and its embeddings, out comes a store of the pairs that are kept, with their cosines. Beside the
    pairs, `OUT` holds how the cosines are distributed (`similarity.json`, `similarity.png`) and `review.html`, a page
    of random pairs just above and just below the threshold to look at.

    For example:
        python -m babyvlm curate filter --store stores/frames --embeddings embeddings/frames --out stores/filtered

    Args:
        store: pair store to filter.
        embeddings: embeddings of this very store.
        out: store to make; it has the cosine in the new field `clip_similarity`.
        threshold: cosine that a kept pair exceeds; 0.2, the paper's, if neither this nor `quantile` is given. It
            belongs to the CLIP model that measured it.
        quantile: keep this share of the pairs instead, the most alike; all that tie with the last of them stay.
        review: how many kept and how many dropped pairs the page shows; 0 for no page.
        seed: of the choice of these.
    """
    _check_options(threshold, quantile)
    at_least(0, review=review, seed=seed)
    if threshold is None and quantile is None:
        threshold = THRESHOLD
    source, vectors = PairStore(store), Embeddings(embeddings)
    arguments = {
        "command": "filter",
        "store": source.fingerprint,
        "embeddings": vectors.fingerprint,
        "clip": vectors.clip,
        "threshold": threshold,
        "quantile": quantile,
        "review": review,
        "seed": seed,
    }
    if artifacts.is_complete(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    if FIELD in source.extra_fields:
        raise UserError(f"{store}: has {FIELD} already; filter the store it was made from")
    _check_belongs(source, vectors)
    similarity_N = cosines(vectors.image, vectors.text)
    if not np.isfinite(similarity_N).all():
        row = int(np.argmin(np.isfinite(similarity_N)))
        raise UserError(f"{embeddings}: row {row} ({vectors.keys[row]}) has no cosine; embed the store again")
    cut = above(threshold) if threshold is not None else at_share(similarity_N, quantile or 1)
    kept_N = cut.keeps(similarity_N)
    report = SimilarityReport(similarity_N, kept_N, cut.threshold, vectors.clip, source.licensed)
    report.choose(review, seed)
    funnel = Funnel("filter", unit="pairs")
    with Progress(console=Console(stderr=True)) as bar:
        rows = bar.track(source.rows(), total=len(source), description="filtering")
        made = write_store(
            out,
            _kept(report.watch(rows), similarity_N, kept_N, cut, funnel),
            arguments=arguments,
            funnel=funnel,
            licensed=source.licensed,
            extra_fields={**source.extra_fields, FIELD: pa.float32()},
            ancestors=source.lineage | vectors.lineage,
            attach=report.write,
        )
    print(f"{funnel}\n{out}: {len(made):,} pairs, similarity by {vectors.clip}")


def _check_options(threshold: float | None, quantile: float | None) -> None:
    if threshold is not None and quantile is not None:
        raise UserError(f"--threshold {threshold} and --quantile {quantile}: give one of them")
    if threshold is not None and not -1 <= threshold <= 1:
        raise UserError(f"--threshold {threshold}: a cosine lies within -1 and 1")
    if quantile is not None and not 0 < quantile <= 1:
        raise UserError(f"--quantile {quantile}: the share to keep lies above 0 and at most at 1")


def above(threshold: float) -> Cut:
    """What exceeds a cosine."""
    return Cut(threshold, inclusive=False, rule=f"similarity <= {threshold:g}")


def at_share(similarity_N: npt.NDArray[np.float32], share: float) -> Cut:
    """The most alike ``share`` of all, at least one, and what ties with the last of it."""
    count = max(1, round(share * len(similarity_N)))
    threshold = float(np.partition(similarity_N, len(similarity_N) - count)[len(similarity_N) - count])
    return Cut(threshold, inclusive=True, rule=f"similarity not in the top {share:g}, below {threshold:.4f}")


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


def _check_belongs(store: PairStore, vectors: Embeddings) -> None:
    if vectors.store != store.fingerprint:
        raise UserError(f"{vectors.path}: was computed from another store than {store.path}; embed this one")
    if vectors.keys != store.columns("key")["key"].to_pylist() or not (
        len(vectors.keys) == len(vectors.image) == len(vectors.text)
    ):
        raise UserError(f"{vectors.path}: its rows are not those of {store.path}; remove it and embed the store again")


def _kept(
    rows: Iterable[dict[str, Any]],
    similarity_N: npt.NDArray[np.float32],
    kept_N: npt.NDArray[np.bool_],
    cut: Cut,
    funnel: Funnel,
) -> Iterator[dict[str, Any]]:
    for row, similarity, kept in zip(rows, similarity_N.tolist(), kept_N.tolist(), strict=True):
        if kept:
            funnel.keep()
            yield row | {FIELD: similarity}
        else:
            funnel.drop(cut.rule)
