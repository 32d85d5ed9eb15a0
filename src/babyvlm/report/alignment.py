"""Figure of the alignment of images and words: t-SNE of mean images and words, as in Vong et al. (2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from babyvlm.report.figures import COLORS, MARKERS, Chart, Layout, figure_with_panels, on_pages, with_legend
from babyvlm.report.results import Cosines
from babyvlm.report.runs import Row, benchmarks_of
from babyvlm.report.tables import row_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = 4.2  # room for the labels of 22 categories
PERPLEXITY = 7.5  # for 22 categories (wkvong/multimodal-baby @d64c1bb, `analysis_cvcl/alignment.py`)
PREFIX = "alignment"  # of the names of these figures


def alignment_charts(rows: Sequence[Row]) -> Iterator[Chart]:
    """Yield a figure for each benchmark that records cosines: a panel for each row, of its first run."""
    for benchmark in benchmarks_of(rows):
        panels = {
            row_name(row): found
            for row in rows
            if benchmark.name in row.runs[0].results
            and (found := row.runs[0].results[benchmark.name].cosines) is not None
        }
        if panels:
            texts = [
                f"{name}: {sum(rank == 1 for rank in found.ranks.values())} of {len(found.categories)} mean images are "
                f"closest to their word; r = {similarity_correlation(found):.2f}"
                for name, found in panels.items()
            ]
            yield Chart(
                f"{PREFIX}-{benchmark.name}",
                f"{benchmark.title}: t-SNE of the mean images of categories and of their words, by their cosines; a "
                "line connects the two of a category. First seed of each row. r: correlation of the cosines between "
                "images with those between words, over pairs of categories.",
                "; ".join(texts),
                partial(_draw, panels),
            )


def similarity_correlation(found: Cosines) -> float:
    """Return Pearson's correlation of the cosines between mean images with those between words; 0 if one is constant.

    Vong et al. (2024) measure alignment in this way, over all pairs of categories.
    """
    count = len(found.categories)
    pairs = np.triu_indices(count, 1)
    image_P, word_P = found.matrix_KK[:count, :count][pairs], found.matrix_KK[count:, count:][pairs]
    if len(image_P) < 2 or np.ptp(image_P) < 1e-9 or np.ptp(word_P) < 1e-9:
        return 0.0
    return float(np.corrcoef(image_P, word_P)[0, 1])


def positions(found: Cosines) -> npt.NDArray[np.float64]:
    """Return the places of C mean images and C words in a figure, (2C, 2): t-SNE with a fixed seed."""
    from sklearn.manifold import TSNE

    distance_KK = np.clip(1 - found.matrix_KK, 0, None)
    np.fill_diagonal(distance_KK, 0)
    distance_KK /= distance_KK.max() or 1.0  # from 0 to 1, as in the source of PERPLEXITY
    perplexity = min(PERPLEXITY, (len(distance_KK) - 1) / 3)
    layout = TSNE(metric="precomputed", init="random", perplexity=perplexity, random_state=0, method="exact")
    place_K2: npt.NDArray[np.float64] = layout.fit_transform(distance_KK).astype(np.float64)
    return place_K2


def _draw(panels: dict[str, Cosines], layout: Layout) -> list[Figure]:
    across = min(len(panels), layout.across, 2)
    width = layout.width or PANEL_INCHES * across
    pages = on_pages(list(panels.items()), across, width / across, layout)
    return [_draw_page(page, across, width, layout) for page in pages]


def _draw_page(panels: Sequence[tuple[str, Cosines]], across: int, width: float, layout: Layout) -> Figure:
    figure, axes = figure_with_panels(len(panels), across, width, width / across, layout)
    for ax, (name, found) in zip(axes, panels, strict=True):
        image_C2, word_C2 = np.split(positions(found), 2)
        for one, other in zip(image_C2, word_C2, strict=True):
            ax.plot(*zip(one, other, strict=True), color="#bbbbbb", linewidth=0.8, zorder=1)
        for place, (title, shown_C2) in enumerate((("mean image", image_C2), ("word", word_C2))):
            ax.scatter(
                shown_C2[:, 0], shown_C2[:, 1], s=18, color=COLORS[place], marker=MARKERS[place], label=title, zorder=2
            )
        for category, spot in zip(found.categories, word_C2.tolist(), strict=True):
            text = ax.annotate(category, spot, xytext=(3, 2), textcoords="offset points", fontsize=layout.font * 0.8)
            text.set_parse_math(False)
        ax.set_title(f"{name} (r = {similarity_correlation(found):.2f})", parse_math=False)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.margins(0.12)
    return with_legend(figure, axes, across, layout)
