import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm

from babyvlm.benchmarks.results import RESULT_SCHEMA
from babyvlm.contracts import UserError
from babyvlm.report.runs import BENCHMARKS, find_runs
from babyvlm.report.statistics import accuracy
from babyvlm.report.table import report


def make_run(logs, row, version, config="", world="real", missing=0, **credits):
    """A run's folder with results of named tests; no test leaves the run untested."""
    folder = logs / row / f"version_{version}"
    (folder / "results").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed_everything: 7\n{config}")
    for benchmark, credit in credits.items():
        rows = [
            {
                "item": str(n),
                "half": "test",
                "category": "",
                "control": control,
                "measure": BENCHMARKS[benchmark],
                "scores": [0.0, 1.0],
                "choice": 0,
                "credit": float(value),
            }
            for n, value in enumerate(credit)
            for control in ("", "blank")
        ]
        schema = RESULT_SCHEMA.with_metadata({"world": world, "missing_items": str(missing)})
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "results" / f"{benchmark}-test.parquet")
    return folder


def test_the_newest_tested_version_of_each_row(tmp_path):
    make_run(tmp_path, "cvcl-filtered", 2, labeled_s=[1, 1])
    make_run(tmp_path, "cvcl-filtered", 9, labeled_s=[1, 0])
    newest = make_run(tmp_path, "cvcl-filtered", 10, labeled_s=[0, 0.25, 1])
    make_run(tmp_path, "cvcl-filtered", 11)  # not tested yet
    (tmp_path / "cvcl-filtered" / "version_12").mkdir()
    pq.write_table(pa.table({"credit": [1.0]}), tmp_path / "cvcl-filtered" / "stray-test.parquet")
    make_run(tmp_path, "another", 0, vtwt=[1])
    another, cvcl = find_runs(tmp_path)
    assert (another.row, cvcl.row, cvcl.path) == ("another", "cvcl-filtered", newest)
    assert cvcl.credits("labeled_s").tolist() == [0, 0.25, 1]
    assert cvcl.credits("vtwt") is None


@pytest.mark.parametrize("made", [False, True])
def test_no_run_is_a_mistake(tmp_path, made):
    if made:
        make_run(tmp_path / "logs", "cvcl-filtered", 0)
    with pytest.raises(UserError, match="logs: holds no tested run"):
        report(tmp_path / "logs")


@pytest.mark.parametrize(
    ("table", "message"),
    [(None, "cannot be read as results"), ({"x": [1]}, "cannot be read as results"),
     ({"credit": [1.0]}, "cannot be read as results"), (RESULT_SCHEMA.empty_table(), "holds no item")],
)  # fmt: skip
def test_results_that_are_none(tmp_path, table, message):
    path = make_run(tmp_path, "cvcl-filtered", 0) / "results" / "vtwt-test.parquet"
    if table is None:
        path.write_bytes(b"PAR1")
    else:
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    with pytest.raises(UserError, match=message) as refusal:
        report(tmp_path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_table_and_markdown(tmp_path, capsys):
    good = [1] * 190 + [0] * 10
    make_run(tmp_path / "logs", "cvcl-filtered", 0, labeled_s=good, vtwt=[1, 0] * 50)
    make_run(tmp_path / "logs", "guesser-none", 0, labeled_s=[0.25] * 40)
    report(tmp_path / "logs", tmp_path / "out" / "table.md")
    printed = capsys.readouterr().out
    for text in ("Labeled-S", "VTWT", "chance", "cvcl-filtered", "0.950 [0.9", "0.250 [0.250, 0.250]*", "version_0"):
        assert text in printed
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[2:5] == [
        "| model | Labeled-S | VTWT | Baby Winoground |", "|---|---|---|---|", "| chance | 0.250 | 0.500 | 0.167 |",
    ]  # fmt: skip
    name, labeled, two_word, winoground = (cell.strip() for cell in lines[5].strip("|").split("|"))
    assert winoground == "-"
    assert name == "cvcl-filtered"
    assert labeled.startswith("0.950 [0.9")
    assert labeled.endswith("]")  # far from chance
    assert two_word.startswith("0.500 [0.4")
    assert two_word.endswith("]*")  # its interval holds chance
    assert lines[6] == "| guesser-none | 0.250 [0.250, 0.250]* | - | - |"
    assert "95 %" in lines[-1]
    report(tmp_path / "logs", tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text() == (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("rate", [0.5, 0.7])
def test_interval_covers_the_truth_as_often_as_it_says(rate):
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        estimate = accuracy(draw.binomial(1, rate, 120).astype(float), resamples=300)
        covered += estimate.low <= rate <= estimate.high
    assert 0.90 <= covered / 200 <= 0.99


def test_interval_is_that_of_a_large_sample():
    credit = np.repeat([0.0, 0.5, 1.0], [300, 200, 500])
    estimate = accuracy(credit)
    half_width = norm.ppf(0.975) * credit.std() / np.sqrt(len(credit))
    assert estimate.mean == credit.mean()
    assert estimate.items == 1000
    assert estimate.low == pytest.approx(estimate.mean - half_width, abs=0.004)
    assert estimate.high == pytest.approx(estimate.mean + half_width, abs=0.004)
    assert accuracy(credit) == estimate
    assert accuracy(credit, seed=1) != estimate
    assert accuracy(credit, seed=1).low == pytest.approx(estimate.low, abs=0.003)


@pytest.mark.parametrize("credit", [[1.0], [0.0, 0.0], [0.25] * 30])
def test_nothing_varies_nothing_is_unsure(credit):
    estimate = accuracy(np.array(credit))
    assert (estimate.low, estimate.mean, estimate.high) == (credit[0],) * 3


def test_no_item_is_no_accuracy():
    with pytest.raises(ValueError, match="no item"):
        accuracy(np.array([]))


def test_the_table_says_what_it_stands_for(tmp_path, capsys):
    vision = "model: {class_path: x.CVCL, init_args: {vision: {class_path: x.V, init_args: {weights: %s}}}}\n"
    made = {"scratch": (vision % "null", "real"), "dino": (vision % "dino.pth", "real"), "clip": ("", "playroom")}
    for row, (config, world) in made.items():
        run = make_run(tmp_path, row, 0, config=config, world=world, vtwt=[1, 0])
        if row != "clip":
            (run / "checkpoints").mkdir()
    assert [run.row for run in find_runs(tmp_path)] == ["clip", "dino", "scratch"]  # the upper bound first
    report(tmp_path, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "stand-in for SAYCam" in text
    assert "| scratch† |" in text
    assert "| dino |" in text
    assert "trained from scratch" in text


def test_a_partial_list_is_marked(tmp_path, capsys):
    make_run(tmp_path, "whole", 0, vtwt=[1] * 8)
    report(tmp_path, tmp_path / "table.md")
    assert "‡" not in (tmp_path / "table.md").read_text()
    make_run(tmp_path, "partial", 0, missing=3, vtwt=[1] * 5)
    report(tmp_path, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| partial | - | 1.000 [1.000, 1.000]‡ | - |" in text
    assert "| whole | - | 1.000 [1.000, 1.000] | - |" in text
    assert "‡: some of the list's images were missing" in text


def test_a_table_claims_nothing_it_does_not_know(tmp_path):
    bare = make_run(tmp_path, "own-script", 0, labeled_s=[1, 0])
    (bare / "config.yaml").unlink()  # a user's own Trainer writes none
    make_run(tmp_path, "clip", 0, config="model: {init_args: {vision: {layers: 1}}}\n", labeled_s=[1])
    report(tmp_path, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "stand-in" not in text
    assert "†" not in text
