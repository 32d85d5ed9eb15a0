"""A report as files: one HTML page that needs nothing else, Markdown with its pictures beside it, LaTeX and CSV."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from babyvlm.playroom.world import CREDIT
from babyvlm.report.item_changes import Flips
from babyvlm.report.licence import LEFT_OUT
from babyvlm.report.table_formats import Section, markdown_text
from babyvlm.report.tables import EMBEDDED
from babyvlm.report.world_report import HOW, Part

TITLE = "BabyVLM: what came out"
ABOUT = (
    "Runs on disk, read item by item: what each model got in each test with its uncertainty, beside the paper's value "
    "(Wang et al., ICCV 2025, arXiv 2504.09426) and chance; and whether the paper's findings hold here."
)
PICTURES_BY = f"Pictures drawn with {CREDIT}; they are under the same licence."


def report_page(parts: Sequence[Part]) -> str:
    """The page of a report."""
    return _page("report.html.j2", parts=parts, title=TITLE, about=ABOUT, how=HOW)


def compare_page(section: Section, one: str, other: str, flips: Sequence[Flips]) -> str:
    """The page of a comparison."""
    return _page("compare.html.j2", section=section, one=one, other=other, flips=flips, title=section.title)


def _page(template: str, **content: object) -> str:
    """A page of which all that it quotes is escaped, and on which nothing is fetched."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    world = Environment(
        loader=PackageLoader("babyvlm.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    world.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return world.get_template(template).render(credit=PICTURES_BY, left_out=LEFT_OUT, **content)


def write_files(folder: Path, parts: Sequence[Part]) -> None:
    """Write all forms into a folder that is empty."""
    (folder / "report.html").write_text(report_page(parts), encoding="utf-8")
    lines = [f"# {TITLE}", "", ABOUT, ""]
    for part in parts:
        below = folder if len(parts) == 1 else folder / part.title.lower().replace(" ", "-")
        for kind in ("figures", "tables", "pictures"):
            (below / kind).mkdir(parents=True)
        lines += [f"## {part.title}", "", *_markdown(part, below, folder)]
        for section in part.sections:
            (below / "tables" / f"{section.name}.tex").write_text(section.latex(), encoding="utf-8")
            (below / "tables" / f"{section.name}.csv").write_text(section.csv(), encoding="utf-8")
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _markdown(part: Part, below: Path, folder: Path) -> Iterator[str]:
    """Lines of a part; its pictures are written beside."""
    if part.embedded:
        yield from [f"{EMBEDDED}.", ""]
    charts = {picture.name: picture for picture in part.pictures}

    def chart(name: str) -> Iterator[str]:
        if name in charts:
            file = below / "figures" / f"{name}.svg"
            file.write_bytes(charts[name].wide)
            alt = markdown_text(charts[name].alt).replace("[", "(").replace("]", ")")
            yield from [f"![{alt}]({file.relative_to(folder)})", "", charts[name].caption, ""]

    yield from chart("scores")
    for section in (part.main, part.ablation, part.findings_section, part.statements_section):
        yield f"### {section.markdown()}" if section else ""
    for name in ("words", "contexts", "categories"):
        yield from chart(name)
    yield from (f"### {section.markdown()}" for section in part.details)
    yield from chart("controls")
    yield from (f"### {section.markdown()}" for section in part.controls)
    yield from chart("curves")
    yield from _captions(part, below, folder)
    if part.funnel and part.funnel_table:
        file = below / "figures" / "funnels.svg"
        file.write_bytes(part.funnel)
        yield from [f"![{markdown_text(part.funnel_alt)}]({file.relative_to(folder)})", ""]
        yield f"### {part.funnel_table.markdown()}"
    yield from [f"- {markdown_text(line)}" for line in part.budgets]
    yield from ["", f"### {part.runs.markdown()}"]
    yield from [f"- {markdown_text(line)}" for line in part.packages]


def _captions(part: Part, below: Path, folder: Path) -> Iterator[str]:
    for number, example in enumerate(part.examples.shown):
        file = below / "pictures" / f"caption-{number}.jpg"
        file.write_bytes(example.pictures[0])
        said = [f"  - {markdown_text(row)}: {markdown_text(words)}" for row, words in example.said]
        picture = f"![a picture of the test half]({file.relative_to(folder)})"
        yield "\n".join([f"- {picture} {markdown_text(example.text)}", *said])
    if part.examples.shown:
        yield from ["", PICTURES_BY, ""]
    if part.examples.left_out:
        yield f"Captions and pictures of {markdown_text(', '.join(part.examples.left_out))} are {LEFT_OUT}.\n"
