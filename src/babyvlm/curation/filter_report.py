"""What a filter leaves to look at: how similar the pairs are, and random ones just above and below the threshold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from babyvlm.curation.contact_sheet import Card, sheet
from babyvlm.curation.plots import draw_histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

BINS = 200  # of 0.01 over -1 to 1: the cosines of large CLIPs lie within a few tenths. Our choice.
NEAR_SHARE = 0.1  # of either side: the pairs among which the page's are drawn, those nearest to the threshold
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass
class SimilarityReport:
    """The reading aids of one filter, in the order of its input store.

    Attributes:
        similarity_N: cosine of each pair.
        kept_N: whether it is kept.
        threshold: where the cut is.
        clip: the model that measured.
        licensed: whether the page must say that it stays here.
    """

    similarity_N: npt.NDArray[np.float32]
    kept_N: npt.NDArray[np.bool_]
    threshold: float
    clip: str
    licensed: bool
    chosen: set[int] = field(default_factory=set)
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)

    def choose(self, count: int, seed: int) -> None:
        """Choose up to ``count`` pairs of either side among those nearest to the threshold."""
        random = np.random.default_rng(seed)
        for rows in (np.flatnonzero(self.kept_N), np.flatnonzero(~self.kept_N)):
            distance = np.abs(self.similarity_N[rows] - self.threshold)
            near = rows[np.argsort(distance, kind="stable")][: max(count, round(NEAR_SHARE * len(rows)))]
            self.chosen.update(random.choice(near, min(count, len(near)), replace=False).tolist())

    def watch(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass rows on and remember the chosen ones."""
        for number, row in enumerate(rows):
            if number in self.chosen:
                self.seen[number] = row
            yield row

    def write(self, folder: Path) -> None:
        """Write ``similarity.json``, ``similarity.png`` and, if pairs were chosen, ``review.html``."""
        edges = np.linspace(-1, 1, BINS + 1)
        kept, dropped = (self._counts(side, edges) for side in (self.kept_N, ~self.kept_N))
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

    def _counts(self, side_N: npt.NDArray[np.bool_], edges: npt.NDArray[np.float64]) -> list[int]:
        return list(np.histogram(np.clip(self.similarity_N[side_N], -1, 1), edges)[0].tolist())

    def _page(self, title: str) -> str:
        rows = sorted(self.seen, key=lambda row: (float(self.similarity_N[row]), row))
        sections = {
            f"kept: above {self.threshold:.4f}": [row for row in rows if self.kept_N[row]],
            f"dropped: below {self.threshold:.4f}": [row for row in reversed(rows) if not self.kept_N[row]],
        }
        note = (
            f"Random pairs of the {NEAR_SHARE:.0%} of either side nearest to the threshold, the nearest first. "
            "Does the picture show what is said? If as much does below as above, the threshold is in the wrong place."
        )
        return sheet(
            title,
            note,
            {name: [self._card(row) for row in side] for name, side in sections.items()},
            licensed=self.licensed,
        )

    def _card(self, number: int) -> Card:
        row = self.seen[number]
        return Card(row["image"], row["utterance"], f"{self.similarity_N[number]:.4f} · {row['key']}")
