import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_rel

from babyvlm.benchmarks.results import RESULT_SCHEMA
from babyvlm.errors import UserError
from babyvlm.report.columns import LABELED_S, VTWT
from babyvlm.report.command import report
from babyvlm.report.page import world_report
from babyvlm.report.provenance import budget_lines, checkpoint_lines
from babyvlm.report.runs import Run, find_rows
from babyvlm.report.tables import ablation_table, control_table, detail_tables, main_table, paper_table, suite_tables
from babyvlm.report.trial_lists import trial_list
from support.made_runs import make_run, make_vtwt

CAPTION = {"meteor_15": 0.25, "meteor_nltk": 0.5}


def test_find_rows_uses_newest_tested_run(tmp_path):
    make_run(tmp_path, "cvcl-filtered", 2, labeled_s=[1, 1])
    make_run(tmp_path, "cvcl-filtered", 9, labeled_s=[1, 0])
    newest = make_run(tmp_path, "cvcl-filtered", 10, labeled_s=[0, 0.25, 1])
    make_run(tmp_path, "cvcl-filtered", 11)  # not tested yet
    (tmp_path / "cvcl-filtered" / "version_12").mkdir()
    pq.write_table(pa.table({"credit": [1.0]}), tmp_path / "cvcl-filtered" / "stray-test.parquet")
    make_run(tmp_path, "another", 0, vtwt=[1])
    cvcl, another = find_rows(tmp_path)[0]  # mixes of the paper come first
    assert (another.name, cvcl.name, [run.path for run in cvcl.runs]) == ("another", "cvcl-filtered", [newest])
    assert cvcl.credits(LABELED_S).tolist() == [[0, 0.25, 1]]
    assert not cvcl.credits(VTWT).size
    assert "vtwt" not in cvcl.runs[0].results


def test_find_rows_uses_newest_run_per_seed(tmp_path):
    for folder, seed, credit in (("version_0", 0, 0), ("version_1", 1, 1), ("seed_0", 0, 0.25), ("seed_2", 2, 0.5)):
        made = make_run(tmp_path, "cvcl-filtered", 99, labeled_s=[credit] * 3, seed=seed)
        made.rename(made.with_name(folder))
    stale = make_run(tmp_path, "cvcl-filtered", 98, labeled_s=[1], seed=3)
    stale.rename(stale.with_name("replaced-seed_3-20261123-120000"))
    (row,) = find_rows(tmp_path)[0]
    assert [(run.path.name, run.seed) for run in row.runs] == [("seed_0", 0), ("version_1", 1), ("seed_2", 2)]
    assert row.credits(LABELED_S).tolist() == [[0.25] * 3, [1] * 3, [0.5] * 3]
    older = tmp_path / "cvcl-filtered" / "seed_0" / "results" / "labeled_s-test.parquet"
    os.utime(older, ns=(0, 0))
    assert find_rows(tmp_path)[0][0].runs[0].path.name == "version_0"


def test_row_credits_use_items_shared_by_seeds(tmp_path):
    make_run(tmp_path, "cvcl-filtered", 0, labeled_s=[1, 0, 1], vtwt=[1, 1], seed=0)
    make_run(tmp_path, "cvcl-filtered", 1, labeled_s=[0, 1], seed=1)
    (row,) = find_rows(tmp_path)[0]
    assert row.credits(LABELED_S).tolist() == [[1, 0], [0, 1]]
    assert row.credits(VTWT).tolist() == [[1, 1]]
    cells = cells_of(main_table([row]), "cvcl-filtered")
    assert (cells["seeds"], cells["worlds"], cells["tested step"]) == ("2", "1", "-")
    assert cells_of(main_table([row]), "items")["Labeled-S"] == "2"


@pytest.mark.parametrize("made", [False, True])
def test_report_without_runs_is_user_error(tmp_path, made):
    if made:
        make_run(tmp_path / "logs", "cvcl-filtered", 0)
    with pytest.raises(UserError, match="logs: no run with test results found"):
        report(tmp_path / "logs")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "cannot be read as results"),
        ({"x": [1]}, "cannot be read as results"),
        ({"credit": [1.0]}, "cannot be read as results"),
        (RESULT_SCHEMA.empty_table(), "contains no item"),
    ],
)
def test_unreadable_results_are_user_errors(tmp_path, table, message):
    path = make_run(tmp_path, "cvcl-filtered", 0) / "results" / "vtwt-test.parquet"
    if table is None:
        path.write_bytes(b"PAR1")
    else:
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    with pytest.raises(UserError, match=message) as refusal:
        report(tmp_path)
    assert f"results/{path.name}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


FACTS = ("seeds", "worlds", "tested step", "items", "images")


def numbers(table):
    """Return a table's heading and rows without intervals, and without numbers of items, images, seeds, and worlds."""
    kept = [place for place, name in enumerate(table.heading) if name not in FACTS]
    rows = [table.heading, *(row for row in table.rows if row[0] not in FACTS)]
    return [[row[place].split(" [")[0] for place in kept] for row in rows]


def cells_of(table, name):
    """Return the cells of a row by the table's headings."""
    (row,) = [row for row in table.rows if row[0] == name]
    return dict(zip(table.heading, row, strict=True))


def test_report_prints_table(tmp_path, capsys):
    good = [1] * 190 + [0] * 10
    make_run(tmp_path / "logs", "cvcl-filtered", 0, labeled_s=good, vtwt=[1, 0] * 50)
    make_run(tmp_path / "logs", "guesser-none", 0, labeled_s=[0.25] * 40)
    make_run(tmp_path / "logs", "zz-of-a-very-long-name" * 6, 0, labeled_s=[1, 0])
    report(tmp_path / "logs")
    printed = capsys.readouterr().out
    for text in ("Labeled-S", "VTWT", "chance", "cvcl-filtered", "0.950 [0.9", "0.250 [0.250, 0.250]*", "version_0"):
        assert text in printed
    assert "…" not in printed
    table = main_table(find_rows(tmp_path / "logs")[0])
    assert numbers(table)[:2] == [["model", "Labeled-S", "VTWT"], ["chance", "0.250", "0.500"]]
    labeled, two_word = (cells_of(table, "cvcl-filtered")[name] for name in ("Labeled-S", "VTWT"))
    assert labeled.startswith("0.950 [0.9")
    assert labeled.endswith("]")  # far from chance
    assert two_word.startswith("0.500 [0.4")
    assert two_word.endswith("]*")  # the interval contains chance
    assert cells_of(table, "guesser-none")["Labeled-S"] == "0.250 [0.250, 0.250]*"  # the same for every item
    assert (cells_of(table, "items")["Labeled-S"], cells_of(table, "images")["VTWT"]) == ("2-200", "100")
    assert "95%" in table.note


def test_main_table_marks_playroom_and_vision_from_scratch(tmp_path, capsys):
    vision = "model: {class_path: x.CVCL, init_args: {vision: {class_path: x.V, init_args: {weights: %s}}}}\n"
    made = {"scratch": (vision % "null", "real"), "dino": (vision % "dino.pth", "real"), "clip": ("", "playroom")}
    for row, (config, world) in made.items():
        run = make_run(tmp_path, row, 0, config=config, world=world, vtwt=[1, 0])
        if row != "clip":
            (run / "checkpoints").mkdir()
    assert [row.name for row in find_rows(tmp_path)[0]] == ["clip", "dino", "scratch"]  # the upper bound first
    table = main_table(find_rows(tmp_path)[0])
    assert "stand-in for SAYCam" in table.title
    assert [row[0] for row in table.rows[3:]] == ["clip", "dino", "scratch†"]
    assert "trained from scratch" in table.note


def test_row_properties_follow_parent_runs(tmp_path):
    """A later phase names no vision weights, since all weights come from its parent; a test names the tested run."""
    vision = "vision: {class_path: x.V, init_args: {weights: %s}}"
    config = "model: {class_path: x.M, init_args: {%s, %s}}\ndata: {init_args: {batch_size: 2}}\n"
    for name, weights in (("dino", "dino.pth"), ("scratch", "null")):
        first = make_run(tmp_path / "phases", name, 0, config=config % (vision % weights, "width: 2"))
        (first / "checkpoints").mkdir()
        (first / "checkpoints" / "best.ckpt").touch()
        second = make_run(tmp_path, name, 0, config=config % (vision % "null", f"init_from: {first}"), vtwt=[1, 0])
        (second / "checkpoints").mkdir()
        again = f"model: {{class_path: x.Trained, init_args: {{source: {second}}}}}\n"
        make_run(tmp_path, f"{name}-again", 0, config=again, vtwt=[1, 0])
        (second / "provenance.json").write_text('{"samples": 30}')
        (first / "provenance.json").write_text('{"samples": 10}')
    file = first / "checkpoints" / "best.ckpt"
    make_run(tmp_path, "from-checkpoint", 0, config=config % (vision % "null", f"init_from: {file}"), vtwt=[1, 0])
    make_run(tmp_path, "clip", 0, config="model: {class_path: x.OpenClip, init_args: {clip: playroom}}", vtwt=[1, 0])
    rows = find_rows(tmp_path)[0]
    assert [row[0] for row in main_table(rows).rows[3:]] == [
        "clip",
        "dino",
        "dino-again",
        "from-checkpoint†",
        "scratch†",
        "scratch-again†",
    ]
    assert [row.name for row in rows if not row.trained] == ["clip"]  # the only upper bound
    seen = [line for line in budget_lines(rows) if line.startswith("dino")]
    assert seen == ["dino: 10 + 30 samples", "dino-again: 10 + 30 samples"]


def test_main_table_marks_partial_lists(tmp_path):
    make_run(tmp_path, "whole", 0, vtwt=[1] * 8)
    assert "‡" not in main_table(find_rows(tmp_path)[0]).markdown()
    make_run(tmp_path, "partial", 0, missing=3, vtwt=[1] * 5)
    table = main_table(find_rows(tmp_path)[0])
    assert cells_of(table, "partial")["VTWT"] == "1.000 [0.393, 1.000]*‡"  # five of five, t with four degrees
    assert cells_of(table, "whole")["VTWT"] == "1.000 [0.589, 1.000]"
    assert "‡: some images of the list were missing" in table.note


def test_main_table_resamples_vtwt_groups(tmp_path):
    items, config = make_vtwt(tmp_path, [("big cup", "big dog"), ("big dog", "big cup"), ("cut pear", "wash pear")] * 2)
    old = {"items": {"vtwt": items}, "vtwt": [0, 1, 0.5] * 2, "images": False}
    make_run(tmp_path / "logs", "here", 0, config=config, **old)
    table = main_table(find_rows(tmp_path / "logs")[0])
    assert cells_of(table, "here")["VTWT"] == "0.500 [0.500, 0.500]*"  # 2 of 4 and half of 2
    assert "older results" not in table.note
    make_run(tmp_path / "logs", "nowhere", 0, **old)
    table = main_table(find_rows(tmp_path / "logs")[0])
    low = float(cells_of(table, "nowhere")["VTWT"].split("[")[1].split(",")[0])
    assert low < 0.2
    assert cells_of(table, "nowhere")["VTWT"].endswith("*#")
    assert "count as independent" in table.note


def test_main_table_without_config_has_no_marks(tmp_path):
    bare = make_run(tmp_path, "own-script", 0, labeled_s=[1, 0])
    (bare / "config.yaml").unlink()  # a user's own Trainer writes none
    make_run(tmp_path, "clip", 0, config="model: {init_args: {vision: {layers: 1}}}\n", labeled_s=[1])
    text = main_table(find_rows(tmp_path)[0]).markdown()
    assert "stand-in" not in text
    assert "†" not in text


def test_paper_table_lists_paper_values_and_missing_rows(tmp_path):
    make_run(tmp_path, "BabyLLaVA-GPT2-filtered", 0, labeled_s=[1, 0], measures=CAPTION, caption=[1, 1])
    make_run(tmp_path, "Playroom-CLIP", 0, labeled_s=[1, 1])
    table = numbers(paper_table(find_rows(tmp_path)[0]))
    assert table[0] == ["model", "Labeled-S", "paper", "Caption METEOR 1.5", "Caption METEOR NLTK", "paper"]
    by_name = {row[0]: row[1:] for row in table}
    assert by_name["BabyLLaVA-GPT2-filtered"] == ["0.500", "0.420", "0.250", "0.500", "0.138"]
    assert by_name["CVCL-filtered-random"] == ["no run", "0.602", "no run", "no run", "-"]
    assert [*by_name][1:6] == ["chance", "CLIP-large", "LLaVA-v1.5-7B", "Playroom-CLIP", "CVCL-filtered"]
    assert by_name["Playroom-CLIP"] == ["1.000", "-", "-", "-", "-"]


def test_paper_table_shows_paper_meteor_without_wordnet(tmp_path):
    make_run(tmp_path, "BabyLLaVA-GPT2-filtered", 0, caption=[1, 0.5])
    table = numbers(paper_table(find_rows(tmp_path)[0]))
    assert table[0] == ["model", "Caption METEOR 1.5", "Caption METEOR NLTK", "paper"]
    by_name = {row[0]: row[1:] for row in table}
    assert by_name["BabyLLaVA-GPT2-filtered"] == ["0.750", "-", "0.138"]
    assert by_name["LLaVA-v1.5-7B"] == ["no run", "no run", "0.166"]


def test_ablation_table_pairs_items_with_filtered(tmp_path):
    base, more = [1, 0, 1, 0, 1, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0]
    make_run(tmp_path, "CVCL-filtered", 0, vtwt=base, labeled_s=[1, 0])
    assert ablation_table(find_rows(tmp_path)[0]) is None
    make_run(tmp_path, "CVCL-filtered-aug", 0, vtwt=more)
    make_run(tmp_path, "LSTM-filtered-aug", 0, vtwt=more)  # has no filtered to gain over
    table = ablation_table(find_rows(tmp_path)[0])
    interval = ttest_rel(more, base).confidence_interval(0.95)
    assert interval.low < 0.25  # the t interval of the mean, without the items that its variance is extended by
    gain = cells_of(table, "CVCL-filtered-aug")["VTWT"]
    low, high = (float(end) for end in gain.split("[")[1].rstrip("]").split(", "))
    assert gain.startswith("+0.250 [")
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.15)
    assert (low < interval.low, high > interval.high) == (True, True)
    assert numbers(table)[1][1:3] == ["-", "-0.028"]
    assert cells_of(table, "items")["VTWT"] == cells_of(table, "images")["VTWT"] == "8"


def test_ablation_table_counts_the_worlds_that_both_rows_have(tmp_path):
    for row, worlds in (("CVCL-filtered", 2), ("CVCL-filtered-aug", 3)):
        for world in range(worlds):
            for seed in range(1 + (row == "CVCL-filtered-aug")):
                facts = {"world_seed": str(world)}
                number = 10 * world + seed
                make_run(tmp_path, row, number, world="playroom", facts=facts, seed=seed, vtwt=[1, 0, 1, seed] * 3)
    gain = cells_of(ablation_table(find_rows(tmp_path)[0]), "CVCL-filtered-aug")
    assert (gain["seeds"], gain["worlds"]) == ("2/1", "2")


def test_controls_and_details_have_own_tables(tmp_path):
    controls = {"": 1, "blank": 0.5, "text_only": 0}
    words = ["noun", "verb", "adjective", "noun"]
    make_run(tmp_path, "looker", 0, vtwt=[1, 0, 1, 1], categories=words)
    measures = {
        "overall": 0.25,
        "text": 0.5,
        "image": 0.5,
        "positive": 1,
        "positive_strict": 0.75,
        "negative": 0.5,
        "negative_strict": 0.25,
    }
    make_run(
        tmp_path,
        "reader",
        1,
        controls=controls,
        measures=measures,
        baby_winoground=[1] * 4,
        vtwt=[1] * 4,
        labeled_s=[1, 0],
        categories=words,
    )
    make_run(tmp_path, "writer", 0, measures=CAPTION, caption=[1, 1])
    rows = find_rows(tmp_path)[0]
    main = numbers(main_table(rows))
    assert main == [
        ["model", "Labeled-S", "VTWT", "Baby Winoground", "Caption METEOR 1.5", "Caption METEOR NLTK"],
        ["chance", "0.250", "0.500", "0.167", "-", "-"],
        ["looker", "-", "0.750", "-", "-", "-"],
        ["reader", "0.500", "1.000", "0.250", "-", "-"],
        ["writer", "-", "-", "-", "0.250", "0.500"],
    ]
    assert numbers(control_table(rows)) == [
        main[0],
        main[1],
        ["reader, blank image", "0.250", "0.500", "0.125", "-", "-"],
        ["reader, text only", "0.000", "0.000", "0.000", "-", "-"],
    ]
    tables = {table.title: numbers(table) for table in detail_tables(rows)}
    assert tables["VTWT by word class"] == [
        ["model", "noun", "verb", "adjective"],
        ["chance"] + ["0.500"] * 3,
        ["looker", "1.000", "0.000", "1.000"],
        ["reader"] + ["1.000"] * 3,
        ["writer"] + ["-"] * 3,
        ["reader, blank image"] + ["0.500"] * 3,
        ["reader, text only"] + ["0.000"] * 3,
    ]
    winoground = tables["Baby Winoground by measure"]
    assert winoground[0] == ["model", "text", "image", "positive", "positive strict", "negative", "negative strict"]
    assert winoground[1][1:] == ["0.250", "0.250", "0.500", "0.333", "0.500", "0.333"]
    assert winoground[3] == ["reader", "0.500", "0.500", "1.000", "0.750", "0.500", "0.250"]
    assert tables["Labeled-S by category"] == [
        ["category", "chance", "looker", "reader", "writer"],
        ["noun", "0.250", "-", "1.000", "-"],
        ["verb", "0.250", "-", "0.000", "-"],
    ]
    assert "0.250 by construction" in detail_tables(rows)[-1].note


def test_report_prints_out_of_vocabulary_shares(tmp_path, capsys):
    make_run(tmp_path, "reader", 0, facts={"unknown_words": "0.0312", "items_alike": "2"}, vtwt=[1, 0])
    make_run(tmp_path, "writer", 0, facts={"unknown_words": "0.0000", "items_alike": "0"}, caption=[1, 0])
    make_run(tmp_path, "looker", 0, vtwt=[1, 0])
    report(tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert "version_0 (out-of-vocabulary words: vtwt 3.1%, 2 items with identical options)" in out
    assert "version_0 (out-of-vocabulary words: caption 0.0%)" in out
    assert out.count("out-of-vocabulary words") == 2


def make_own_benchmark(run, name, metadata, measures=("accuracy",)):
    """Write results of a benchmark that the report does not know."""
    rows = [
        {"item": str(n), "category": "ab"[n % 2], "control": "", "measure": measure, "credit": float(n % 3 > 0)}
        for measure in measures
        for n in range(30)
    ]
    schema = pa.schema([field for field in RESULT_SCHEMA if field.name in rows[0]]).with_metadata(metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema), run / "results" / f"{name}-test.parquet")


def test_main_table_shows_declared_columns_of_other_benchmarks(tmp_path):
    run = make_run(tmp_path, "cvcl-filtered", 0, vtwt=[1, 0])
    measures = [
        {"name": "accuracy", "chance": 1 / 3, "main": True},
        {"name": "by_text", "title": "text only", "chance": 0.5, "main": False},
    ]
    metadata = {"world": "real", "title": "Which Image", "measures": json.dumps(measures), "order": "5"}
    make_own_benchmark(run, "which_image", metadata, ("accuracy", "by_text"))
    make_own_benchmark(run, "bare", {})
    rows = find_rows(tmp_path)[0]
    table = numbers(main_table(rows))
    assert table == [
        ["model", "VTWT", "Which Image", "bare accuracy"],
        ["chance", "0.500", "0.333", "-"],
        ["cvcl-filtered", "0.500", "0.667", "0.667"],
    ]
    details = {table.title: numbers(table) for table in detail_tables(rows)}
    assert details["Which Image by measure"] == [
        ["model", "text only"],
        ["chance", "0.500"],
        ["cvcl-filtered", "0.667"],
    ]
    assert [row[0] for row in details["Which Image by category"]] == ["category", "a", "b"]
    report(tmp_path, tmp_path / "out")
    assert "Which Image" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("measures", ["{", "[1]", '[{"chance": 0.5}]', '[{"name": "a", "chance": "x"}]'])
def test_invalid_declared_columns_are_user_errors(tmp_path, measures):
    run = make_run(tmp_path, "cvcl-filtered", 0, vtwt=[1, 0])
    make_own_benchmark(run, "which_image", {"measures": measures})
    with pytest.raises(UserError, match=r"which_image-test\.parquet: metadata 'measures' cannot be read"):
        report(tmp_path)


OLD_CONFIG = "trainer: {callbacks: [{class_path: babyvlm.benchmarks.VisualTwoWord, init_args: {trials: l/v.csv}}]}"
NEW_CONFIG = """
trainer:
  callbacks:
    - class_path: babyvlm.benchmarks.EvaluationCallback
      init_args:
        benchmarks: [{class_path: babyvlm.benchmarks.VTWT, init_args: {trials: l/v.csv, image_root: i}}]
"""


@pytest.mark.parametrize(
    ("config", "facts", "expected"),
    [
        (OLD_CONFIG, {}, ("L/l/v.csv", "L/l")),
        (NEW_CONFIG, {}, ("L/l/v.csv", "L/i")),
        (OLD_CONFIG, {"trials": "/x/v.csv", "images": "/y"}, ("/x/v.csv", "/y")),
        ("trainer: {callbacks: {class_path: x.VTWT, init_args: {trials: l/v.csv}}}", {}, ("L/l/v.csv", "L/l")),
        ("trainer: {callbacks: null}", {}, None),
        ("trainer: fast", {}, None),
    ],
)
def test_trial_list_reads_old_and_new_configs(tmp_path, config, facts, expected):
    """L stands for a folder above the logs in which the list exists."""
    logs = tmp_path / "project" / "logs"
    run = Run(make_run(logs, "cvcl-filtered", 0, config=config, facts=facts, vtwt=[1, 0]))
    for folder in ("l", "i"):
        (tmp_path / folder).mkdir()
    (tmp_path / "l" / "v.csv").touch()
    found = trial_list(run, "vtwt")
    assert (found and tuple(str(path).replace(str(tmp_path), "L") for path in found)) == expected


def test_tables_state_the_tested_step_and_its_rule(tmp_path):
    for seed, step, monitor in ((0, 400, "val_loss"), (1, 1600, "val_loss"), (2, 1600, None)):
        run = make_run(tmp_path, "CVCL-filtered", seed, seed=seed, vtwt=[1, 0, 1])
        (run / "checkpoints").mkdir()
        best = {"path": "checkpoints/best.ckpt", "monitor": monitor, "mode": "min", "value": 1.0, "step": step}
        (run / "best_checkpoint.json").write_text(json.dumps(best))
    rows = find_rows(tmp_path)[0]
    assert cells_of(main_table(rows), "CVCL-filtered")["tested step"] == "400-1,600"
    expected = "CVCL: tested checkpoint: the one with the lowest val_loss or the last one. THE ROWS DIFFER."
    assert checkpoint_lines(rows) == [expected]


def test_floors_stand_beside_chance(tmp_path):
    facts = {"floors": json.dumps({"accuracy": {"constant": 0.5}}), "prior": "0.6960"}
    floor = "model: {class_path: babyvlm.models.floors.ImageStatistics}\n"
    make_run(tmp_path, "color-histogram", 0, config=floor, vtwt=[1, 0, 0])
    make_run(tmp_path, "Playroom-CLIP", 0, facts=facts, vtwt=[1, 1, 0])
    table = main_table(find_rows(tmp_path)[0])
    assert [row[0] for row in table.rows] == [
        "chance",
        "prior, no image",
        "constant",
        "items",
        "images",
        "color-histogram",
        "Playroom-CLIP",
    ]
    assert cells_of(table, "prior, no image")["VTWT"] == "0.696"


def test_floors_of_categories_stand_beside_chance(tmp_path):
    phrases = [("wash cup", "eat cup"), ("wash cup", "see cup"), ("a dog", "a cat"), ("a cat", "a dog")]
    items, config = make_vtwt(tmp_path, phrases)
    facts = {"floors": json.dumps({"accuracy": {"constant": 0.5}}), "prior": "0.7500"}
    made = {"items": {"vtwt": items}, "vtwt": [1, 0, 1, 1], "controls": {"": 1, "shuffled": 0.5}}
    make_run(tmp_path / "logs", "a", 0, config=config, facts=facts, categories=["verb"] * 2 + ["noun"] * 2, **made)
    (table,) = detail_tables(find_rows(tmp_path / "logs")[0])
    assert cells_of(table, "constant")["verb"] == cells_of(table, "constant")["noun"] == "0.500"
    prior = cells_of(table, "prior, no image")
    assert (prior["verb"], prior["noun"]) == ("1.000", "0.500")  # their mean is that of the list
    assert cells_of(table, "shuffled images")["verb"] == "0.250"


def test_floors_of_the_list_that_are_not_at_chance_are_not_those_of_a_category(tmp_path):
    facts = {"floors": json.dumps({"accuracy": {"constant": 0.6, "pixel match": 0.5}})}
    make_run(tmp_path, "a", 0, facts=facts, labeled_s=[1, 0, 1, 1], categories=["cup", "dog"] * 2)
    (table,) = detail_tables(find_rows(tmp_path)[0])
    assert table.heading == ["category", "chance", "items", "images", "a"]
    assert ["cup", "0.250", "2", "2"] in [list(row[:4]) for row in table.rows]


def test_shuffled_images_stand_beside_chance_as_a_range(tmp_path):
    for row, credit in (("a", [1, 0, 1, 0]), ("b", [1, 1, 1, 0])):
        make_run(tmp_path, row, 0, controls={"": 1, "shuffled": 0.4}, vtwt=credit, seed=0)
    rows = find_rows(tmp_path)[0]
    assert cells_of(main_table(rows), "shuffled images")["VTWT"] == "0.200 to 0.300"
    assert "shuffled images" not in [row[0] for row in main_table([make_unshuffled(tmp_path)]).rows]


def make_unshuffled(folder):
    make_run(folder / "other", "c", 0, vtwt=[1, 0])
    return find_rows(folder / "other")[0][0]


def test_paper_values_have_a_table_of_their_own_on_playroom(tmp_path):
    for row in ("CVCL-filtered", "CVCL-filtered-aug"):
        make_run(tmp_path, row, 0, world="playroom", vtwt=[1, 0], labeled_s=[1, 0])
    rows = find_rows(tmp_path)[0]
    report = world_report(rows)
    assert "paper" not in [*report.main.heading, *report.ablation.heading]
    by_name = {row[0]: row[1:] for row in report.paper.rows}
    assert by_name["CVCL-filtered-aug"] == ["0.581", "0.702", "0.203", "-"]
    assert by_name["chance"] == ["0.250", "0.500", "0.167", "-"]
    assert report.paper in report.tables
    assert world_report([make_unshuffled(tmp_path)]).paper is None


def test_category_intervals_hold_together(tmp_path):
    draw = np.random.default_rng(0)
    categories = [f"c{number % 5}" for number in range(400)]
    make_run(tmp_path, "a", 0, labeled_s=draw.binomial(1, 0.6, 400).tolist(), categories=categories)
    (table,) = [one for one in detail_tables(find_rows(tmp_path)[0]) if "by category" in one.title]
    assert "hold together at 95% (Bonferroni: each at 99.00%)" in table.note
    assert [row[0] for row in table.rows[:3]] == ["seeds", "worlds", "tested step"]
    low, high = (float(end) for end in table.rows[3][-1].split("[")[1].strip("]*").split(", "))
    assert high - low > 0.24  # 0.21 at 95%


def test_main_table_counts_worlds_and_shows_shuffled_winoground(tmp_path):
    for world in range(2):
        facts = {"world_seed": str(world), "world_parameters": "size tiny"}
        made = {"controls": {"": 1, "shuffled": 0.5}, "baby_winoground": [1, 0, 1, 1], "seed": 0}
        make_run(tmp_path, "CVCL-filtered", world, world="playroom", facts=facts, **made)
    make_run(tmp_path, "CVCL-filtered", 5, world="playroom", facts={"world_parameters": "size large"}, vtwt=[1, 0])
    small, large = sorted(find_rows(tmp_path)[0], key=lambda row: len(row.runs), reverse=True)
    assert (small.setting, large.setting) == ("size tiny", "size large")
    cells = cells_of(main_table([small]), "CVCL-filtered")
    assert cells["worlds"] == "2"
    assert cells["Baby Winoground, shuffled images"].startswith("0.375 [")
    assert cells_of(main_table([small]), "shuffled images")["Baby Winoground"] == "0.375"
    assert cells_of(main_table([small]), "items")["Baby Winoground"] == "8"


def test_suites_have_own_tables_whose_intervals_hold_together(tmp_path):
    credit = [1, 1, 0, 1, 0, 0, 1, 1, 0, 1] * 4
    folder = make_run(tmp_path, "CVCL-filtered", 0, labeled_s=credit, vtwt=credit)
    schema = pq.read_table(folder / "results" / "vtwt-test.parquet")
    for number in range(2):
        floors = json.dumps({"accuracy": {"pixel match": 0.9}})
        measures = json.dumps([{"name": "accuracy", "title": "", "chance": 0.25, "main": True}])
        facts = {"world": "real", "suite": "DevCV Toolbox", "title": f"Task {number}", "measures": measures}
        path = folder / "results" / f"devcv_{number}-test.parquet"
        pq.write_table(schema.replace_schema_metadata({**facts, "floors": floors}), path)
    rows = find_rows(tmp_path)[0]
    (table,) = suite_tables(rows)
    assert table.title == "DevCV Toolbox"
    assert table.heading[-2:] == ["Task 0", "Task 1"]
    assert ["pixel match", "-", "-", "-", "0.900", "0.900"] in table.rows
    assert "hold together at 95% (Bonferroni: each at 97.50%)" in table.note
    assert "p values of `compare` are corrected" in table.note
    main = main_table(rows)
    assert not {"Task 0", "Task 1"} & {*main.heading, *paper_table(rows).heading}
    # The same credits have a wider interval in the table of two columns than in the main table.
    shown = table.rows[-1][-1]
    assert shown.startswith("0.600 [")
    assert shown != main.rows[-1][-1]
