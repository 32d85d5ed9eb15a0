"""What the report's pictures show. Each comes with what a reader who cannot see it should know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from babyvlm.report.curves import curve
from babyvlm.report.estimates import Estimate
from babyvlm.report.paper import CONTRASTIVE, GENERATIVE, LARGER, MIXES, mix_of, model_of, paper_value
from babyvlm.report.plotting import NARROW, WIDE, Line, Panel, Series, draw_dots, draw_lines
from babyvlm.report.runs import MAIN, Column, Row
from babyvlm.report.tables import (
    CONTROLS,
    WINOGROUND_COLUMNS,
    WORD_COLUMNS,
    category_columns,
    name,
    number,
    tested,
)

RIGHT = "share right"
FAMILIES = (CONTRASTIVE, GENERATIVE, LARGER)
CURVES = {
    "val_loss": "validation loss",
    "labeled_s_dev": "Labeled-S, dev half",
    "vtwt_dev": "VTWT, dev half",
    "baby_winoground_dev": "Baby Winoground, dev half",
}


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes:
        name: of its file.
        caption: what it shows.
        alt: what it shows, for who cannot see it.
        draw: the drawing as SVG, with so many panels side by side.
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


def pictures(rows: Sequence[Row]) -> list[Picture]:
    """All pictures that these rows have numbers for, by name."""
    return [picture for draw in (_scores, _controls, _words, _contexts, _categories, _curves) for picture in draw(rows)]


def _scores(rows: Sequence[Row]) -> Iterator[Picture]:
    columns = tested(rows, MAIN)
    panels = []
    for column in columns:
        ours: dict[str, list[Estimate | None]] = {}
        for place, row in enumerate(rows):
            values = ours.setdefault(_family(row), [None] * len(rows))
            values[place] = number(row, column)
        series = {family: Series(_colour(family), values) for family, values in ours.items()}
        paper = [_exactly(paper_value(row.name, column.benchmark, column.measure)) for row in rows]
        if any(paper):
            series["the paper's, on SAYCam"] = Series(3, paper, hollow=True)
        panels.append(Panel(column.title, _unit(column), column.chance, series))
    yield Picture(
        "scores",
        "Every row in every test, with 95 % intervals; dashed: chance.",
        _alt(rows, columns, number),
        partial(draw_dots, [name(row) for row in rows], panels),
    )


def _controls(rows: Sequence[Row]) -> Iterator[Picture]:
    columns = [column for column in tested(rows, MAIN) if any(row.items(column, "blank") for row in rows)]
    if not columns:
        return
    conditions = {"": "as it is", **CONTROLS}
    panels = [
        Panel(
            column.title,
            _unit(column),
            column.chance,
            {
                text: Series(place, [number(row, column, control) for row in rows], hollow=bool(control))
                for place, (control, text) in enumerate(conditions.items())
                if any(row.items(column, control) for row in rows)
            },
        )
        for column in columns
    ]
    yield Picture(
        "controls",
        "What is left when the image is blank, exchanged for another, or not given; 95 % intervals.",
        "Blank image: " + _alt(rows, columns, lambda row, column: number(row, column, "blank")),
        partial(draw_dots, [name(row) for row in rows], panels),
    )


def _words(rows: Sequence[Row]) -> Iterator[Picture]:
    yield from _by_column(rows, tested(rows, WORD_COLUMNS), "words", "VTWT by the class of the words that differ")


def _contexts(rows: Sequence[Row]) -> Iterator[Picture]:
    columns = tested(rows, WINOGROUND_COLUMNS[2:])
    caption = (
        "Baby Winoground by context: positive pictures are of the home, negative ones were never seen. Strict: the "
        "authors' form, in which the phrase must also choose its image"
    )
    yield from _by_column(rows, columns, "contexts", caption)


def _by_column(rows: Sequence[Row], columns: Sequence[Column], file: str, caption: str) -> Iterator[Picture]:
    if columns:
        panels = [
            Panel(column.title, RIGHT, column.chance, {"": Series(0, [number(row, column) for row in rows])})
            for column in columns
        ]
        alt = _alt(rows, columns, number)
        drawn = partial(draw_dots, [name(row) for row in rows], panels)
        yield Picture(file, f"{caption}; 95 % intervals; dashed: chance.", alt, drawn)


def _categories(rows: Sequence[Row]) -> Iterator[Picture]:
    columns = category_columns(rows)
    shown = [row for row in rows if row.items(MAIN[0])]
    if columns and shown:
        panels = [
            Panel(
                "\n".join(filter(None, [model_of(row.name), mix_of(row.name)])),
                RIGHT,
                MAIN[0].chance,
                {"": Series(0, [number(row, column) for column in columns])},
            )
            for row in shown
        ]
        yield Picture(
            "categories",
            "Labeled-S by category; 95 % intervals; dashed: chance.",
            _alt(shown, columns, number),
            partial(draw_dots, [column.title for column in columns], panels),
        )


def _curves(rows: Sequence[Row]) -> Iterator[Picture]:
    trained = [row for row in rows if row.trained]
    panels = {
        title: {
            row.name: Line(_colour(_family(row)), MIXES.index(mix_of(row.name) or MIXES[0]), points)
            for row in trained
            if (points := curve(row.runs[0], metric))
        }
        for metric, title in CURVES.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    if panels:
        last = [
            f"{title}: " + ", ".join(f"{row} {line.points[-1][1]:.3f}" for row, line in lines.items())
            for title, lines in panels.items()
        ]
        yield Picture(
            "curves",
            "Learning curves of each row's first seed, on what was held out. Losses of contrastive and "
            "generative models are different quantities.",
            "At the end: " + "; ".join(last),
            partial(draw_lines, panels, "samples seen"),
        )


def _family(row: Row) -> str:
    return model_of(row.name) if row.trained else "upper bounds"


def _colour(family: str) -> int:
    return FAMILIES.index(family) if family in FAMILIES else 6 if family == "upper bounds" else 4


def _unit(column: Column) -> str:
    return RIGHT if column.chance is not None else "METEOR"


def _exactly(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value, value, value, 0)


def _alt(rows: Sequence[Row], columns: Sequence[Column], value: Callable[[Row, Column], Estimate | None]) -> str:
    told = []
    for column in columns:
        numbers = [(row.name, value(row, column)) for row in rows]
        told.append(f"{column.title}: " + ", ".join(f"{row} {found.mean:.3f}" for row, found in numbers if found))
    return "; ".join(told)
