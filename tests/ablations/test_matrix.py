"""The ablation matrix: its rows, the runs behind them, and what identifies a run."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from babyvlm.__main__ import main
from babyvlm.ablations.matrix import read_matrix
from babyvlm.ablations.plan import Plan, changed_settings
from babyvlm.errors import UserError
from support.tiny_world import MATRIX

ROWS = {  # the rows that are trained here
    *(
        f"{model}-{mix}"
        for model in ("CVCL", "BabyLLaVA-GPT2")
        for mix in ("filtered", "filtered-aug", "filtered-random", "aug-only")
    ),
    "BabyLLaVA-Llama-filtered",
}


@pytest.fixture
def world(tmp_path, monkeypatch, laid_out):
    """Change into a folder with stores and overlays."""
    shutil.copytree(laid_out, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(**options):
    """Return (row, seed) -> chain of runs."""
    plan = Plan(MATRIX, **options)
    return {(task.row, task.seed): plan.run(task).chain for task in plan.tasks}


def edit_yaml(file, change):
    """Edit a YAML file in place."""
    content = yaml.safe_load(file.read_text())
    change(content)
    file.unlink()
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def test_plan_lists_rows_of_the_paper(world):
    tasks = Plan(MATRIX).tasks
    assert {task.row for task in tasks} == ROWS | {"Playroom-CLIP"}
    assert len(tasks) == 3 * len(ROWS) + 1
    assert {task.seed for task in Plan(MATRIX, quick=True).tasks} == {0}


def test_plan_shares_phase_0_between_mixes(world):
    chains = runs()
    phase_0 = {name: chain[0] for name, chain in chains.items() if name[0].startswith("BabyLLaVA")}
    assert len(phase_0) == 15
    assert len({run.folder for run in phase_0.values()}) == 6  # 2 families, 3 seeds
    phase_1 = {chain[1].folder for (row, _), chain in chains.items() if row.startswith("BabyLLaVA-GPT2")}
    assert len(phase_1) == 12
    assert all(len(chain) == 3 for name, chain in chains.items() if name in phase_0)


def test_plan_writes_last_run_where_report_reads(world):
    chain = runs()["BabyLLaVA-GPT2-filtered-aug", 2]
    assert chain[-1].folder == Path("lightning_logs/BabyLLaVA-GPT2-filtered-aug/seed_2")
    assert all(run.folder.parent == Path("lightning_logs/phases") for run in chain[:-1])
    assert runs(quick=True)["CVCL-filtered", 0][-1].folder == Path("lightning_logs/quick/CVCL-filtered/seed_0")


def replace_store(world, tiny_store):
    shutil.rmtree(world / "data/playroom/stores/aug")
    tiny_store(["a red cup"] * 12, path=world / "data/playroom/stores/aug", source="other")


LANGUAGE = "configs/playroom/language-gpt2.yaml"
CHANGES = {
    "an overlay": (
        lambda world, _: edit_yaml(world / "configs/playroom/cvcl.yaml", lambda c: c.update(name="Other")),
        {"CVCL-filtered", "CVCL-aug-only"},
    ),
    "a store": (replace_store, {"CVCL-aug-only", "BabyLLaVA-GPT2-aug-only"}),
    "a benchmark's list": (
        lambda world, _: (world / "vtwt.csv").write_text("other"),
        {"CVCL-filtered", "CVCL-aug-only", "BabyLLaVA-GPT2-filtered", "BabyLLaVA-GPT2-aug-only"},
    ),
    "phase 0": (
        lambda world, _: edit_yaml(world / LANGUAGE, lambda c: c["model"]["init_args"].update(init_from=None)),
        {"BabyLLaVA-GPT2-filtered", "BabyLLaVA-GPT2-aug-only"},
    ),
    "a comment": (lambda world, _: edit_yaml(world / "configs/playroom/cvcl.yaml", lambda c: None), set()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_run_hash_covers_all_inputs(world, tiny_store, what):
    change, expected = CHANGES[what]
    rows = {"CVCL-filtered", "CVCL-aug-only", "BabyLLaVA-GPT2-filtered", "BabyLLaVA-GPT2-aug-only"}
    before = runs()
    change(world, tiny_store)
    after = runs()
    changed = {row for row in rows if before[row, 1][-1].hash != after[row, 1][-1].hash}
    assert changed == expected


def test_changed_settings_names_difference(world):
    before = runs()["CVCL-filtered", 1][0].settings
    edit_yaml(world / "configs/playroom/cvcl.yaml", lambda config: config["model"]["init_args"].update(width=64))
    after = runs()["CVCL-filtered", 1][0].settings
    assert changed_settings(after, before) == ["config.model.init_args.width"]


MISTAKES = {
    "an unknown key": (lambda m: m.update(row=1), "row"),
    "a typo in a step": (lambda m: m["steps"]["cvcl"].update(option={"a": 1}), "option"),
    "no such step": (lambda m: m["models"]["CVCL"].update(step="clip"), "models.CVCL.step: no step named clip"),
    "no such step in the quick form": (lambda m: m["quick"]["options"].update(clip={}), "quick.options.clip"),
    "a cycle": (lambda m: m["steps"]["cvcl"].update(start_from={"model.init_from": "cvcl"}), "cvcl <- cvcl"),
    "invalid seeds": (lambda m: m.update(seeds=["a"]), "seeds"),
    "no such overlay": (lambda m: m["steps"]["cvcl"].update(configs=["configs/nope.yaml"]), "configs/nope.yaml"),
    "no such mix": (lambda m: m["models"]["CVCL"].update(mixes=["none"]), "configs/mix/none.yaml"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_invalid_matrix_is_one_line_error(world, capsys, what):
    change, named = MISTAKES[what]
    edit_yaml(world / MATRIX, change)
    with pytest.raises(SystemExit) as end:
        main(["ablations", "status", "--matrix", str(MATRIX)])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    assert str(MATRIX) in error
    assert named in error


def test_invalid_options_are_one_line_errors(world, capsys):
    for args, named in (
        (["--task", "28"], "has 28 tasks, numbered 0 to 27"),
        (["--task", "-1"], "0 to 27"),
        (["--rows", "[CVCL]"], "CVCL-filtered"),
        (["--seeds", "[3]"], "0, 1, 2"),
        (["--num_workers", "0"], "--num_workers 0: must be at least 1"),
        (["--matrix", "nope.yaml"], "nope.yaml: no such file"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["ablations", "run", "--matrix", str(MATRIX), *args])
        error = capsys.readouterr().err
        assert (end.value.code, error.count("\n")) == (2, 1)
        assert named in error
    shutil.rmtree("data/playroom/stores/aug")
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert out.count("stores/aug: no such folder. Build it first") == 12  # rows of two models and two mixes


RECORDS = {
    "torn": '{"settings": {"config"',
    "empty": "",
    "a list": "[]",
    "without settings": "{}",
    "deep": "[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "a folder": None,
}


def test_status_and_run_report_damaged_records_in_one_line_each(world, capsys):
    rows = [task.row for task in Plan(MATRIX).tasks if task.seed == 0 and task.mix][: len(RECORDS)]
    for row, content in zip(rows, RECORDS.values(), strict=True):
        folder = Path("lightning_logs", row, "seed_0")
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_bytes(b"step,x\n\xff,1\n\xc2\xb2,1\n3,\x00\n")
        record = folder / "ablation.json"
        record.mkdir() if content is None else record.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert out.count("stale: ablation.json cannot be read") == len(RECORDS)
    with pytest.raises(SystemExit) as end:
        main(["ablations", "run", "--matrix", str(MATRIX), "--seeds", "[0]", "--rows", f"[{','.join(rows)}]"])
    done = capsys.readouterr()
    assert end.value.code == 1
    assert (done.out + done.err).count("ablation.json cannot be read") == len(RECORDS)
    assert "Traceback" not in done.out + done.err


OVERLAYS = ["data: null", "trainer: null", "data: {init_args: {stores: 3}}", "1: 2", "model: 3", "- a", "data: [1]"]


def test_status_reports_overlay_that_is_no_config(world, capsys):
    for overlay in OVERLAYS:
        Path("configs/mix/filtered.yaml").write_text(overlay)
        with suppress(SystemExit):
            main(["ablations", "status", "--matrix", str(MATRIX)])
        done = capsys.readouterr()
        assert "Traceback" not in done.out + done.err
        assert done.err.count("\n") <= 1


def test_status_prints_sample_budgets(world, capsys):
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert "BabyLLaVA-GPT2: gpt2-language: 6 samples" in out  # 3 steps of 2
    assert "CVCL: cvcl: 12 samples" in out
    assert "28 missing" in out
    edit_yaml(world / MATRIX, lambda m: m["steps"]["cvcl"].update(options={"trainer.max_epochs": 2}))
    edit_yaml(world / "base.yaml", lambda c: c["trainer"].update(max_steps=-1))
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert "CVCL: cvcl: ROWS DIFFER: CVCL-filtered 80 samples; CVCL-filtered-aug 160 samples" in out


def test_plan_merges_overlays_and_options(world):
    config = runs()["BabyLLaVA-GPT2-filtered-aug", 1][-1].settings["config"]
    assert config["trainer"]["gradient_clip_val"] == 1.0  # set by the phase
    assert config["trainer"]["max_steps"] == 3  # the option overrides the phase
    assert config["data"]["init_args"]["batch_size"] == 4
    assert config["data"]["init_args"]["sources"] == [{"store": "filtered"}, {"store": "aug"}]


def test_plan_requires_quick_form(world):
    assert read_matrix(MATRIX).models["BabyLLaVA-Llama"].mixes == ["filtered"]
    edit_yaml(world / MATRIX, lambda matrix: matrix.pop("quick"))
    with pytest.raises(UserError, match="has no quick form"):
        Plan(MATRIX, quick=True)


def test_saycam_configs_match_authors_scripts():
    folder = Path(__file__).parents[2] / "configs" / "saycam"
    names = ("cvcl", "language-gpt2", "language-llama", "phase-1", "phase-2")
    overlay = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in names}
    clipped = {name: one["trainer"].get("gradient_clip_val") for name, one in overlay.items()}
    assert clipped == {"cvcl": None, "language-gpt2": 1, "language-llama": 1, "phase-1": 1, "phase-2": 1}
    contexts = [overlay[f"language-{name}"]["data"]["init_args"]["max_tokens"] for name in ("gpt2", "llama")]
    assert contexts == [2048, 2048]
    assert overlay["cvcl"]["trainer"]["precision"] == "32-true"  # over the base's bf16


SCALING = Path("scaling.yaml")


def test_scaling_matrix_varies_home_pairs_only(world):
    """Each mix with home pairs in four sizes; steps without pairs are shared, and complete rows are the same runs."""
    scaling = yaml.safe_load(Path("configs/playroom/scaling.yaml").read_text())
    SCALING.write_text(yaml.safe_dump(scaling | {"extends": str(MATRIX)}))
    plan = Plan(SCALING)
    rows = {task.row for task in plan.tasks}
    sizes = ("", "-home-0.5", "-home-0.25", "-home-0.125")
    mixes = ("filtered", "filtered-aug", "filtered-random")
    models = ("CVCL", "CVCL-frozen", "BabyLLaVA-GPT2")
    assert rows == {f"{one}-{mix}{size}" for one in models for mix in mixes for size in sizes} | {
        f"{one}-aug-only" for one in models
    }
    chains = {(task.row, task.seed): plan.run(task).chain for task in plan.tasks}
    usual = runs()
    assert all(chain == usual[key] for key, chain in chains.items() if key in usual)
    eighth = chains["BabyLLaVA-GPT2-filtered-aug-home-0.125", 0]
    assert eighth[0] == chains["BabyLLaVA-GPT2-filtered-aug", 0][0]  # the language model
    for run in eighth[1:]:
        assert "--data.home.fraction=0.125" in run.command
        assert run.settings["config"]["data"]["init_args"]["home"] == {"fraction": 0.125}
    assert len({chain[-1].hash for chain in chains.values()}) == len(chains)
    steps = plan.steps()
    assert len({step.key for step in steps}) == len(steps)
    assert sum(step.step == "gpt2-phase-1" for step in steps) == 13 * 3
    quick = Plan(SCALING, quick=True).tasks
    assert {task.model for task in quick} == {"CVCL-frozen"}
    assert len(quick) == 13 * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extends": "gone.yaml"}, "gone.yaml: no such file"),
        ({"quick": {"seeds": [0], "models": ["CLIP"]}}, "quick.models: no model named CLIP"),
        (
            {"models": {"CVCL-frozen": {"step": "cvcl", "mixes": ["filtered"], "home_fractions": [2]}}},
            "2.0 must be above 0",
        ),
    ],
)
def test_scaling_matrix_refuses_mistakes(world, change, message):
    scaling = yaml.safe_load(Path("configs/playroom/scaling.yaml").read_text())
    SCALING.write_text(yaml.safe_dump(scaling | {"extends": str(MATRIX)} | change))
    with pytest.raises(UserError, match=message):
        Plan(SCALING)
