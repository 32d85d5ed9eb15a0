"""Each argument of Lightning's Trainer and each callback that it exports works or is refused before training starts."""

import inspect
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch.callbacks
import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback
from timm import create_model
from torch import nn

from babyvlm.__main__ import main
from babyvlm.allowed import UNSUPPORTED
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.errors import UserError
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.training.trainer_options import SyncBatchNorm, check_options
from support.docs_pages import blocks

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| ([a-z ]+) \|", re.M)
TEXTS = [
    f"{verb} the {noun}" for verb in ("see", "wash", "find", "take") for noun in ("ball", "dog", "cup", "car", "hat")
]
LIGHTNING = "lightning.pytorch.callbacks."


@pytest.fixture(scope="module")
def place(tiny_store, make_vocabulary, tmp_path_factory):
    """A folder with a store of 20 pairs and ``base.yaml``, whose callbacks are those of the shipped configs."""
    root = tmp_path_factory.mktemp("options")
    store = tiny_store(TEXTS, splits=["train"] * 12 + ["val"] * 4 + ["test"] * 4, path=root / "stores/pairs", size=32)
    (root / "vocabulary").symlink_to(make_vocabulary(store))
    shipped = yaml.safe_load((ROOT / "configs/playroom/base.yaml").read_text())
    trainer = {"max_steps": 4, "val_check_interval": 2, "log_every_n_steps": 1, "enable_model_summary": False}
    vision = {"class_path": "babyvlm.models.networks.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}}
    data = {"stores": "stores", "sources": [{"store": "pairs"}], "validation": "pairs", "vocabulary": "vocabulary"}
    size = {"name": "tiny", "batch_size": 4, "image_size": 32, "num_workers": 0}
    base = {
        "trainer": shipped["trainer"] | trainer,
        "model": {"class_path": "babyvlm.CVCL", "init_args": {"vision": vision, "width": 8}},
        "data": {"class_path": "babyvlm.PairMix", "init_args": data | size},
    }
    (root / "base.yaml").write_text(yaml.safe_dump(base))
    return root


@pytest.fixture
def fit(place, tmp_path, monkeypatch):
    """``fit(**trainer)``: run ``fit`` with options of the Trainer; return the run's folder."""
    monkeypatch.chdir(place)

    def run(*args, **trainer):
        (tmp_path / "options.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
        overlays = ["--config", "base.yaml", "--config", str(tmp_path / "options.yaml")]
        main(["fit", *overlays, "--log_dir", str(tmp_path / "runs"), *args])
        return next((tmp_path / "runs").glob("*/version_0"), None)

    return run


def with_callback(name, **arguments):
    return {"callbacks+": [{"class_path": LIGHTNING + name, "init_args": arguments}]}


def table(heading):
    """Return the rows of a table in the docs: name -> support."""
    text = (ROOT / "docs/reference/trainer.md").read_text()
    return dict(ROW.findall(text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]))


# Options that are tested together. Those after the blank line are tested elsewhere in this file.
TOGETHER = {
    "accelerator": "cpu",
    "strategy": "auto",
    "devices": 1,
    "num_nodes": 1,
    "precision": "32-true",
    "logger": True,
    "callbacks+": [],
    "min_epochs": 1,
    "max_epochs": 2,
    "min_steps": 1,
    "max_steps": 6,
    "max_time": "00:01:00:00",
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "limit_predict_batches": 1,
    "val_check_interval": 1,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 1,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0.5,
    "gradient_clip_algorithm": "norm",
    "deterministic": True,
    "benchmark": False,
    "inference_mode": False,
    "use_distributed_sampler": False,
    "profiler": "simple",
    "detect_anomaly": True,
    "plugins": [{"class_path": "lightning.pytorch.plugins.environments.LightningEnvironment"}],
    "sync_batchnorm": True,
    "enable_autolog_hparams": False,
}
ALONE = {
    "fast_dev_run",
    "overfit_batches",
    "reload_dataloaders_every_n_epochs",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
}
REFUSED = {  # by the command line, and by a function that it calls
    "barebones": {"barebones": True},
    "strategy fsdp": {"strategy": "fsdp"},
    "accumulate_grad_batches": {"accumulate_grad_batches": 2},
    "use_distributed_sampler": {"use_distributed_sampler": True, "devices": 2, "strategy": "ddp"},
}
REFUSED_VALUES = [
    ("barebones", True),
    ("default_root_dir", "elsewhere"),
    ("limit_train_batches", 0),
    ("max_time", "00:00:00:00"),
    ("max_time", "half an hour"),
    ("max_time", {"seconds": 0}),
    ("max_time", {"sec": 1}),
    ("model_registry", "name"),
    ("precision", "16-true"),
    ("strategy", "ddp_fork_find_unused_parameters_true"),
    ("strategy", "ddp_notebook"),
    ("strategy", "ddp_spawn"),
    ("val_check_interval", "00:00:01:00"),
    ("val_check_interval", 0),
    ("val_check_interval", {"minutes": 5}),
]


def test_table_lists_all_arguments_and_callbacks():
    arguments = table("Trainer arguments")
    assert [*arguments] == [*inspect.signature(Trainer.__init__).parameters][1:]
    works = {name for name, support in arguments.items() if support == "works"}
    assert works == {name.removesuffix("+") for name in TOGETHER} | ALONE
    assert set(arguments) - works == {"barebones", "default_root_dir", "model_registry"}
    callbacks = table("Callbacks")
    assert set(callbacks) == set(lightning.pytorch.callbacks.__all__)
    refused = {name for name, support in callbacks.items() if support == "refused"}
    assert refused == {path.removeprefix(LIGHTNING) for path in UNSUPPORTED}
    assert {name for name, support in callbacks.items() if support == "works"} == {*WORKING, "EMAWeightAveraging"}
    base = {name for name, support in callbacks.items() if support == "base class"}
    assert base == {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}


def test_fit_obeys_options(fit):
    run = fit(**TOGETHER)
    rows = (run / "metrics.csv").read_text().splitlines()
    assert sum(bool(row) for row in rows) > 5
    assert "gradient_norm" in rows[0].split(",")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4  # two epochs of two


@pytest.mark.parametrize("name", REFUSED)
def test_fit_refuses_option_in_one_line(fit, tmp_path, capfd, name):
    with pytest.raises(SystemExit) as end:
        fit(**REFUSED[name])
    assert end.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(rf"trainer\.{name}|{name.replace(' ', ' `')}", errors[0])
    assert not [*(tmp_path / "runs").rglob("*.ckpt")]


@pytest.mark.parametrize(("name", "value"), REFUSED_VALUES)
def test_check_options_refuses_value(name, value):
    defaults = {key: one.default for key, one in inspect.signature(Trainer.__init__).parameters.items()}
    check_options(defaults)
    with pytest.raises(UserError, match=rf"^trainer\.{name}\b"):
        check_options(defaults | {name: value})


WORKING = {  # RichProgressBar and ModelCheckpoint are in the base config
    "DeviceStatsMonitor": {},
    "EarlyStopping": {"monitor": "val_loss"},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val_loss"},
    "ModelSummary": {},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "TQDMProgressBar": {},
    "WeightAveraging": {},
}


def test_fit_uses_callbacks(fit):
    names = [name for name in WORKING if name not in ("RichProgressBar", "ModelSummary")]
    callbacks = [{"class_path": LIGHTNING + name, "init_args": WORKING[name]} for name in names]
    run = fit(callbacks=callbacks, enable_model_summary=True)
    columns = (run / "metrics.csv").read_text().splitlines()[0]
    assert ",lr-" in columns
    assert "DeviceStatsMonitor" in columns


@pytest.mark.parametrize("allowed", ["", "lightning"])
def test_fit_refuses_callback_even_if_allowed(fit, capfd, monkeypatch, allowed):
    monkeypatch.setenv("BABYVLM_ALLOW", allowed)
    with pytest.raises(SystemExit) as end:
        fit(**with_callback("StochasticWeightAveraging", swa_lrs=0.1))
    assert end.value.code == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.match(
        "error: trainer.callbacks: .*StochasticWeightAveraging is not supported: .* EMAWeightAveraging", last
    )


def test_fit_without_bar_summary_and_checkpoints(fit, capfd):
    run = fit(enable_progress_bar=False, enable_checkpointing=False, **with_callback("RichModelSummary"))
    assert not [*run.rglob("*.ckpt"), *run.glob("best*")]
    out = capfd.readouterr().out
    assert "Epoch" not in out
    assert "Params" not in out
    assert len((run / "metrics.csv").read_text().splitlines()) > 4  # and the last weights were tested


def test_fast_dev_run_writes_nothing(fit):
    assert fit(fast_dev_run=2) is None


def test_fit_in_thread(fit):
    done = []
    thread = threading.Thread(target=lambda: done.append(fit(max_steps=2)))
    thread.start()
    thread.join()
    assert (done[0] / "checkpoints/last.ckpt").is_file()


def test_fit_refuses_apple_gpu(fit, capfd, monkeypatch):
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr("lightning.fabric.accelerators.mps._get_all_available_mps_gpus", lambda: [0])
    with pytest.raises(SystemExit):
        fit(accelerator="mps")
    assert "error: trainer.accelerator: Apple's GPUs (MPS) are not supported" in capfd.readouterr().err


class Batches(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((trainer.current_epoch, tuple(batch.keys), float(batch.images_BCHW.sum())))


def batches(place, monkeypatch, tmp_path, **options):
    monkeypatch.chdir(place)
    mix = PairMix("x", Path("stores"), [Source("pairs")], "pairs", Path("vocabulary"), batch_size=4, image_size=32)
    seen = Batches()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    trainer = Trainer(max_epochs=3, limit_val_batches=0, callbacks=[seen], **quiet | options)
    trainer.fit(CVCL(Path("vocabulary"), VisionEncoder("test_resnet"), width=8, image_size=32), mix)
    return seen.seen


def test_overfit_batches_repeats_samples_frames_and_augmentation(place, monkeypatch, tmp_path):
    seen = batches(place, monkeypatch, tmp_path, overfit_batches=2)
    assert [epoch for epoch, *_ in seen] == [0, 0, 1, 1, 2, 2]
    assert seen[0][1:] == seen[2][1:] == seen[4][1:] != seen[1][1:] == seen[3][1:]


def test_reloaded_loaders_continue_order(place, monkeypatch, tmp_path):
    limited = {"limit_train_batches": 2}
    kept = batches(place, monkeypatch, tmp_path, **limited)
    assert batches(place, monkeypatch, tmp_path, reload_dataloaders_every_n_epochs=1, **limited) == kept
    assert len({keys for _, keys, _ in kept}) == 6


def test_average_is_validated_tested_saved_and_resumed(fit, tmp_path, monkeypatch):
    """The average is that of an independent computation, and a resumed run has the same one."""
    weights, tested = [], []

    test_step = CVCL.test_step

    def watched_step(self, batch, batch_idx):
        tested.append(self.network.projection.weight.detach().clone())
        test_step(self, batch, batch_idx)

    def record(self, *_):
        weights.append(self.network.projection.weight.detach().clone())

    monkeypatch.setattr(CVCL, "on_train_batch_end", record)
    monkeypatch.setattr(CVCL, "test_step", watched_step)
    monkeypatch.setattr("babyvlm.cli.lightning.remove_states", lambda run: None)
    run = fit("--recovery.every_seconds", "0", **with_callback("EMAWeightAveraging", decay=0.5))
    average = weights[0]  # torch's average starts as a copy
    for weight in weights[1:]:
        average = 0.5 * average + 0.5 * weight
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(last["network.projection.weight"], average)
    best = next(run.glob("checkpoints/epoch*.ckpt"))
    saved = torch.load(best, weights_only=True)["state_dict"]["network.projection.weight"]
    assert torch.equal(tested[-1], saved)
    assert len(list(run.glob("recovery/step-*.ckpt"))) == 2  # kept for this test
    for left in ("finished", "checkpoints/last.ckpt"):
        (run / left).unlink()
    main(["resume", str(run)])
    resumed = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, last[name]) for name, tensor in resumed.items())


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_missing_gpu_is_an_error_where_a_recipe_asks_for_one(fit, accelerator, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        fit(accelerator=accelerator)
    error = capsys.readouterr().err
    assert f"trainer.accelerator {accelerator}: this machine has no GPU that PyTorch can use" in error
    assert "--trainer.accelerator cpu" in error


def test_speed_options_are_off_by_default_and_finished_run_keeps_no_recovery_state(fit, monkeypatch):
    """cuDNN's benchmark mode would choose other kernels when a run is resumed; TF32 has ten bits."""
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    run = fit("--recovery.every_seconds", "0")
    assert not torch.backends.cudnn.benchmark
    assert not (run / "recovery").exists()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    fit("--matmul_precision", "high", "--model.vision.channels_last", "false", benchmark=True)
    assert torch.backends.cudnn.benchmark
    assert chosen == ["highest", "high"]


@pytest.mark.parametrize(
    "name", ["resnet10t", "test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_byobnet"]
)
def test_sync_batchnorm_keeps_activations(name):
    """On one process, the converted network computes what the original does, in training and in evaluation."""
    torch.manual_seed(0)
    original, images = create_model(name, num_classes=0), torch.randn(4, 3, 64, 64)
    expected = [original.train()(images), original.eval()(images)]
    sync = SyncBatchNorm()
    again = create_model(name, num_classes=0)
    again.load_state_dict(original.state_dict())
    converted = sync.apply(sync.revert(sync.apply(again)))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    torch.testing.assert_close(converted.eval()(images), expected[1])
    torch.testing.assert_close(converted.train()(images), expected[0])


def test_docs_code_of_sweep_and_own_model(place, monkeypatch, capsys):
    """The objective runs two trials; the model has two learning rates and a compiled network, with the usual names."""
    monkeypatch.chdir(place)
    model, objective = (one.text for one in blocks(ROOT / "docs/reference/trainer.md") if one.language == "python")
    names = {}
    exec(model, names)
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0}}
    (place / "cvcl.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"optimizer": optimizer}}}))
    exec(objective, names)
    monkeypatch.setattr(names["subprocess"], "run", lambda command, check: main(command[3:]))  # starts in 10 s less
    trials = [SimpleNamespace(number=n, suggest_float=lambda *_, n=n, **__: (0.0, 0.1)[n]) for n in range(2)]
    losses = [names["objective"](trial) for trial in trials]
    assert losses[0] != losses[1]

    module = names["SlowVision"](Path("vocabulary"), VisionEncoder("test_resnet"), width=8, image_size=32)
    before = module.state_dict().keys()
    module.configure_model()
    assert module.network._compiled_call_impl is not None  # compiled at the first call
    assert module.state_dict().keys() == before
    assert [group["lr"] for group in module.configure_optimizers().param_groups] == [1e-5, 1e-4]
