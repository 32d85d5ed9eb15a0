"""Filter pairs by the CLIP similarity of image and utterance, and report where the threshold lies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from babyvlm.curation.contact_sheet import Card, contact_sheet
from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.plots import draw_histogram
from babyvlm.curation.stage import Artifact, Stage, UsualYield, stage
from babyvlm.curation.store.pair_store import PairStore, write_pairs
from babyvlm.errors import UserError, require_at_least
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

CHUNK_ROWS = 8192  # two float32 blocks of 25 MB at the width of the largest CLIP
FIELD = "clip_similarity"
THRESHOLD = 0.2  # of BabyVLM; it belongs to the CLIP model that they measured with
BINS = 200  # of 0.01 from -1 to 1: the cosines of large CLIPs span a few tenths. Our choice.
NEAR_SHARE = 0.1  # of the kept and of the dropped pairs: those nearest to the threshold, from which the page samples
# BabyVLM kept about 67,000 of CVCL's 600,285 frames, 11%. The bounds are our choice.
USUAL_YIELD = UsualYield(
    0.02, 0.98, "The threshold depends on the CLIP model: compare the pairs on both sides of it in review.html"
)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@stage
def filter_pairs(
    store: Path,
    embeddings: Path,
    out: Path,
    threshold: float | None = None,
    quantile: float | None = None,
    num_review_pairs: int = 24,
    seed: int = 0,
) -> Stage:
    """Keep the pairs whose CLIP image-text similarity is above a threshold, or the most similar share of them.

    Reads a store and its embeddings; writes a store of the pairs that are kept, with their similarities. `OUT` also
    holds the distribution of similarities (`similarity.json`, `similarity.png`) and `review.html`, a page of random
    pairs just above and just below the threshold.

    For example:
        python -m babyvlm curate filter --store stores/frames --embeddings embeddings/frames --out stores/filtered

    Args:
        store: pair store to filter.
        embeddings: embeddings of this store.
        out: store to create; the similarity is in the new column `clip_similarity`.
        threshold: cosine similarity that a kept pair exceeds. The default, if `quantile` is not given either, is 0.2
            (BabyVLM). It depends on the CLIP model.
        quantile: keep this share of the pairs, the most similar ones, and all that tie with the last of them.
        num_review_pairs: number of pairs on the review page, half of them kept and half dropped; 0 for no page.
        seed: random seed for sampling these pairs.
    """
    if threshold is not None and quantile is not None:
        raise UserError(f"--threshold {threshold} and --quantile {quantile}: pass only one of them")
    if threshold is not None and not -1 <= threshold <= 1:
        raise UserError(f"--threshold {threshold}: must be between -1 and 1")
    if quantile is not None and not 0 < quantile <= 1:
        raise UserError(f"--quantile {quantile}: must be above 0 and at most 1")
    require_at_least(0, num_review_pairs=num_review_pairs, seed=seed)
    if threshold is None and quantile is None:
        threshold = THRESHOLD
    source, vectors = PairStore(store), Embeddings(embeddings)
    funnel = Funnel("filter", unit="pairs")
    artifact = Artifact(
        "store",
        {
            "command": "filter",
            "store": source,
            "embeddings": vectors,
            "clip": vectors.clip,
            "threshold": threshold,
            "quantile": quantile,
            "num_review_pairs": num_review_pairs,
            "seed": seed,
        },
        funnel,
        usual_yield=USUAL_YIELD if quantile is None else None,
    )
    folder = yield artifact
    if FIELD in source.extra_fields:
        raise UserError(f"{store}: already has the column {FIELD}. Filter the store that it was built from")
    _check_rows_match(source, vectors)
    similarity_N = cosine_similarities(vectors.image, vectors.text)
    if not np.isfinite(similarity_N).all():
        row = int(np.argmin(np.isfinite(similarity_N)))
        raise UserError(f"{embeddings}: row {row} ({vectors.keys[row]}) has no similarity. Embed the store again")
    cut = above(threshold) if threshold is not None else top_share(similarity_N, quantile or 1)
    kept_N = cut.keeps(similarity_N)
    report = SimilarityReport(similarity_N, kept_N, cut.threshold, vectors.clip, source.licensed)
    report.choose(num_review_pairs, seed)

    def kept_rows(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row, similarity, kept in zip(rows, similarity_N.tolist(), kept_N.tolist(), strict=True):
            if kept:
                funnel.keep()
                yield row | {FIELD: similarity}
            else:
                funnel.drop(cut.reason)

    with Progress(console=Console(stderr=True)) as bar:
        rows = bar.track(source.rows(), total=len(source), description="filtering")
        artifact.manifest |= write_pairs(
            folder,
            kept_rows(report.watch(rows)),
            funnel=funnel,
            licensed=source.licensed,
            extra_fields={**source.extra_fields, FIELD: pa.float32()},
        )
    report.write(folder)
    return f"{funnel.kept:,} pairs, similarity by {vectors.clip}"


class Cut(NamedTuple):
    """Which similarities are kept: those above ``threshold``, or equal to it too if ``inclusive``."""

    threshold: float
    inclusive: bool
    reason: str

    def keeps(self, similarity_N: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return (N,) whether each pair is kept."""
        threshold = np.float64(self.threshold)  # compared as written, not rounded to the float32 of the similarities
        return similarity_N >= threshold if self.inclusive else similarity_N > threshold


def above(threshold: float) -> Cut:
    """Keep what exceeds a similarity."""
    return Cut(threshold, inclusive=False, reason=f"similarity <= {threshold:g}")


def top_share(similarity_N: npt.NDArray[np.float32], share: float) -> Cut:
    """Keep the most similar ``share`` of all pairs, at least one, and what ties with the last of them."""
    count = max(1, round(share * len(similarity_N)))
    threshold = float(np.partition(similarity_N, len(similarity_N) - count)[len(similarity_N) - count])
    return Cut(threshold, inclusive=True, reason=f"similarity not in the top {share:g}, below {threshold:.4f}")


def cosine_similarities(image_ND: npt.NDArray[np.float16], text_ND: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Return (N,) cosines of row n of both arrays in float32; NaN where a vector is zero or not finite.

    The rows are normalized again, because rounding to float16 changes their lengths by up to 0.05%.
    """
    similarity_N = np.empty(len(image_ND), np.float32)
    for start in range(0, len(image_ND), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        image, text = image_ND[rows].astype(np.float32), text_ND[rows].astype(np.float32)
        lengths = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            similarity_N[rows] = np.einsum("nd,nd->n", image, text) / lengths
    return similarity_N


def _check_rows_match(store: PairStore, vectors: Embeddings) -> None:
    if vectors.store != store.fingerprint:
        raise UserError(f"{vectors.path}: was computed from another store than {store.path}. Embed this store")
    if vectors.keys != store.columns("key")["key"].to_pylist() or not (
        len(vectors.keys) == len(vectors.image) == len(vectors.text)
    ):
        raise UserError(f"{vectors.path}: its rows are not those of {store.path}. Delete it and embed the store again")


@dataclass
class SimilarityReport:
    """The distribution of similarities, and pairs near the threshold, in the order of the input store.

    Attributes:
        similarity_N: cosine of each pair.
        kept_N: whether it is kept.
        threshold: where the cut is.
        clip: the CLIP model.
        licensed: whether the page must say that it must not leave the machine.
    """

    similarity_N: npt.NDArray[np.float32]
    kept_N: npt.NDArray[np.bool_]
    threshold: float
    clip: str
    licensed: bool
    chosen: set[int] = field(default_factory=set)
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)

    def choose(self, count: int, seed: int) -> None:
        """Choose up to ``count`` kept and ``count`` dropped pairs among those nearest to the threshold."""
        random = np.random.default_rng(seed)
        for rows in (np.flatnonzero(self.kept_N), np.flatnonzero(~self.kept_N)):
            distance = np.abs(self.similarity_N[rows] - self.threshold)
            near = rows[np.argsort(distance, kind="stable")][: max(count, round(NEAR_SHARE * len(rows)))]
            self.chosen.update(random.choice(near, min(count, len(near)), replace=False).tolist())

    def watch(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass rows on, and remember the chosen ones."""
        for number, row in enumerate(rows):
            if number in self.chosen:
                self.seen[number] = row
            yield row

    def write(self, folder: Path) -> None:
        """Write ``similarity.json``, ``similarity.png`` and, if pairs were chosen, ``review.html``."""
        edges = np.linspace(-1, 1, BINS + 1)
        kept, dropped = (
            np.histogram(np.clip(self.similarity_N[side_N], -1, 1), edges)[0].tolist()
            for side_N in (self.kept_N, ~self.kept_N)
        )
        numbers = {
            "clip": self.clip,
            "threshold": self.threshold,
            "pairs": len(self.similarity_N),
            "kept": int(self.kept_N.sum()),
            "mean": float(self.similarity_N.mean(dtype=np.float64)),
            "quantiles": {str(q): float(np.quantile(self.similarity_N, q)) for q in QUANTILES},
            "histogram": {"edges": edges.round(6).tolist(), "kept": kept, "dropped": dropped},
        }
        (folder / "similarity.json").write_text(json.dumps(numbers, indent=2) + "\n")
        title = f"{numbers['kept']:,} of {numbers['pairs']:,} pairs kept, similarity by {self.clip}"
        draw_histogram(folder / "similarity.png", edges, kept, dropped, self.threshold, title)
        if self.chosen:
            (folder / "review.html").write_text(self._page(title), encoding="utf-8")

    def _page(self, title: str) -> str:
        rows = sorted(self.seen, key=lambda row: (float(self.similarity_N[row]), row))
        sections = {
            f"Kept: above {self.threshold:.4f}": [row for row in rows if self.kept_N[row]],
            f"Dropped: below {self.threshold:.4f}": [row for row in reversed(rows) if not self.kept_N[row]],
        }
        note = (
            f"Random pairs among the {NEAR_SHARE:.0%} of the kept and of the dropped pairs that are nearest to the "
            "threshold, nearest first. Does the image show what the utterance says? If this is true of as many pairs "
            "below the threshold as above it, choose another threshold."
        )
        cards = {name: [self._card(row) for row in side] for name, side in sections.items()}
        return contact_sheet(title, note, cards, licensed=self.licensed)

    def _card(self, number: int) -> Card:
        row = self.seen[number]
        return Card(row["image"], row["utterance"], f"{self.similarity_N[number]:.4f} · {row['key']}")
