"""``python -m babyvlm report``: runs on disk to tables, figures and one page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.report.examples import caption_sections
from babyvlm.report.runs import MAIN, Row, Run, find_rows
from babyvlm.report.tables import control_sections, detail_sections, main_section

KIND = "report-of-runs"


def report(logs: Path, out: Path | None = None, details: bool = False) -> None:
    """Print the table of all tested runs, what looking was worth to them, and captions; make the whole report if asked.

    A row is what is in `LOGS/ROW/`; of each seed the newest tested run counts.

    For example:
        python -m babyvlm report lightning_logs --out report

    Args:
        logs: folder of runs.
        out: folder to make, in place of an older report: `report.html`, which needs nothing else, `report.md`,
            and the tables as LaTeX and CSV.
        details: print the benchmarks broken down: by category, word class, Winoground's parts.
    """
    rows = find_rows(logs)
    sections = [main_section(rows), *control_sections(rows), *caption_sections(rows)]
    for section in [*sections, *(detail_sections(rows) if details else ())]:
        section.print()
    print("\n".join(f"{row.name}: {run.path}{_unknown(run)}" for row in rows for run in row.runs))
    if out is not None:
        write_report(rows, out)
        print(f"{out}: report.html, report.md, tables, figures")


@artifacts.one_at_a_time
def write_report(rows: Sequence[Row], out: Path) -> None:
    """Make the report's folder, whole or not at all.

    Raises:
        UserError: ``out`` is there and is no report.
    """
    from babyvlm.report.page import write_files
    from babyvlm.report.world_report import part

    if out.exists() and not (out / f"{KIND}.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: holds something else than a report; choose another --out")
    runs = {str(run.path): _digests(run) for row in rows for run in row.runs}
    parts = [part(world) for world in _worlds(rows)]
    with artifacts.create(out, KIND, {"arguments": {"command": "report", "results": runs}}) as folder:
        write_files(folder, parts)
        if out.exists():
            shutil.rmtree(out)


def _worlds(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows on real data and those on Playroom, which do not compare."""
    worlds = ([row for row in rows if row.embedded is embedded] for embedded in (False, True))
    return [world for world in worlds if world]


def _digests(run: Run) -> dict[str, str]:
    files = sorted((run.path / "results").glob("*-test.parquet"))
    return {file.name: artifacts.sha256_file(file) for file in files}


def _unknown(run: Run) -> str:
    """Share of the words of each test that the model's vocabulary has not, where it has one."""
    told = []
    for benchmark in dict.fromkeys(column.benchmark for column in MAIN):
        facts = run.facts(benchmark)
        if "unknown_words" in facts:
            alike = int(facts["items_alike"])
            told.append(f"{benchmark} {float(facts['unknown_words']):.1%}" + f" and {alike} items alike" * bool(alike))
    return f" (words that it has not: {', '.join(told)})" if told else ""
