"""The Llama-shaped models with all state sharded over two real processes, by the shipped YAML, in phases 0 to 2."""

import faulthandler
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
import yaml

from babyvlm.__main__ import main
from babyvlm.models.base import CausalModule
from babyvlm.training.recovery import newest_readable

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 64}
TEXTS = ["look at the ball", "the red dog", "wash the cup", "a cup", "the dog runs at the red ball"] * 6


@pytest.fixture(scope="module")
def place(tiny_store, make_vocabulary, tmp_path_factory):
    """A folder laid out for configs/saycam/base.yaml."""
    root = tmp_path_factory.mktemp("sharding")
    stores = root / "data/saycam/stores"
    store = tiny_store(TEXTS, splits=["train"] * 20 + ["val"] * 10, path=stores / "filtered", size=64)
    (root / "data/saycam/vocabulary").symlink_to(make_vocabulary(store))
    (root / "configs").symlink_to(CONFIGS)
    return root


def command(model, overlays, features=None, **trainer):
    """Return ``fit`` at a small size, without dropout; with SGD, since Adam amplifies rounding errors."""
    options = {"accelerator": "cpu", "precision": "32", "max_steps": 4, "val_check_interval": 2, "log_every_n_steps": 1}
    small = {
        "trainer": options | {"check_val_every_n_epoch": None, "callbacks": []} | trainer,
        "recovery": {"every_seconds": 0},
        "test_after_fit": False,
    }
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    if model.startswith("language"):
        small |= {
            "model": {"init_args": {"shape": SIZE, "optimizer": optimizer}},
            "data": {"init_args": {"batch_size": 2, "max_tokens": 16}},
        }
    else:
        vision = {"backbone": "vit_tiny_patch16_224", "options": {"img_size": 64, "depth": 1}, "weights": None}
        small |= {
            "model": {"init_args": {"vision": {"init_args": vision}, "language": SIZE, "optimizer": optimizer}},
            "data": {"init_args": {"batch_size": 4, "image_size": 64, "num_workers": 0, "features": features}},
        }
    Path("small.yaml").write_text(yaml.safe_dump(small))
    names = [f"configs/{name}.yaml" for name in ("saycam/base", f"saycam/{model}", *overlays, "mix/filtered")]
    return [part for name in [*names, "small.yaml"] for part in ("--config", name)]


def on_ranks(ranks, args):
    """Run a command on processes that are connected as those of ``torchrun``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    build = CausalModule.configure_model

    def record(module):
        whole = sum(parameter.numel() for parameter in module.parameters() if not parameter.is_meta)
        Path(f"built-{os.environ['LOCAL_RANK']}.txt").write_text(str(whole))
        build(module)

    def rank_main(rank):
        faulthandler.dump_traceback_later(200, exit=True)
        CausalModule.configure_model = record
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(ranks),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
        }
        main(args)

    processes = [multiprocessing.get_context("fork").Process(target=rank_main, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks


def losses(run):
    rows = (run / "metrics.csv").read_text().splitlines()
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    return [float(row[name]) for row in table for name in ("train_loss", "val_loss") if row.get(name)]


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("model", "overlays", "features", "resumed"),
    [
        pytest.param("language-llama", [], None, True, id="phase 0"),
        pytest.param("babyllava-llama", ["saycam/phase-1"], "features", False, id="phase 1, cached features"),
        pytest.param("babyllava-llama", ["saycam/phase-2"], "features", False, id="phase 2, cached features"),
        *(
            pytest.param("babyllava-llama", [f"saycam/phase-{phase}"], features, True, marks=pytest.mark.soak)
            for phase in (1, 2)
            for features in (None, "features")
        ),
    ],
)
def test_fit_is_equal_with_sharding_and_gradient_checkpointing(
    tmp_path, place, monkeypatch, model, overlays, features, resumed
):
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "data"):
        Path(name).symlink_to(place / name)
    sharded = {
        "strategy": {
            "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
            "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
        },
        "devices": 2,
    }
    main(["fit", *command(model, overlays, features, devices=1), "--log_dir", f"{model}-1"])
    args = command(model, [*overlays, "saycam/sharded"], features, **sharded)
    monkeypatch.setattr("babyvlm.cli.lightning.remove_states", lambda run: None)
    on_ranks(2, ["fit", *args, "--log_dir", f"{model}-2"])
    (one,), (two,) = (list(Path(f"{model}-{ranks}").glob("*/version_0")) for ranks in (1, 2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(two)) == 6
    assert Path("built-0.txt").read_text() != "0"
    assert Path("built-1.txt").read_text() == "0"  # only the first process of a host holds a whole model
    assert not features or len(list(Path(features).glob("*/part-*.npy"))) == 1
    torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=1e-5)
    if not resumed:
        return
    for left in ("checkpoints/last.ckpt", "finished"):  # as if it had been killed before the end
        (two / left).unlink()
    assert newest_readable(two) is not None
    on_ranks(2, ["resume", str(two)])
    torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=1e-5)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
