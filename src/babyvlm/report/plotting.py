"""How the report's pictures are drawn: dots with intervals, lines; as SVG that is the same each time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from babyvlm.report.estimates import Estimate

# Okabe and Ito's palette (jfly.uni-koeln.de/color) without its yellow, which white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DOTS_APART = 0.22  # of the room of a label, with up to four dots in it
DASHES = ("-", "--", "-.", ":")
ROW_INCHES, PANEL_INCHES, LEFT_INCHES, LINES_INCHES = 0.3, 2.1, 2.3, 2.8
WIDE, NARROW = 5, 1  # panels side by side at most: on a screen or paper, on a phone
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "babyvlm",
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Series:
    """Dots of one colour and shape.

    Attributes:
        colour: which of ``COLOURS``; it is also the marker's number.
        values: one for each label; None where there is none.
        hollow: drawn without filling.
    """

    colour: int
    values: Sequence[Estimate | None]
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: above it.
        unit: of the x axis.
        chance: where the dashed line stands, if anywhere.
        series: by name; the same names in all panels share an entry of the legend.
    """

    title: str
    unit: str
    chance: float | None
    series: Mapping[str, Series]

    def dots(self, place: int) -> int:
        """How many there are at a label."""
        return sum(series.values[place] is not None for series in self.series.values())


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        colour: which of ``COLOURS``.
        dash: which of ``DASHES``.
        points: (x, y).
    """

    colour: int
    dash: int
    points: Sequence[tuple[float, float]] = field(default_factory=list)


def draw_dots(labels: Sequence[str], panels: Sequence[Panel], across: int) -> bytes:
    """Panels that share their labels, so many side by side: a dot for each value, with its interval as a line."""
    count = max(panel.dots(place) for panel in panels for place in range(len(labels)))
    across = min(len(panels), across)
    height = 0.9 + ROW_INCHES * (1 if count <= 2 else 0.5 * count) * len(labels)
    figure, axes = _figure(len(panels), across, LEFT_INCHES + PANEL_INCHES * across, height)
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        _dots(ax, panel, len(labels))
        named = labels if number % across == 0 else [""] * len(labels)
        ax.set_yticks(range(len(labels)), named, parse_math=False)
        ax.set_ylim(len(labels) - 0.4, -0.6)
    return _svg(figure, axes, across)


def _dots(ax: Any, panel: Panel, labels: int) -> None:  # noqa: ANN401 - matplotlib is imported late
    for place in range(0, labels, 2):
        ax.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", linewidth=0)
    if panel.chance is not None:
        ax.axvline(panel.chance, color="black", linestyle="--", linewidth=1, label="chance")
    drawn = [0] * labels  # dots at each label so far
    for name, series in panel.series.items():
        found = []
        for place, value in enumerate(series.values):
            if value is not None:
                found.append((place + (drawn[place] - (panel.dots(place) - 1) / 2) * DOTS_APART, value))
                drawn[place] += 1
        colour, marker = COLOURS[series.colour % len(COLOURS)], MARKERS[series.colour % len(MARKERS)]
        ax.errorbar(
            [value.mean for _, value in found],
            [place for place, _ in found],
            xerr=[
                [max(value.mean - value.low, 0) for _, value in found],
                [max(value.high - value.mean, 0) for _, value in found],
            ],
            fmt=marker,
            color=colour,
            markersize=5,
            markerfacecolor="white" if series.hollow else colour,
            elinewidth=1.3,
            label=name,
        )
    ax.set_title(panel.title, parse_math=False)
    ax.set_xlabel(panel.unit, parse_math=False)
    if panel.chance is not None:  # a share
        ax.set_xlim(-0.03, 1.03)
    else:
        ax.set_xlim(left=0)
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)


def draw_lines(panels: Mapping[str, Mapping[str, Line]], x_unit: str, across: int) -> bytes:
    """Panels with curves, so many side by side; the same names in all panels share an entry of the legend."""
    across = min(len(panels), across)
    figure, axes = _figure(len(panels), across, max(LINES_INCHES * across, LEFT_INCHES + PANEL_INCHES), 3.5)
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, line in lines.items():
            x, y = zip(*line.points, strict=True)
            ax.plot(
                x,
                y,
                color=COLOURS[line.colour % len(COLOURS)],
                linestyle=DASHES[line.dash % len(DASHES)],
                marker="o",
                markersize=3,
                linewidth=1.4,
                label=name,
            )
        ax.set_title(title, parse_math=False)
        ax.set_xlabel(x_unit, parse_math=False)
        ax.grid(color="#dddddd", linewidth=0.6)
    return _svg(figure, axes, across)


def _figure(panels: int, across: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with its axes; width of all of it, height of a panel, in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # no pyplot: no window, no display

    with rc_context(STYLE):
        down = -(-panels // across)
        figure = Figure(figsize=(width, 0.3 + height * down), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for ax in axes[panels:]:
            ax.set_axis_off()
        return figure, axes[:panels]


def _svg(figure: Any, axes: Sequence[Any], across: int) -> bytes:  # noqa: ANN401
    from matplotlib import rc_context

    entries: dict[str, Any] = {}
    for ax in axes:
        entries |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True) if label}
    if len(entries) > 1:
        with rc_context(STYLE):
            # Beneath panels that are seen at one glance; else before the first of them.
            side, columns = ("lower", 4) if across > NARROW else ("upper", 2)
            legend = figure.legend(entries.values(), entries, loc=f"outside {side} center", ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return to_svg(figure)


def to_svg(figure: Any) -> bytes:  # noqa: ANN401
    """A figure as SVG, the same bytes each time."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
