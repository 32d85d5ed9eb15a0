"""Figures of the report, each with a text alternative, as SVG and PDF that are the same each time.

On the page they are SVG, for a screen and for a phone. For a paper they are SVG and PDF, one and two columns wide.
"""

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
from babyvlm.report.runs import Row, Run, main_columns, tested_columns
from babyvlm.report.tables import category_columns, row_name, row_title, word_class_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color) without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", (0, (5, 1, 1, 1, 1, 1)), "-.", (0, (9, 2, 1, 2)), ":")  # of each mix
DOT_SPACING = 0.22  # between the dots of a label, as a share of its height, for up to four dots
ROW_INCHES, PANEL_INCHES, LABEL_INCHES, CURVE_INCHES = 0.3, 2.1, 2.3, 2.8
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "babyvlm",
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType: conferences refuse type 3 fonts
}
ACCURACY = "accuracy"
CURVES = {
    "val_loss": "validation loss",
    "labeled_s_dev": "Labeled-S, dev split",
    "vtwt_dev": "VTWT, dev split",
    "baby_winoground_dev": "Baby Winoground, dev split",
}


@dataclass(frozen=True)
class Layout:
    """How a figure is drawn.

    Attributes:
        across: maximum number of panels side by side.
        width: of the figure in inches; by default as wide as its panels need.
        font: size in points.
    """

    across: int
    width: float | None = None
    font: float = 9


WIDE, NARROW = Layout(5), Layout(1)  # on a screen, on a phone
# In a paper: the widths of a column and of a page in the format of CVPR and ICCV.
PAPER_LAYOUTS = {"1-column": Layout(1, 3.25, 6.5), "2-columns": Layout(2, 6.875, 7.5)}


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        name: file name without suffix.
        caption: what it shows.
        alt: its numbers as text.
        draw: draws it.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[Layout], Figure]

    @cached_property
    def wide(self) -> bytes:
        """For a screen."""
        return saved(self.draw(WIDE), "svg")

    @cached_property
    def narrow(self) -> bytes:
        """For a phone."""
        return saved(self.draw(NARROW), "svg")

    def for_paper(self) -> Iterator[tuple[str, bytes]]:
        """Yield file names and contents, one and two columns wide."""
        for name, layout in PAPER_LAYOUTS.items():
            figure = self.draw(layout)
            yield f"{self.name}-{name}.svg", saved(figure, "svg")
            figure.set_layout_engine("none")  # it has been laid out
            yield f"{self.name}-{name}.pdf", saved(figure, "pdf")


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
        families = dict.fromkeys(map(_family, rows))
        series = {
            family: Series(
                _color(family),
                [score(row, column) if _family(row) == family else None for row in rows],
                runs=[_run_means(row, column) for row in rows],
            )
            for family in families
        }
        paper = [_exact(paper_value(row.name, column.benchmark, column.measure)) for row in rows]
        if any(paper) and not any(row.embedded for row in rows):  # Playroom's axes do not show what SAYCam's tests gave
            series["paper, on SAYCam"] = Series(3, paper, hollow=True)
        panels.append(Panel(column.title, _unit(column), column.chance, series))
    yield Chart(
        "scores",
        "Scores of all rows on all benchmarks with 95% CIs; small dots: each seed and world; dashed line: chance.",
        _alt(rows, columns, score),
        partial(draw_dots, [row_title(row) for row in rows], panels),
    )


def _controls(rows: Sequence[Row]) -> Iterator[Chart]:
    columns = [column for column in main_columns(rows) if any(row.tested(column, "blank") for row in rows)]
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
                if any(row.tested(column, control) for row in rows)
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
    columns = word_class_columns(rows)
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
    shown = [row for row in rows if row.tested(LABELED_S)]
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
    panels: dict[str, dict[str, list[Line]]] = {}
    for metric, title in CURVES.items():
        for row in trained:
            # Losses of different models are different quantities, so that each has its own axis.
            panel = f"{title}, {_family(row)}" if metric == "val_loss" else title
            lines = [line for run in row.runs if (line := _line(row, run, metric)).points]
            if lines:
                panels.setdefault(panel, {})[row.name] = lines
    if panels:
        last = [
            f"{title}: " + ", ".join(f"{row} {lines[0].points[-1][1]:.3f}" for row, lines in by_row.items())
            for title, by_row in panels.items()
        ]
        yield Chart(
            "curves",
            "Learning curves on validation data and dev splits, one line for each seed and world; star: the checkpoint "
            "that was tested.",
            "Final values of the first seed: " + "; ".join(last),
            partial(draw_lines, panels, "samples seen"),
        )


def _line(row: Row, run: Run, metric: str) -> Line:
    points = run.curve(metric)
    step = None if run.tested_checkpoint is None else run.tested_checkpoint.step
    tested = None if step is None or not points else step * (run.samples_per_step or 1)
    # A checkpoint is saved at a validation; where it is not, the star is at the closest one.
    star = None if tested is None else min(points, key=lambda point: abs(point[0] - tested))
    return Line(_color(_family(row)), MIXES.index(mix_of(row.name) or MIXES[0]), points, star)


def _run_means(row: Row, column: Column) -> list[float]:
    """Return the mean of each seed and world; empty for a single one, which is the score itself."""
    means = [float(found.credit_N.mean()) for run in row.runs if (found := run.scores(column)) is not None]
    return means if len(means) > 1 else []


def _family(row: Row) -> str:
    return model_of(row.name) if row.trained else "floors" if row.is_floor else "upper bounds"


def _color(family: str) -> int:
    others = {"upper bounds": 6, "floors": 5}
    return MODELS.index(family) if family in MODELS else others.get(family, 4)


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
        runs: for each label, the means of single runs; none by default.
    """

    color: int
    values: Sequence[Estimate | None]
    hollow: bool = False
    runs: Sequence[Sequence[float]] = ()


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
        star: a point that is marked; None for none.
    """

    color: int
    dash: int
    points: Sequence[tuple[float, float]] = field(default_factory=list)
    star: tuple[float, float] | None = None


def draw_dots(labels: Sequence[str], panels: Sequence[Panel], layout: Layout) -> Figure:
    """Draw panels that share their labels: dots with intervals."""
    count = max(panel.dots(place) for panel in panels for place in range(len(labels)))
    across = min(len(panels), layout.across)
    height = 0.9 + ROW_INCHES * (1 if count <= 2 else 0.5 * count) * len(labels)
    figure, axes = figure_with_panels(
        len(panels), across, layout.width or LABEL_INCHES + PANEL_INCHES * across, height, layout
    )
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        _draw_panel(ax, panel, len(labels))
        own = labels if layout.width is None else [label.replace(" (", "\n(") for label in labels]
        shown = own if number % across == 0 else [""] * len(labels)
        ax.set_yticks(range(len(labels)), shown, parse_math=False)
        ax.set_ylim(len(labels) - 0.4, -0.6)
    return with_legend(figure, axes, across, layout)


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
        places = {place for place, value in enumerate(series.values) if value is not None}
        runs = [(mean, place) for place, means in enumerate(series.runs) if place in places for mean in means]
        below = [place + 0.28 for _, place in runs]  # below the mean
        ax.plot([mean for mean, _ in runs], below, ".", color=color, alpha=0.6, markersize=3)
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


def draw_lines(panels: Mapping[str, Mapping[str, Sequence[Line]]], x_unit: str, layout: Layout) -> Figure:
    """Draw panels with curves; lines of the same name share an entry in the legend."""
    across = min(len(panels), layout.across)
    width = layout.width or max(CURVE_INCHES * across, LABEL_INCHES + PANEL_INCHES)
    figure, axes = figure_with_panels(len(panels), across, width, 3.5 if layout.width is None else 2.2, layout)
    for ax, (title, by_name) in zip(axes, panels.items(), strict=True):
        for name, line in ((name, line) for name, lines in by_name.items() for line in lines):
            x, y = zip(*line.points, strict=True)
            ax.plot(
                x,
                y,
                color=COLORS[line.color % len(COLORS)],
                linestyle=DASHES[line.dash % len(DASHES)],
                marker="o",
                markersize=3,
                linewidth=1.2,
                label=name,
            )
            if line.star is not None:
                ax.plot(*line.star, "*", color=COLORS[line.color % len(COLORS)], markersize=9, zorder=3)
        ax.set_title(title, parse_math=False)
        ax.set_xlabel(x_unit, parse_math=False)
        ax.grid(color="#dddddd", linewidth=0.6)
    return with_legend(figure, axes, across, layout)


def figure_with_panels(
    panels: int, across: int, width: float, height: float, layout: Layout
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes. The width is that of the figure, the height that of a panel, in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    with rc_context(STYLE | {"font.size": layout.font, "axes.titlesize": layout.font + 1}):
        down = -(-panels // across)
        figure = Figure(figsize=(width, 0.3 + height * down), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for ax in axes[panels:]:
            ax.set_axis_off()
        return figure, axes[:panels]


def with_legend(figure: Figure, axes: Sequence[Axes], across: int, layout: Layout) -> Figure:
    """Return the figure with one legend for all panels, if there are several labels."""
    from matplotlib import rc_context

    entries: dict[str, Any] = {}
    for ax in axes:
        ax.title.set_fontsize(layout.font + 1)
        entries |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True) if label}
    if len(entries) > 1:
        with rc_context(STYLE | {"font.size": layout.font}):
            # Below panels that fit on one screen, above the first one on a phone.
            location: Literal["outside lower center", "outside upper center"]
            location = "outside lower center" if across > 1 else "outside upper center"
            columns = 2 if across == 1 else 4 if layout.width is None else 3
            legend = figure.legend(list(entries.values()), list(entries), loc=location, ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def saved(figure: Figure, kind: Literal["svg", "pdf"]) -> bytes:
    """Return a figure as SVG or PDF, the same bytes each time."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        date = {"svg": "Date", "pdf": "CreationDate"}[kind]
        figure.savefig(buffer, format=kind, metadata={date: None})
    return buffer.getvalue()
