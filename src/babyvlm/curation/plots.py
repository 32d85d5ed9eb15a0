"""Figures of curation, in colors that color-blind readers can distinguish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from babyvlm.io.printing import printable_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from babyvlm.io.artifacts import Manifest

# From the palette of Okabe and Ito (jfly.uni-koeln.de/color), which also differ in grayscale.
KEPT, DROPPED = "#0072B2", "#E69F00"
FUNNEL_INCHES, BAR_INCHES, TITLE_INCHES = 9, 0.3, 0.4
MAX_LABEL_LENGTH = 60


def draw_histogram(
    path: Path,
    edges: npt.NDArray[np.float64],
    kept: Sequence[int],
    dropped: Sequence[int],
    threshold: float,
    title: str,
) -> None:
    """Draw stacked counts of kept and dropped pairs by similarity, with the threshold as a line, as PNG.

    Args:
        path: file to write.
        edges: (B + 1,) edges of the bins.
        kept: B counts.
        dropped: B counts.
        threshold: cosine similarity at which the line is drawn.
        title: title of the figure.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no display

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    width = edges[1] - edges[0]
    for counts, below, color, label in ((dropped, 0, DROPPED, "dropped"), (kept, dropped, KEPT, "kept")):
        axes.bar(edges[:-1], counts, width, bottom=below, align="edge", color=color, label=label)
    filled = [bin for bin, counts in enumerate(zip(kept, dropped, strict=True)) if any(counts)]
    axes.set_xlim(min(edges[filled[0]], threshold) - width, max(edges[filled[-1] + 1], threshold) + width)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="cosine similarity of image and utterance", ylabel="pairs", title=title)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_funnels(path: Path, stages: Sequence[Manifest]) -> None:
    """Write ``funnel_figure`` as PNG."""
    funnel_figure(stages).savefig(path, dpi=120)


def funnel_figure(stages: Sequence[Manifest], width: float = FUNNEL_INCHES, font: float = 10) -> Figure:
    """Return a figure with a group of bars for each stage: what it kept, and what it dropped by reason.

    Args:
        stages: each with ``name`` and the fields of ``Funnel.as_dict``.
        width: of the figure in inches.
        font: size in points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": font}):
        figure = Figure(figsize=(width, funnel_inches(stages)), layout="constrained")
        ratios = [funnel_inches([stage]) for stage in stages]
        blocks = figure.subplots(len(stages), 1, squeeze=False, height_ratios=ratios)
        for axes, stage in zip(blocks[:, 0], stages, strict=True):
            _draw_funnel(axes, stage)
    return figure


def funnel_inches(stages: Sequence[Manifest]) -> float:
    """Return the height of ``funnel_figure``."""
    return sum(TITLE_INCHES + BAR_INCHES * (1 + len(stage["dropped"])) for stage in stages)


def _draw_funnel(axes: Any, stage: Manifest) -> None:  # noqa: ANN401 - matplotlib is imported late
    reasons = sorted(stage["dropped"].items(), key=lambda item: -item[1])
    bars = [("kept", stage["kept"], KEPT), *((reason, count, DROPPED) for reason, count in reasons)]
    labels = [printable_line(label) for label, _, _ in bars]
    labels = [label if len(label) <= MAX_LABEL_LENGTH else label[: MAX_LABEL_LENGTH - 1] + "…" for label in labels]
    drawn = axes.barh(range(len(bars)), [count for _, count, _ in bars], color=[color for _, _, color in bars])
    axes.bar_label(drawn, [f" {count:,} ({count / max(stage['in'], 1):.1%})" for _, count, _ in bars])
    axes.set_yticks(range(len(bars)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(stage["in"], 1))
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    title = printable_line(f"{stage['name']}: {stage['in']:,} {stage['unit']} in")
    axes.set_title(title, loc="left", weight="bold", parse_math=False)
