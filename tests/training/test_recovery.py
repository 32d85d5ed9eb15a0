"""A run that goes on from any of its recovery checkpoints ends as one that was never stopped, bit for bit."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim.lr_scheduler import CosineAnnealingLR

from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.text import TransformerText
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.training import checkpoint_io, recovery
from babyvlm.training.csv_logger import AppendingCSVLogger
from babyvlm.training.recovery import Recovery, SeedEachBatch


@pytest.fixture(scope="module")
def mix(tiny_store, make_vocabulary, tmp_path_factory):
    words = ["look", "at", "the", "red", "ball", "dog", "cup", "runs", "wash", "big", "small", "a", "is"]
    draw = torch.Generator().manual_seed(0)
    texts = [" ".join(words[i] for i in torch.randint(len(words), (4,), generator=draw)) for _ in range(40)]
    stores = tmp_path_factory.mktemp("stores")
    store = tiny_store(texts, splits=["train"] * 34 + ["val"] * 6, path=stores / "pairs")
    vocabulary = make_vocabulary(store)

    def make(**options):
        return PairMix(
            "tiny", stores, [Source("pairs")], "pairs", vocabulary, batch_size=4, image_size=24, seed=3, **options
        )

    return make


def fit(mix, folder, ckpt_path=None, schedule=None, seconds=0.0, **options):
    """Train a model with dropout, a schedule, early stopping and a best checkpoint; return its trainer."""
    torch.manual_seed(0)
    words, trunk = mix.vocabulary.path, VisionEncoder("test_resnet")
    if "accumulate_grad_batches" in options:  # no contrastive loss can be accumulated
        shape = LanguageShape(width=16, layers=1, heads=2, inner=16, positions=40)
        model = BabyLLaVA(words, trunk, shape, train_language=True, image_size=24)
    else:
        model = CVCL(words, trunk, TransformerText, 8, image_size=24, scheduler=schedule)
    best = ModelCheckpoint(monitor="val_loss", filename="best-{step}", enable_version_counter=False)
    callbacks = [SeedEachBatch(3), EarlyStopping("val_loss", patience=30), best, Recovery(seconds)]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=[AppendingCSVLogger(folder, "run", 0)],
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(model, mix, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def outcome(trainer):
    """All that may not depend on having been stopped."""
    run = Path(trainer.log_dir)
    best = trainer.checkpoint_callback
    return {
        "rows": (run / "metrics.csv").read_text(),
        "best": (Path(best.best_model_path).name, best.best_model_score),
        "steps": trainer.global_step,
        "weights": trainer.lightning_module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "patience": trainer.early_stopping_callback.wait_count,
    }


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, 20)


def plateau(optimizer):
    return ReduceLROnPlateau(optimizer, "val_loss", patience=0, threshold=0.05)


CASES = {
    "steps": {"max_steps": 20, "val_check_interval": 5, "check_val_every_n_epoch": None, "schedule": cosine},
    "epochs": {"max_epochs": 3, "schedule": plateau},
    "within": {"max_epochs": 2, "val_check_interval": 3, "schedule": cosine},
    "validated": {"max_epochs": 2, "val_check_interval": 1, "schedule": plateau},
    "accumulated and validated": {
        "max_steps": 9,
        "accumulate_grad_batches": 2,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
    },
    "accumulated": {"max_epochs": 2, "accumulate_grad_batches": 3},
    "sparse": {"max_epochs": 2, "log_every_n_steps": 3, "schedule": plateau},
}


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.soak)])  # of every eighth checkpoint, or of all
@pytest.mark.parametrize("case", CASES)
def test_recovery_resumes_from_every_checkpoint_with_equal_weights(mix, tmp_path, monkeypatch, case, step):
    options = {"log_every_n_steps": 1} | CASES[case]
    monkeypatch.setattr(recovery, "KEPT", 1000)
    folder = tmp_path / "logs"
    unbroken = outcome(fit(mix(), folder, **options))
    folder.rename(tmp_path / "kept")
    saved = recovery.checkpoints(tmp_path / "kept/run/version_0")
    assert len(saved) > 3
    for path in saved[::step]:  # the folder still has everything that the run wrote after the checkpoint
        shutil.copytree(tmp_path / "kept", folder)
        again = outcome(fit(mix(), folder, folder / path.relative_to(tmp_path / "kept"), **options))
        shutil.rmtree(folder)
        for name, value in unbroken.items():
            if name in ("rows", "best", "steps", "patience", "schedules"):
                assert again[name] == value, (path.name, name)
            else:
                torch.testing.assert_close(again[name], value, rtol=0, atol=0, msg=f"{path.name}: {name}")


def test_damage_finds_every_flipped_bit_that_changes_a_checkpoint(tmp_path):
    """In the tensors, in the ZIP's headers, and in its directory, which no checksum covers."""
    draw = random.Random(0)
    path = tmp_path / "step-1.ckpt"
    state = {f"layer{number}": torch.randn(40, generator=torch.Generator().manual_seed(number)) for number in range(3)}
    torch.save(state, path)
    good = path.read_bytes()
    assert recovery.damage(path) is None
    directory = range(good.index(b"PK\x01\x02"), len(good))
    noticed = 0
    for place in [*draw.sample(range(directory.start), 100), *directory]:
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << draw.randrange(8))]) + good[place + 1 :])
        problem = recovery.damage(path)
        if problem is None:
            torch.testing.assert_close(torch.load(path, weights_only=True), state, rtol=0, atol=0)
        noticed += problem is not None
    assert noticed > len(directory) / 2
    for length in (0, 100, len(good) - 1):
        path.write_bytes(good[:length])
        assert recovery.damage(path) is not None


def test_csv_logger_rewrites_incomplete_row(tmp_path):
    """As a machine that lost its power leaves one."""
    log = AppendingCSVLogger(tmp_path, "run", 0)
    log.log_metrics({"loss": 1.0}, 0)
    log.log_metrics({"loss": 2.0}, 1)
    file = tmp_path / "run/version_0/metrics.csv"
    complete = file.read_text()
    file.write_text(complete[:-3])
    again = AppendingCSVLogger(tmp_path, "run", 0)
    again.log_metrics({"loss": 1.0}, 0)
    again.log_metrics({"loss": 2.0}, 1)
    assert file.read_text().split() == complete.split()


def test_checkpoint_io_names_file_on_full_disk(tmp_path, monkeypatch):
    place = tmp_path / "recovery/step-1.ckpt"
    monkeypatch.setattr(checkpoint_io, "temporary_path", lambda place: Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device") as error:
        checkpoint_io.AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, place)
    assert error.value.filename == str(place)
    assert not place.exists()
