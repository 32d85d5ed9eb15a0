"""Findings: verdicts on simulated studies of which the truth is known, and every p value against scipy."""

import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from babyvlm.report.findings import HYPOTHESES, MAIN_ROWS, RULES, evaluate_findings
from babyvlm.report.runs import find_rows
from babyvlm.report.tables import findings_table
from support.made_runs import make_run, make_vtwt

sys.path.insert(0, str(Path(__file__).parents[2] / "perf"))
from interval_coverage import Truth, coverage, labeled_s, pairs
from power import NUMBERS, Study, paper_rates, rates_of_verdicts, threshold_rates

sys.path.pop(0)

ITEMS = {"labeled_s": 600, "vtwt": 800, "baby_winoground": 400}
NAMES = [hypothesis.name for hypothesis in HYPOTHESES]
WORDS = ("noun", "verb", "adjective", "both")
CLASSES = [("vtwt", word, "") for word in WORDS]


def rates(truth):
    """Return accuracies for which all findings are true, or all false."""
    sign, found = 1 if truth else -1, {}
    for row in NUMBERS:
        bound, larger = row in ("CLIP-large", "LLaVA-v1.5-7B"), "Llama" in row
        more = sign * (0.12 * row.startswith("CVCL") + 0.1 * row.endswith("-aug") - 0.15 * larger)
        more += (0.42 if truth else -0.2) * bound
        found[row] = {
            ("labeled_s", "accuracy", ""): 0.5 + more,
            ("baby_winoground", "overall", ""): 0.4 + more,
            ("baby_winoground", "positive_strict", ""): 0.333 + sign * 0.2,
            ("baby_winoground", "negative_strict", ""): 0.333 - sign * 0.2,
            ("vtwt", "accuracy", "blank"): 0.5 if truth else 0.7,
            ("vtwt", "accuracy", "text_only"): 0.5 if truth else 0.7,
            **{key: 0.45 + more + sign * 0.15 * (key[1] == "noun") for key in CLASSES},
        }
    return found


@pytest.mark.parametrize("truth", [True, False])
def test_findings_detect_true_and_false_hypotheses(truth):
    findings = evaluate_findings(Study(rates(truth), ITEMS, np.random.default_rng(5)).rows(4))
    expected = "supported" if truth else "contradicted"
    assert {finding.hypothesis.name: finding.verdict for finding in findings} == dict.fromkeys(NAMES, expected)


def test_findings_control_the_rate_of_wrong_verdicts():
    times = 30
    wrong = rates_of_verdicts({row: threshold_rates(row) for row in NUMBERS}, 3, times, np.random.default_rng(7), ITEMS)
    counts = {name: found["supported"] + found["contradicted"] for name, found in wrong.items()}
    assert max(counts.values()) <= 5  # of 30; more than 5 of 30 have a probability of 0.003 at a rate of 0.05
    assert sum(counts.values()) <= 0.12 * times * len(NAMES)


def test_simulated_worlds_vary():
    variance = []
    for sd in (0.0, 0.1):
        study = Study({row: paper_rates(row) for row in NUMBERS}, ITEMS, np.random.default_rng(4), world_sd=sd)
        found = evaluate_findings(study.rows(1, worlds=3))
        effects = [one.effect for finding in found for one in finding.statements]
        assert {(effect.worlds, effect.test) for effect in effects} == {(3, "t over worlds")}
        assert not {finding.verdict for finding in found} & {"no verdict", "not tested"}
        variance.append(np.mean([effect.variance for effect in effects]))
    assert variance[1] > 4 * variance[0]


def test_no_verdict_from_one_seed_or_without_a_row():
    study = Study({row: paper_rates(row) for row in NUMBERS}, ITEMS, np.random.default_rng(1))
    assert {finding.verdict for finding in evaluate_findings(study.rows(1))} == {"no verdict"}
    assert {finding.verdict for finding in evaluate_findings(study.rows(2))} == {"no verdict"}
    rows = study.rows(3)
    without = [row for row in rows if row.name != "BabyLLaVA-GPT2-filtered"]
    found = {finding.hypothesis.name: finding for finding in evaluate_findings(without)}
    assert found["F1"].untestable == "no run of BabyLLaVA-GPT2-filtered"
    assert {name for name in NAMES if found[name].verdict != "not tested"} == {"F2"}
    assert {finding.verdict for finding in evaluate_findings([])} == {"not tested"}


def test_verdicts_do_not_depend_on_other_rows():
    study = Study({row: paper_rates(row) for row in NUMBERS}, ITEMS, np.random.default_rng(2))
    rows = study.rows(3)
    every = {finding.hypothesis.name: finding for finding in evaluate_findings(rows)}
    few = [row for row in rows if row.name in MAIN_ROWS or row.name == "CVCL-filtered-random"]
    some = {finding.hypothesis.name: finding for finding in evaluate_findings(few)}
    for name in ("F0 VTWT", "F1", "F2", "F4", "F5", "F6"):
        assert (every[name].verdict, every[name].p) == (some[name].verdict, some[name].p)
        texts = [[one.effect_text for one in found[name].statements] for found in (every, some)]
        assert texts[0] == texts[1]


def test_findings_table_shows_effects_before_verdicts():
    study = Study({row: paper_rates(row) for row in NUMBERS}, ITEMS, np.random.default_rng(3))
    table = findings_table(evaluate_findings(study.rows(3)))
    assert list(table.heading).index("effect") < list(table.heading).index("verdict")
    first = dict(zip(table.heading, table.rows[0], strict=True))
    assert first["paper"] == "+0.044"  # mean of 0.581 - 0.609 and 0.536 - 0.420
    assert (first["items"], first["images"], first["seeds"], first["worlds"]) == ("600", "unknown", "3", "1")


@pytest.mark.parametrize(("seeds", "worlds"), [(1, 1), (3, 1), (1, 3)])
def test_coverage_of_intervals_is_nominal(seeds, worlds):
    """93% to 97%, and two standard errors of a simulation more."""
    draw, times = np.random.default_rng(0), 400
    low, high = (share + sign * 2 * (share * (1 - share) / times) ** 0.5 for share, sign in ((0.93, -1), (0.97, 1)))
    for design in (labeled_s(400, 120, draw), pairs("", 300, 2)):
        found = coverage(design, 0.6, Truth(seed=0.1, world=0.1), seeds=seeds, worlds=worlds, times=times, draw=draw)
        assert all(low <= one <= high for one in found), (design.title, found)


def blind(logs, phrases, seeds=3, natural=False):
    """Return F5 for models that, with a blank image, always prefer the same of two phrases."""
    items, config = make_vtwt(logs / "lists", phrases, "NaturalVTWT" if natural else "VTWT")
    name = "vtwt_natural" if natural else "vtwt"
    draw = np.random.default_rng(2)
    liked = {frozenset(pair): pair[draw.integers(2)] for pair in sorted(set(map(tuple, map(sorted, phrases))))}
    credit = [float(liked[frozenset(pair)] == pair[0]) for pair in phrases]
    for row in ("CVCL-filtered", "BabyLLaVA-GPT2-filtered"):
        for seed in range(seeds):
            options = {"controls": {"": 1, "blank": 1, "text_only": 1}, "seed": seed, "images": False}
            run = make_run(logs, row, seed, config=config, items={name: items}, **{name: credit}, **options)
            (run / "checkpoints").mkdir()
    return next(one for one in evaluate_findings(find_rows(logs)[0]) if one.hypothesis.name == "F5")


def one_order(number):
    return [(f"wash {n}", f"cut {n}") for n in range(number)]


def both_orders(number):
    return [order for one, other in one_order(number) for order in ((one, other), (other, one))]


def test_findings_skip_what_holds_by_construction(tmp_path):
    found = blind(tmp_path / "balanced", both_orders(40))
    assert (found.verdict, found.p, found.statements) == ("by construction", None, [])
    assert "not testable on this list" in found.untestable


def test_findings_use_only_informative_blind_items(tmp_path):
    more = [(f"big {n}", f"red {n}") for n in range(30)]
    found = blind(tmp_path, [*both_orders(40), *more, *more[:10], *[(other, one) for one, other in more[:10]]])
    effect = found.statements[0].effect
    assert (effect.items, effect.images) == (50, 50)  # ten pairs occur twice in one order and once in the other
    assert effect.units == pytest.approx(50**2 / (20 * 1 + 10 * 9))  # Kish's number of 20 groups of 1 and 10 of 3
    assert found.verdict == "undecided"


def test_findings_use_the_natural_list_for_blind_items(tmp_path):
    blind(tmp_path, both_orders(40))
    found = blind(tmp_path / "second", one_order(40), natural=True)
    assert "VTWT, natural with a blank image" in found.statements[0].text
    assert found.statements[0].effect.items == 40


@pytest.mark.parametrize("gone", [True, False])
def test_findings_of_older_results_need_the_vtwt_list(tmp_path, gone):
    blind(tmp_path, both_orders(20))
    trials = tmp_path / "lists" / "vtwt.csv"
    trials.unlink() if gone else trials.write_text("image,positive_phrase,negative_phrase\n0.jpg,a,b\n")
    found = next(one for one in evaluate_findings(find_rows(tmp_path)[0]) if one.hypothesis.name == "F5")
    assert found.verdict == "not tested"
    assert "list of VTWT is missing" in found.untestable


def test_findings_mark_derived_word_classes(tmp_path):
    draw, version = np.random.default_rng(0), count()
    for row in MAIN_ROWS:
        credit = draw.binomial(1, 0.6, 40).tolist()
        made = {"vtwt": credit, "categories": list(np.resize(WORDS, 40)), "facts": {"derived_categories": "true"}}
        (make_run(tmp_path, row, next(version), **made) / "checkpoints").mkdir()
    words = next(one for one in evaluate_findings(find_rows(tmp_path)[0]) if one.hypothesis.name == "F6")
    assert all("derived by lexicon" in one.text for one in words.statements)
    assert words.verdict == "no verdict"


def test_p_values_of_single_seeds_match_scipy(tmp_path):
    draw, credits = np.random.default_rng(11), {}
    for row in ("CVCL-filtered-aug", "CVCL-filtered-random"):
        credits[row] = draw.choice([0, 0.5, 1], 120, p=[0.3, 0.1, 0.6])
        made = {test: credits[row].tolist() for test in ("vtwt", "baby_winoground", "labeled_s")}
        (make_run(tmp_path, row, 0, **made) / "checkpoints").mkdir()
    found = next(one for one in evaluate_findings(find_rows(tmp_path)[0]) if one.hypothesis.name == "F2")
    difference = credits["CVCL-filtered-aug"] - credits["CVCL-filtered-random"]
    plain = ttest_1samp(difference, 0)
    error = (plain.statistic and (difference.mean() / plain.statistic)) or 0
    widened = (error**2 + 2 / 122**2) ** 0.5  # an item more that only one of the two answers, and one of the other
    expected = t.sf(difference.mean() / widened, 119)
    assert [one.p_for for one in found.statements] == pytest.approx([expected] * 2)
    assert found.verdict == "no verdict"


def test_rows_of_several_worlds_are_compared_over_worlds(tmp_path):
    draw, means = np.random.default_rng(4), []
    for world in range(3):
        drawn = [draw.binomial(1, share, 80).tolist() for share in (0.8, 0.6)]
        means.append(np.mean(drawn[0]) - np.mean(drawn[1]))
        for row, credit in zip(("CVCL-filtered-aug", "CVCL-filtered-random"), drawn, strict=True):
            facts = {"world_seed": str(world), "world_parameters": "size tiny"}
            made = {"vtwt": credit, "baby_winoground": credit, "facts": facts, "world": "playroom"}
            (make_run(tmp_path, row, world, seed=world, **made) / "checkpoints").mkdir()
    found = next(one for one in evaluate_findings(find_rows(tmp_path)[0]) if one.hypothesis.name == "F2")
    effect = found.statements[0].effect
    assert (effect.worlds, effect.items, effect.images, effect.test) == (3, 240, 240, "t over worlds")
    assert effect.mean == pytest.approx(np.mean(means))
    assert effect.variance == pytest.approx(np.var(means, ddof=1) / 3 + 2 / 82**2 / 3)
    assert found.verdict in ("undecided", "supported")


def test_rules_are_dated_and_complete():
    assert str(RULES["date"]) == "2026-11-28"
    assert list(RULES["findings"]) == NAMES
    assert all(hypothesis.criterion and "{" not in hypothesis.criterion for hypothesis in HYPOTHESES)
