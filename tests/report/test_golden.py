"""Report numbers against those of version 0.1, which computed them without statsmodels.

``golden.json`` was written by version 0.1 from the same runs and is not generated again: a difference is an error.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from support.made_runs import make_run, make_vtwt

GOLDEN = Path(__file__).with_name("golden.json")
MIXES = {"filtered": 0, "filtered-aug": 0.1, "filtered-random": -0.05}
RATES = {"CVCL": 0.6, "BabyLLaVA-GPT2": 0.5, "BabyLLaVA-Llama": 0.45, "CLIP-large": 0.9}
SEEDS = {"CVCL-filtered": 2, "CVCL-filtered-aug": 2, "BabyLLaVA-GPT2-filtered": 2}
ITEMS = 24


def credits(rate, row, seed, *, ties=False):
    """Return credits that look random and do not depend on a random number generator."""
    draws = [((item * 37 + row * 11 + seed * 5 + 1) * 7919 % 1009) / 1009 for item in range(ITEMS)]
    return [0.5 if ties and item % 7 == 3 else float(draw < rate) for item, draw in enumerate(draws)]


def make_runs(logs):
    """Write runs of eight rows with one or two seeds, VTWT items in groups, ties, controls and captions."""
    phrases = [(f"wash {n}", f"cut {n}") for n in range(16)] + [(f"cut {n}", f"wash {n}") for n in range(8)]
    items, config = make_vtwt(logs.parent / "lists", phrases)
    names = [f"{model}-{mix}" for model in ("CVCL", "BabyLLaVA-GPT2") for mix in MIXES]
    for number, name in enumerate([*names, "BabyLLaVA-Llama-filtered", "CLIP-large"]):
        model = next(model for model in RATES if name.startswith(model))
        rate = RATES[model] + MIXES.get(name.removeprefix(f"{model}-"), 0)
        for seed in range(SEEDS.get(name, 1)):
            own = {
                "labeled_s": credits(rate, number, seed),
                "vtwt": credits(rate + 0.05, number + 20, seed, ties="random" in name),
                "baby_winoground": credits(rate - 0.1, number + 40, seed),
            }
            captions = {"caption": [0.3 * credit + 0.01 * item for item, credit in enumerate(own["vtwt"])]}
            run = make_run(
                logs,
                name,
                seed,
                seed=seed,
                config=config,
                items={"vtwt": items},
                categories=list(np.resize(["noun", "verb", "adjective"], ITEMS)),
                controls={"": 1, "blank": 0.8},
                measures={"overall": 1, "positive_strict": 0.6, "negative_strict": 0.4, "positive": 0.9},
                **own | (captions if model.startswith("Baby") else {}),
            )
            if model != "CLIP-large":
                (run / "checkpoints").mkdir()


def table_cells(rows):
    return {row[0]: row[1:] for row in rows}


def test_report_numbers_are_those_of_version_0_1(tmp_path):
    from babyvlm.report.comparisons import compare_rows
    from babyvlm.report.findings import evaluate_findings
    from babyvlm.report.runs import find_rows
    from babyvlm.report.tables import ablation_table, control_table, detail_tables, main_table

    make_runs(tmp_path / "logs")
    rows = find_rows(tmp_path / "logs")[0]
    golden = json.loads(GOLDEN.read_text())
    tables = {"main": main_table(rows), "ablation": ablation_table(rows), "controls": control_table(rows)}
    tables |= {f"detail {number}": table for number, table in enumerate(detail_tables(rows))}
    assert {name: table_cells(table.rows) for name, table in tables.items()} == golden["tables"]
    for finding, expected in zip(evaluate_findings(rows), golden["findings"], strict=True):
        assert [finding.hypothesis.name, finding.verdict] == expected[:2]
        assert finding.corrected_p == (None if expected[2] is None else pytest.approx(expected[2], rel=1e-9))
        p_values = [p for statement in finding.statements for p in (statement.p_for, statement.p_against)]
        assert p_values == pytest.approx(expected[3], rel=1e-9)
    by_name = {row.name: row for row in rows}
    for (name_a, name_b), expected in golden["comparisons"]:
        found = {column.title: comparison for column, comparison in compare_rows(by_name[name_a], by_name[name_b])}
        assert {title: comparison.test for title, comparison in found.items()} == {
            title: test for title, (test, _, _) in expected.items()
        }
        for title, (_, p, interval) in expected.items():
            assert found[title].p == pytest.approx(p, rel=1e-9)
            estimate = found[title].difference
            assert [estimate.mean, estimate.low, estimate.high] == pytest.approx(interval, rel=1e-9, abs=1e-12)
