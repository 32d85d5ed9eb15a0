"""Figures: styles that tell models apart, seeds and the tested step, and pages of a paper."""

import json
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from babyvlm.report.estimates import Estimate
from babyvlm.report.figures import PAPER_LAYOUTS, PLAIN, WIDE, Chart, Panel, Series, charts, draw_dots, family_styles
from babyvlm.report.page import FUNNEL_LAYOUTS, draw_funnels
from babyvlm.report.runs import find_rows
from support.made_runs import make_run

STUDY = yaml.safe_load((Path(__file__).parents[2] / "configs" / "study" / "ablations.yaml").read_text())
PAGE_INCHES = 9


def test_family_styles_differ_without_color():
    families = [*STUDY["models"], "floors", "upper bounds", "CVCL-lstm", "CVCL-transformer", "Own"]
    styles = family_styles(families)
    assert len({(style.marker, style.hollow) for style in styles.values()}) == len(families)


def test_family_styles_give_variants_the_color_of_their_model():
    styles = family_styles(STUDY["models"])
    for base in ("CVCL", "BabyLLaVA-GPT2", "BabyLLaVA-Llama"):
        assert {style.color for name, style in styles.items() if name.startswith(base)} == {styles[base].color}
    assert len({style.color for style in styles.values()}) == 3
    assert family_styles(["CVCL-frozen"])["CVCL-frozen"] == styles["CVCL-frozen"]  # whatever else there is


def test_dots_of_a_paper_are_divided_over_pages():
    labels = [f"CVCL-{number} (3 seeds, 3 worlds, step 3,000)" for number in range(45)]
    values = [Estimate(0.5, 0.4, 0.6, 9)] * 45
    panels = [Panel(title, "accuracy", 0.5, {"": Series(PLAIN, values, [[0.4, 0.6]] * 45)}) for title in "ab"]
    assert len(draw_dots(labels, panels, WIDE)) == 1
    for layout in PAPER_LAYOUTS.values():
        figures = draw_dots(labels, panels, layout)
        assert max(figure.get_figheight() for figure in figures) <= PAGE_INCHES
        shown = [(ax.get_title(), len(ax.get_yticks())) for figure in figures for ax in figure.axes if ax.get_title()]
        assert {title: sum(count for name, count in shown if name == title) for title in "ab"} == {"a": 45, "b": 45}


def test_pages_of_a_figure_are_numbered():
    chart = Chart("x", "", "", lambda _: [Figure(figsize=(1, 1)), Figure(figsize=(1, 1))])
    names = [name for name, _ in chart.for_paper()]
    assert names[:2] == ["x-1-column-1.svg", "x-1-column-1.pdf"]
    assert names[-1] == "x-2-columns-2.pdf"
    (single, _) = Chart("x", "", "", lambda _: [Figure(figsize=(1, 1))], {"1-column": WIDE}).for_paper()
    assert single[0] == "x-1-column.svg"


@pytest.mark.parametrize("name", ["scores", "controls", "words", "contexts", "categories"])
def test_figures_show_seeds_and_the_tested_step(tmp_path, name):
    for seed in range(2):
        made = {"controls": {"": 1, "blank": 0.5}, "measures": {"overall": 1, "positive": 0.5, "accuracy": 1}}
        credits = {benchmark: [1, 0, 1, seed] for benchmark in ("vtwt", "labeled_s", "baby_winoground")}
        words = ["noun", "verb", "noun", "verb"]
        run = make_run(tmp_path, "CVCL-filtered", seed, seed=seed, categories=words, **made, **credits)
        (run / "checkpoints").mkdir()
        (run / "best_checkpoint.json").write_text(json.dumps({"path": "checkpoints/last.ckpt", "step": 1600}))
    labels, panels = charts(find_rows(tmp_path)[0])[name].draw.args
    facts = [panel.title.splitlines()[-1] for panel in panels] if name == "categories" else labels
    assert all(text.endswith("(2 seeds, step 1,600)") for text in facts)
    shown = [series for panel in panels for series in panel.series.values()]
    assert shown
    assert all(len(runs) == 2 for series in shown for runs in series.runs)


def test_funnels_of_a_paper_are_divided_over_pages():
    stage = {"name": "filter", "in": 9, "kept": 3, "unit": "pairs", "dropped": {"dark": 4, "blurred": 2}}
    stages = [stage | {"name": f"filter {number}"} for number in range(20)]
    (layout,) = FUNNEL_LAYOUTS.values()
    figures = draw_funnels(stages, layout)
    assert max(figure.get_figheight() for figure in figures) <= PAGE_INCHES
    assert {figure.get_figwidth() for figure in figures} == {layout.width}
    titles = [ax.get_title(loc="left").partition(":")[0] for figure in figures for ax in figure.axes]
    assert titles == [stage["name"] for stage in stages]
