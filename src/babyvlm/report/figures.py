"""Figures of the report, each with a text alternative, as SVG and PDF that are the same each time.

On the page they are SVG, for a screen and for a phone. For a paper they are SVG and PDF, one and two columns wide.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from babyvlm.report.columns import CONTROLS, LABELED_S, PAPER, WINOGROUND, Column
from babyvlm.report.comparisons import score
from babyvlm.report.estimates import Estimate
from babyvlm.report.paper import MIXES, MODELS, base_of, mix_of, model_of, paper_value
from babyvlm.report.runs import Row, Run, main_columns, tested_columns
from babyvlm.report.tables import category_columns, row_title, word_class_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color) without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", (0, (5, 1, 1, 1, 1, 1)), "-.", (0, (9, 2, 1, 2)), ":")  # of each mix
FLOORS, UPPER_BOUNDS = "floors", "upper bounds"
# Markers of models, so that variants of a model, which share its color, differ in gray print. Hollow: equal epochs.
FAMILY_MARKERS = {
    "CVCL": "o",
    "CVCL-frozen": "s",
    "BabyLLaVA-GPT2": "^",
    "BabyLLaVA-GPT2-tuned": "D",
    "BabyLLaVA-GPT2-x4": "<",
    "BabyLLaVA-GPT2-x16": ">",
    "BabyLLaVA-Llama": "v",
    FLOORS: "X",
    UPPER_BOUNDS: "P",
}
OTHER_MARKERS = ("h", "p", "d", "8", "H")
PAPER_MARKER = "*"
DOT_SPACING = 0.22  # between the dots of a label, as a share of its height, for up to four dots
DOT_INCHES, PANEL_INCHES, LABEL_INCHES, CURVE_INCHES = 0.15, 2.1, 2.3, 2.8
MARGIN_INCHES = 0.3  # around all panels
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
RUN_DOTS = "small dots: each seed and world"
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
        height: of a page in inches, over which panels and labels are divided; by default there is one.
    """

    across: int
    width: float | None = None
    font: float = 9
    height: float | None = None


WIDE, NARROW = Layout(5), Layout(1)  # on a screen, on a phone
# In a paper: the widths of a column and of a page in the format of CVPR and ICCV, and the height of their text.
PAPER_LAYOUTS = {"1-column": Layout(1, 3.25, 6.5, 8.875), "2-columns": Layout(2, 6.875, 7.5, 8.875)}


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        name: file name without suffix.
        caption: what it shows.
        alt: its numbers as text.
        draw: draws it, on one or several pages.
        paper: layouts in which it is legible in a paper.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[Layout], Sequence[Figure]]
    paper: Mapping[str, Layout] = field(default_factory=lambda: PAPER_LAYOUTS)

    @cached_property
    def wide(self) -> bytes:
        """For a screen."""
        return saved(self.draw(WIDE)[0], "svg")

    @cached_property
    def narrow(self) -> bytes:
        """For a phone."""
        return saved(self.draw(NARROW)[0], "svg")

    def for_paper(self) -> Iterator[tuple[str, bytes]]:
        """Yield file names and contents, one and two columns wide; pages are numbered where there are several."""
        for name, layout in self.paper.items():
            figures = self.draw(layout)
            for number, figure in enumerate(figures, 1):
                stem = f"{self.name}-{name}" + (f"-{number}" if len(figures) > 1 else "")
                yield f"{stem}.svg", saved(figure, "svg")
                figure.set_layout_engine("none")  # it has been laid out
                yield f"{stem}.pdf", saved(figure, "pdf")


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
        series = {
            family: Series(
                style,
                [score(row, column) if _family(row) == family else None for row in rows],
                [_run_means(row, column) for row in rows],
            )
            for family, style in family_styles(map(_family, rows)).items()
        }
        paper = [_exact(paper_value(row.name, column.benchmark, column.measure)) for row in rows]
        if any(paper) and not any(row.embedded for row in rows):  # Playroom's axes do not show what SAYCam's tests gave
            series["paper, on SAYCam"] = Series(Style(COLORS[3], PAPER_MARKER, hollow=True), paper)
        panels.append(Panel(column.title, _unit(column), column.chance, series))
    yield Chart(
        "scores",
        f"Scores of all rows on all benchmarks with 95% CIs; {RUN_DOTS}; dashed line: chance.",
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
                condition: Series(
                    Style(COLORS[place], MARKERS[place], hollow=bool(control)),
                    [score(row, column, control) for row in rows],
                    [_run_means(row, column, control) for row in rows],
                )
                for place, (control, condition) in enumerate(conditions.items())
                if any(row.tested(column, control) for row in rows)
            },
        )
        for column in columns
    ]
    yield Chart(
        "controls",
        f"Scores with a blank image, with images shuffled between items, and without an image; 95% CIs; {RUN_DOTS}.",
        "Blank image: " + _alt(rows, columns, lambda row, column: score(row, column, "blank")),
        partial(draw_dots, [row_title(row) for row in rows], panels),
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
            Panel(
                column.title,
                ACCURACY,
                column.chance,
                {"": Series(PLAIN, [score(row, column) for row in rows], [_run_means(row, column) for row in rows])},
            )
            for column in columns
        ]
        draw = partial(draw_dots, [row_title(row) for row in rows], panels)
        text = f"{caption}; 95% CIs; {RUN_DOTS}; dashed line: chance."
        yield Chart(name, text, _alt(rows, columns, score), draw)


def _categories(rows: Sequence[Row]) -> Iterator[Chart]:
    columns = category_columns(rows, PAPER[LABELED_S.benchmark])
    shown = [row for row in rows if row.tested(LABELED_S)]
    if columns and shown:
        panels = [
            Panel(
                _on_lines(row_title(row), NARROW),
                ACCURACY,
                LABELED_S.chance,
                {"": Series(PLAIN, [score(row, one) for one in columns], [_run_means(row, one) for one in columns])},
            )
            for row in shown
        ]
        yield Chart(
            "categories",
            f"Labeled-S by category; 95% CIs; {RUN_DOTS}; dashed line: chance.",
            _alt(shown, columns, score),
            partial(draw_dots, [column.title for column in columns], panels),
        )


def _curves(rows: Sequence[Row]) -> Iterator[Chart]:
    by_family: dict[str, list[Row]] = {}
    for row in (row for row in rows if row.trained):
        by_family.setdefault(_family(row), []).append(row)
    panels: dict[str, dict[str, list[Line]]] = {}
    for family, own in by_family.items():  # losses of different models are different quantities
        for metric, title in CURVES.items():
            for row in own:
                lines = [line for run in row.runs if (line := _line(row, run, metric)).points]
                if lines:
                    panels.setdefault(f"{family}\n{title}", {})[mix_of(row.name) or row.name] = lines
    if panels:
        last = [
            f"{', '.join(title.splitlines())}: "
            + ", ".join(f"{mix} {lines[0].points[-1][1]:.3f}" for mix, lines in by_mix.items())
            for title, by_mix in panels.items()
        ]
        yield Chart(
            "curves",
            "Learning curves on validation data and dev splits, one line for each seed and world; star: the checkpoint "
            "that was tested.",
            "Final values of the first seed: " + "; ".join(last),
            partial(draw_lines, panels, "samples seen", len(CURVES)),
        )


def _line(row: Row, run: Run, metric: str) -> Line:
    points = run.curve(metric)
    step = None if run.tested_checkpoint is None else run.tested_checkpoint.step
    tested = None if step is None or not points else step * (run.samples_per_step or 1)
    # A checkpoint is saved at a validation; where it is not, the star is at the closest one.
    star = None if tested is None else min(points, key=lambda point: abs(point[0] - tested))
    return Line(MIXES.index(mix_of(row.name) or MIXES[0]), points, star)


def _run_means(row: Row, column: Column, control: str = "") -> list[float]:
    """Return the mean of each seed and world; empty for a single one, which is the score itself."""
    means = [float(found.credit_N.mean()) for run in row.runs if (found := run.scores(column, control)) is not None]
    return means if len(means) > 1 else []


def _family(row: Row) -> str:
    return model_of(row.name) if row.trained else FLOORS if row.is_floor else UPPER_BOUNDS


class Style(NamedTuple):
    """How dots are drawn: in a color, with a marker, with or without fill."""

    color: str
    marker: str
    hollow: bool = False


PLAIN = Style(COLORS[0], MARKERS[0])


def family_styles(families: Iterable[str]) -> dict[str, Style]:
    """Return a style for each family: the color of the paper's model that it is a variant of, and a marker of its own.

    Families that are not in ``FAMILY_MARKERS`` share its other markers, in alphabetical order.
    """
    found = list(dict.fromkeys(families))
    shapes = {family: family.removesuffix("-epochs") for family in found}  # hollow: the same with equal epochs
    others = sorted(set(shapes.values()) - FAMILY_MARKERS.keys())
    markers = FAMILY_MARKERS | {shape: OTHER_MARKERS[place % len(OTHER_MARKERS)] for place, shape in enumerate(others)}
    colors = {base: COLORS[place] for place, base in enumerate(MODELS)} | {FLOORS: COLORS[5], UPPER_BOUNDS: COLORS[6]}
    return {
        family: Style(colors.get(base_of(family) or family, COLORS[4]), markers[shape], hollow=shape != family)
        for family, shape in shapes.items()
    }


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
        style: color and shape.
        values: one for each label, or None.
        runs: for each label, the means of single runs; none by default.
    """

    style: Style
    values: Sequence[Estimate | None]
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

    def part(self, places: slice) -> Panel:
        """Return the panel with some of its labels."""
        series = {
            name: Series(one.style, one.values[places], one.runs[places])
            for name, one in self.series.items()
            if any(value is not None for value in one.values[places])
        }
        return replace(self, series=series)


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        mix: index in ``COLORS`` and ``DASHES``.
        points: (x, y).
        star: a point that is marked; None for none.
    """

    mix: int
    points: Sequence[tuple[float, float]] = field(default_factory=list)
    star: tuple[float, float] | None = None


def draw_dots(labels: Sequence[str], panels: Sequence[Panel], layout: Layout) -> list[Figure]:
    """Draw panels that share their labels: dots with intervals."""
    dots = max(panel.dots(place) for panel in panels for place in range(len(labels)))
    shown = [_on_lines(label, layout) for label in labels]
    text = (1 + max(label.count("\n") for label in shown)) * (layout.font * 1.4 / 72 + 0.02)  # inches
    row, frame = max(text, DOT_INCHES * dots), 0.9
    across = min(len(panels), layout.across)
    width = layout.width or LABEL_INCHES + PANEL_INCHES * across
    figures = []
    for places in _parts(len(labels), layout, row, frame):
        own = [part for panel in panels if (part := panel.part(places)).series]
        height = frame + row * len(shown[places])
        for page in on_pages(own, across, height, layout):
            figure, axes = figure_with_panels(len(page), across, width, height, layout)
            for number, (ax, panel) in enumerate(zip(axes, page, strict=True)):
                _draw_panel(ax, panel, len(shown[places]))
                texts = shown[places] if number % across == 0 else [""] * len(shown[places])
                ax.set_yticks(range(len(texts)), texts, parse_math=False)
                ax.set_ylim(len(texts) - 0.4, -0.6)
            figures.append(with_legend(figure, axes, across, layout))
    return figures


def _on_lines(label: str, layout: Layout) -> str:
    """Return the label of a row on several lines: its facts below its name; in a narrow figure also its mix."""
    name, _, facts = label.partition(" (")
    mix = mix_of(name.rstrip("†"))
    if mix and layout.across == 1:
        model, _, end = name.rpartition(f"-{mix}")
        name = f"{model}\n{mix}{end}"
    return name + (f"\n({facts}" if facts else "")


def _parts(labels: int, layout: Layout, row: float, frame: float) -> list[slice]:
    """Return the labels of each page, as equal in number as possible; heights are in inches."""
    most = labels if layout.height is None else max(1, int((layout.height - MARGIN_INCHES - frame) / row))
    pages = -(-labels // most)
    size = -(-labels // pages)
    return [slice(start, start + size) for start in range(0, labels, size)]


Drawn = TypeVar("Drawn")


def on_pages(panels: Sequence[Drawn], across: int, height: float, layout: Layout) -> list[Sequence[Drawn]]:
    """Return the panels of each page: all of them, unless the layout has a limited height.

    Args:
        panels: all panels.
        across: panels side by side.
        height: of a panel in inches.
        layout: the layout.
    """
    down = len(panels) if layout.height is None else max(1, int((layout.height - MARGIN_INCHES) / height))
    return [panels[start : start + across * down] for start in range(0, len(panels), across * down)]


def _draw_panel(ax: Axes, panel: Panel, labels: int) -> None:
    for place in range(0, labels, 2):
        ax.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", linewidth=0)
    if panel.chance is not None:
        ax.axvline(panel.chance, color="black", linestyle="--", linewidth=1, label="chance")
    drawn = [0] * labels  # dots drawn at each label so far
    for name, series in panel.series.items():
        points: list[tuple[float, Estimate]] = []
        runs: list[tuple[float, float]] = []
        for place, value in enumerate(series.values):
            if value is not None:
                dots = panel.dots(place)
                spot = place + (drawn[place] - (dots - 1) / 2) * DOT_SPACING
                points.append((spot, value))
                below = spot + (0.28 if dots == 1 else DOT_SPACING / 2)  # the mean
                runs += [(mean, below) for means in series.runs[place : place + 1] for mean in means]
                drawn[place] += 1
        color, marker, hollow = series.style
        ax.plot(*zip(*runs, strict=True) if runs else ([], []), ".", color=color, alpha=0.6, markersize=3)
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
            markerfacecolor="white" if hollow else color,
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


def draw_lines(
    panels: Mapping[str, Mapping[str, Sequence[Line]]], x_unit: str, columns: int, layout: Layout
) -> list[Figure]:
    """Draw panels with curves, ``columns`` side by side if they fit; the same name shares an entry in the legend."""
    across = min(len(panels), layout.across, columns)
    width = layout.width or max(CURVE_INCHES * across, LABEL_INCHES + PANEL_INCHES)
    height = 2.6 if layout.width is None else 2.1
    figures = []
    for page in on_pages(list(panels.items()), across, height, layout):
        figure, axes = figure_with_panels(len(page), across, width, height, layout)
        for ax, (title, by_name) in zip(axes, page, strict=True):
            for name, lines in by_name.items():
                for line in lines:
                    _draw_line(ax, name, line)
            ax.set_title(title, parse_math=False)
            ax.set_xlabel(x_unit, parse_math=False)
            ax.grid(color="#dddddd", linewidth=0.6)
        figures.append(with_legend(figure, axes, across, layout))
    return figures


def _draw_line(ax: Axes, name: str, line: Line) -> None:
    style: dict[str, Any] = {"color": COLORS[line.mix % len(COLORS)], "linestyle": DASHES[line.mix % len(DASHES)]}
    x, y = zip(*line.points, strict=True)
    ax.plot(x, y, marker="o", markersize=2, linewidth=1, label=name, **style)
    if line.star is not None:
        ax.plot(*line.star, "*", color=style["color"], markersize=7, zorder=3)


def figure_with_panels(
    panels: int, across: int, width: float, height: float, layout: Layout
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes. The width is that of the figure, the height that of a panel, in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    with rc_context(STYLE | {"font.size": layout.font, "axes.titlesize": layout.font + 1}):
        down = -(-panels // across)
        figure = Figure(figsize=(width, MARGIN_INCHES + height * down), layout="constrained")
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
