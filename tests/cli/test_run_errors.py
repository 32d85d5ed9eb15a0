"""Mistakes in ``fit``, ``test`` and ``export``: one line, exit code 2, no traceback, and no empty run folder."""

import copy
import json
import multiprocessing
import os
import re
import resource
import signal
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace

import babyvlm
from babyvlm.__main__ import main
from babyvlm.cli.main import _user_error
from babyvlm.cli.settings import check_settings
from babyvlm.errors import UserError
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.training.recovery import SeedEachBatch
from support.small_run import CALLBACKS, enter, fit, lay_out

RUN = Path("lightning_logs/run-tiny/version_0")


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_store, make_vocabulary):
    folder = tmp_path_factory.mktemp("errors")
    lay_out(folder, tiny_store, make_vocabulary)
    texts = [f"red ball {number}" for number in range(12)]
    tiny_store(texts, splits=["train"] * 8 + ["val"] * 4, path=folder / "stores/notest")
    (folder / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    return folder


@pytest.fixture
def place(root, tmp_path, monkeypatch):
    return enter(root, tmp_path, monkeypatch)


SCHEDULE = "{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {max_lr: 0.1, total_steps: 3}}"
STEPS_OF_0 = "{class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 0}}"
MISTAKES = {
    "--data.batch_size 0": "data.batch_size 0: must be at least 1",
    "--model.optimizer.eps -1": "Invalid epsilon value: -1",
    "--trainer.max_steps -3": "trainer: `max_steps` must be",
    "--trainer.max_steps 0": "trainer.max_steps: 0 trains nothing",
    "--trainer.devices 3": "batch_size 4 is global and must be a multiple of the 3 devices",  # once, not by each device
    "--trainer.accelerator gpu": "error: trainer.accelerator gpu: this machine has no GPU",
    "--seed_everything -1": "seed_everything -1: must be between 0 and 4294967295",
    "--trainer.precision half": r"trainer\.precision: Expected one of .*'16-mixed', .*'32-true'",
    "--trainer.max_time 00:00:00:00": "trainer.max_time: 0 trains nothing",
    "--data.validation notest": "split test is empty",
    "--trainer.limit_test_batches 0": "nothing would be tested. Pass --test_after_fit false",
    f"--model.scheduler {STEPS_OF_0}": "step_size 0: must be at least 1",
    "--ckpt_path stores": "ckpt_path stores: not a file",
    "--ckpt_path torn.ckpt": "torn.ckpt: cannot be read as a checkpoint",
    "--trainer.logger lightning.pytorch.loggers.CometLogger": "CometLogger is not among the classes",
    f"--model.scheduler {SCHEDULE}": r"model\.scheduler: OneCycleLR ends after 3 steps, but the run has 6",
}
SETTINGS = {
    "data.batch_size": [-4, None],
    "data.image_size": [0],
    "data.min_scale": [2, 0],
    "data.num_workers": [-1, None],
    "data.max_tokens": [1],
    "data.sources": [[]],
    "data.sources.0.utterances": [0],
    "model.temperature": [0, float("nan"), float("inf"), None],
    "model.width": [0, None],
    "model.optimizer": [None],
    "model.optimizer.lr": [-1, float("inf")],
    "seed_everything": [-1, 2**32],
    "trainer.accumulate_grad_batches": [0],
    "trainer.check_val_every_n_epoch": [0],
    "trainer.gradient_clip_val": [-1.0],
    "recovery.every_seconds": [-1],
}
GOOD = {
    "seed_everything": True,
    "recovery": {"every_seconds": 0},
    "trainer": {"accumulate_grad_batches": 1, "check_val_every_n_epoch": None, "gradient_clip_val": None},
    "model": {
        "class_path": "babyvlm.models.cvcl.CVCL",
        "init_args": {
            "width": 8,
            "temperature": 0.07,
            "image_size": -7,  # linked to that of the data, where it is reported
            "init_from": None,
            "scheduler": None,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0, "weight_decay": 0.1}},
        },
    },
    "data": {
        "class_path": "babyvlm.data.pair_mix.PairMix",
        "init_args": {
            "batch_size": 4,
            "image_size": 32,
            "min_scale": 1,
            "num_workers": 0,
            "max_tokens": 3,
            "features": None,
            "sources": [{"store": "pairs", "utterances": None}],
        },
    },
}


def as_namespace(value):
    if isinstance(value, dict):
        return Namespace(**{name: as_namespace(inner) for name, inner in value.items()})
    return [as_namespace(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("option", SETTINGS)
def test_check_settings_names_option_that_is_out_of_range(option):
    check_settings(as_namespace(GOOD))
    for wrong in SETTINGS[option]:
        config = copy.deepcopy(GOOD)
        *path, last = option.split(".")
        place = config
        for part in path:
            place = place[int(part) if part.isdigit() else part]
            place = place.get("init_args", place) if isinstance(place, dict) else place
        place[last] = wrong
        with pytest.raises(
            UserError, match=rf"^{re.escape(option)}( {re.escape(str(wrong))})?: (must be|null|is empty)"
        ):
            check_settings(as_namespace(config))


def refused(run, capsys):
    """The only line of errors of a command that is refused; no run folder is left."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run()
    printed = capsys.readouterr().err
    assert end.value.code == 2, printed
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert printed.splitlines()[-1] == line
    return line


@pytest.mark.parametrize("option", MISTAKES)
def test_fit_reports_mistake_in_one_line_before_training(place, capsys, option):
    name, value = option.split(" ", 1)
    assert re.search(MISTAKES[option], refused(lambda: fit(name, value), capsys))
    assert not Path("lightning_logs").exists()


def test_null_reaches_the_options_that_take_none(place, capsys):
    options = ["--model.init_from", "null", "--data.features", "null", "--trainer.max_epochs", "null"]
    options += ["--ckpt_path", "null", "--run_folder", "null", "--model.scheduler", "null"]
    options += ["--model.vision.weights", "null"]  # a class within a class
    line = refused(lambda: fit(*options, "--data.batch_size", 64), capsys)  # the only mistake
    assert "data.batch_size 64 exceeds" in line


def test_checkpoint_of_another_width_is_refused(place, capsys):
    fit("--test_after_fit", "false", "--trainer.limit_val_batches", 0)
    last = RUN / "checkpoints/last.ckpt"
    test = ["test", "--config", "run.yaml", "--model.width", "12", "--ckpt_path", str(last)]
    message = f"error: --ckpt_path: model or optimizer differ from those of {last} "
    assert refused(lambda: main(test), capsys).startswith(message)
    assert refused(lambda: fit("--model.width", 12, "--ckpt_path", last), capsys).startswith(message)
    assert "training had ended at its step 6; nothing was trained" in refused(lambda: fit("--ckpt_path", last), capsys)
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    with pytest.raises(UserError, match=r"last\.ckpt: is a file\. Pass the folder of its run"):
        babyvlm.load(last)
    hub = ["export", "--run", str(RUN), "--out", "exported", "--hub", "me/x", "--licensed_export", "true"]
    assert "--hub me/x: " in refused(lambda: main(hub), capsys)  # there is no network here
    assert not Path("exported").exists()


def test_killed_loader_worker_is_reported_with_the_way_to_continue(place, capsys, monkeypatch):
    def kill(self, trainer, *_):
        if trainer.global_step == 3:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(SeedEachBatch, "on_train_batch_start", kill)
        options = ["--data.num_workers", 1, "--recovery.every_seconds", 0]
        line = refused(lambda: fit(*options, max_steps=9, val_check_interval=9), capsys)
    assert "a loader worker ended" in line
    assert line.endswith(f"Continue with: python -m babyvlm resume {RUN}")
    main(["resume", str(RUN)])
    assert (RUN / "finished").is_file()


def test_limit_on_file_size_is_reported_in_one_line(place, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        line = refused(lambda: fit("--model.width", 512), capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line.endswith("File too large")


def test_error_of_http_client_is_a_user_error():
    class ConnectError(Exception):
        pass

    ConnectError.__module__ = "httpx"
    assert "cannot be reached" in _user_error(ConnectError("[Errno 111] Connection refused"))
    assert _user_error(ValueError("a bug")) is None


STOP = [{"class_path": f"{CALLBACKS}.EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 1}}]


def test_reason_of_the_end_and_profile_are_printed(place, capfd):
    fit(
        "--trainer.callbacks+",
        json.dumps(STOP),
        "--trainer.profiler",
        "simple",
        "--model.optimizer.lr",
        5,
        max_steps=30,
    )
    printed = capfd.readouterr().out
    assert re.search(r"training ended early, at step \d+: .*val_loss", printed)
    assert "FIT Profiler Report" in printed
    assert "GPU available: " in printed
    assert "💡" not in printed
    fit(max_steps=4)
    assert "`Trainer.fit` stopped: `max_steps=4` reached." in capfd.readouterr().out


def test_learning_rate_option_keeps_the_recipe(place):
    config = yaml.safe_load(Path("run.yaml").read_text())
    shape = {"family": "gpt2", "width": 16, "layers": 1, "heads": 2, "inner": 16, "positions": 32}
    vision = config["model"]["init_args"]["vision"]
    config["model"] = {
        "class_path": "babyvlm.models.babyllava.BabyLLaVA",
        "init_args": {"vision": vision, "language": shape},
    }
    Path("llava.yaml").write_text(yaml.safe_dump(config))
    quick = ["--test_after_fit", "false", "--trainer.max_steps", "2", "--trainer.callbacks", "null"]
    main(["fit", "--config", "llava.yaml", "--model.optimizer.lr", "0.001", *quick])
    state = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    (group,) = state["optimizer_states"][0]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.001, 0.0)  # that of phase 1; torch's default is 0.01
    columns = set((RUN / "metrics.csv").read_text().splitlines()[0].split(","))
    assert columns == {*BabyLLaVA.logged, "gradient_norm", "epoch", "step"}
    saved = yaml.safe_load((RUN / "config.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert saved["class_path"] == "babyvlm.models.babyllava.BabyLLaVAAdamW"
