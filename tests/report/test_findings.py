"""Findings: every statistic against scipy, and verdicts on simulated rows of which the truth is known."""

from math import sqrt

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from babyvlm.report.columns import LABELED_S
from babyvlm.report.comparisons import average
from babyvlm.report.estimates import Term, combine_means
from babyvlm.report.findings import evaluate_findings
from babyvlm.report.runs import Row, Run, find_rows
from support.made_runs import make_run, make_vtwt

MIXES = ("filtered", "filtered-aug", "filtered-random", "aug-only")
TRAINED = [f"{model}-{mix}" for model in ("CVCL", "BabyLLaVA-GPT2") for mix in MIXES] + ["BabyLLaVA-Llama-filtered"]
TESTS = ("labeled_s", "vtwt", "baby_winoground")
ITEMS = dict.fromkeys(TESTS, 600)
WORDS = ("noun", "verb", "adjective", "both")


def one_order(number):
    """Return ``number`` pairs of phrases, each in one order."""
    return [(f"wash {n}", f"cut {n}") for n in range(number)]


class Simulated(Row):
    """A row with simulated credits.

    ``rates``: (benchmark, measure, control) -> accuracy, and for VTWT word class -> accuracy; ``apart``: standard
    deviation of the accuracy between seeds. The run's folder names the list of VTWT.
    """

    run, vtwt = None, []

    def __init__(self, name, rates, draw, *, seeds=1, apart=0.0, trained=True):
        self.name, self.runs, self.trained, self.embedded = name, [self.run] * seeds, trained, True
        self.scores = {}
        shifts = draw.normal(0, apart, seeds)
        self.drawn = {
            key: [
                dict(zip(self.vtwt, draw.binomial(1, np.clip(rate + shift, 0, 1), ITEMS[key[0]]), strict=True))
                for shift in shifts
            ]
            for key, rate in rates.items()
            if len(key) == 3
        }
        self.by_word = {word: rates.get(word) for word in WORDS}
        for place, word in enumerate(WORDS):
            if self.by_word[word] is not None:
                for run, shift in zip(self.drawn["vtwt", "accuracy", ""], shifts, strict=True):
                    for item in self.vtwt[place::4]:
                        run[item] = draw.binomial(1, np.clip(self.by_word[word] + shift, 0, 1))

    def _tested(self, column, control):
        runs = self.drawn.get((column.benchmark, column.measure, control), [])
        chosen = slice(None) if column.category is None else slice(WORDS.index(column.category), None, 4)
        return [dict(list(run.items())[chosen]) for run in runs]

    def has_derived_categories(self, benchmark):
        return False


@pytest.fixture(autouse=True, scope="module")
def list_of_vtwt(tmp_path_factory):
    """The list that simulated rows were tested on; items of other benchmarks have the same names."""
    folder = tmp_path_factory.mktemp("run")
    Simulated.vtwt, config = make_vtwt(folder, one_order(600))
    (folder / "config.yaml").write_text(config)
    Simulated.run = Run(folder)


def rates(labeled_s=0.5, vtwt=0.6, baby_winoground=0.3, positive=0.6, negative=0.2, blank=0.5, text_only=None, **words):
    found = {
        ("labeled_s", "accuracy", ""): labeled_s,
        ("vtwt", "accuracy", ""): vtwt,
        ("vtwt", "accuracy", "blank"): blank,
        ("baby_winoground", "overall", ""): baby_winoground,
        ("baby_winoground", "positive_strict", ""): positive,
        ("baby_winoground", "negative_strict", ""): negative,
    }
    return found | ({("vtwt", "accuracy", "text_only"): text_only} if text_only else {}) | words


# With the first accuracies all seven findings hold, with the second none.
ALL_TRUE = {
    "CVCL": rates(0.7, 0.75, 0.35),
    "BabyLLaVA-GPT2": rates(0.45, 0.6, 0.15),
    "BabyLLaVA-Llama": rates(0.3, 0.45, 0.05),
}
ALL_FALSE = {
    "CVCL": rates(0.3, 0.5, 0.1, positive=0.2, negative=0.7, blank=0.7),
    "BabyLLaVA-GPT2": rates(0.5, 0.6, 0.3, positive=0.2, negative=0.7, blank=0.7),
    "BabyLLaVA-Llama": rates(0.7, 0.8, 0.5, positive=0.2, negative=0.7, blank=0.7),
}
WORD_CLASS_RATES = {
    1: {"noun": 0.7, "verb": 0.5, "adjective": 0.5, "both": 0.55},
    -1: {"noun": 0.5, "verb": 0.7, "adjective": 0.7, "both": 0.7},
}


def world(truth, draw, seeds=1, apart=0.0):
    """Return simulated rows for which all findings are true, or all false."""
    sign, rows = 1 if truth else -1, []
    for name in TRAINED:
        model = next(model for model in ("CVCL", "BabyLLaVA-GPT2", "BabyLLaVA-Llama") if name.startswith(model))
        own = dict((ALL_TRUE if truth else ALL_FALSE)[model])
        gain = sign * 0.1 * (name.endswith("-aug") - name.endswith("-random"))
        own["baby_winoground", "overall", ""] = max(own["baby_winoground", "overall", ""] + gain / 2, 0.01)
        more = gain + sign * (0.1 * (model == "CVCL") - 0.15 * (model == "BabyLLaVA-Llama"))
        words = {word: rate + more for word, rate in WORD_CLASS_RATES[sign].items()}
        rows.append(Simulated(name, own | words, draw, seeds=seeds, apart=apart))
    best = rates(0.95, 0.97, 0.9) if truth else rates(0.3, 0.3, 0.05)
    return [Simulated("CLIP-large", best, draw, trained=False), *rows]


@pytest.mark.parametrize(("seeds", "apart"), [(1, 0.0), (3, 0.01)])
@pytest.mark.parametrize("truth", [True, False])
def test_findings_detect_true_and_false_hypotheses(truth, seeds, apart):
    found = evaluate_findings(world(truth, np.random.default_rng(5), seeds, apart))
    assert {finding.hypothesis.name: finding.verdict for finding in found} == dict.fromkeys(
        [f"F{n}" for n in range(1, 8)], "supported" if truth else "contradicted"
    )
    for finding in found:
        assert finding.corrected_p < 0.05
        decisive = finding.decisive
        assert (decisive.sign * (decisive.effect.mean - decisive.threshold) > 0) is truth


def test_findings_without_effect_are_undecided():
    draw = np.random.default_rng(0)
    same = rates(0.5, 0.6, 1 / 3, positive=1 / 3, negative=1 / 3, blank=0.55)
    rows = [Simulated(name, same, draw) for name in TRAINED]
    found = evaluate_findings([Simulated("CLIP-large", rates(0.55, 0.65, 0.38), draw, trained=False), *rows])
    assert {finding.verdict for finding in found} == {"undecided"}
    assert not any(finding.untestable for finding in found)


# Every effect equals its threshold, so that any verdict other than undecided is an error.
@pytest.mark.parametrize(
    ("seeds", "apart"),
    [pytest.param(1, 0.0, marks=pytest.mark.soak), pytest.param(3, 0.0, marks=pytest.mark.soak), (3, 0.04)],
)
def test_findings_control_error_rate_at_threshold(seeds, apart):
    draw = np.random.default_rng(7)
    border = rates(0.5, 0.6, 1 / 3, positive=1 / 3, negative=1 / 3, blank=0.55)
    larger = rates(0.52, 0.62, 1 / 3 + 0.02, positive=1 / 3, negative=1 / 3, blank=0.55)
    wrong, times = 0, 40
    for _ in range(times):
        rows = [
            Simulated(name, larger if "Llama" in name else border, draw, seeds=seeds, apart=apart) for name in TRAINED
        ]
        wrong += any(finding.verdict != "undecided" for finding in evaluate_findings(rows))
    assert wrong / times <= 0.15  # 0.05, and three standard deviations of 40 draws


@pytest.mark.parametrize("apart", [0.0, 0.05, 0.2])
@pytest.mark.parametrize(("one", "other"), [(1, 1), (3, 3), (2, 4)])
def test_combine_means_controls_error_rate(one, other, apart):
    draw, times, false = np.random.default_rng(3), 400, 0
    if apart and (one, other) == (1, 1):
        pytest.skip("one seed does not show the variance between seeds")
    for _ in range(times):
        items = draw.normal(0, 0.3, 80)
        credit = [
            draw.normal(0, apart, (seeds, 1)) + items + draw.normal(0, 0.2, (seeds, 80)) for seeds in (one, other)
        ]
        found = combine_means([Term(1, "a", credit[0]), Term(-1, "b", credit[1])])
        false += 2 * min(found.p_above(0), found.p_below(0)) < 0.05
    assert false / times <= 0.05 + 3 * sqrt(0.05 * 0.95 / times)


def test_findings_mark_derived_word_classes(tmp_path):
    for name, facts in (("CVCL-filtered", {}), ("CVCL-aug-only", {"derived_categories": "true"})):
        made = {"vtwt": [1, 0] * 6, "categories": list(np.resize(WORDS, 12))}
        (make_run(tmp_path / name, name, 0, facts=facts, **made) / "checkpoints").mkdir()
        (words,) = (
            finding for finding in evaluate_findings(find_rows(tmp_path / name)[0]) if finding.hypothesis.name == "F6"
        )
        assert {"derived" in statement.text for statement in words.statements} == {bool(facts)}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """One seed of every row as results on disk with random credits and ties; returns rows and credits."""
    logs, draw, credits = tmp_path_factory.mktemp("logs"), np.random.default_rng(11), {}
    categories, (items, config) = list(np.resize(WORDS, 120)), make_vtwt(logs / "lists", one_order(120))
    for name in [*TRAINED, "CLIP-large", "LLaVA-v1.5-7B"]:
        rate = {"CVCL": 0.7, "Baby": 0.55, "CLIP": 0.9, "LLaV": 0.8}[name[:4]]
        own = {test: draw.choice([0, 0.5, 1], 120, p=[0.9 - rate, 0.1, rate]) for test in TESTS}
        run = make_run(
            logs,
            name,
            0,
            config=config,
            items={"vtwt": items},
            categories=categories,
            controls={"": 1, "blank": 0.8},
            measures={"overall": 1, "positive_strict": 0.6, "negative_strict": 0.4, "positive": 0.9, "negative": 0.5},
            **{test: own[test].tolist() for test in TESTS},
        )
        if name in TRAINED:
            (run / "checkpoints").mkdir()
        credits[name] = own
    return find_rows(logs)[0], credits


def paired(credits, test, pairs):
    return np.mean([credits[one][test] - credits[other][test] for one, other in pairs], axis=0)


def mean_of_filtered(credits, test):
    return np.mean([credits[name][test] for name in TRAINED if name.endswith("-filtered")], axis=0)


def expected_p(credits):
    """Return the one-sided p values of every statement by scipy's tests."""
    versus = [(f"CVCL-{mix}", f"BabyLLaVA-GPT2-{mix}") for mix in MIXES]
    gains = [(f"{model}-filtered-aug", f"{model}-filtered-random") for model in ("CVCL", "BabyLLaVA-GPT2")]
    larger = [("BabyLLaVA-Llama-filtered", "BabyLLaVA-GPT2-filtered")]
    vtwt = np.mean([credits[name]["vtwt"] for name in TRAINED], axis=0)
    overall = mean_of_filtered(credits, "baby_winoground")
    words = np.resize(WORDS, 120)

    def p(values, border=0.0, side="greater"):
        return ttest_1samp(values, border, alternative=side).pvalue

    return {
        "F1": [p(paired(credits, test, versus)) for test in TESTS],
        "F2": [p(paired(credits, test, gains)) for test in TESTS[1:]],
        "F3": [p(paired(credits, test, larger), 0.02, "less") for test in TESTS],
        "F4": [p(overall * 0.6, 1 / 3), p(overall * 0.4, 1 / 3, "less")],
        "F5": [p(vtwt * 0.8, 0.45), p(vtwt * 0.8, 0.55, "less")],
        "F6": [
            ttest_ind(vtwt[words == "noun"], vtwt[words == other], equal_var=False, alternative="greater").pvalue
            for other in ("verb", "adjective")
        ],
        "F7": [
            p(credits[upper][test] - credits[name][test], 0.05)
            for test in TESTS
            for upper in ("CLIP-large", "LLaVA-v1.5-7B")
            for name in TRAINED
        ],
    }


def test_findings_p_values_match_scipy(on_disk):
    rows, credits = on_disk
    expected = expected_p(credits)
    p_values = {}
    for finding in evaluate_findings(rows):
        name = finding.hypothesis.name
        assert [statement.p_for for statement in finding.statements] == pytest.approx(expected[name], abs=1e-12), name
        against = [1 - p for p in expected[name]]
        assert [statement.p_against for statement in finding.statements] == pytest.approx(against, abs=1e-9), name
        p_values[name] = min(1, 2 * min(max(expected[name]), len(against) * min(against)))
        assert finding.p == pytest.approx(p_values[name], abs=1e-9)
    ordered = sorted(p_values, key=p_values.get)
    stepped = [min(1, max((7 - k) * p_values[ordered[k]] for k in range(place + 1))) for place in range(7)]
    corrected = {finding.hypothesis.name: finding.corrected_p for finding in evaluate_findings(rows)}
    assert [corrected[name] for name in ordered] == pytest.approx(stepped, abs=1e-9)


def blind(logs, phrases, drawn):
    """Return F5 and F1 for models that, with a blank image, always prefer the same of two phrases."""
    items, config = make_vtwt(logs / "lists", phrases)
    draw = np.random.default_rng(2)
    for row in ("CVCL-filtered", "BabyLLaVA-GPT2-filtered"):
        liked = {frozenset(pair): pair[draw.integers(2)] for pair in sorted(set(map(tuple, map(sorted, phrases))))}
        credit = [float(liked[frozenset(pair)] == pair[0]) for pair in phrases]
        run = make_run(
            logs,
            row,
            0,
            config=config,
            items={"vtwt": items},
            controls={"": 1, "blank": 1},
            vtwt=credit,
            labeled_s=drawn,
            baby_winoground=drawn,
        )
        (run / "checkpoints").mkdir()
    return {finding.hypothesis.name: finding for finding in evaluate_findings(find_rows(logs)[0])}


def both_orders(number):
    return [order for one, other in one_order(number) for order in ((one, other), (other, one))]


def test_findings_skip_what_holds_by_construction(tmp_path):
    drawn = np.random.default_rng(0).binomial(1, 0.5, 40).tolist()
    found = blind(tmp_path / "balanced", both_orders(120), drawn)
    assert (found["F5"].verdict, found["F5"].corrected_p, found["F5"].statements) == ("by construction", None, [])
    assert "not testable on this list" in found["F5"].untestable
    testable = [finding for finding in found.values() if not finding.untestable]
    assert {finding.hypothesis.name for finding in testable} == {"F1"}
    assert found["F1"].corrected_p == found["F1"].p  # Holm corrects for tested findings only
    one_way = blind(tmp_path / "one-way", one_order(240), drawn)["F5"]
    assert not one_way.untestable
    assert one_way.statements[0].effect.items == 240


def test_findings_use_only_informative_blind_items(tmp_path):
    drawn = np.random.default_rng(0).binomial(1, 0.5, 40).tolist()
    more = [(f"big {n}", f"red {n}") for n in range(30)]
    found = blind(tmp_path, [*both_orders(120), *more, *more[:10], *[(other, one) for one, other in more[:10]]], drawn)
    effect = found["F5"].statements[0].effect
    assert (effect.items, effect.groups) == (50, 30)  # ten pairs occur twice in one order and once in the other
    assert found["F5"].verdict == "undecided"


@pytest.mark.parametrize("gone", [True, False])
def test_findings_need_the_vtwt_list(tmp_path, gone):
    drawn = [0, 1] * 20
    blind(tmp_path, both_orders(60), drawn)
    trials = tmp_path / "lists" / "vtwt.csv"
    trials.unlink() if gone else trials.write_text("image,positive_phrase,negative_phrase\n0.jpg,a,b\n")
    found = evaluate_findings(find_rows(tmp_path)[0])[4]
    assert found.verdict == "undecided"
    assert "list of VTWT is missing" in found.untestable


@pytest.mark.parametrize("sizes", [[2] * 60, [1, 3] * 30])
def test_combine_means_accounts_for_groups(sizes):
    draw, times, false = np.random.default_rng(4), 400, 0
    groups = np.repeat(np.arange(60), sizes)
    for _ in range(times):
        shared = draw.normal(0, 0.3, 60)[groups] + draw.normal(0, 0.1, len(groups))
        found = combine_means([Term(1, "a", shared[None], groups_N=groups)])
        false += 2 * min(found.p_above(0), found.p_below(0)) < 0.05
    assert 0.02 <= false / times <= 0.09  # at least 0.17 if groups were ignored
    assert (found.items, found.groups, found.test) == (sum(sizes), 60, "t over groups of items")
    if sizes == [2] * 60:
        means = shared.reshape(60, 2).mean(1)
        assert found.p_above(0) == pytest.approx(ttest_1samp(means, 0, alternative="greater").pvalue)


def test_average_interval_matches_t_test(on_disk):
    rows, credits = on_disk
    found = average([row for row in rows if row.name.endswith("-filtered")], LABELED_S).estimate
    wanted = ttest_1samp(mean_of_filtered(credits, "labeled_s"), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_combine_means_adds_variance_of_seeds():
    draw = np.random.default_rng(1)
    one, other = draw.random((3, 50)), draw.random((2, 50))
    found = combine_means([Term(1, "a", one), Term(-1, "b", other)])
    parts = [
        (np.var(one.mean(0) - other.mean(0), ddof=1) / 50, 49),
        (np.var(one.mean(1), ddof=1) / 3, 2),
        (np.var(other.mean(1), ddof=1) / 2, 1),
    ]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    assert (found.mean, found.error) == pytest.approx((one.mean() - other.mean(), sqrt(variance)))
    assert found.p_above(0.01) == pytest.approx(t.sf((found.mean - 0.01) / sqrt(variance), freedom))
    assert found.test == "t over items and seeds"
    # Two sets of items of one row: the seeds are the same, and their common effect cancels.
    shift = np.array([[-0.3], [0.0], [0.3]])
    groups = draw.random((2, 1, 40)) + np.zeros((2, 3, 40))
    apart = combine_means([Term(1, "a", groups[0] + shift, "x"), Term(-1, "a", groups[1] + shift, "y")])
    together = combine_means([Term(1, "a", groups[0], "x"), Term(-1, "a", groups[1], "y")])
    assert apart.error == pytest.approx(together.error)


def test_combine_means_without_variance():
    sure = combine_means([Term(1, "a", np.ones((1, 5)))])
    assert (sure.p_above(0.5), sure.p_below(0.5)) == (0.5**5, 1)  # sign test, five of five
    assert sure.estimate.low == sure.estimate.high == 1
    with pytest.raises(ValueError, match="fewer than two"):
        combine_means([Term(1, "a", np.ones((3, 1)))])


@pytest.mark.parametrize(
    ("without", "untestable"),
    [
        ("CVCL", {"F1": "no run of CVCL-filtered", "F7": ""}),
        ("BabyLLaVA-Llama", {"F3": "no run of BabyLLaVA-Llama-filtered", "F1": ""}),
        ("CLIP-large", {"F7": "no run of an upper bound"}),
        ("Baby", {"F1": "no run of BabyLLaVA-GPT2-filtered", "F2": "", "F4": ""}),
    ],
)
def test_findings_name_missing_rows(without, untestable):
    rows = [row for row in world(True, np.random.default_rng(5)) if not row.name.startswith(without)]
    found = {finding.hypothesis.name: finding for finding in evaluate_findings(rows)}
    for name, words in untestable.items():
        assert found[name].untestable == words
        assert (found[name].verdict == "undecided") is bool(words)
    assert (found[next(iter(untestable))].corrected_p is None) is True


def test_findings_without_results_are_undecided():
    assert {finding.verdict for finding in evaluate_findings([])} == {"undecided"}
    assert all(finding.untestable for finding in evaluate_findings([]))
    draw = np.random.default_rng(0)
    bare = Simulated("CVCL-filtered", {("labeled_s", "accuracy", ""): 0.5}, draw)
    assert all(
        finding.untestable for finding in evaluate_findings([bare, Simulated("CLIP-large", {}, draw, trained=False)])
    )
    found = evaluate_findings([bare, Simulated("CLIP-large", rates(), draw, trained=False)])
    assert found[6].untestable == "no trained run was tested on VTWT"
