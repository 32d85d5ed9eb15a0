"""Training on 1, 2 and 4 real processes that talk by gloo: the same losses, gradients and samples."""

from collections import Counter
from itertools import chain

import pytest
import torch
from lightning import Callback, Trainer

from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.sampler import held_out_batches
from babyvlm.errors import UserError
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.training.csv_logger import AppendingCSVLogger
from babyvlm.training.recovery import Recovery, SeedEachBatch, newest_readable

WORDS = ["look", "the", "red", "ball", "dog", "runs", "wash", "cup", "at"]
BATCH, TRAIN, VAL = 8, 37, 21  # neither is a whole number of batches
SHAPE = LanguageShape("llama", width=16, layers=1, heads=2, kv_heads=1, inner=16, positions=50, dropout=0)


@pytest.fixture(scope="module")
def mix(tiny_store, make_vocabulary, tmp_path_factory):
    """``mix()``: utterances of one to six words, no two alike."""
    root = tmp_path_factory.mktemp("ddp")
    texts = [" ".join(WORDS[(n * k) % 9] for k in range(1, n % 6 + 2)) for n in range(TRAIN + VAL)]
    splits = ["train"] * TRAIN + ["val"] * VAL
    vocabulary = make_vocabulary(tiny_store(texts, splits=splits, path=root / "pairs"))
    return lambda: PairMix("ddp", root, [Source("pairs")], "pairs", vocabulary, batch_size=BATCH, image_size=32)


def vision(frozen=False):
    """A trunk without batch norm, whose statistics would be of a rank's own images (sync_batchnorm needs a GPU)."""
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return VisionEncoder("vit_tiny_patch16_224", options, frozen=frozen)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)  # Adam makes steps of rounding errors


MODELS = {
    "CVCL": lambda words: CVCL(words, vision(), width=8, image_size=32, learn_temperature=True, optimizer=sgd),
    "CVCL, frozen": lambda words: CVCL(words, vision(frozen=True), width=8, image_size=32, optimizer=sgd),
    "BabyLLaVA 1": lambda words: BabyLLaVA(words, vision(frozen=True), SHAPE, image_size=32, optimizer=sgd),
    "BabyLLaVA 2": lambda words: BabyLLaVA(words, vision(), SHAPE, True, image_size=32, optimizer=sgd),
    "BabyLLaVA 2, accumulated": lambda words: BabyLLaVA(words, vision(), SHAPE, True, image_size=32, optimizer=sgd),
}


class Witness(Callback):
    """Writes down what each rank sees: keys, losses, and the gradients of each step."""

    def __init__(self, folder):
        self.folder, self.keys, self.losses, self.gradients = folder, {"train": [], "val": []}, [], []

    def on_train_batch_start(self, trainer, model, batch, *_):
        self.keys["train"].append(batch.keys)

    def on_validation_batch_start(self, trainer, model, batch, *_):
        self.keys["val"].append(batch.keys)

    def on_before_optimizer_step(self, trainer, model, optimizer):
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})

    def on_train_batch_end(self, trainer, *_):
        self.losses.append(trainer.callback_metrics["train_loss"].item())

    def on_fit_end(self, trainer, model):
        seen = {"keys": self.keys, "losses": self.losses, "gradients": self.gradients}
        torch.save(seen, self.folder / f"{trainer.global_rank}.pt")


def run(name, mix, folder, devices, ckpt_path=None, **options):
    """Fit a model; its metrics and its weights."""
    folder.mkdir()
    torch.manual_seed(0)
    data = mix()
    model = MODELS[name](data.vocabulary.path)
    strategy = "ddp_fork" if devices > 1 else "auto"  # never with find_unused_parameters
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        accumulate_grad_batches=2 if "accumulated" in name else 1,
        **{
            "max_epochs": 1,
            "precision": "64-true",
            "logger": False,
            "enable_checkpointing": "callbacks" in options,
            "callbacks": [Witness(folder)],
        }
        | options,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    metrics.pop("supervised_share", None)  # the rest is a rank's own padding
    return metrics, {name: tensor.float() for name, tensor in model.state_dict().items()}


def seen(folder, devices):
    return [torch.load(folder / f"{rank}.pt") for rank in range(devices)]


@pytest.mark.parametrize("name", MODELS)
def test_fit_on_two_ranks_equals_one_rank(mix, tmp_path, name):
    metrics, weights = run(name, mix, tmp_path / "1", 1)
    (alone,) = seen(tmp_path / "1", 1)
    assert len(alone["losses"]) == TRAIN // BATCH
    for devices in (2, 4) if name == "CVCL" else (2,):
        folder = tmp_path / str(devices)
        metrics_too, weights_too = run(name, mix, folder, devices)
        ranks = seen(folder, devices)
        for rank in ranks:
            assert rank["losses"] == pytest.approx(alone["losses"], abs=1e-9)
            for expected, found in zip(alone["gradients"], rank["gradients"], strict=True):
                torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
        assert metrics_too == pytest.approx(metrics, rel=1e-6)
        torch.testing.assert_close(weights_too, weights, atol=1e-6, rtol=1e-6)
        for split in ("train", "val"):
            for number, batch in enumerate(alone["keys"][split]):  # each batch is shared out, nothing twice
                shares = [rank["keys"][split][number] for rank in ranks]
                assert sorted(chain.from_iterable(shares)) == sorted(batch)
            assert all(len(rank["keys"][split]) == len(alone["keys"][split]) for rank in ranks)
    used = Counter(chain.from_iterable(alone["keys"]["train"]))
    assert set(used.values()) == {1}
    assert len(used) == TRAIN // BATCH * BATCH  # the rest fills no batch; another epoch leaves out others
    held_out = Counter(chain.from_iterable(alone["keys"]["val"]))
    assert set(held_out.values()) == {1}
    assert len(held_out) == VAL


@pytest.mark.parametrize(
    ("length", "size", "world"), [(21, 8, 1), (21, 8, 2), (21, 8, 4), (5, 4, 4), (3, 64, 2), (64, 8, 4), (33, 8, 2)]
)
def test_sampler_divides_held_out_samples_in_order_without_duplicates(length, size, world):
    ranks = [held_out_batches(length, size, rank, world) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1  # no rank waits for one that has done
    assert all(batch for batches in ranks for batch in batches)
    together = [sorted(index for index, _ in chain.from_iterable(shares)) for shares in zip(*ranks, strict=True)]
    assert list(chain.from_iterable(together)) == list(range(length))
    whole = [[index for index, _ in batch] for batch in held_out_batches(length, size, 0, 1)]
    if length % size >= world or length % size == 0:  # otherwise the rest joins the batch before it
        assert together == whole
    sizes = [size] * (length // size) + [length % size] * (length % size > 0)
    if sizes[-1] == 1:  # a pair without negatives
        sizes[-2:] = [size + 1]
    assert [len(batch) for batch in whole] == sizes


@pytest.mark.parametrize(("length", "size", "say"), [(3, 8, "3 held-out samples"), (8, 3, "val_batch_size 3")])
def test_sampler_rejects_fewer_held_out_samples_than_ranks(length, size, say):
    with pytest.raises(UserError, match=f"{say} cannot be split over 4 devices"):
        held_out_batches(length, size, 0, 4)


def test_run_on_two_ranks_resumes_on_one(mix, tmp_path):
    """Stopped in mid-epoch; the rest of the samples, of the losses and the weights are those of one process."""
    metrics, weights = run("CVCL", mix, tmp_path / "whole", 1, max_epochs=2)
    logs = {"logger": AppendingCSVLogger(tmp_path / "logs", "run", 0)}
    cut = [Witness(tmp_path / "cut"), SeedEachBatch(0), Recovery(0)]
    run("CVCL", mix, tmp_path / "cut", 2, max_epochs=2, max_steps=6, callbacks=cut, **logs)
    saved = newest_readable(tmp_path / "logs/run/version_0")
    assert saved.name == "step-000000005.ckpt"
    rest = [Witness(tmp_path / "rest"), SeedEachBatch(0), Recovery(0)]
    metrics_too, weights_too = run("CVCL", mix, tmp_path / "rest", 1, saved, max_epochs=2, callbacks=rest, **logs)
    (whole,), (later,) = seen(tmp_path / "whole", 1), seen(tmp_path / "rest", 1)
    assert later["keys"]["train"] == whole["keys"]["train"][5:]
    assert later["losses"] == pytest.approx(whole["losses"][5:], abs=1e-6)
    assert metrics_too == pytest.approx(metrics, abs=1e-6)
    torch.testing.assert_close(weights_too, weights, atol=1e-6, rtol=1e-6)
