"""The report: rows are runs, columns are benchmarks, cells have their 95 % interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from babyvlm.report.runs import MAIN, Column, Run, find_runs
from babyvlm.report.statistics import estimate

WIDTH = 120
NOTE = "Mean over the test half's items, with its 95 % bootstrap interval. *: the interval holds chance."
PARTIAL = " ‡: some of the list's images were missing; the rest was scored."
SCRATCH = " †: vision trunk trained from scratch; the paper's begins from DINO on the frames."
EMBEDDED = "Playroom, the embedded world: a stand-in for SAYCam, not to be compared with the paper's numbers"
CONTROLS = {"blank": "blank image", "shuffled": "shuffled images", "text_only": "text only"}
WORD_CLASSES = ("noun", "verb", "adjective", "both")
WINOGROUND = {
    "text": 1 / 4, "image": 1 / 4, "positive": 1 / 2, "positive_strict": 1 / 3, "negative": 1 / 2,
    "negative_strict": 1 / 3,
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A table with its title, heading first, and a note."""

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""

    def print(self) -> None:
        """To the terminal."""
        table = Table(*self.rows[0], title=self.title, caption=self.note or None)
        for row in self.rows[1:]:
            table.add_row(*row)
        Console(width=WIDTH).print(table)

    def markdown(self) -> str:
        """As Markdown."""
        lines = [self.title, "", _line(self.rows[0]), "|---" * len(self.rows[0]) + "|", *map(_line, self.rows[1:])]
        return "\n".join([*lines, "", self.note, ""] if self.note else [*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def report(logs: Path = Path("lightning_logs"), out: Path | None = None, details: bool = False) -> None:
    """Print the table of all tested runs, and what looking was worth to them; write it as Markdown if asked.

    Args:
        logs: folder of runs.
        out: Markdown file to write the tables to.
        details: break the benchmarks down: by category, word class, Winoground's parts.
    """
    runs = find_runs(logs)
    sections = [_main(runs), *_controls(runs), *(_details(runs) if details else ())]
    for section in sections:
        section.print()
    provenance = [f"{run.row}: {run.path}{_unknown(run)}" for run in runs]
    print("\n".join(provenance))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(section.markdown() for section in sections))


def _main(runs: Sequence[Run]) -> Section:
    note = NOTE + SCRATCH * any(run.trunk_from_scratch for run in runs)
    note += PARTIAL * any(run.missing(column.benchmark) for run in runs for column in MAIN)
    columns = _tested(runs, MAIN)
    rows = [[_name(run), *(cell(run, column) for column in columns)] for run in runs]
    title = EMBEDDED if any(run.embedded for run in runs) else "BabyVLM"
    return Section(title, [_heading(columns), _chance(columns), *rows], note)


def _controls(runs: Sequence[Run]) -> Iterator[Section]:
    columns = _tested(runs, MAIN)
    rows = list(_control_rows(runs, columns))
    if rows:
        yield Section("Without the images: what a model gets that cannot look", [_heading(columns), *rows])


def _details(runs: Sequence[Run]) -> Iterator[Section]:
    categories = sorted({category for run in runs for category in run.categories("labeled_s")})
    parts = {
        "VTWT by what differs": [Column(word, "vtwt", "accuracy", 1 / 2, word) for word in WORD_CLASSES],
        "Baby Winoground by what is asked": [
            Column(measure.replace("_", " "), "baby_winoground", measure, chance)
            for measure, chance in WINOGROUND.items()
        ],
    }
    for title, wanted in parts.items():
        columns = _tested(runs, wanted)
        rows = [[_name(run), *(cell(run, column) for column in columns)] for run in runs]
        if columns:
            yield Section(title, [_heading(columns), _chance(columns), *rows, *_control_rows(runs, columns)])
    if categories:  # too many for columns
        by_category = [Column(name, "labeled_s", "accuracy", 1 / 4, name) for name in categories]
        rows = [[column.title, *(cell(run, column) for run in runs)] for column in by_category]
        yield Section("Labeled-S by category", [["category", *map(_name, runs)], *rows])


def _tested(runs: Sequence[Run], columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if any(len(run.credits(column)) for run in runs)]


def _control_rows(runs: Sequence[Run], columns: Sequence[Column]) -> Iterator[list[str]]:
    for run in runs:
        for control, name in CONTROLS.items():
            if any(len(run.credits(column, control)) for column in columns):
                yield [f"{run.row}, {name}", *(cell(run, column, control) for column in columns)]


def _heading(columns: Sequence[Column]) -> list[str]:
    return ["model", *(column.title for column in columns)]


def _chance(columns: Sequence[Column]) -> list[str]:
    return ["chance", *map(chance, columns)]


def chance(column: Column) -> str:
    """What a model gets that knows nothing, as it stands in a table."""
    return "-" if column.chance is None else f"{column.chance:.3f}"


def _name(run: Run) -> str:
    return run.row + "†" * run.trunk_from_scratch


def cell(run: Run, column: Column, control: str = "") -> str:
    """A number of a run with its interval, as it stands in a table."""
    credit = run.credits(column, control)
    if not len(credit):
        return "-"
    found = estimate(credit)
    mark = "*" if column.chance is not None and found.low <= column.chance <= found.high else ""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{mark}" + "‡" * bool(run.missing(column.benchmark))


def _unknown(run: Run) -> str:
    """Share of the words of each test that the model's vocabulary has not, where it has one."""
    told = []
    for benchmark in dict.fromkeys(column.benchmark for column in MAIN):
        facts = run.facts(benchmark)
        if "unknown_words" in facts:
            alike = int(facts["items_alike"])
            told.append(f"{benchmark} {float(facts['unknown_words']):.1%}" + f" and {alike} items alike" * bool(alike))
    return f" (words that it has not: {', '.join(told)})" if told else ""
