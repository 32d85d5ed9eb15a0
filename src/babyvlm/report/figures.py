"""Figures of the report, each with a text alternative, as SVG that is the same each time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from babyvlm.report.columns import CONTROLS, LABELED_S, PAPER, WINOGROUND, Column
from babyvlm.report.comparisons import score
from babyvlm.report.estimates import Estimate
from babyvlm.report.paper import MIXES, MODELS, mix_of, model_of, paper_value
from babyvlm.report.runs import Row, main_columns, tested_columns
from babyvlm.report.tables import category_columns, row_name, word_class_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color) without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
DOT_SPACING = 0.22  # between the dots of a label, as a share of its height, for up to four dots
ROW_INCHES, PANEL_INCHES, LABEL_INCHES, CURVE_INCHES = 0.3, 2.1, 2.3, 2.8
WIDE, NARROW = 5, 1  # maximum number of panels side by side: on a screen or paper, on a phone
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "babyvlm",
    "axes.axisbelow": True,
}
ACCURACY = "accuracy"
CURVES = {
    "val_loss": "validation loss",
    "labeled_s_dev": "Labeled-S, dev split",
    "vtwt_dev": "VTWT, dev split",
    "baby_winoground_dev": "Baby Winoground, dev split",
}


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        name: file name without suffix.
        caption: what it shows.
        alt: its numbers as text.
        draw: draws it as SVG with at most the given number of panels side by side.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[int], bytes]

    @cached_property
    def wide(self) -> bytes:
        """For a screen or paper."""
        return self.draw(WIDE)

    @cached_property
    def narrow(self) -> bytes:
        """For a phone."""
        return self.draw(NARROW)


def charts(rows: Sequence[Row]) -> dict[str, Chart]:
    """Return all figures that these rows have numbers for, by name."""
    draw_all = (_scores, _controls, _word_classes, _contexts, _categories, _curves)
    return {chart.name: chart for draw in draw_all for chart in draw(rows)}


def _scores(rows: Sequence[Row]) -> Iterator[Chart]:
    columns = main_columns(rows)
    if not columns:
        return
    panels = []
    for column in columns:
        by_family: dict[str, list[Estimate | None]] = {}
        for place, row in enumerate(rows):
            by_family.setdefault(_family(row), [None] * len(rows))[place] = score(row, column)
        series = {family: Series(_color(family), values) for family, values in by_family.items()}
        paper = [_exact(paper_value(row.name, column.benchmark, column.measure)) for row in rows]
        if any(paper):
            series["paper, on SAYCam"] = Series(3, paper, hollow=True)
        panels.append(Panel(column.title, _unit(column), column.chance, series))
    yield Chart(
        "scores",
        "Scores of all rows on all benchmarks with 95% CIs; dashed line: chance.",
        _alt(rows, columns, score),
        partial(draw_dots, [row_name(row) for row in rows], panels),
    )


def _controls(rows: Sequence[Row]) -> Iterator[Chart]:
    columns = [column for column in main_columns(rows) if any(row.items(column, "blank") for row in rows)]
    if not columns:
        return
    conditions = {"": "original images", **CONTROLS}
    panels = [
        Panel(
            column.title,
            _unit(column),
            column.chance,
            {
                condition: Series(place, [score(row, column, control) for row in rows], hollow=bool(control))
                for place, (control, condition) in enumerate(conditions.items())
                if any(row.items(column, control) for row in rows)
            },
        )
        for column in columns
    ]
    yield Chart(
        "controls",
        "Scores with a blank image, with images shuffled between items, and without an image; 95% CIs.",
        "Blank image: " + _alt(rows, columns, lambda row, column: score(row, column, "blank")),
        partial(draw_dots, [row_name(row) for row in rows], panels),
    )


def _word_classes(rows: Sequence[Row]) -> Iterator[Chart]:
    columns = tested_columns(rows, word_class_columns())
    yield from _one_series_per_column(rows, columns, "words", "VTWT by the class of the differing words")


def _contexts(rows: Sequence[Row]) -> Iterator[Chart]:
    contexts = [column for column in PAPER[WINOGROUND.benchmark].details if column.measure not in ("text", "image")]
    caption = (
        "Baby Winoground by context: positive images show the home, negative images contexts that were never seen. "
        "Strict: the authors' measure, in which the phrase must also select its image"
    )
    yield from _one_series_per_column(rows, tested_columns(rows, contexts), "contexts", caption)


def _one_series_per_column(rows: Sequence[Row], columns: Sequence[Column], name: str, caption: str) -> Iterator[Chart]:
    if columns:
        panels = [
            Panel(column.title, ACCURACY, column.chance, {"": Series(0, [score(row, column) for row in rows])})
            for column in columns
        ]
        draw = partial(draw_dots, [row_name(row) for row in rows], panels)
        yield Chart(name, f"{caption}; 95% CIs; dashed line: chance.", _alt(rows, columns, score), draw)


def _categories(rows: Sequence[Row]) -> Iterator[Chart]:
    columns = category_columns(rows, PAPER[LABELED_S.benchmark])
    shown = [row for row in rows if row.items(LABELED_S)]
    if columns and shown:
        panels = [
            Panel(
                "\n".join(filter(None, [model_of(row.name), mix_of(row.name)])),
                ACCURACY,
                LABELED_S.chance,
                {"": Series(0, [score(row, column) for column in columns])},
            )
            for row in shown
        ]
        yield Chart(
            "categories",
            "Labeled-S by category; 95% CIs; dashed line: chance.",
            _alt(shown, columns, score),
            partial(draw_dots, [column.title for column in columns], panels),
        )


def _curves(rows: Sequence[Row]) -> Iterator[Chart]:
    trained = [row for row in rows if row.trained]
    panels = {
        title: {
            row.name: Line(_color(_family(row)), MIXES.index(mix_of(row.name) or MIXES[0]), points)
            for row in trained
            if (points := row.runs[0].curve(metric))
        }
        for metric, title in CURVES.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    if panels:
        last = [
            f"{title}: " + ", ".join(f"{row} {line.points[-1][1]:.3f}" for row, line in lines.items())
            for title, lines in panels.items()
        ]
        yield Chart(
            "curves",
            "Learning curves on validation data and dev splits, first seed of each row. Losses of contrastive and "
            "generative models are different quantities and not comparable.",
            "Final values: " + "; ".join(last),
            partial(draw_lines, panels, "samples seen"),
        )


def _family(row: Row) -> str:
    return model_of(row.name) if row.trained else "upper bounds"


def _color(family: str) -> int:
    return MODELS.index(family) if family in MODELS else 6 if family == "upper bounds" else 4


def _unit(column: Column) -> str:
    return ACCURACY if column.chance is not None else "METEOR" if column.benchmark == "caption" else "score"


def _exact(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value, value, value, 0)


def _alt(rows: Sequence[Row], columns: Sequence[Column], value: Callable[[Row, Column], Estimate | None]) -> str:
    texts = []
    for column in columns:
        found = [(row.name, value(row, column)) for row in rows]
        texts.append(f"{column.title}: " + ", ".join(f"{name} {one.mean:.3f}" for name, one in found if one))
    return "; ".join(texts)


@dataclass(frozen=True)
class Series:
    """Dots of one color and shape.

    Attributes:
        color: index in ``COLORS`` and ``MARKERS``.
        values: one for each label, or None.
        hollow: whether dots are drawn without fill.
    """

    color: int
    values: Sequence[Estimate | None]
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: text above it.
        unit: label of the x axis.
        chance: position of the dashed line, if any.
        series: by name; series of the same name share an entry in the legend.
    """

    title: str
    unit: str
    chance: float | None
    series: Mapping[str, Series]

    def dots(self, place: int) -> int:
        """Return the number of dots at a label."""
        return sum(series.values[place] is not None for series in self.series.values())


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        color: index in ``COLORS``.
        dash: index in ``DASHES``.
        points: (x, y).
    """

    color: int
    dash: int
    points: Sequence[tuple[float, float]] = field(default_factory=list)


def draw_dots(labels: Sequence[str], panels: Sequence[Panel], across: int) -> bytes:
    """Draw panels that share their labels, ``across`` side by side: dots with intervals."""
    count = max(panel.dots(place) for panel in panels for place in range(len(labels)))
    across = min(len(panels), across)
    height = 0.9 + ROW_INCHES * (1 if count <= 2 else 0.5 * count) * len(labels)
    figure, axes = _figure(len(panels), across, LABEL_INCHES + PANEL_INCHES * across, height)
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        _draw_panel(ax, panel, len(labels))
        shown = labels if number % across == 0 else [""] * len(labels)
        ax.set_yticks(range(len(labels)), shown, parse_math=False)
        ax.set_ylim(len(labels) - 0.4, -0.6)
    return _svg(figure, axes, across)


def _draw_panel(ax: Axes, panel: Panel, labels: int) -> None:
    for place in range(0, labels, 2):
        ax.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", linewidth=0)
    if panel.chance is not None:
        ax.axvline(panel.chance, color="black", linestyle="--", linewidth=1, label="chance")
    drawn = [0] * labels  # dots drawn at each label so far
    for name, series in panel.series.items():
        points = []
        for place, value in enumerate(series.values):
            if value is not None:
                points.append((place + (drawn[place] - (panel.dots(place) - 1) / 2) * DOT_SPACING, value))
                drawn[place] += 1
        color, marker = COLORS[series.color % len(COLORS)], MARKERS[series.color % len(MARKERS)]
        ax.errorbar(
            [value.mean for _, value in points],
            [place for place, _ in points],
            xerr=[
                [max(value.mean - value.low, 0) for _, value in points],
                [max(value.high - value.mean, 0) for _, value in points],
            ],
            fmt=marker,
            color=color,
            markersize=5,
            markerfacecolor="white" if series.hollow else color,
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
    """Draw panels with curves, ``across`` side by side; lines of the same name share an entry in the legend."""
    across = min(len(panels), across)
    figure, axes = _figure(len(panels), across, max(CURVE_INCHES * across, LABEL_INCHES + PANEL_INCHES), 3.5)
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, line in lines.items():
            x, y = zip(*line.points, strict=True)
            ax.plot(
                x,
                y,
                color=COLORS[line.color % len(COLORS)],
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


def _figure(panels: int, across: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes. The width is that of the figure, the height that of a panel, in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    with rc_context(STYLE):
        down = -(-panels // across)
        figure = Figure(figsize=(width, 0.3 + height * down), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for ax in axes[panels:]:
            ax.set_axis_off()
        return figure, axes[:panels]


def _svg(figure: Figure, axes: Sequence[Axes], across: int) -> bytes:
    from matplotlib import rc_context

    entries: dict[str, Any] = {}
    for ax in axes:
        entries |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True) if label}
    if len(entries) > 1:
        with rc_context(STYLE):
            # Below panels that fit on one screen, above the first one on a phone.
            location: Literal["outside lower center", "outside upper center"]
            location = "outside lower center" if across > NARROW else "outside upper center"
            columns = 4 if across > NARROW else 2
            legend = figure.legend(list(entries.values()), list(entries), loc=location, ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return to_svg(figure)


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes each time."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
