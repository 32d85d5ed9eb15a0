"""All that a report says of the rows of one world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from babyvlm.curation.plots import funnel_figure
from babyvlm.report.curves import curve
from babyvlm.report.estimates import p_text
from babyvlm.report.examples import Examples, caption_examples
from babyvlm.report.figures import Picture, pictures
from babyvlm.report.findings import findings
from babyvlm.report.hypotheses import Finding, Statement
from babyvlm.report.paper import GENERATIVE, LARGER
from babyvlm.report.plotting import to_svg
from babyvlm.report.provenance import budget_lines, funnel_section, funnels, package_lines, run_section
from babyvlm.report.runs import Row
from babyvlm.report.table_formats import Section
from babyvlm.report.tables import ablation_section, control_sections, detail_sections, interval, paper_section

HOW = (
    "A finding is a conjunction of statements about means: supported if all of them hold (intersection-union test), "
    "contradicted if one is false (Bonferroni over its statements), at 5 % after Holm's correction over all findings "
    "that could be asked; else undecided. What the list of a test makes true of any model is not asked. Intervals are "
    "of 95 %, by t over items and, where rows have several seeds, over seeds too (min F'); VTWT's items that ask for "
    "the same two phrases are one group. With one seed a row they say nothing of how another training would have come "
    "out."
)


@dataclass(frozen=True)
class Told:
    """A statement as it stands on the page."""

    text: str
    effect: str
    wanted: str
    test: str


@dataclass(frozen=True)
class FindingTold:
    """A finding as it stands on the page."""

    name: str
    claim: str
    how: str
    verdict: str
    lacking: str
    p: str
    decisive: Told | None
    section: Section | None
    remark: str = ""


@dataclass(frozen=True)
class Part:
    """What stands on the page about one world; the template reads it by these names."""

    title: str
    embedded: bool
    main: Section
    ablation: Section | None
    findings: list[FindingTold]
    details: list[Section]
    controls: list[Section]
    pictures: list[Picture]
    examples: Examples
    funnel: bytes | None
    funnel_alt: str
    funnel_table: Section | None
    gone: list[str]
    budgets: list[str]
    runs: Section
    packages: list[str]

    @property
    def verdicts(self) -> str:
        """How many findings came out how."""
        counts = Counter(finding.verdict for finding in self.findings)
        told = [f"{counts[verdict]} {verdict}" for verdict in ("supported", "contradicted", "undecided")]
        if counts["by construction"]:
            told.append(f"{counts['by construction']} true by construction")
        return ", ".join(told)

    @property
    def sections(self) -> list[Section]:
        """All tables."""
        optional = (self.ablation, self.funnel_table)
        return [
            self.main,
            *(section for section in optional if section),
            self.findings_section,
            self.statements_section,
            *self.details,
            *self.controls,
            self.runs,
        ]

    @property
    def findings_section(self) -> Section:
        """How every finding came out, and the statement it hangs on."""
        heading = ["finding", "came out", "decisive statement", "effect", "expected", "test", "p Holm"]
        body = []
        for told in self.findings:
            last = told.decisive or Told(told.lacking, "-", "-", "-")
            claim = f"{told.name} {told.claim}"
            body.append([claim, told.verdict, last.text, last.effect, last.wanted, last.test, told.p])
        return Section(f"Findings: {self.verdicts}", [heading, *body], HOW)

    @property
    def statements_section(self) -> Section:
        """Every statement of every finding."""
        body = [[told.name, *line] for told in self.findings if told.section for line in told.section.rows[1:]]
        remarks = " ".join(filter(None, (told.remark for told in self.findings)))
        return Section("Statements of the findings", [["finding", *STATEMENT], *body], remarks)


STATEMENT = ("statement", "effect", "expected", "p for", "p against", "test")


def part(rows: Sequence[Row]) -> Part:
    """Gather it all."""
    stages, gone = funnels(rows)
    embedded = any(row.embedded for row in rows)
    return Part(
        title="Playroom" if embedded else "Real data",
        embedded=embedded,
        main=paper_section(rows),
        ablation=ablation_section(rows),
        findings=[_told(finding, _overfits(rows)) for finding in findings(rows)],
        details=list(detail_sections(rows)),
        controls=list(control_sections(rows)),
        pictures=pictures(rows),
        examples=caption_examples(rows),
        funnel=to_svg(funnel_figure(stages)) if stages else None,
        funnel_alt=_funnel_alt(stages),
        funnel_table=funnel_section(stages) if stages else None,
        gone=gone,
        budgets=budget_lines(rows),
        runs=run_section(rows),
        packages=package_lines(rows),
    )


def _funnel_alt(stages: Sequence[dict[str, Any]]) -> str:
    return "; ".join(f"{stage['name']}: {stage['kept']:,} of {stage['in']:,} kept" for stage in stages)


def _overfits(rows: Sequence[Row]) -> str:
    """The losses by which one can see whether the larger language model overfits."""
    told = []
    for row in rows:
        losses = [loss for _, loss in curve(row.runs[0], "val_loss")]
        if row.name in (f"{LARGER}-filtered", f"{GENERATIVE}-filtered") and losses:
            told.append(f"{row.name} {min(losses):.3f}, {losses[-1]:.3f}")
    return f"Validation loss of the first seed, lowest and last: {'; '.join(told)}." if told else ""


def _told(finding: Finding, overfits: str) -> FindingTold:
    question, decisive = finding.question, finding.decisive
    lines = [
        [
            told.text + " (not counted)" * (not counted),
            _effect(told),
            _wanted(told),
            p_text(told.p_for),
            p_text(told.p_against),
            told.effect.test,
        ]
        for counted, tolds in ((True, finding.statements), (False, finding.told))
        for told in tolds
    ]
    return FindingTold(
        question.name,
        question.claim,
        question.how,
        finding.verdict,
        finding.lacking,
        "-" if finding.corrected is None else p_text(finding.corrected),
        None
        if decisive is None or finding.lacking
        else Told(decisive.text, _effect(decisive), _wanted(decisive), decisive.effect.test),
        Section(f"{question.name}: statements", [STATEMENT, *lines]) if lines else None,
        overfits if question.name == "F3" else "",
    )


def _effect(told: Statement) -> str:
    return interval(told.effect.estimate, "+" if told.is_difference else "")


def _wanted(told: Statement) -> str:
    return f"{'>' if told.sign > 0 else '<'} {told.threshold:.3g}"
