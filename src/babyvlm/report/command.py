"""``python -m babyvlm report`` and ``compare``: from run folders to tables, figures and pages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.extras import require_extra
from babyvlm.io.files import atomic_write, require_replaceable
from babyvlm.io.printing import echo
from babyvlm.report.comparisons import compare_rows, holm, p_text, pair_facts
from babyvlm.report.examples import caption_examples, caption_table, changed_items
from babyvlm.report.runs import Row, Run, SkippedRun, find_rows, has_test_results, newest_runs
from babyvlm.report.tables import Table, control_table, count_text, detail_tables, main_table, suite_tables
from babyvlm.report.trial_lists import shows_images
from babyvlm.report.word_frequency import read_norms, word_table

KIND = "report-of-runs"
COMPARE_HEADING = ("benchmark", "difference", "items", "images", "seeds", "worlds", "p", "p (Holm)", "test")
COMPARE_NOTE = (
    "Difference of the means over the test items that both were scored on, with its 95% t interval over items, seeds "
    "and worlds where they vary. p, for two single runs: by McNemar's exact test where choices have no ties, by paired "
    "permutation where they have ties and for METEOR; items with the same two phrases or the same image form a group "
    "and are exchanged together. Where groups overlap, and for rows with several seeds or worlds: by t. p (Holm): "
    "corrected for the number of comparisons in this table."
)


def report(
    log_dir: Path,
    out: Path | None = None,
    details: bool = False,
    paper_figures: bool = False,
    age_of_acquisition: Path | None = None,
) -> None:
    """Print the results of all tested runs: scores, image-blind baselines and example captions.

    Each folder `LOG_DIR/ROW/` is one row of the tables. For each seed, its newest tested run is used.

    For example:
        python -m babyvlm report lightning_logs --out report

    Args:
        log_dir: folder of runs.
        out: also write the complete report to this folder, replacing an older report: `report.html` (a self-contained
            page), `report.md`, and the tables as LaTeX and CSV.
        details: also print the scores by category, word class, and Baby Winoground's measures.
        paper_figures: also write each figure as SVG and PDF, one and two columns wide, for a paper.
        age_of_acquisition: CSV with the columns `word` and `age`; the accuracy of words is correlated with it.
    """
    rows, skipped = find_rows(log_dir)
    norms = None if age_of_acquisition is None else read_norms(age_of_acquisition)
    tables = [main_table(rows), *suite_tables(rows), control_table(rows), caption_table(caption_examples(rows))]
    for table in [*tables, *([*detail_tables(rows), word_table(rows, norms)] if details else ())]:
        if table is not None:
            table.print()
    echo("\n".join(f"{row.name}: {run.path}{_model_facts(run)}" for row in rows for run in row.runs))
    for run in skipped:
        echo(run, file=sys.stderr)
    if out is not None:
        write_report(rows, out, skipped, paper_figures=paper_figures, norms=norms)
        echo(f"{out}: report.html, report.md, tables, figures")


def write_report(
    rows: Sequence[Row],
    out: Path,
    skipped: Sequence[SkippedRun] = (),
    *,
    paper_figures: bool = False,
    norms: Mapping[str, float] | None = None,
) -> None:
    """Write the report's folder atomically.

    Raises:
        UserError: ``out`` exists and is not a report.
    """
    from babyvlm.report.page import world_report, write_files

    _require_replaceable(out)
    hashes = {
        run.name: {f"{name}-test.parquet": results.sha256 for name, results in run.results.items()}
        for row in rows
        for run in row.runs
    }
    settings = sorted({(row.embedded, row.setting) for row in rows})
    by_setting = ([row for row in rows if (row.embedded, row.setting) == setting] for setting in settings)
    with artifacts.exclusive(out), require_extra("report", "report --out"):
        worlds = [world_report(world_rows, several=len(settings) > 1, norms=norms) for world_rows in by_setting]
        manifest: artifacts.Manifest = {"arguments": {"command": "report", "results": hashes}}
        with artifacts.create(out, KIND, manifest) as folder:
            write_files(folder, worlds, skipped, paper_figures=paper_figures)
            manifest["files"] = sorted(_files(folder) - {artifacts.MARKER})
            _require_replaceable(out)
            if out.exists():
                shutil.rmtree(out)


def _require_replaceable(out: Path) -> None:
    """Check that a folder does not exist, is empty, or is an older report to which nothing was added.

    Raises:
        UserError: it is not.
    """
    if not out.exists() or (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        return
    try:
        found = artifacts.read_manifest(out, KIND)
    except UserError:
        found = {}
    if out.is_symlink() or found.get("kind") != KIND:
        raise UserError(f"{out}: already exists and is not a report. Pass a different --out")
    added = _files(out) - {f"{KIND}.json", f"{KIND}.json.sha256"} - set(found.get("files") or _files(out))
    if added:
        raise UserError(f"{out}: {min(added)} does not belong to the report and would be deleted. Move it away")


def _files(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, without those of an unfinished artifact."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.as_posix() for path in paths if path.parts[0] != artifacts.SCRATCH}


def _model_facts(run: Run) -> str:
    """Return the shares of out-of-vocabulary words, what the scores are, and options of benchmarks."""
    shares = []
    for name, results in sorted(run.results.items(), key=lambda entry: entry[1].columns.order):
        if "unknown_words" in results.metadata:
            identical = int(results.metadata.get("items_alike", 0))
            suffix = f", {identical} items with identical options" if identical else ""
            shares.append(f"{name} {float(results.metadata['unknown_words']):.1%}{suffix}")
    text = f" (out-of-vocabulary words: {'; '.join(shares)})" if shares else ""
    scores = sorted({results.metadata["score"] for results in run.results.values() if "score" in results.metadata})
    text += f" (score: {'; '.join(scores)})" if scores else ""
    options = [f"{name}: {one.metadata['options']}" for name, one in run.results.items() if "options" in one.metadata]
    return text + (f" ({'; '.join(options)})" if options else "")


def compare(run_a: Path, run_b: Path, out: Path | None = None) -> None:
    """Test whether two runs differ, item by item.

    For example:
        python -m babyvlm compare lightning_logs/CVCL-filtered lightning_logs/CVCL-filtered-aug --out compare.html

    Args:
        run_a: folder of a run, or of a row, of which the newest tested run for each seed is used.
        run_b: folder of another run or row.
        out: HTML page to write: the table, and the items on which the runs differ, with their images unless
            these are licensed.
    """
    (row_a, skipped_a), (row_b, skipped_b) = _open_row(run_a), _open_row(run_b)
    skipped = list(dict.fromkeys([*skipped_a, *skipped_b]))
    for run in skipped:
        echo(run, file=sys.stderr)
    with require_extra("report", "compare"):
        found = list(compare_rows(row_a, row_b))
        corrected = holm([comparison.p for _, comparison in found])
    if not found:
        raise UserError(f"{run_a} and {run_b} have no test item in common")
    body = [
        [
            column.title,
            comparison.difference.text("+"),
            str(comparison.difference.items),
            count_text(comparison.images) if shows_images(row_a, column.benchmark) else "-",
            *pair_facts(row_a, row_b),
            p_text(comparison.p),
            p_text(corrected_p),
            comparison.test,
        ]
        for (column, comparison), corrected_p in zip(found, corrected, strict=True)
    ]
    table = Table(f"{row_a.name} - {row_b.name}", COMPARE_HEADING, body, COMPARE_NOTE)
    table.print()
    if out is not None:
        from babyvlm.report.page import PAGE_BEGINNING, compare_page

        require_replaceable(out, PAGE_BEGINNING)
        page = compare_page(table, row_a.name, row_b.name, changed_items(row_a.runs[0], row_b.runs[0]), skipped)
        with atomic_write(out) as file:
            file.write(page)
        echo(out)


def _open_row(path: Path) -> tuple[Row, list[SkippedRun]]:
    """Return the runs in a folder, and those of them that are damaged.

    Raises:
        UserError: the folder contains no tested run that can be read.
    """
    path = path.absolute()
    if has_test_results(path):
        run = Run(path)
        run.check()
        return Row([run]), []
    runs, skipped = newest_runs(path.parent, path.name) if path.name else ([], [])
    if not runs and skipped:
        raise UserError(f"{path}: no run can be read. {skipped[0]}")
    if not runs:
        raise UserError(f"{path}: neither a tested run nor a folder of tested runs")
    return Row(runs), skipped
