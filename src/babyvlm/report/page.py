"""The report as files: a self-contained HTML page, Markdown with its figures, and the tables as LaTeX and CSV."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from babyvlm.curation.plots import FUNNEL_INCHES, funnel_figure, funnel_inches
from babyvlm.io.printing import printable
from babyvlm.playroom.credit import CREDIT
from babyvlm.report.alignment import PREFIX, alignment_charts
from babyvlm.report.examples import CaptionExamples, ChangedItems, Example, caption_examples
from babyvlm.report.figures import PAPER_LAYOUTS, Chart, Layout, charts
from babyvlm.report.findings import Finding, Verdict, evaluate_findings
from babyvlm.report.license import LEFT_OUT
from babyvlm.report.paper import GENERATIVE, LARGER
from babyvlm.report.provenance import (
    budget_lines,
    checkpoint_lines,
    funnel_stages,
    funnel_table,
    mixes_table,
    package_lines,
    runs_table,
)
from babyvlm.report.runs import Row, SkippedRun
from babyvlm.report.scaling import is_partial, scaling_chart, scaling_fits, scaling_table
from babyvlm.report.tables import (
    PLAYROOM,
    Table,
    ablation_table,
    control_table,
    detail_tables,
    escape_markdown,
    findings_table,
    main_table,
    paper_table,
    paper_values_table,
    suite_tables,
    verdict_counts,
)
from babyvlm.report.word_frequency import word_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from babyvlm.io.artifacts import Manifest

TITLE = "BabyVLM results"
# Headings of the chapters, which are pages on a phone.
PAGES = (
    "Results",
    "Findings of the paper",
    "Data scaling",
    "Further suites",
    "Results by category",
    "Image-blind baselines",
    "Learning curves",
    "Captions",
    "Data",
    "Provenance",
)
SKIPPED = "Runs that are not reported"
ABOUT = (
    "Test results of all runs, computed item by item: each model's score on each benchmark with its 95% CI, beside "
    "chance and other floors, the paper's values (Wang et al., ICCV 2025, arXiv 2504.09426), and whether the paper's "
    "findings hold here."
)
# Identifies the pages that this package may replace: the beginning of templates/page.html.j2.
PAGE_BEGINNING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="babyvlm">
"""
FUNNEL_LAYOUTS = {"2-columns": PAPER_LAYOUTS["2-columns"]}  # reasons are too long for one column
IMAGE_CREDIT = f"Images drawn with {CREDIT}; they are under the same license."


@dataclass(frozen=True)
class WorldReport:
    """The report on real data or on worlds of one kind, as the template and the Markdown page show it."""

    title: str
    embedded: bool
    main: Table
    paper: Table | None
    ablation: Table | None
    scaling: Table | None
    findings: list[Finding]
    validation_losses: str
    suites: list[Table]
    details: list[Table]
    controls: Table | None
    charts: dict[str, Chart]
    captions: CaptionExamples
    funnel_table: Table | None
    missing_stores: list[str]
    mixes: Table | None
    budgets: list[str]
    runs: Table
    packages: list[str]

    @property
    def alignment_charts(self) -> tuple[str, ...]:
        """Names of the figures of alignment."""
        return tuple(name for name in self.charts if name.startswith(PREFIX))

    @property
    def verdicts(self) -> str:
        """Number of findings with each verdict."""
        return verdict_counts(self.findings)

    @property
    def folder(self) -> str:
        """Name of its folder, if there are several."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-.")[:100]

    @property
    def findings_table(self) -> Table:
        """The effects and verdicts."""
        return findings_table(self.findings)

    @property
    def tables(self) -> list[Table]:
        """All tables, in the order of the page."""
        tables = [self.main, self.paper, self.ablation, self.findings_table, self.scaling, *self.suites]
        tables += [*self.details, self.controls]
        return [table for table in (*tables, self.funnel_table, self.mixes, self.runs) if table is not None]


def world_report(
    rows: Sequence[Row], *, several: bool = False, norms: Mapping[str, float] | None = None
) -> WorldReport:
    """Compute everything that is reported on rows of one setting.

    Args:
        rows: all real, or all of Playroom with the same parameters.
        several: whether the report has other settings as well. The title then names the parameters.
        norms: age of acquisition of words, if the user has any.
    """
    stages, missing_stores = funnel_stages(rows)
    embedded = any(row.embedded for row in rows)
    fits = scaling_fits(rows)
    every, rows = rows, [row for row in rows if not is_partial(row)] or rows  # those for scaling have their own chapter
    figures = charts(rows)
    figures |= {chart.name: chart for chart in alignment_charts(rows)}
    if (scaling := scaling_chart(fits)) is not None:
        figures[scaling.name] = scaling
    if stages:
        alt = "; ".join(f"{stage['name']}: {stage['kept']:,} of {stage['in']:,} kept" for stage in stages)
        caption = "What every curation stage took in, kept and dropped, with reasons."
        figures["funnels"] = Chart("funnels", caption, alt, partial(draw_funnels, stages), FUNNEL_LAYOUTS)
    return WorldReport(
        title=": ".join(filter(None, ["Playroom" if embedded else "Real data", rows[0].setting if several else ""])),
        embedded=embedded,
        main=replace(main_table(rows), title="Main table") if embedded else paper_table(rows),
        paper=paper_values_table() if embedded else None,
        ablation=ablation_table(rows),
        scaling=scaling_table(fits),
        findings=evaluate_findings(rows),
        validation_losses=_validation_losses(rows),
        suites=suite_tables(rows),
        details=[*detail_tables(rows), *filter(None, [word_table(rows, norms)])],
        controls=control_table(rows),
        charts=figures,
        captions=caption_examples(rows),
        funnel_table=funnel_table(stages) if stages else None,
        missing_stores=missing_stores,
        mixes=mixes_table(every),
        budgets=[*budget_lines(every), *checkpoint_lines(every)],
        runs=runs_table(every),
        packages=package_lines(every),
    )


def draw_funnels(stages: Sequence[Manifest], layout: Layout) -> list[Figure]:
    """Draw the funnels, on pages of the layout's height if it has one."""
    pages: list[list[Manifest]] = [[]]
    for stage in stages:
        if layout.height is not None and funnel_inches([*pages[-1], stage]) > layout.height and pages[-1]:
            pages.append([])
        pages[-1].append(stage)
    return [funnel_figure(page, layout.width or FUNNEL_INCHES, layout.font) for page in pages]


def _validation_losses(rows: Sequence[Row]) -> str:
    """Return the losses that show whether the larger language model overfits."""
    texts = []
    for row in rows:
        losses = [loss for _, loss in row.runs[0].curve("val_loss")]
        if row.name in (f"{LARGER}-filtered", f"{GENERATIVE}-filtered") and losses:
            texts.append(f"{row.name} {min(losses):.3f}, {losses[-1]:.3f}")
    return f"Validation loss of the first seed, minimum and final: {'; '.join(texts)}." if texts else ""


def report_page(worlds: Sequence[WorldReport], skipped: Sequence[SkippedRun] = ()) -> str:
    """Return the HTML page of a report."""
    return _page("report.html.j2", worlds=worlds, skipped=skipped, title=TITLE, about=ABOUT, pages=PAGES)


def compare_page(
    table: Table, name_a: str, name_b: str, changes: Sequence[ChangedItems], skipped: Sequence[SkippedRun] = ()
) -> str:
    """Return the HTML page of a comparison."""
    names = {"name_a": name_a, "name_b": name_b}
    return _page("compare.html.j2", table=table, changes=changes, skipped=skipped, title=table.title, **names)


def saliency_page(words: Mapping[str, Sequence[Example]]) -> str:
    """Return the HTML page of maps of words.

    Args:
        words: pictures of each word, each followed by the maps of the same models, which its captions name.
    """
    models = next(iter(words.values()))[0].captions
    return _page("saliency.html.j2", words=words, models=models, title="Where models find words")


def _page(template: str, **content: object) -> str:
    """Render a page with all quoted text escaped, which loads nothing from elsewhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("babyvlm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_printable,
    )
    environment.globals["verdicts"] = get_args(Verdict)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template(template).render(
        credit=IMAGE_CREDIT, left_out=LEFT_OUT, skipped_heading=SKIPPED, **content
    )


def _printable(value: object) -> object:
    """Remove control characters from text before it is escaped."""
    return printable(value) if type(value) is str else value


def write_files(
    folder: Path, worlds: Sequence[WorldReport], skipped: Sequence[SkippedRun] = (), *, paper_figures: bool = False
) -> None:
    """Write all formats into an empty folder."""
    (folder / "report.html").write_text(report_page(worlds, skipped), encoding="utf-8")
    lines = [f"# {TITLE}", "", ABOUT, ""]
    for world in worlds:
        below = folder if len(worlds) == 1 else folder / world.folder
        for kind in ("figures", "tables", "images"):
            (below / kind).mkdir(parents=True)
        lines += [f"## {world.title}", "", *_markdown(world, below, folder)]
        for name, content in (file for one in world.charts.values() if paper_figures for file in one.for_paper()):
            (below / "figures" / name).write_bytes(content)
        for table in world.tables:
            (below / "tables" / f"{table.file_stem}.tex").write_text(table.latex(), encoding="utf-8")
            (below / "tables" / f"{table.file_stem}.csv").write_text(table.csv(), encoding="utf-8")
    if skipped:
        lines += [
            f"## {SKIPPED}",
            "",
            *(f"- {escape_markdown(f'{run.name}: not reported: {run.reason}')}" for run in skipped),
        ]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _markdown(world: WorldReport, below: Path, folder: Path) -> Iterator[str]:
    """Yield the lines of a world; its figures and images are written to ``below``."""

    def chart(name: str) -> Iterator[str]:
        if name in world.charts:
            found = world.charts[name]
            file = below / "figures" / f"{name}.svg"
            file.write_bytes(found.wide)
            alt = escape_markdown(found.alt)
            yield from [f"![{alt}]({file.relative_to(folder)})", "", found.caption, ""]

    if world.embedded:
        yield from [f"{PLAYROOM}.", ""]
    main, *others = world.tables
    before: list[tuple[Table | None, tuple[str, ...]]] = [
        (world.controls, ("controls",)),
        (world.scaling, ("scaling",)),
        (world.funnel_table, ("funnels",)),
    ]
    before += [(table, world.alignment_charts) for table in world.suites[:1]]
    before += [(table, ("words", "contexts", "categories")) for table in world.details[:1]]
    charts_before = {table.title: names for table, names in before if table is not None}
    yield from chart("scores")
    yield f"### {main.markdown()}"
    for table in others:
        if table is world.runs:
            yield from chart("curves")
            yield from _captions(world.captions, below, folder)
            yield from [*(f"- {escape_markdown(line)}" for line in world.budgets), ""]
        for name in charts_before.get(table.title, ()):
            yield from chart(name)
        yield f"### {table.markdown()}"
        if table.title == world.findings_table.title:
            yield from [*_criteria(world), ""]
    yield from [f"- {escape_markdown(line)}" for line in world.packages]


def _criteria(world: WorldReport) -> Iterator[str]:
    for finding in world.findings:
        yield f"- {escape_markdown(finding.hypothesis.label)}. {escape_markdown(finding.hypothesis.criterion)}"
    if world.validation_losses:
        yield f"\n{escape_markdown(world.validation_losses)}"


def _captions(captions: CaptionExamples, below: Path, folder: Path) -> Iterator[str]:
    for number, example in enumerate(captions.shown):
        file = below / "images" / f"caption-{number}.jpg"
        file.write_bytes(example.images[0])
        by_row = [f"  - {escape_markdown(row)}: {escape_markdown(caption)}" for row, caption in example.captions]
        image = f"![test image {number + 1}]({file.relative_to(folder)})"
        yield "\n".join([f"- {image} {escape_markdown(example.text)}", *by_row])
    if captions.shown:
        yield from ["", IMAGE_CREDIT, ""]
    if captions.left_out:
        yield f"Captions and images of {escape_markdown(', '.join(captions.left_out))} are {LEFT_OUT}.\n"
