"""Several worlds in a matrix: each row is run on each, with the paths of its data, and each has its own chain."""

import shutil
from pathlib import Path

import pytest
import yaml

from babyvlm.ablations.plan import Plan
from babyvlm.ablations.runner import select_tasks
from babyvlm.ablations.status import status
from babyvlm.errors import UserError
from babyvlm.report.runs import RUN_FOLDER
from babyvlm.workflow.corpus import curation, read_corpus, training
from babyvlm.workflow.worlds import corpora
from support.docs_pages import ROOT
from support.tiny_world import MATRIX

NAMED_IN_FINDINGS = {"CVCL-filtered-random", "BabyLLaVA-GPT2-filtered-aug", "BabyLLaVA-Llama-filtered", "Playroom-CLIP"}
WORLDS = [
    {"folder": "data/first", "playroom": {"seed": 0}},
    {"folder": "data/second", "playroom": {"seed": 1, "style_gap": 0.5}},
]


@pytest.fixture
def world(tmp_path, monkeypatch, laid_out):
    """Change into a folder with two worlds and a matrix of two rows."""
    shutil.copytree(laid_out, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    change(lambda m: m.update(worlds=WORLDS, corpus="configs/playroom/workflow.yaml", seeds=[0]))
    change(lambda m: m["models"].update(CVCL={"step": "cvcl", "mixes": ["filtered", "filtered-aug"]}))
    for place in WORLDS:
        Path(place["folder"]).symlink_to("playroom")
    return tmp_path


def change(edit):
    """Edit the matrix."""
    content = yaml.safe_load(MATRIX.read_text())
    edit(content)
    MATRIX.unlink()
    MATRIX.write_text(yaml.safe_dump(content, sort_keys=False))


def test_every_row_runs_on_every_world_with_its_paths(world):
    plan = Plan(MATRIX)
    runs = {(task.row, task.world): plan.run(task) for task in plan.tasks}
    assert {number for _, number in runs} == {0, 1}
    assert ("Playroom-CLIP", 1) in runs
    run_1 = runs["BabyLLaVA-GPT2-filtered", 1]
    assert run_1.folder == Path("lightning_logs/BabyLLaVA-GPT2-filtered/world_1-seed_0")
    assert RUN_FOLDER.fullmatch(run_1.folder.name)
    for number, place in enumerate(WORLDS):
        for one in runs["BabyLLaVA-GPT2-filtered", number].chain:
            assert one.settings["config"]["data"]["init_args"]["stores"] == f"{place['folder']}/stores"
            assert all(f"--config={file}" in one.command for file, _ in one.overlays)
            assert "data/playroom" not in "".join(text for _, text in one.overlays)
    trained = [one for (row, _), run in runs.items() if row != "Playroom-CLIP" for one in run.chain]
    assert len({one.hash for one in trained}) == len(trained) - 2 * 3  # mixes share phase 0 in each world


def test_paths_in_options_are_moved(world):
    change(lambda m: m["steps"]["cvcl"]["options"].update({"data.features": "data/playroom/features"}))
    plan = Plan(MATRIX)
    task = next(task for task in plan.tasks if (task.model, task.world) == ("CVCL", 1))
    assert "--data.features=data/second/features" in plan.run(task).command


def test_worlds_can_be_selected(world, capsys):
    plan = Plan(MATRIX)
    assert {task.world for task in select_tasks(plan, None, None, None, [1])} == {1}
    with pytest.raises(UserError, match=r"--worlds 5: .* has only 0, 1"):
        select_tasks(plan, None, None, None, [5])
    change(lambda m: m.update(quick={"seeds": [0], "worlds": [1], "models": ["CVCL"]}))
    tasks = Plan(MATRIX, quick=True).tasks
    assert [(task.row, task.world) for task in tasks if task.mix] == [("CVCL-filtered", 1), ("CVCL-filtered-aug", 1)]
    status(MATRIX)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2:5] for line in lines if line[1:2] == ["CVCL-filtered"]] == [
        ["0", "0", "missing"],
        ["1", "0", "missing"],
    ]


def test_every_world_has_the_chain_of_the_corpus(world):
    chains = [[job.command for job in curation(corpus)] for corpus in corpora(MATRIX)]
    assert len(chains) == 2
    assert chains[1][0][:1] == ("playroom",)
    assert "--style_gap" in chains[1][0]
    assert "--style_gap" not in chains[0][0]
    assert all("data/playroom/" not in word for chain in chains for command in chain for word in command)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(worlds=WORLDS[:1] * 2), "two worlds have the same folder"),
        (lambda m: m.update(quick={"seeds": [0], "worlds": [2]}), "quick.worlds: no world 2"),
        (lambda m: m.update(quick={"seeds": [0], "models": ["CLIP"]}), "quick.models: no model named CLIP"),
        (lambda m: m.pop("corpus"), "has no worlds, or no corpus"),
        (lambda m: m.update(folder="data/saycam"), "must make Playroom in data/saycam"),
    ],
)
def test_mistakes_are_user_errors(world, edit, message):
    change(edit)
    with pytest.raises(UserError, match=message):
        corpora(MATRIX)


def test_a_workflow_refuses_a_matrix_with_worlds(world):
    given = yaml.safe_load(Path("configs/playroom/workflow.yaml").read_text())
    Path("workflow.yaml").write_text(yaml.safe_dump(given | {"matrix": str(MATRIX)}))
    with pytest.raises(UserError, match="has worlds"):
        training(read_corpus(Path("workflow.yaml")))


def test_controls_are_stores_of_the_vocabulary(monkeypatch):
    monkeypatch.chdir(ROOT)
    given = yaml.safe_load(Path("configs/playroom/workflow.yaml").read_text())
    for captions, other in (("raw", "rewritten"), ("rewritten", "raw")):
        corpus = read_corpus(Path("configs/playroom/workflow.yaml"))
        jobs = {
            job.name: job
            for job in curation(type(corpus)(**vars(corpus) | {"controls": True, "random_captions": captions}))
        }
        assert f"data/playroom/stores/random-{other}" in jobs[f"random_{other}"].command
        assert "data/playroom/stores/aug-raw" in jobs["match_raw"].command
        assert f"random-{other}" in " ".join(jobs["vocabulary"].command)
        assert {"match_raw-0", f"random_{other}-0"} <= set(jobs["vocabulary"].needs)
    assert "controls" not in given


def test_study_has_both_budgets_for_every_mix_and_three_worlds_and_seeds(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan, quick = Plan(Path("configs/study/ablations.yaml")), Plan(Path("configs/study/ablations.yaml"), quick=True)
    assert len(plan.worlds) == len(plan.form.seeds) == 3
    rows = {task.row for task in plan.tasks}
    assert rows >= {*(f"{row.replace('-epochs', '')}" for row in rows), *NAMED_IN_FINDINGS}
    assert {(task.world, task.seed) for task in quick.tasks} == {(0, 0)}
    steps = plan.matrix.steps
    for name in ("cvcl", "cvcl-frozen", "gpt2-phase-2", "gpt2-phase-2-tuned"):
        equal_samples, equal_epochs = steps[name], steps[f"{name}-epochs"]
        assert equal_samples.configs == equal_epochs.configs
        assert equal_epochs.options["trainer.max_epochs"] > 0
    chain = {job.name for job in curation(corpora(Path("configs/study/ablations.yaml"))[2])}
    assert {"match_raw", "random_rewritten"} <= chain


def test_sweeps_vary_alignment_and_style_gap(monkeypatch):
    monkeypatch.chdir(ROOT)
    file = Path("configs/study/sweeps.yaml")
    assert {task.model for task in Plan(file).tasks if task.mix} == {"CVCL", "CVCL-epochs"}
    worlds = [corpus.playroom for corpus in corpora(file)]
    assert {world.get("in_view", 0.4) for world in worlds} == {0.1, 0.2, 0.4}
    assert {world.get("style_gap", 1) for world in worlds} == {0, 0.5, 1}
