"""Tables: rows are models, columns are benchmarks, cells are means with their 95% confidence interval."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import rich.table
from rich.text import Text

from babyvlm.benchmarks.intervals import LEVEL
from babyvlm.io.printing import Console, is_numeric, printable, printable_line, spreadsheet_cell
from babyvlm.report.columns import (
    CONTROLS,
    LABELED_S,
    PAPER,
    VTWT,
    WINOGROUND,
    WORD_CLASSES,
    BenchmarkColumns,
    Column,
)
from babyvlm.report.comparisons import MissingResultsError, difference, p_text, pair_facts, score
from babyvlm.report.findings import ALPHA, HYPOTHESES, MIN_TRAININGS, RULES, Finding
from babyvlm.report.paper import MIXES, NUMBERS, mix_of, model_of, paper_order, paper_value
from babyvlm.report.results import PRIOR
from babyvlm.report.runs import Row, benchmarks_of, main_columns, tested_columns
from babyvlm.report.trial_lists import images_of, knows_images, prior_credits, shows_images

WIDTH, NAME_WIDTH = 120, 40
PLAYROOM = "Playroom: a synthetic stand-in for SAYCam; not comparable with the paper's numbers"
NOTE = (
    "Mean over the test items, seeds and worlds with its 95% CI: Wilson's interval with the effective number of items, "
    "in which items with a common image or the same two phrases depend on each other; seeds and worlds are random "
    "where there are several. Categories are fixed. *: the interval contains chance."
)
SIMULTANEOUS = "The intervals of the {count} {what} of a row hold together at 95% (Bonferroni: each at {level:.2%})."
FAMILIES = (
    "Multiple comparisons: each suite is a family of its own, within which the intervals of a row hold together. No "
    "finding depends on it, and nothing is claimed about all suites together. The p values of `compare` are corrected "
    "over the columns of all suites (Holm)."
)
PARTIAL = " ‡: some images of the list were missing; the remaining items were scored."
FROM_SCRATCH = " †: vision encoder trained from scratch; the paper's starts from DINO trained on the frames."
UNKNOWN_IMAGES = (
    " #: older results, which do not say which images an item shows; items with a common image count as independent."
)
DERIVED = (
    "The list contains no word classes. They are derived here: noun and both from the differing words, verb and "
    "adjective from a lexicon of toddlers' words; unknown where the lexicon has neither word or is ambiguous."
)
PAPER_NOTE = (
    "Wang et al. (ICCV 2025, arXiv 2504.09426), on SAYCam and with models of other sizes: for orientation, not for "
    "comparison with Playroom."
)
ONE_IMAGE = (
    "With a blank image, or without an image, the four choices are identical: each category is 0.250 by construction."
)
RANKS = (
    "Rank: place of the category's word among the words of all categories, by their cosine with its mean image; mean "
    "over seeds."
)
FINDINGS_NOTE = (
    f"Effects with 95% CIs. A finding is supported if all of its statements hold (intersection-union test) and "
    f"contradicted if one is false (Bonferroni over its statements), each with a probability of error of at most "
    f"{ALPHA / 2:.1%}. 'Undecided' means that the data do not settle the question. There is no verdict from fewer than "
    f"{MIN_TRAININGS} trained models of a row, and none where a row is missing (not tested). What holds for any model "
    f"by construction of a benchmark's list is not tested. Each finding is tested by itself; p x {len(HYPOTHESES)} is "
    f"Bonferroni's correction for all of them. The rules and their reasons are in findings.yaml ({RULES['date']})."
)
FINDINGS_HEADING = (
    "finding",
    "comparison",
    "effect",
    "expected",
    "paper",
    "items",
    "images",
    "seeds",
    "worlds",
    "p for",
    "p against",
    "verdict",
    f"p x {len(HYPOTHESES)}",
)
_MARKDOWN = re.compile(r"[\\`*_\[\]|~!$@]")
_ADDRESS = re.compile(r"\b(?:https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)", re.IGNORECASE)
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}


@dataclass(frozen=True)
class Table:
    """A table with a title and a note. Cells may contain any text: every format escapes it.

    Attributes:
        title: the title; the part before a colon names its files.
        heading: column headings.
        rows: cells.
        note: text below the table.
    """

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def file_stem(self) -> str:
        """File name without suffix."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.partition(":")[0].lower()).strip("-")[:100] or "table"

    def print(self) -> None:
        """Print to the terminal."""
        heading, *rows = (list(map(printable, cells)) for cells in (self.heading, *self.rows))
        caption = Text(printable(self.note)) if self.note else None
        table = rich.table.Table(title=Text(printable(self.title)), caption=caption)
        names_fit = max(len(row[0]) for row in (heading, *rows)) <= NAME_WIDTH  # longer names are folded
        for number, cell in enumerate(heading):
            table.add_column(Text(cell), overflow="fold", no_wrap=number == 0 and names_fit)
        for row in rows:
            table.add_row(*map(Text, row))
        Console(width=WIDTH).print(table)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"| {' | '.join(map(escape_markdown, cells))} |" for cells in (self.heading, *self.rows)]
        lines.insert(1, "|---" * len(self.heading) + "|")
        note = [escape_markdown(self.note), ""] if self.note else []
        return "\n".join([escape_markdown(self.title), "", *lines, "", *note])

    def csv(self) -> str:
        """Return the table as CSV, in which no cell is a formula."""
        text = io.StringIO()
        rows = ([printable(spreadsheet_cell(cell)) for cell in cells] for cells in (self.heading, *self.rows))
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def latex(self) -> str:
        """Return the table as LaTeX, which needs the package ``booktabs``.

        Texts are escaped here because pandas escapes neither captions nor ``<``, ``>`` and daggers.
        """
        from pandas import DataFrame

        cells = [list(map(_escape_latex, row)) for row in self.rows]
        text: str = DataFrame(cells, columns=list(map(_escape_latex, self.heading))).to_latex(
            index=False,
            escape=False,
            column_format="l" + "r" * (len(self.heading) - 1),
            caption=_escape_latex(". ".join(filter(None, [self.title, self.note]))),
        )
        return text


def escape_markdown(text: str) -> str:
    """Return text on one line that Markdown shows as it is: no links, images, tags, emphasis or table cells.

    GitHub also turns bare addresses into links, unless the colon or the dot is escaped.
    """
    if is_numeric(text):
        return text
    escaped = _MARKDOWN.sub(r"\\\g<0>", html.escape(printable_line(text), quote=False))
    return _ADDRESS.sub(r"\g<0>\\", escaped)


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in printable_line(text))


def cell(row: Row, column: Column, control: str = "") -> str:
    """Return a row's mean with its interval, marks, and a category's rank, or a dash."""
    found = score(row, column, control)
    if found is None:
        return "-"
    at_chance = column.chance is not None and found.low <= column.chance <= found.high
    unknown = not knows_images(row, column.benchmark)
    marks = "*" * at_chance + "‡" * bool(row.missing(column.benchmark)) + "#" * unknown
    return found.text() + marks + ("" if control else rank_text(row, column))


def chance(column: Column) -> str:
    """Return a column's chance level, or a dash."""
    return "-" if column.chance is None else f"{column.chance:.3f}"


def row_name(row: Row) -> str:
    """Return a row's name with its marks."""
    return row.name + "†" * row.vision_from_scratch


def row_title(row: Row) -> str:
    """Return a row's name with its marks, its numbers of seeds and worlds if there are several, and the tested step."""
    seeds, worlds, step = row_facts(row)
    facts = [f"{seeds} seeds" * (seeds != "1"), f"{worlds} worlds" * (worlds != "1"), f"step {step}" * (step != "-")]
    shown = ", ".join(filter(None, facts))
    return row_name(row) + (f" ({shown})" if shown else "")


ROW_FACTS = ("seeds", "worlds", "tested step")


def row_facts(row: Row) -> list[str]:
    """Return a row's number of seeds, number of worlds, and the training step of the tested checkpoints."""
    steps = [best.step for run in row.runs if (best := run.tested_checkpoint) and best.step is not None]
    return [str(len(row.seeds)), str(len({run.world for run in row.runs})), range_text(steps) if steps else "-"]


def main_table(rows: Sequence[Row]) -> Table:
    """Return every row's score on every benchmark."""
    title = PLAYROOM if any(row.embedded for row in rows) else "BabyVLM"
    return _with_shuffled(_scores(title, rows, main_columns(rows), main_note(rows)), rows)


def paper_table(rows: Sequence[Row]) -> Table:
    """Return the main table with the paper's values, including the paper's rows that have no run here.

    All measures of a benchmark are columns if any row was tested on it: the paper's METEOR is NLTK's, which needs
    WordNet.
    """
    columns = [column for benchmark in benchmarks_of(rows) if not benchmark.suite for column in benchmark.main]
    by_name = {row.name: row for row in rows}
    paper_rows = {name: mix_of(name) is None for name in NUMBERS}  # whether it is an upper bound
    upper_bound = paper_rows | {row.name: not row.trained for row in rows} | paper_rows
    floors = {row.name for row in rows if row.is_floor}
    body = []
    for name in sorted(upper_bound, key=lambda name: (name not in floors, not upper_bound[name], paper_order(name))):
        row = by_name.get(name)
        cells = [row_name(row), *row_facts(row)] if row else [name, *("-" for _ in ROW_FACTS)]
        for column in columns:
            value = paper_value(name, column.benchmark, column.measure)
            cells += [cell(row, column) if row else "no run", "-" if value is None else f"{value:.3f}"]
        body.append(cells)
    heading = ["model", *ROW_FACTS, *(text for column in columns for text in (column.title, "paper"))]
    above = [
        [*cells[: 1 + len(ROW_FACTS)], *(text for one in cells[1 + len(ROW_FACTS) :] for text in (one, "-"))]
        for cells in _rows_above(rows, columns)
    ]
    above[0] = ["chance", *("-" for _ in ROW_FACTS), *(text for one in columns for text in (chance(one), chance(one)))]
    table = _without_empty_paper_columns("Main table", heading, [*above, *body], main_note(rows))
    return _with_shuffled(table, rows)


def paper_values_table() -> Table:
    """Return the paper's results, for a report on Playroom, whose own tables do not contain them."""
    columns = [column for benchmark in PAPER.values() for column in benchmark.main if column.measure != "meteor_15"]
    body = [["chance", *map(chance, columns)]]
    for name in sorted(NUMBERS, key=lambda name: (mix_of(name) is not None, paper_order(name))):
        values = [paper_value(name, column.benchmark, column.measure) for column in columns]
        body.append([name, *("-" if value is None else f"{value:.3f}" for value in values)])
    return Table("Values of the paper", ["model", *(column.title for column in columns)], body, PAPER_NOTE)


def _rows_above(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """Return the rows that stand above the models': chance, floors, and numbers of items and images."""
    counts = [count_items(rows, column) for column in columns]
    above = [["chance", *map(chance, columns)], *floor_rows(rows, columns)]
    above += [["items", *(items for items, _ in counts)], ["images", *(images for _, images in counts)]]
    return [[name, *("-" for _ in ROW_FACTS), *cells] for name, *cells in above]


def count_items(rows: Sequence[Row], column: Column) -> tuple[str, str]:
    """Return the numbers of items and of different images of a column, over all worlds."""
    tested = [row for row in rows if row.tested(column)]
    numbers = [sum(len(row.items(column, "", world)) for world in row.worlds(column)) for row in tested]
    if not numbers:
        return "-", "-"
    largest = max(tested, key=lambda row: len(row.worlds(column)))
    if not shows_images(largest, column.benchmark):
        return range_text(numbers), "-"
    worlds = largest.worlds(column)
    shown = (images_of([largest], column.benchmark, world, largest.items(column, "", world)) for world in worlds)
    return range_text(numbers), count_text(sum(map(len, shown)))


def range_text(numbers: Sequence[int]) -> str:
    """Return the smallest and the largest of some numbers as a table shows them, or the only one."""
    return "-".join(f"{number:,}" for number in dict.fromkeys((min(numbers), max(numbers))))


def count_text(images: int) -> str:
    """Return a number of images as a table shows it; 0 stands for an unknown number."""
    return f"{images:,}" if images else "unknown"


def ablation_table(rows: Sequence[Row]) -> Table | None:
    """Return each mix's gain over the filtered mix; None if no model was trained on both."""
    columns = main_columns(rows)
    by_name = {row.name: row for row in rows}
    body = []
    for row in rows:
        base = by_name.get(f"{model_of(row.name)}-{MIXES[0]}")
        if base is not None and base is not row and mix_of(row.name):
            cells = [[_gain(row, base, column), _paper_gain(row, base, column)] for column in columns]
            facts = [*pair_facts(row, base), row_facts(row)[-1]]
            body.append([row.name, *facts, *(text for pair in cells for text in pair)])
    if not body:
        return None
    heading = ["model and mix", *ROW_FACTS, *(text for column in columns for text in (column.title, "paper"))]
    counts = [count_items(rows, column) for column in columns]
    for place, name in enumerate(("items", "images")):
        body.insert(place, [name, *("-" for _ in ROW_FACTS), *(text for one in counts for text in (one[place], "-"))])
    note = (
        "Mean minus the mean of the same model trained on filtered only, paired by item, with its 95% t interval, over "
        "the worlds that both have. Chance and what is reached without the image of an item are the same for both."
    )
    return _without_empty_paper_columns("Ablation: gain over filtered", heading, body, note)


def _without_empty_paper_columns(title: str, heading: list[str], body: Sequence[Sequence[str]], note: str) -> Table:
    """Return a table without the columns in which the paper reports nothing."""
    kept = [
        number
        for number, name in enumerate(heading)
        if name != "paper" or any(row[number] != "-" for row in body if row[0] != "chance")
    ]
    return Table(title, [heading[number] for number in kept], [[row[number] for number in kept] for row in body], note)


def _gain(row: Row, base: Row, column: Column) -> str:
    try:
        return difference([(row, base)], column).interval().text("+")
    except MissingResultsError:
        return "-"


def _paper_gain(row: Row, base: Row, column: Column) -> str:
    if row.embedded:  # what SAYCam's tests gave has a table of its own
        return "-"
    value, base_value = (paper_value(each.name, column.benchmark, column.measure) for each in (row, base))
    return "-" if value is None or base_value is None else f"{value - base_value:+.3f}"


def control_table(rows: Sequence[Row]) -> Table | None:
    """Return the scores of the image-blind baselines; None if no row was tested without images."""
    columns = main_columns(rows)
    body = list(_control_rows(rows, columns))
    heading = ["model", *ROW_FACTS, *(column.title for column in columns)]
    above = _rows_above(rows, columns)
    return Table("Control conditions: image-blind baselines", heading, [*above, *body], NOTE) if body else None


def _control_rows(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[str]]:
    for row in rows:
        for control, condition in CONTROLS.items():
            if any(row.tested(column, control) for column in columns):
                cells = (cell(row, column, control) for column in columns)
                yield [f"{row.name}, {condition}", *row_facts(row), *cells]


def suite_tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table for each suite of further benchmarks, with the image-blind baselines."""
    by_suite: dict[str, list[Column]] = {}
    for benchmark in benchmarks_of(rows):
        if benchmark.suite:
            by_suite.setdefault(benchmark.suite, []).extend(benchmark.main)
    tables = []
    for suite, main in by_suite.items():
        columns = _corrected(tested_columns(rows, main))
        notes = [_simultaneous(columns, "columns"), FAMILIES]
        if columns:
            tables.append(_scores(suite, rows, columns, " ".join(filter(None, notes)), controls=True))
    return tables


def detail_tables(rows: Sequence[Row]) -> list[Table]:
    """Return each benchmark's scores by category, such as word class, and by its further measures."""
    tables = []
    by_category = []
    for benchmark in sorted(benchmarks_of(rows), key=lambda benchmark: benchmark.name != VTWT.benchmark):
        if benchmark.name == VTWT.benchmark:
            columns = word_class_columns(rows)
            derived = columns and any(row.has_derived_categories(VTWT.benchmark) for row in rows)
            note = " ".join(filter(None, [_simultaneous(columns, "word classes"), DERIVED if derived else ""]))
            if columns:
                tables.append(_scores("VTWT by word class", rows, columns, note, controls=True))
        elif benchmark.category and (categories := category_columns(rows, benchmark)):  # too many for columns
            notes = [
                _simultaneous(categories, "categories"),
                ONE_IMAGE if benchmark.name == LABELED_S.benchmark else "",
                RANKS if any(rank_text(row, categories[0]) for row in rows) else "",
            ]
            title = f"{benchmark.title} by {benchmark.category}"
            table = _scores(title, rows, categories, " ".join(filter(None, notes)))
            (_, *heading), *body = zip(table.heading, *table.rows, strict=True)
            by_category.append(replace(table, heading=[benchmark.category, *heading], rows=body))
        if columns := tested_columns(rows, benchmark.details):
            tables.append(_scores(f"{benchmark.title} by measure", rows, columns, NOTE, controls=True))
    return tables + by_category


def rank_text(row: Row, column: Column) -> str:
    """Return the mean rank of a category's word over the row's runs; empty if its benchmark records no cosines."""
    if column.category is None:
        return ""
    results = [run.results[column.benchmark] for run in row.runs if column.benchmark in run.results]
    found = [one.ranks.get(column.category, math.nan) for one in (r.cosines for r in results) if one]
    return f", rank {sum(found) / len(found):.3g}" if found else ""


def _simultaneous(columns: Sequence[Column], what: str) -> str:
    if len(columns) < 2:
        return ""
    return SIMULTANEOUS.format(count=len(columns), what=what, level=columns[0].level)


def word_class_columns(rows: Sequence[Row]) -> list[Column]:
    """Return a column for each word class of VTWT in which any row has a number."""
    columns = [Column(name, VTWT.benchmark, VTWT.measure, VTWT.chance, name) for name in WORD_CLASSES]
    return _corrected(tested_columns(rows, columns))


def category_columns(rows: Sequence[Row], benchmark: BenchmarkColumns) -> list[Column]:
    """Return a column for each category of a benchmark."""
    main = benchmark.main[0]
    categories = sorted({category for row in rows for run in row.runs for category in run.categories(benchmark.name)})
    columns = [Column(category, benchmark.name, main.measure, main.chance, category) for category in categories]
    return _corrected(columns)


def _corrected(columns: Sequence[Column]) -> list[Column]:
    """Return columns whose intervals hold simultaneously (Bonferroni)."""
    level = 1 - (1 - LEVEL) / max(1, len(columns))
    return [replace(column, level=level) for column in columns]


def _scores(
    title: str, rows: Sequence[Row], columns: Sequence[Column], note: str = "", *, controls: bool = False
) -> Table:
    body = [[row_name(row), *row_facts(row), *(cell(row, column) for column in columns)] for row in rows]
    heading = ["model", *ROW_FACTS, *(column.title for column in columns)]
    above = _rows_above(rows, columns)
    return Table(title, heading, [*above, *body, *(_control_rows(rows, columns) if controls else ())], note)


def _with_shuffled(table: Table, rows: Sequence[Row], *, title: str = WINOGROUND.title) -> Table:
    """Return a table with each model's score with shuffled images next to its score on Baby Winoground.

    A model with a preference for some phrases or styles is not at 1/6 there, so chance alone is no reference.
    """
    if title not in table.heading or not any(row.tested(WINOGROUND, "shuffled") for row in rows):
        return table
    place = list(table.heading).index(title) + 1
    found = {row_name(row): cell(row, WINOGROUND, "shuffled") for row in rows}
    body = [[*cells[:place], found.get(cells[0], "-"), *cells[place:]] for cells in table.rows]
    heading = [*table.heading[:place], f"{title}, {CONTROLS['shuffled']}", *table.heading[place:]]
    return replace(table, heading=heading, rows=body)


def floor_rows(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """Return the floors of each column as rows: what is reached without looking at the image of an item.

    The last row is the range of the models' scores with shuffled images.
    """
    found = [floors_of(rows, column) for column in columns]
    names = dict.fromkeys(name for floors in found for name in floors)
    body = [[name, *("-" if name not in one else f"{one[name]:.3f}" for one in found)] for name in names]
    shuffled = [_shuffled_range(rows, column) for column in columns]
    return [*body, [CONTROLS["shuffled"], *shuffled]] if any(text != "-" for text in shuffled) else body


def _shuffled_range(rows: Sequence[Row], column: Column) -> str:
    means = sorted(found.mean for row in rows if (found := score(row, column, "shuffled")) is not None)
    ends = (f"{mean:.3f}" for mean in (means[0], means[-1])) if means else ("-",)
    return " to ".join(dict.fromkeys(ends))


def floors_of(rows: Sequence[Row], column: Column) -> dict[str, float]:
    """Return the floors that results of a column's benchmark name; means over worlds.

    Results name those of the complete list. In a category, a constant that is at chance on the list is so, too, because
    its answers are ties, and the phrases' prior is computed here.
    """
    by_name: dict[str, dict[str, float]] = {}
    for run in (run for row in rows for run in row.runs if column.benchmark in run.results):
        for name, value in run.results[column.benchmark].floors(column.measure).items():
            if column.category is None or (name == "constant" and value == column.chance):
                by_name.setdefault(name, {}).setdefault(run.world, value)
    if PRIOR not in by_name:
        for world in dict.fromkeys(run.world for row in rows for run in row.runs):
            credits = prior_credits(rows, column.benchmark, world)
            items = max((row.items(column, "", world) for row in rows), key=len)
            if found := [credits[item] for item in items if item in credits]:
                by_name.setdefault(PRIOR, {})[world] = sum(found) / len(found)
    return {name: sum(values.values()) / len(values) for name, values in by_name.items()}


def main_note(rows: Sequence[Row]) -> str:
    """Return the meaning of the marks in a table of these rows."""
    from_scratch = any(row.vision_from_scratch for row in rows)
    columns = main_columns(rows)
    partial = any(row.missing(column.benchmark) for row in rows for column in columns)
    unknown = any(row.tested(column) and not knows_images(row, column.benchmark) for row in rows for column in columns)
    return NOTE + FROM_SCRATCH * from_scratch + PARTIAL * partial + UNKNOWN_IMAGES * unknown


def verdict_counts(findings: Sequence[Finding]) -> str:
    """Return the number of findings with each verdict."""
    verdicts = [finding.verdict for finding in findings]
    named = dict.fromkeys(("supported", "contradicted", "undecided"), 0)
    for verdict in verdicts:
        named[verdict] = named.get(verdict, 0) + 1
    words = {"by construction": "true by construction", "no verdict": "without a verdict"}
    return ", ".join(f"{count} {words.get(verdict, verdict)}" for verdict, count in named.items())


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the effects of every finding, with its verdict."""
    body = [cells for finding in findings for cells in finding_rows(finding)]
    return Table(f"Findings: {verdict_counts(findings)}", FINDINGS_HEADING, body, FINDINGS_NOTE)


def finding_rows(finding: Finding) -> list[list[str]]:
    """Return a row of cells for each statement of a finding; the first names the finding and its verdict."""
    corrected = "-" if finding.p is None else p_text(min(1.0, finding.p * len(HYPOTHESES)))
    rows = [
        [
            statement.text + ("" if counts else " (does not count)"),
            statement.effect_text,
            statement.expected_text,
            statement.paper_text,
            f"{statement.effect.items:,}",
            count_text(statement.effect.images),
            str(statement.seeds),
            str(statement.effect.worlds),
            p_text(statement.p_for),
            p_text(statement.p_against),
        ]
        for counts, statements in ((True, finding.statements), (False, finding.supplementary))
        for statement in statements
    ]
    if finding.untestable:
        rows.insert(0, [finding.untestable, *("-" for _ in FINDINGS_HEADING[2:-2])])
    heads = [finding.hypothesis.label, *("" for _ in rows[1:])]
    tails = [[finding.verdict, corrected], *(["", ""] for _ in rows[1:])]
    return [[head, *cells, *tail] for head, cells, tail in zip(heads, rows, tails, strict=True)]
