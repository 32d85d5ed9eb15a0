"""Tables: rows are models, columns are benchmarks, cells are means with their 95% confidence interval."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rich.table
from rich.text import Text

from babyvlm.io.printing import Console, is_numeric, printable, printable_line, spreadsheet_cell
from babyvlm.report.columns import CONTROLS, LABELED_S, VTWT, WORD_CLASSES, BenchmarkColumns, Column
from babyvlm.report.comparisons import MissingResultsError, difference, p_text, score
from babyvlm.report.findings import Finding
from babyvlm.report.paper import MIXES, NUMBERS, mix_of, model_of, paper_order, paper_value
from babyvlm.report.runs import Row, benchmarks_of, main_columns, tested_columns
from babyvlm.report.trial_lists import has_groups

WIDTH, NAME_WIDTH = 120, 40
PLAYROOM = "Playroom: a synthetic stand-in for SAYCam; not comparable with the paper's numbers"
NOTE = (
    "Mean over the test items with its 95% bootstrap CI; for rows with several seeds, mean over items and seeds with a "
    "95% t interval over both. Categories are treated as fixed. *: the interval contains chance."
)
PARTIAL = " ‡: some images of the list were missing; the remaining items were scored."
FROM_SCRATCH = " †: vision encoder trained from scratch; the paper's starts from DINO trained on the frames."
GROUPED = " VTWT items with the same two phrases are resampled together."
UNGROUPED = " The list of VTWT is missing: items with the same two phrases are treated as independent."
DERIVED = (
    "The list contains no word classes. They are derived here: noun and both from the differing words, verb and "
    "adjective from a lexicon of toddlers' words; unknown where the lexicon has neither word or is ambiguous."
)
ONE_IMAGE = (
    "With a blank image, or without an image, the four choices are identical: each category is 0.250 by construction."
)
FINDINGS_NOTE = (
    "A finding is a conjunction of statements about means. It is supported if all of them hold (intersection-union "
    "test) and contradicted if one is false (Bonferroni over its statements), at the 5% level after Holm's correction "
    "over all findings that could be tested. 'Undecided' means that the data do not settle the question. What holds "
    "for any model by construction of a benchmark's list is not tested. 95% CIs are t intervals over items and, for "
    "rows with several seeds, over seeds (min F'); VTWT items with the same two phrases are one group. With one seed "
    "per row they do not cover the variance between trainings."
)
STATEMENT_HEADING = ("statement", "effect", "expected", "p for", "p against", "test")
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
    """Return a row's mean with its interval and marks, or a dash."""
    found = score(row, column, control)
    if found is None:
        return "-"
    at_chance = column.chance is not None and found.low <= column.chance <= found.high
    return found.text() + "*" * at_chance + "‡" * bool(row.missing(column.benchmark))


def chance(column: Column) -> str:
    """Return a column's chance level, or a dash."""
    return "-" if column.chance is None else f"{column.chance:.3f}"


def row_name(row: Row) -> str:
    """Return a row's name with its marks and, if there are several, its number of seeds."""
    seeds = f" ({len(row.runs)} seeds)" if len(row.runs) > 1 else ""
    return row.name + "†" * row.vision_from_scratch + seeds


def main_table(rows: Sequence[Row]) -> Table:
    """Return every row's score on every benchmark."""
    title = PLAYROOM if any(row.embedded for row in rows) else "BabyVLM"
    return _scores(title, rows, main_columns(rows), main_note(rows))


def paper_table(rows: Sequence[Row]) -> Table:
    """Return the main table with the paper's values, including the paper's rows that have no run here.

    All measures of a benchmark are columns if any row was tested on it: the paper's METEOR is NLTK's, which needs
    WordNet.
    """
    columns = [column for benchmark in benchmarks_of(rows) for column in benchmark.main]
    by_name = {row.name: row for row in rows}
    paper_rows = {name: mix_of(name) is None for name in NUMBERS}  # whether it is an upper bound
    upper_bound = paper_rows | {row.name: not row.trained for row in rows} | paper_rows
    body = []
    for name in sorted(upper_bound, key=lambda name: (not upper_bound[name], paper_order(name))):
        row = by_name.get(name)
        cells = [row_name(row) if row else name]
        for column in columns:
            value = paper_value(name, column.benchmark, column.measure)
            cells += [cell(row, column) if row else "no run", "-" if value is None else f"{value:.3f}"]
        body.append(cells)
    heading = ["model", *(text for column in columns for text in (column.title, "paper"))]
    chances = ["chance", *(text for column in columns for text in (chance(column), chance(column)))]
    return _without_empty_paper_columns("Main table", heading, [chances, *body], main_note(rows))


def ablation_table(rows: Sequence[Row]) -> Table | None:
    """Return each mix's gain over the filtered mix; None if no model was trained on both."""
    columns = main_columns(rows)
    by_name = {row.name: row for row in rows}
    body = []
    for row in rows:
        base = by_name.get(f"{model_of(row.name)}-{MIXES[0]}")
        if base is not None and base is not row and mix_of(row.name):
            cells = [[_gain(row, base, column), _paper_gain(row, base, column)] for column in columns]
            body.append([row.name, *(text for pair in cells for text in pair)])
    heading = ["model and mix", *(text for column in columns for text in (column.title, "paper"))]
    note = "Mean minus the mean of the same model trained on filtered only, paired by item, with its 95% t interval."
    return _without_empty_paper_columns("Ablation: gain over filtered", heading, body, note) if body else None


def _without_empty_paper_columns(title: str, heading: list[str], body: Sequence[Sequence[str]], note: str) -> Table:
    """Return a table without the columns in which the paper reports nothing."""
    kept = [number for number, name in enumerate(heading) if name != "paper" or any(row[number] != "-" for row in body)]
    return Table(title, [heading[number] for number in kept], [[row[number] for number in kept] for row in body], note)


def _gain(row: Row, base: Row, column: Column) -> str:
    try:
        return difference([(row, base)], column).estimate.text("+")
    except MissingResultsError:
        return "-"


def _paper_gain(row: Row, base: Row, column: Column) -> str:
    value, base_value = (paper_value(each.name, column.benchmark, column.measure) for each in (row, base))
    return "-" if value is None or base_value is None else f"{value - base_value:+.3f}"


def control_table(rows: Sequence[Row]) -> Table | None:
    """Return the scores of the image-blind baselines; None if no row was tested without images."""
    columns = main_columns(rows)
    body = list(_control_rows(rows, columns))
    heading = ["model", *(column.title for column in columns)]
    return Table("Control conditions: image-blind baselines", heading, body) if body else None


def _control_rows(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[str]]:
    for row in rows:
        for control, condition in CONTROLS.items():
            if any(row.items(column, control) for column in columns):
                yield [f"{row.name}, {condition}", *(cell(row, column, control) for column in columns)]


def detail_tables(rows: Sequence[Row]) -> list[Table]:
    """Return each benchmark's scores by category, such as word class, and by its further measures."""
    tables = []
    by_category = []
    for benchmark in sorted(benchmarks_of(rows), key=lambda benchmark: benchmark.name != VTWT.benchmark):
        if benchmark.name == VTWT.benchmark:
            columns = tested_columns(rows, word_class_columns())
            note = DERIVED if columns and any(row.has_derived_categories(VTWT.benchmark) for row in rows) else ""
            if columns:
                tables.append(_scores("VTWT by word class", rows, columns, note, controls=True))
        elif benchmark.category and (categories := category_columns(rows, benchmark)):  # too many for columns
            body = [[column.title, *(cell(row, column) for row in rows)] for column in categories]
            note = ONE_IMAGE if benchmark.name == LABELED_S.benchmark else ""
            by_category.append(
                Table(
                    f"{benchmark.title} by {benchmark.category}", [benchmark.category, *map(row_name, rows)], body, note
                )
            )
        if columns := tested_columns(rows, benchmark.details):
            tables.append(_scores(f"{benchmark.title} by measure", rows, columns, controls=True))
    return tables + by_category


def word_class_columns() -> list[Column]:
    """Return a column for each word class of VTWT."""
    return [Column(name, VTWT.benchmark, VTWT.measure, VTWT.chance, name) for name in WORD_CLASSES]


def category_columns(rows: Sequence[Row], benchmark: BenchmarkColumns) -> list[Column]:
    """Return a column for each category of a benchmark."""
    main = benchmark.main[0]
    categories = sorted({category for row in rows for run in row.runs for category in run.categories(benchmark.name)})
    return [Column(category, benchmark.name, main.measure, main.chance, category) for category in categories]


def _scores(
    title: str, rows: Sequence[Row], columns: Sequence[Column], note: str = "", *, controls: bool = False
) -> Table:
    body = [[row_name(row), *(cell(row, column) for column in columns)] for row in rows]
    heading, chances = ["model", *(column.title for column in columns)], ["chance", *map(chance, columns)]
    priors = prior_rows(rows, columns)
    return Table(title, heading, [chances, *priors, *body, *(_control_rows(rows, columns) if controls else ())], note)


def prior_rows(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """Return a row with the priors over the answers, which see no image, next to chance; none without priors."""
    found = [
        next((value for row in rows if not column.category and (value := row.prior(column)) is not None), None)
        for column in columns
    ]
    cells = ["-" if value is None else f"{value:.3f}" for value in found]
    return [["prior, no image", *cells]] if set(cells) != {"-"} else []


def main_note(rows: Sequence[Row]) -> str:
    """Return the meaning of the marks in a table of these rows."""
    from_scratch = any(row.vision_from_scratch for row in rows)
    partial = any(row.missing(column.benchmark) for row in rows for column in main_columns(rows))
    return NOTE + grouping_note(rows) + FROM_SCRATCH * from_scratch + PARTIAL * partial


def grouping_note(rows: Sequence[Row]) -> str:
    """Return whether intervals account for dependent items of VTWT; empty if no row was tested on it."""
    known = [has_groups(row) for row in rows if row.items(VTWT)]
    return (GROUPED if all(known) else UNGROUPED) if known else ""


def verdict_counts(findings: Sequence[Finding]) -> str:
    """Return the number of findings with each verdict."""
    verdicts = [finding.verdict for finding in findings]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in ("supported", "contradicted", "undecided")]
    if by_construction := verdicts.count("by construction"):
        counts.append(f"{by_construction} true by construction")
    return ", ".join(counts)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return every finding's verdict and the statement that determines it."""
    body = []
    for finding in findings:
        p = "-" if finding.corrected_p is None else p_text(finding.corrected_p)
        last = None if finding.untestable else finding.decisive
        decisive = (
            [finding.untestable, "-", "-", "-"]
            if last is None
            else [last.text, last.effect_text, last.expected_text, last.effect.test]
        )
        body.append([f"{finding.hypothesis.name} {finding.hypothesis.title}", finding.verdict, *decisive, p])
    heading = ["finding", "verdict", "decisive statement", "effect", "expected", "test", "p (Holm)"]
    return Table(f"Findings: {verdict_counts(findings)}", heading, body, FINDINGS_NOTE)


def statements_of(finding: Finding) -> list[list[str]]:
    """Return a row of cells for each statement of a finding."""
    return [
        [
            statement.text + ("" if counts else " (does not count)"),
            statement.effect_text,
            statement.expected_text,
            p_text(statement.p_for),
            p_text(statement.p_against),
            statement.effect.test,
        ]
        for counts, statements in ((True, finding.statements), (False, finding.supplementary))
        for statement in statements
    ]


def statements_table(findings: Sequence[Finding], note: str) -> Table:
    """Return all statements of all findings."""
    body = [[finding.hypothesis.name, *cells] for finding in findings for cells in statements_of(finding)]
    return Table("Statements of the findings", ["finding", *STATEMENT_HEADING], body, note)
