"""One best checkpoint: recorded in the run, and used by the test, load, export, resume, and reports."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import babyvlm
from babyvlm.__main__ import main
from babyvlm.errors import UserError
from babyvlm.io.runs import BestCheckpoint
from babyvlm.models.checkpoints import best_checkpoint
from babyvlm.models.cvcl import CVCL
from babyvlm.report.runs import Run
from babyvlm.training.best_checkpoint import direction
from support.small_run import CALLBACKS, STEPS, enter, fit, lay_out

RUN = Path("lightning_logs/run-tiny/version_0")
HIGH = ["--model.optimizer.lr", "5"]  # the loss only rises: the best checkpoint is the first


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_store, make_vocabulary):
    folder = tmp_path_factory.mktemp("best")
    lay_out(folder, tiny_store, make_vocabulary)
    return folder


@pytest.fixture
def place(root, tmp_path, monkeypatch):
    return enter(root, tmp_path, monkeypatch)


def saving(*options):
    """The option that replaces the callbacks by ModelCheckpoints."""
    callbacks = [{"class_path": f"{CALLBACKS}.ModelCheckpoint", "init_args": one} for one in options]
    return ["--trainer.callbacks", json.dumps(callbacks)]


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


LOSS = {"monitor": "val_loss"}
WAYS = {
    "elsewhere": [LOSS | {"dirpath": "ckpts", "filename": "best"}],
    "in folders": [LOSS | {"filename": "{step}/{val_loss:.3f}"}],
    "several": [{"filename": "newest", "every_n_train_steps": 1}, LOSS | {"every_n_train_steps": 2}],
}


@pytest.mark.parametrize("way", WAYS)
def test_test_load_and_export_use_the_recorded_best(place, capsys, way):
    fit(*HIGH, *saving(*WAYS[way]))
    best = BestCheckpoint.read(RUN)
    assert (best.monitor, best.mode, best.step) == ("val_loss", "min", 2)
    assert "testing the best checkpoint: step 2, lowest val_loss" in capsys.readouterr().out
    assert best_checkpoint(RUN).samefile(best.path)
    if way == "several":  # the first one inherits no monitor from the callback that it replaces
        saved = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["callbacks"]
        assert [one["init_args"]["monitor"] for one in saved] == [None, "val_loss"]
        assert not (RUN / "checkpoints/newest.ckpt").samefile(best.path)
    chosen, last = weights(best.path), weights(RUN / "checkpoints/last.ckpt")
    assert not same(chosen, last)
    assert same(babyvlm.load(RUN).state_dict(), chosen)
    if way == "elsewhere":
        main(["export", "--run", str(RUN), "--out", "exported"])
        assert same(babyvlm.load("exported").state_dict(), chosen)
        # The recorded one or none: never another one without a word.
        (place / "ckpts/best.ckpt").unlink()
        with pytest.raises(UserError, match=r"its best checkpoint, .*ckpts/best\.ckpt, is missing"):
            babyvlm.load(RUN)
    if way == "in folders":  # a moved run, and one without a record, as of an earlier version
        moved = shutil.copytree(RUN, "moved")
        assert same(babyvlm.load(moved).state_dict(), chosen)
        (Path(moved) / "best_checkpoint.json").unlink()
        assert same(babyvlm.load(moved).state_dict(), chosen)


def test_run_that_monitors_nothing_tests_its_last_checkpoint(place, capsys):
    fit(*saving({"every_n_train_steps": 4}))
    assert BestCheckpoint.read(RUN) == BestCheckpoint(RUN / "checkpoints/last.ckpt", step=STEPS)
    assert f"testing the best checkpoint: last checkpoint, step {STEPS}" in capsys.readouterr().out
    assert same(babyvlm.load(RUN).state_dict(), weights(RUN / "checkpoints/last.ckpt"))


def test_accuracy_is_maximized(place):
    fit("--trainer.callbacks", BOTH)
    saved = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["callbacks"]
    modes = {one["init_args"]["monitor"]: one["init_args"]["mode"] for one in saved if "monitor" in one["init_args"]}
    assert modes == {"vtwt_dev": "max", "val_loss": "min"}
    assert (BestCheckpoint.read(RUN).monitor, BestCheckpoint.read(RUN).mode) == ("vtwt_dev", "max")
    columns = set((RUN / "metrics.csv").read_text().splitlines()[0].split(","))
    assert {name for name in columns if "test" not in name} == {
        *CVCL.logged,
        "gradient_norm",
        "vtwt_dev",
        "epoch",
        "step",
    }


VTWT = {"class_path": "babyvlm.benchmarks.VTWT", "init_args": {"trials": "vtwt.csv", "dev_fraction": 0.5}}
BOTH = json.dumps(
    [
        {"class_path": f"{CALLBACKS}.ModelCheckpoint", "init_args": {"monitor": "vtwt_dev"}},
        {"class_path": f"{CALLBACKS}.EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 9}},
        {"class_path": "babyvlm.benchmarks.EvaluationCallback", "init_args": {"benchmarks": [VTWT]}},
    ]
)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val_loss", "min"),
        ("val_perplexity", "min"),
        ("train_loss", "min"),
        ("labeled_s_dev", "max"),
        ("saycam_caption_meteor_15_dev", "max"),
        ("val/acc", "max"),
        ("val_accuracy_top1", "max"),
        ("teacher_entropy", None),
        ("temperature", None),
    ],
)
def test_direction_of_metric(metric, mode):
    assert direction(metric) == mode


def stopping(metric):
    return [{"class_path": f"{CALLBACKS}.EarlyStopping", "init_args": {"monitor": metric, "mode": "min"}}]


REFUSED = {
    "contradiction": (saving({"monitor": "vtwt_dev", "mode": "min"}), "mode min would prefer the worst vtwt_dev"),
    "unknown direction": (saving({"monitor": "temperature"}), "is a low or a high temperature good"),
    "nothing kept": (saving(LOSS | {"save_top_k": 0}), "keeps no checkpoint"),
    "name of the last": (saving(LOSS | {"filename": "last"}), "the filename `last` is that of"),
    "folder": (saving(LOSS | {"dirpath": "run.yaml"}), "run.yaml: cannot be created (File exists)"),
    "shared folder": (
        saving(LOSS | {"dirpath": "ckpts", "enable_version_counter": False}),
        "would overwrite checkpoints of other runs",
    ),
    "invalid argument": (saving(LOSS | {"save_top_k": -2}), "Invalid value for save_top_k=-2. Must be >= -1"),
    "typo": ([*saving({"monitor": "val_los", "mode": "min"}), "--trainer.num_sanity_val_steps", "1"], "val_loss"),
    "typo without sanity check": (
        saving({"monitor": "val_los", "mode": "min"}),
        "not measured. Choose from: train_loss",
    ),
    "typo in early stopping": (
        ["--trainer.callbacks+", json.dumps(stopping("temprature"))],
        "EarlyStopping: monitor temprature: not measured. Choose from: train_loss, temperature, val_loss",
    ),
    "typo in file name": (
        saving(LOSS | {"filename": "{epoch}-{val_los:.2f}"}),
        "filename val_los: not measured. Choose from: train_loss, temperature, val_loss, gradient_norm",
    ),
    "benchmark in file name": (saving(LOSS | {"filename": "{vtwt_dev}"}), "No benchmark of this run has a dev split"),
    "type in file name": (
        saving(LOSS | {"filename": "{val_loss:02d}"}),
        "filename {val_loss:02d}: Unknown format code",
    ),
    "open brace in file name": (saving(LOSS | {"filename": "{val_loss"}), "filename {val_loss: expected '}'"),
    "no benchmark": (saving({"monitor": "vtwt_dev"}), "No benchmark of this run has a dev split"),
    "interval beyond the epoch": (
        ["--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "99"],
        "val_check_interval",
    ),
    "early stopping": (
        ["--trainer.callbacks", json.dumps(stopping("val_loss")), "--trainer.val_check_interval", "99"],
        "val_loss is never measured: trainer.val_check_interval 99 exceeds the run of 6 batches",
    ),
    "continue by fit": (["--ckpt_path", "last"], "use `python -m babyvlm resume RUN`"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_fit_refuses_what_cannot_select_a_checkpoint(place, capsys, mistake):
    options, message = REFUSED[mistake]
    with pytest.raises(SystemExit) as end:
        fit(*options)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("interval", [{"every_n_train_steps": 7}, {"every_n_epochs": 2}])
def test_checkpoint_that_is_never_saved_is_reported_at_the_start(place, capsys, interval):
    fit(*saving(LOSS | interval), "--test_after_fit", "false")
    (name, value) = next(iter(interval.items()))
    assert f"warning: ModelCheckpoint: {name} {value} exceeds the run of 6 batches" in capsys.readouterr().err
    assert BestCheckpoint.read(RUN).monitor is None


def test_validation_that_never_happens_is_reported_at_the_start(place, capsys):
    fit(val_check_interval=99)
    printed = capsys.readouterr()
    assert "warning: no validation: trainer.val_check_interval 99 exceeds the run of 6 batches" in printed.err
    assert BestCheckpoint.read(RUN) == BestCheckpoint(RUN / "checkpoints/last.ckpt", step=STEPS)
    assert "testing the best checkpoint: last checkpoint" in printed.out


def test_test_of_a_run_never_uses_untrained_weights(place, capsys):
    fit(*HIGH)
    results = (RUN / "results/vtwt-test.parquet").read_bytes()
    again = ["test", "--config", f"{RUN}/config.yaml"]
    for args in (again, ["test", "--config", "run.yaml"], ["test", "--config", "run.yaml", "--ckpt_path", "best"]):
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == 2
        assert re.search("untrained weights|of which run", capsys.readouterr().err.splitlines()[-1])
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    tested = RUN.with_name("version_1")
    main([*again, "--ckpt_path", "best"])
    assert (tested / "results/vtwt-test.parquet").read_bytes() == results
    assert [phase.path.resolve() for phase in Run(tested).phases] == [RUN.resolve(), tested.resolve()]
    assert Run(tested).trained
    main([*again, "--ckpt_path", "last"])
    file = yaml.safe_load((RUN.with_name("version_2") / "config.yaml").read_text())["ckpt_path"]
    assert file == str(RUN / "checkpoints/last.ckpt")
