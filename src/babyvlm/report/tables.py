"""The tables: rows are models, columns are benchmarks, cells have their 95 % interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from babyvlm.report.contrasts import Term, contrast
from babyvlm.report.estimates import Estimate, estimate
from babyvlm.report.hypotheses import LackingError, difference
from babyvlm.report.paper import MIXES, NUMBERS, mix_of, model_of, paper_value, place_of
from babyvlm.report.runs import MAIN, Column, Row
from babyvlm.report.table_formats import Section
from babyvlm.report.trial_lists import groups_of, phrases

NOTE = (
    "Mean over the test half's items with its 95 % bootstrap interval; of a row with several seeds, mean over items "
    "and seeds, interval by t over both. Categories are held fixed. *: the interval holds chance."
)
PARTIAL = " ‡: some of the list's images were missing; the rest was scored."
SCRATCH = " †: vision trunk trained from scratch; the paper's begins from DINO on the frames."
GROUPED = " VTWT's items that ask for the same two phrases are drawn together."
UNGROUPED = " VTWT's list is not here: items that ask for the same two phrases are taken for independent."
EMBEDDED = "Playroom, the embedded world: a stand-in for SAYCam, not to be compared with the paper's numbers"
CONTROLS = {"blank": "blank image", "shuffled": "shuffled images", "text_only": "text only"}
WORD_CLASSES = ("noun", "verb", "adjective", "both", "unknown")
DERIVED = (
    "The list names no word classes; derived here: nouns and both words by where the phrases differ, verbs and "
    "adjectives by a toddler's lexicon, unknown where that has neither word or cannot tell."
)
ONE_IMAGE = "With a blank image, or without any, the four choices are one: every category is 0.250 by construction."
WINOGROUND = {
    "text": 1 / 4,
    "image": 1 / 4,
    "positive": 1 / 2,
    "positive_strict": 1 / 3,
    "negative": 1 / 2,
    "negative_strict": 1 / 3,
}
WORD_COLUMNS = [Column(word, "vtwt", "accuracy", 1 / 2, word) for word in WORD_CLASSES]
WINOGROUND_COLUMNS = [
    Column(measure.replace("_", " "), "baby_winoground", measure, chance) for measure, chance in WINOGROUND.items()
]


def number(row: Row, column: Column, control: str = "") -> Estimate | None:
    """A row's mean with its interval; None if it was not tested so."""
    items = row.items(column, control)
    credit_SN = row.credits(column, control, items)
    if not credit_SN.size:
        return None
    groups_N = groups_of([row], column, items)
    if len(credit_SN) == 1 or groups_N.max() == 0:  # of one group of items nothing is known but its mean
        return estimate(credit_SN.mean(0), groups_N)
    return contrast([Term(1.0, row.name, credit_SN, groups_N=groups_N)]).estimate


def interval(found: Estimate, sign: str = "") -> str:
    """A mean with its interval as text; ``sign`` is ``+`` for differences."""
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def cell(row: Row, column: Column, control: str = "") -> str:
    """A number of a row with its interval, as it stands in a table."""
    found = number(row, column, control)
    if found is None:
        return "-"
    mark = "*" if column.chance is not None and found.low <= column.chance <= found.high else ""
    return interval(found) + mark + "‡" * bool(row.missing(column.benchmark))


def main_section(rows: Sequence[Row]) -> Section:
    """What every row got in every test."""
    columns = tested(rows, MAIN)
    body = [[name(row), *(cell(row, column) for column in columns)] for row in rows]
    return Section(title(rows), [_heading(columns), _chances(columns), *body], note(rows))


def paper_section(rows: Sequence[Row]) -> Section:
    """The main table beside the paper's values, its rows that have no run here included.

    A test that any row was tested on has all of its measures: the paper's METEOR is NLTK's, for which WordNet may lack.
    """
    benchmarks = {column.benchmark for column in tested(rows, MAIN)}
    columns = [column for column in MAIN if column.benchmark in benchmarks]
    by_name = {row.name: row for row in rows}
    upper = {row_name: mix_of(row_name) is None for row_name in NUMBERS}
    listed = upper | {row.name: not row.trained for row in rows} | upper
    names = sorted(listed, key=lambda row_name: (not listed[row_name], place_of(row_name)))
    body = []
    for row_name in names:
        row = by_name.get(row_name)
        cells = [name(row) if row else row_name]
        for column in columns:
            value = paper_value(row_name, column.benchmark, column.measure)
            cells += [cell(row, column) if row else "no run", "-" if value is None else f"{value:.3f}"]
        body.append(cells)
    heading = ["model", *(text for column in columns for text in (column.title, "paper"))]
    chances = ["chance", *(text for column in columns for text in (chance(column), chance(column)))]
    return Section("Main table", _told([heading, chances, *body]), note(rows))


def ablation_section(rows: Sequence[Row]) -> Section | None:
    """What each mix gains over filtered alone; None where no model was trained on both."""
    columns = tested(rows, MAIN)
    by_name = {row.name: row for row in rows}
    body = []
    for row in rows:
        base = by_name.get(f"{model_of(row.name)}-{MIXES[0]}")
        if base is not None and base is not row and mix_of(row.name):
            cells = [[_gain(row, base, column), _paper_gain(row, base, column)] for column in columns]
            body.append([row.name, *(text for pair in cells for text in pair)])
    heading = ["model and mix", *(text for column in columns for text in (column.title, "paper"))]
    text = "Mean minus that of the same model trained on filtered alone, item by item, with its 95 % interval by t."
    return Section("Ablation: gain over filtered", _told([heading, *body]), text) if body else None


def _told(table: list[list[str]]) -> list[list[str]]:
    """A table without those columns of the paper's in which it says nothing."""
    kept = [
        place
        for place, heading in enumerate(table[0])
        if heading != "paper" or any(row[place] != "-" for row in table[1:])
    ]
    return [[row[place] for place in kept] for row in table]


def _gain(row: Row, base: Row, column: Column) -> str:
    try:
        return interval(difference([(row, base)], column).estimate, "+")
    except LackingError:
        return "-"


def _paper_gain(row: Row, base: Row, column: Column) -> str:
    one, other = (paper_value(each.name, column.benchmark, column.measure) for each in (row, base))
    return "-" if one is None or other is None else f"{one - other:+.3f}"


def control_sections(rows: Sequence[Row]) -> Iterator[Section]:
    """What is left without the images; none if no row was tested so."""
    columns = tested(rows, MAIN)
    body = list(_control_rows(rows, columns))
    if body:
        yield Section("Without the images: what a model gets that cannot look", [_heading(columns), *body])


def detail_sections(rows: Sequence[Row]) -> Iterator[Section]:
    """The benchmarks broken down: by word class, by Winoground's parts, by category."""
    parts = {"VTWT by what differs": WORD_COLUMNS, "Baby Winoground by what is asked": WINOGROUND_COLUMNS}
    for heading, wanted in parts.items():
        columns = tested(rows, wanted)
        body = [[name(row), *(cell(row, column) for column in columns)] for row in rows]
        if columns:
            table = [_heading(columns), _chances(columns), *body, *_control_rows(rows, columns)]
            derived = any(row.derived(column.benchmark) for row in rows for column in columns)
            yield Section(heading, table, DERIVED * derived)
    by_category = category_columns(rows)
    if by_category:  # too many for columns
        body = [[column.title, *(cell(row, column) for row in rows)] for column in by_category]
        yield Section("Labeled-S by category", [["category", *map(name, rows)], *body], ONE_IMAGE)


def category_columns(rows: Iterable[Row]) -> list[Column]:
    """A column for each category of Labeled-S."""
    categories = sorted({category for row in rows for category in row.categories("labeled_s")})
    return [Column(category, "labeled_s", "accuracy", 1 / 4, category) for category in categories]


def tested(rows: Sequence[Row], columns: Iterable[Column]) -> list[Column]:
    """The columns that any row has a number in."""
    return [column for column in columns if any(row.items(column) for row in rows)]


def _control_rows(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[str]]:
    for row in rows:
        for control, without in CONTROLS.items():
            if any(row.items(column, control) for column in columns):
                yield [f"{row.name}, {without}", *(cell(row, column, control) for column in columns)]


def title(rows: Iterable[Row]) -> str:
    """Of the main table: whether it stands for the real data."""
    return EMBEDDED if any(row.embedded for row in rows) else "BabyVLM"


def note(rows: Sequence[Row]) -> str:
    """What the marks in a table of these rows mean."""
    scratch = any(row.trunk_from_scratch for row in rows)
    partial = any(row.missing(column.benchmark) for row in rows for column in MAIN)
    return NOTE + drawn_together(rows) + SCRATCH * scratch + PARTIAL * partial


def drawn_together(rows: Sequence[Row]) -> str:
    """Whether intervals on VTWT heed which of its items hang together; nothing if no row was tested on it."""
    known = [phrases([row], row.items(MAIN[1])) for row in rows if row.items(MAIN[1])]
    return (UNGROUPED if None in known else GROUPED) if known else ""


def name(row: Row) -> str:
    """A row's name with its marks, and the number of seeds if there are several."""
    return row.name + "†" * row.trunk_from_scratch + (f" ({len(row.runs)} seeds)" if len(row.runs) > 1 else "")


def _heading(columns: Sequence[Column]) -> list[str]:
    return ["model", *(column.title for column in columns)]


def _chances(columns: Sequence[Column]) -> list[str]:
    return ["chance", *map(chance, columns)]


def chance(column: Column) -> str:
    """What a model gets that knows nothing, as it stands in a table."""
    return "-" if column.chance is None else f"{column.chance:.3f}"
