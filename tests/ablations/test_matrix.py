"""The matrix as data: which runs it asks for, and what tells one from another."""

import shutil
from pathlib import Path

import pytest
import yaml

from babyvlm.__main__ import main
from babyvlm.ablations.matrix import read_matrix
from babyvlm.ablations.plan import Plan, differences
from babyvlm.errors import UserError
from support.tiny_world import MATRIX, lay_out

ROWS = {  # spec.md, section 2: what is trained
    *(
        f"{model}-{mix}"
        for model in ("CVCL", "BabyLLaVA-GPT2")
        for mix in ("filtered", "filtered-aug", "filtered-random", "aug-only")
    ),
    "BabyLLaVA-Llama-filtered",
}


@pytest.fixture
def world(tmp_path, monkeypatch, tiny_store, make_vocabulary):
    """Inside a folder with stores and overlays where a user has them."""
    lay_out(tmp_path, tiny_store, make_vocabulary)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(**options):
    """(row, seed) -> its chain of runs."""
    plan = Plan(MATRIX, **options)
    return {(task.row, task.seed): plan.run(task).chain for task in plan.tasks}


def rewrite(file, change):
    """Change a YAML in place."""
    content = yaml.safe_load(file.read_text())
    change(content)
    file.unlink()
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def test_the_rows_of_the_paper(world):
    tasks = Plan(MATRIX).tasks
    assert {task.row for task in tasks} == ROWS | {"Playroom-CLIP"}
    assert len(tasks) == 3 * len(ROWS) + 1
    assert {task.seed for task in Plan(MATRIX, quick=True).tasks} == {0}


def test_phase_0_is_shared_by_mixes_and_not_by_seeds_or_families(world):
    chains = runs()
    phase_0 = {name: chain[0] for name, chain in chains.items() if name[0].startswith("BabyLLaVA")}
    assert len(phase_0) == 15
    assert len({run.folder for run in phase_0.values()}) == 6  # 2 families, 3 seeds
    phase_1 = {chain[1].folder for (row, _), chain in chains.items() if row.startswith("BabyLLaVA-GPT2")}
    assert len(phase_1) == 12
    assert all(len(chain) == 3 for name, chain in chains.items() if name in phase_0)


def test_a_row_ends_where_the_report_looks(world):
    chain = runs()["BabyLLaVA-GPT2-filtered-aug", 2]
    assert chain[-1].folder == Path("lightning_logs/BabyLLaVA-GPT2-filtered-aug/seed_2")
    assert all(run.folder.parent == Path("lightning_logs/phases") for run in chain[:-1])
    assert runs(quick=True)["CVCL-filtered", 0][-1].folder == Path("lightning_logs/quick/CVCL-filtered/seed_0")


def drop_a_pair(world, tiny_store):
    shutil.rmtree(world / "data/playroom/stores/aug")
    tiny_store(["a red cup"] * 12, path=world / "data/playroom/stores/aug", source="other")


LANGUAGE = "configs/playroom/language-gpt2.yaml"
CHANGES = {
    "an overlay": (
        lambda world, _: rewrite(world / "configs/playroom/cvcl.yaml", lambda c: c.update(name="Other")),
        {"CVCL-filtered", "CVCL-aug-only"},
    ),
    "a store": (drop_a_pair, {"CVCL-aug-only", "BabyLLaVA-GPT2-aug-only"}),
    "a test's list": (
        lambda world, _: (world / "vtwt.csv").write_text("other"),
        {"CVCL-filtered", "CVCL-aug-only", "BabyLLaVA-GPT2-filtered", "BabyLLaVA-GPT2-aug-only"},
    ),
    "phase 0": (
        lambda world, _: rewrite(world / LANGUAGE, lambda c: c["model"]["init_args"].update(init_from=None)),
        {"BabyLLaVA-GPT2-filtered", "BabyLLaVA-GPT2-aug-only"},
    ),
    "a comment": (lambda world, _: rewrite(world / "configs/playroom/cvcl.yaml", lambda c: None), set()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_is_known_by_all_that_it_depends_on(world, tiny_store, what):
    change, touched = CHANGES[what]
    looked_at = {"CVCL-filtered", "CVCL-aug-only", "BabyLLaVA-GPT2-filtered", "BabyLLaVA-GPT2-aug-only"}
    before = runs()
    change(world, tiny_store)
    after = runs()
    changed = {row for row in looked_at if before[row, 1][-1].hash != after[row, 1][-1].hash}
    assert changed == touched


def test_what_differs_is_named(world):
    before = runs()["CVCL-filtered", 1][0].settings
    rewrite(world / "configs/playroom/cvcl.yaml", lambda config: config["model"]["init_args"].update(width=64))
    after = runs()["CVCL-filtered", 1][0].settings
    assert differences(after, before) == ["config.model.init_args.width"]


MISTAKES = {
    "an unknown key": (lambda m: m.update(row=1), "row"),
    "a typo in a step": (lambda m: m["steps"]["cvcl"].update(option={"a": 1}), "option"),
    "no such step": (lambda m: m["models"]["CVCL"].update(step="clip"), "models.CVCL.step: no step is called clip"),
    "no such step in the quick form": (lambda m: m["quick"]["options"].update(clip={}), "quick.options.clip"),
    "a circle": (lambda m: m["steps"]["cvcl"].update(begins={"model.init_from": "cvcl"}), "cvcl <- cvcl"),
    "seeds that are none": (lambda m: m.update(seeds=["a"]), "seeds"),
    "no such overlay": (lambda m: m["steps"]["cvcl"].update(configs=["configs/nope.yaml"]), "configs/nope.yaml"),
    "no such mix": (lambda m: m["models"]["CVCL"].update(mixes=["none"]), "configs/mix/none.yaml"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_a_matrix_is_one_line(world, capsys, what):
    change, named = MISTAKES[what]
    rewrite(world / MATRIX, change)
    with pytest.raises(SystemExit) as end:
        main(["ablations", "status", "--matrix", str(MATRIX)])
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.count("\n") == 1
    assert str(MATRIX) in told
    assert named in told


def test_missing_data_and_numbers_out_of_range_are_one_line(world, capsys):
    for args, named in (
        (["--task", "28"], "has 28 tasks, 0 to 27"),
        (["--task", "-1"], "0 to 27"),
        (["--rows", "[CVCL]"], "CVCL-filtered"),
        (["--seeds", "[3]"], "0, 1, 2"),
        (["--jobs", "0"], "--jobs"),
        (["--matrix", "nope.yaml"], "nope.yaml: no such matrix"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["ablations", "run", "--matrix", str(MATRIX), *args])
        told = capsys.readouterr().err
        assert (end.value.code, told.count("\n")) == (2, 1)
        assert named in told
    shutil.rmtree("data/playroom/stores/aug")
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert out.count("stores/aug: no such folder. Build it first") == 12  # of those rows alone: two models, two mixes


def test_samples_seen_are_told_and_a_difference_is_loud(world, capsys):
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert "BabyLLaVA-GPT2: gpt2-language: 6 samples" in out  # 3 steps of 2
    assert "CVCL: cvcl: 12 samples" in out
    assert "28 missing" in out
    rewrite(world / MATRIX, lambda m: m["steps"]["cvcl"].update(options={"trainer.max_epochs": 2}))
    rewrite(world / "base.yaml", lambda c: c["trainer"].update(max_steps=-1))
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert "CVCL: cvcl: ROWS DIFFER: CVCL-filtered 80 samples; CVCL-filtered-aug 160 samples" in out


def test_the_merged_config_is_that_of_the_matrix(world):
    config = runs()["BabyLLaVA-GPT2-filtered-aug", 1][-1].settings["config"]
    assert config["trainer"]["gradient_clip_val"] == 1.0  # of the phase
    assert config["trainer"]["max_steps"] == 3  # of the option, over the phase
    assert config["data"]["init_args"]["batch_size"] == 4
    assert config["data"]["init_args"]["sources"] == [{"store": "filtered"}, {"store": "aug"}]


def test_a_matrix_read(world):
    assert read_matrix(MATRIX).models["BabyLLaVA-Llama"].mixes == ["filtered"]
    rewrite(world / MATRIX, lambda matrix: matrix.pop("quick"))
    with pytest.raises(UserError, match="has no quick form"):
        Plan(MATRIX, quick=True)


def test_paper_size_is_trained_as_the_authors_scripts_say():
    folder = Path(__file__).parents[2] / "configs" / "saycam"
    names = ("cvcl", "language-gpt2", "language-llama", "phase-1", "phase-2")
    overlay = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in names}
    clipped = {name: one["trainer"].get("gradient_clip_val") for name, one in overlay.items()}
    assert clipped == {"cvcl": None, "language-gpt2": 1, "language-llama": 1, "phase-1": 1, "phase-2": 1}
    contexts = [overlay[f"language-{name}"]["data"]["init_args"]["max_tokens"] for name in ("gpt2", "llama")]
    assert contexts == [1024, 2048]
    assert overlay["cvcl"]["trainer"]["precision"] == "32-true"  # over the base's bf16
