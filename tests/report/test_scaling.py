"""The exchange rate of web pairs, on simulated runs whose rate is known."""

import json

import numpy as np
import pytest

from babyvlm.report.command import report
from babyvlm.report.figures import NARROW, WIDE
from babyvlm.report.runs import find_rows
from babyvlm.report.scaling import fit_curve, is_partial, rate_text, scaling_chart, scaling_fits, scaling_table
from support.made_runs import make_run

HOME, WEB = 3664, 3664
SHARES = (0.125, 0.25, 0.5, 1)
ITEMS = 600


def simulate(logs, rates, slope=0.04, seed=0, seeds=3, spread=0.01, model="CVCL", seed_of_world=None):
    """Write runs with ``P(correct) = 0.55 + slope * log2((home + rate * web) / 458)``; items are common to all rows."""
    draw = np.random.default_rng(seed)
    threshold_N = draw.uniform(0, 1, ITEMS)
    of_seed = draw.normal(0, spread, (seeds, 1 + len(rates), len(SHARES)))
    for place, (kind, rate) in enumerate([("", 0.0), *rates.items()]):
        for number, share in enumerate(SHARES):
            home = round(share * HOME)
            name = f"{model}-filtered{f'-{kind}' if kind else ''}{'' if share == 1 else f'-home-{share:g}'}"
            parts = [{"store": "filtered", "items": home, "utterances": home, "share": 0.5}]
            if kind:
                parts.append({"store": kind, "items": WEB, "utterances": WEB, "share": 0.5})
            chance = 0.55 + slope * np.log2((home + rate * WEB * bool(kind)) / 458)
            for run in range(seeds):
                noise_N = draw.normal(0, 0.05, ITEMS)
                credit_N = (threshold_N + noise_N < chance + of_seed[run, place, number]).astype(float)
                home_option = f", home: {{fraction: {share}}}" if share < 1 else ""
                config = f"name: {model}\ndata: {{init_args: {{validation: filtered, name: x{home_option}}}}}\n"
                folder = make_run(logs, name, run, seed=run, config=config, vtwt=credit_N)
                (folder / "provenance.json").write_text(json.dumps({"mix": {"unit": "pairs", "contents": parts}}))


def fits(logs):
    return scaling_fits(find_rows(logs)[0])


def test_fit_curve_finds_rate_and_slope_exactly():
    home_K = np.array([458, 916, 1832, 3664] * 2, float)
    web_K = np.repeat([0.0, 3664], 4)
    for rate in (-0.1, 0.0, 0.003, 0.25, 1.7):
        for law in ("logarithm", "power"):
            curve_K = 0.3 + 0.06 * np.log2(home_K + rate * web_K)
            score_K = curve_K if law == "logarithm" else 1 - 2 ** (-0.3 * np.log2(home_K + rate * web_K))
            found = fit_curve(score_K, home_K, web_K, law=law)
            assert found.rate_B[0] == pytest.approx(rate, abs=2e-3)
            assert found.slope_B[0] == pytest.approx(0.06 if law == "logarithm" else -0.3, rel=2e-2)
            assert abs(found.residual_BK).max() < 1e-3


def test_fit_curve_agrees_with_scipy():
    """On noisy scores of two worlds with intercepts of their own."""
    from scipy.optimize import least_squares

    draw = np.random.default_rng(3)
    home_K, web_K = np.tile([458.0, 916, 1832, 3664], 4), np.tile(np.repeat([0.0, 3000], 4), 2)
    world_K = np.repeat([0, 1], 8)
    score_K = 0.2 * world_K + 0.05 * np.log2(home_K + 0.4 * web_K) + draw.normal(0, 0.005, 16)

    def residuals(p):
        return score_K - np.array(p[:2])[world_K] - p[2] * np.log2(home_K + p[3] * web_K)

    expected = least_squares(residuals, [0.0, 0.2, 0.05, 0.3], x_scale=[1, 1, 0.1, 1]).x
    found = fit_curve(score_K, home_K, web_K, world_K)
    assert found.rate_B[0] == pytest.approx(expected[3], rel=1e-2)
    assert found.slope_B[0] == pytest.approx(expected[2], rel=1e-2)
    assert found.intercept_BW[0] == pytest.approx(expected[:2], abs=2e-3)


def test_scaling_recovers_rates_of_simulated_runs(tmp_path):
    simulate(tmp_path, {"aug": 0.5, "random": 0.0})
    matched, random = fits(tmp_path)
    assert (matched.model, matched.kind, random.kind) == ("CVCL", "aug", "random")
    assert matched.determined
    assert matched.slope.low < 0.04 < matched.slope.high
    assert matched.rate.low < 0.5 < matched.rate.high
    assert random.rate.low < 0 < random.rate.high
    assert random.rate.high < matched.rate.mean
    assert matched.power_rate.low < 0.5 < matched.power_rate.high
    assert len(matched.points) == 8
    table = scaling_table([matched, random])
    assert table.rows[0][:4] == ["CVCL", "VTWT", "aug (3,664)", "458 to 3,664"]
    assert table.rows[0][5].startswith(f"{matched.rate.mean:.2f} [")
    assert table.rows[0][-5:] == ["8", "600", "600", "3", "1"]


def test_scaling_intervals_cover_the_true_rate(tmp_path):
    """Of 10 simulated studies, and are not much wider than needed: 4 standard deviations if these were known."""
    covered, widths, means = 0, [], []
    for study in range(10):
        simulate(tmp_path / str(study), {"aug": 0.5}, seed=study)
        (fit,) = fits(tmp_path / str(study))
        covered += fit.rate.low <= 0.5 <= fit.rate.high
        widths.append(fit.rate.high - fit.rate.low)
        means.append(fit.rate.mean)
    assert covered >= 8
    assert 2 * np.std(means) < np.median(widths) < 8 * np.std(means)


def test_scaling_is_undetermined_without_gain_from_home_pairs(tmp_path):
    simulate(tmp_path, {"aug": 0.5}, slope=0.0)
    (fit,) = fits(tmp_path)
    assert not fit.determined
    assert rate_text(fit, fit.rate) == "undetermined"


def test_scaling_needs_three_sizes_without_web_pairs(tmp_path):
    simulate(tmp_path, {"aug": 0.5}, seeds=1)
    for share in ("0.125", "0.25"):
        for file in sorted((tmp_path / f"CVCL-filtered-home-{share}").rglob("provenance.json")):
            file.unlink()
    assert fits(tmp_path) == []
    assert scaling_table([]) is None
    assert scaling_chart([]) is None


def test_scaling_counts_sizes_within_a_world(tmp_path):
    """Three worlds with one number of home pairs each are no scaling."""
    for world in range(3):
        for kind in ("", "aug"):
            part = {"items": 400 + world, "utterances": 9, "share": 0.5}
            parts = [part | {"store": name} for name in ("filtered", kind)]
            facts = {"world_seed": str(world), "world_parameters": "tiny"}
            config = "name: CVCL\ndata: {init_args: {validation: filtered}}\n"
            credits = {"vtwt": [1, 0, 1, world % 2] * 5}
            name = f"CVCL-{kind or 'filtered'}"
            run = make_run(tmp_path, name, world, seed=0, config=config, world="playroom", facts=facts, **credits)
            mix = {"unit": "pairs", "contents": parts if kind else parts[:1]}
            (run / "provenance.json").write_text(json.dumps({"mix": mix}))
    assert len(find_rows(tmp_path)[0]) == 2
    assert fits(tmp_path) == []


def test_scaling_leaves_out_benchmark_of_one_item(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ITEMS", 1)
    simulate(tmp_path, {"aug": 0.5}, seeds=2)
    assert fits(tmp_path) == []


def test_report_shows_scaling_and_leaves_its_rows_out_of_other_tables(tmp_path):
    simulate(tmp_path / "logs", {"aug": 0.5, "random": 0.0}, seeds=2)
    report(tmp_path / "logs", tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Data scaling: home pairs that a web pair is worth" in text
    assert text.index("figures/scaling.svg") < text.index("Data scaling: home pairs")
    main, _, rest = text.partition("### Findings")
    assert "home-0.125" not in main
    assert "home-0.125" in rest  # among the runs
    rows = find_rows(tmp_path / "logs")[0]
    assert sum(is_partial(row) for row in rows) == 9
    chart = scaling_chart(scaling_fits(rows))
    assert chart.wide == scaling_chart(scaling_fits(rows)).wide
    assert [len(chart.draw(layout)[0].axes) for layout in (WIDE, NARROW)] == [1, 1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="data-scaling-1"' in page
