import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyvlm.benchmarks.results import RESULT_SCHEMA
from babyvlm.contracts import UserError
from babyvlm.report.runs import MAIN, find_runs
from babyvlm.report.table import report
from made_runs import make_run


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
    assert cvcl.credits(MAIN[0]).tolist() == [0, 0.25, 1]
    assert len(cvcl.credits(MAIN[1])) == 0
    assert cvcl.table("vtwt") is None


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
    assert lines[2:5] == ["| model | Labeled-S | VTWT |", "|---|---|---|", "| chance | 0.250 | 0.500 |"]
    name, labeled, two_word = (cell.strip() for cell in lines[5].strip("|").split("|"))
    assert name == "cvcl-filtered"
    assert labeled.startswith("0.950 [0.9")
    assert labeled.endswith("]")  # far from chance
    assert two_word.startswith("0.500 [0.4")
    assert two_word.endswith("]*")  # its interval holds chance
    assert lines[6] == "| guesser-none | 0.250 [0.250, 0.250]* | - |"
    assert "95 %" in lines[7 + 1]
    report(tmp_path / "logs", tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text() == (tmp_path / "out" / "table.md").read_text()


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
    assert "| partial | 1.000 [1.000, 1.000]‡ |" in text
    assert "| whole | 1.000 [1.000, 1.000] |" in text
    assert "‡: some of the list's images were missing" in text


def test_a_table_claims_nothing_it_does_not_know(tmp_path):
    bare = make_run(tmp_path, "own-script", 0, labeled_s=[1, 0])
    (bare / "config.yaml").unlink()  # a user's own Trainer writes none
    make_run(tmp_path, "clip", 0, config="model: {init_args: {vision: {layers: 1}}}\n", labeled_s=[1])
    report(tmp_path, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "stand-in" not in text
    assert "†" not in text


def markdown(path):
    """The tables of a report by their titles: heading and rows, cells split, intervals left out."""
    tables, table = {}, []
    for line in path.read_text().splitlines():
        if line.startswith("| "):
            table.append([cell.split(" [")[0] for cell in line.strip("| ").split(" | ")])
        elif line and not line.startswith("|"):
            table = tables.setdefault(line, [])
    return {title: table for title, table in tables.items() if table}


def test_controls_and_details_have_their_own_tables(tmp_path):
    controls = {"": 1, "blank": 0.5, "text_only": 0}
    words = ["noun", "verb", "adjective", "noun"]
    make_run(tmp_path, "reader", 0, controls=controls, vtwt=[1] * 4, labeled_s=[1, 0], categories=words)
    make_run(tmp_path, "looker", 0, vtwt=[1, 0, 1, 1], categories=words)
    measures = {"overall": 0.25, "text": 0.5, "image": 0.5, "positive": 1, "positive_strict": 0.75, "negative": 0.5,
                "negative_strict": 0.25}  # fmt: skip
    make_run(tmp_path, "reader", 1, controls=controls, measures=measures, baby_winoground=[1] * 4, vtwt=[1] * 4,
             labeled_s=[1, 0], categories=words)  # fmt: skip
    make_run(tmp_path, "writer", 0, measures={"meteor_15": 0.25, "meteor_nltk": 0.5}, caption=[1, 1])
    report(tmp_path, tmp_path / "short.md")
    main, without = markdown(tmp_path / "short.md").items()
    assert main == ("BabyVLM", [
        ["model", "Labeled-S", "VTWT", "Baby Winoground", "Caption METEOR 1.5", "Caption METEOR NLTK"],
        ["chance", "0.250", "0.500", "0.167", "-", "-"],
        ["looker", "-", "0.750", "-", "-", "-"],
        ["reader", "0.500", "1.000", "0.250", "-", "-"],
        ["writer", "-", "-", "-", "0.250", "0.500"],
    ])  # fmt: skip
    assert without == ("Without the images: what a model gets that cannot look", [
        main[1][0],
        ["reader, blank image", "0.250", "0.500", "0.125", "-", "-"],
        ["reader, text only", "0.000", "0.000", "0.000", "-", "-"],
    ])  # fmt: skip
    report(tmp_path, tmp_path / "long.md", details=True)
    tables = markdown(tmp_path / "long.md")
    assert tables["VTWT by what differs"] == [
        ["model", "noun", "verb", "adjective"], ["chance"] + ["0.500"] * 3, ["looker", "1.000", "0.000", "1.000"],
        ["reader"] + ["1.000"] * 3, ["writer"] + ["-"] * 3, ["reader, blank image"] + ["0.500"] * 3,
        ["reader, text only"] + ["0.000"] * 3,
    ]  # fmt: skip
    winoground = tables["Baby Winoground by what is asked"]
    assert winoground[0] == ["model", "text", "image", "positive", "positive strict", "negative", "negative strict"]
    assert winoground[1][1:] == ["0.250", "0.250", "0.500", "0.333", "0.500", "0.333"]
    assert winoground[3] == ["reader", "0.500", "0.500", "1.000", "0.750", "0.500", "0.250"]
    assert tables["Labeled-S by category"] == [
        ["category", "looker", "reader", "writer"], ["noun", "-", "1.000", "-"], ["verb", "-", "0.000", "-"]
    ]  # fmt: skip


def test_a_run_says_which_words_it_has_not(tmp_path, capsys):
    make_run(tmp_path, "reader", 0, facts={"unknown_words": "0.0312", "items_alike": "2"}, vtwt=[1, 0])
    make_run(tmp_path, "writer", 0, facts={"unknown_words": "0.0000", "items_alike": "0"}, caption=[1, 0])
    make_run(tmp_path, "looker", 0, vtwt=[1, 0])
    report(tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert "version_0 (words that it has not: vtwt 3.1% and 2 items alike)" in out
    assert "version_0 (words that it has not: caption 0.0%)" in out
    assert out.count("words that it has not") == 2
