import pytest

from babyvlm.contracts import UserError
from babyvlm.report.comparison import compare
from babyvlm.report.statistics import holm
from made_runs import make_run


def rows(path):
    lines = [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("| ")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.fixture
def logs(tmp_path):
    """A is better than B by 10 of 40 items; C had an item less, with ties."""
    folder = tmp_path / "logs"
    make_run(folder, "A", 0, vtwt=[1] * 30 + [0] * 10, caption=[0.5, 0.25, 0.75])
    make_run(folder, "B", 0, vtwt=[1] * 20 + [0] * 20, caption=[0.25, 0.25, 0.5])
    make_run(folder, "C", 0, vtwt=[0.5] * 39)
    make_run(folder, "P", 0, world="playroom", vtwt=[1] * 40)
    return folder


def test_pair_by_pair_item_by_item(logs, tmp_path, capsys):
    compare(logs=logs, out=tmp_path / "out" / "compare.md")
    found = {(row["benchmark"], row["first"], row["second"]): row for row in rows(tmp_path / "out" / "compare.md")}
    assert list(found) == [("VTWT", "A", "B"), ("VTWT", "A", "C"), ("VTWT", "B", "C"), ("Caption METEOR 1.5", "A", "B")]
    best = found["VTWT", "A", "B"]
    assert best["difference"].startswith("+0.250 [+0.1")
    assert (best["items"], best["p"], best["test"]) == ("40", f"{2 / 1024:.4f}", "McNemar")
    corrected = holm([float(row["p"]) for row in found.values()])
    assert [float(row["p Holm"]) for row in found.values()] == pytest.approx(corrected, abs=2e-4)
    assert corrected[0] > float(best["p"])
    assert (found["VTWT", "A", "C"]["items"], found["VTWT", "A", "C"]["test"]) == ("39", "permutation")
    assert found["VTWT", "B", "C"]["difference"].startswith("+0.013 [-")
    assert found["Caption METEOR 1.5", "A", "B"]["test"] == "bootstrap"
    assert "McNemar" in capsys.readouterr().out


def test_only_the_rows_that_are_asked_for(logs, tmp_path):
    compare(["B", "A"], logs, tmp_path / "compare.md")
    assert [(row["first"], row["second"]) for row in rows(tmp_path / "compare.md")] == [("B", "A"), ("B", "A")]
    assert rows(tmp_path / "compare.md")[0]["difference"].startswith("-0.250 [-0.4")


@pytest.mark.parametrize(
    ("asked", "message"),
    [(["A", "D"], "has no tested run D; it has A, B, C, P"), (["A", "P"], "no two runs were scored on the same items"),
     (["A"], "no two runs")],
)  # fmt: skip
def test_mistakes(logs, asked, message):
    with pytest.raises(UserError, match=message):
        compare(asked, logs)
