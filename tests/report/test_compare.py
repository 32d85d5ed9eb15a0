import sys

import numpy as np
import pytest
from scipy.stats import ttest_rel

from babyvlm.__main__ import main
from babyvlm.errors import UserError
from babyvlm.report.command import compare
from babyvlm.report.comparisons import holm
from support.made_runs import make_run, make_vtwt


def rows(printed):
    """Return the printed table as first cell -> other cells."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    return {line[0]: line[1:] for line in lines if line[0]}


@pytest.fixture
def logs(tmp_path):
    """Runs A, better than B on 10 of 40 items; C, with one item less and ties; P, on Playroom."""
    folder = tmp_path / "logs"
    make_run(folder, "A", 0, vtwt=[1] * 30 + [0] * 10, caption=[0.5, 0.25, 0.75])
    make_run(folder, "B", 0, vtwt=[1] * 20 + [0] * 20, caption=[0.25, 0.25, 0.5])
    make_run(folder, "C", 0, vtwt=[0.5] * 39)
    make_run(folder, "P", 0, world="playroom", vtwt=[1] * 40)
    return folder


def test_compare_tests_runs_item_by_item(logs, capsys):
    main(["compare", str(logs / "A" / "version_0"), str(logs / "B")])
    printed = capsys.readouterr().out
    assert "A - B" in printed
    found = rows(printed)
    assert [*found] == ["VTWT", "Caption METEOR 1.5"]
    difference, items, images, seeds, worlds, p, corrected, test = found["VTWT"]
    assert (images, seeds, worlds) == ("40", "1", "1")
    assert difference.startswith("+0.250 [+0.09")
    assert (items, p, test) == ("40", "0.002", "McNemar")
    assert float(corrected) == pytest.approx(holm([2 / 1024, float(found["Caption METEOR 1.5"][5])])[0], abs=2e-4)
    assert found["Caption METEOR 1.5"][-1] == "permutation"
    compare(logs / "B", logs / "A")
    assert rows(capsys.readouterr().out)["VTWT"][0].startswith("-0.250 [-0.4")
    compare(logs / "A", logs / "C")
    assert rows(capsys.readouterr().out)["VTWT"][1::6] == ["39", "permutation"]


def test_compare_tests_over_seeds(logs, capsys):
    draw = np.random.default_rng(0)
    credit = draw.binomial(1, 0.6, (3, 60))
    for seed in range(3):
        make_run(logs, "S", seed, vtwt=credit[seed].tolist(), seed=seed)
    compare(logs / "A", logs / "S")
    difference, items, _, seeds, _, p, _, test = rows(capsys.readouterr().out)["VTWT"]
    assert seeds == "1/3"
    assert (items, test) == ("40", "t over items and seeds")
    one, other = np.array([1] * 30 + [0] * 10), credit[:, :40]
    assert difference.startswith(f"{(one - other.mean(0)).mean():+.3f} [")
    assert float(p) >= ttest_rel(one, other.mean(0)).pvalue - 1e-4  # seeds add variance


def test_compare_permutes_groups_of_vtwt_items(tmp_path, capsys):
    items, config = make_vtwt(tmp_path, [pair for n in range(12) for pair in ((f"a {n}", "b"), ("b", f"a {n}"))])
    for row, credit in (("A", [1] * 24), ("B", [0] * 12 + [1] * 12)):
        make_run(tmp_path / "logs", row, 0, config=config, items={"vtwt": items}, vtwt=credit, images=False)
    compare(tmp_path / "logs/A", tmp_path / "logs/B")
    difference, items, *_, p, _, test = rows(capsys.readouterr().out)["VTWT"]
    assert (difference.split()[0], items, p) == ("+0.500", "24", "0.031")  # six of six groups: 2 / 2^6
    assert test == "permutation of groups"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("A", "D"), "logs/D: neither a tested run nor a folder of tested runs"),
        (("A", "P"), "no test item in common"),
        (("A", "A*"), "neither"),
    ],
)
def test_compare_rejects_folders_without_common_items(logs, asked, message):
    with pytest.raises(UserError, match=message):
        compare(*(logs / name for name in asked))


def test_compare_names_missing_extra(logs, monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats.contingency_tables", None)
    with pytest.raises(UserError, match=r"^compare needs statsmodels\. Install it with: pip install .*'statsmodels>="):
        compare(logs / "A", logs / "B")
