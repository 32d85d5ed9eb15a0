import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

import babyvlm.data.pair_dataset
from babyvlm.data import feature_cache
from babyvlm.data.feature_cache import CachedFeatures, FeatureCacheWriter, frozen_features, module_hash
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.transforms import Plain, eval_transform
from babyvlm.errors import UserError
from babyvlm.io.images import open_rgb
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.connector import ImageTokens
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.types import Batch

SIZE = 32
PART_ROWS = 32
ROWS = 2 * PART_ROWS + 9  # three parts, the last one shorter


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("babyvlm.data.feature_cache.PART_ROWS", PART_ROWS)
        patch.setattr("babyvlm.curation.store.pair_store.GROUP_ROWS", PART_ROWS)
        yield


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(["look at the ball"] * ROWS)


@pytest.fixture(scope="module")
def pixels(store):
    transform = eval_transform(SIZE)
    return torch.stack([transform(open_rgb(row["image"])) for row in store.rows(["image"])])


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, default_root_dir=tmp_path / "run"
    )


class Mean(torch.nn.Module):
    """A small encoder that counts the images that it encodes: a learned 4 x 4 patch embedding, pooled or as a map."""

    def __init__(self, pooled=True, gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Conv2d(3, 5, SIZE // 4, SIZE // 4)
        self.embed.weight.data *= gain
        self.pooled, self.seen = pooled, 0

    def forward(self, images_BCHW):
        self.seen += len(images_BCHW)
        map_BPD = self.embed(images_BCHW).flatten(2).mT
        return map_BPD.mean(1) if self.pooled else map_BPD


def make(folder, store, encoder, trainer, precision="float32", **options):
    return frozen_features(folder, store, encoder, Plain(SIZE), precision, trainer, **options)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_cache_row_equals_encoder_output(tmp_path, store, pixels, trainer, pooled, workers):
    encoder = Mean(pooled).eval()
    cached = make(tmp_path, store, encoder, trainer, num_workers=workers)
    with torch.no_grad():
        expected = encoder(pixels)
    assert len(cached) == ROWS
    assert cached[0].dtype == torch.float32
    torch.testing.assert_close(torch.stack([cached[row] for row in range(ROWS)]), expected)
    encoder.seen = 0
    again = make(tmp_path, store, encoder, trainer)
    assert encoder.seen == 1  # one image, to find the shape
    assert torch.equal(again[ROWS - 1], cached[ROWS - 1])


def test_cache_is_hashed_once_per_host(tmp_path, store, trainer, monkeypatch):
    encoder, hashed = Mean().eval(), []
    path = make(tmp_path, store, encoder, trainer).path
    monkeypatch.setattr(
        feature_cache, "_sha256", lambda part, real=feature_cache._sha256: hashed.append(part) or real(part)
    )
    make(tmp_path, store, encoder, trainer)
    assert len(hashed) == 3
    make(tmp_path, store, encoder, trainer)
    assert len(hashed) == 3
    monkeypatch.setattr(feature_cache.platform, "node", lambda: "another host/..")
    make(tmp_path, store, encoder, trainer)
    assert len(hashed) == 6
    assert (path / "checked-by-another_host_...json").is_file()
    os.utime(path / "part-00001.npy")  # perhaps another file of the same size
    make(tmp_path, store, encoder, trainer)
    assert len(hashed) == 9
    flip_a_byte(path)
    encoder.seen = 0
    make(tmp_path, store, encoder, trainer)
    assert encoder.seen == 1 + ROWS


def test_workers_pass_on_chunks_that_fit_shm_of_a_container(store):
    """64 MB, for 8 workers that are two chunks ahead, with images of 224 pixels."""
    chunks = list(feature_cache._Chunks(store, [0, 2], Plain(SIZE)))
    assert {images.dtype for _, _, images in chunks} == {torch.uint8}
    assert max(len(images) for _, _, images in chunks) * 224 * 224 * 3 * 2 * 8 < 64 << 20
    assert [number for number, is_last, _ in chunks if is_last] == [0, 2]


def test_float16_cache_records_error_and_refuses_overflow(tmp_path, store, pixels, trainer, capsys):
    encoder = Mean().eval()
    cached = make(tmp_path, store, encoder, trainer, "float16")
    with torch.no_grad():
        exact = encoder(pixels).double()
    error = torch.stack([cached[row] for row in range(ROWS)]).double() - exact
    manifest = json.loads((cached.path / "features.json").read_text())
    assert manifest["max_error"] == pytest.approx(error.abs().max().item(), rel=1e-3)
    assert manifest["max_relative_error"] == pytest.approx(
        (error.norm(dim=1) / exact.norm(dim=1)).max().item(), rel=1e-3
    )
    assert 1e-5 < manifest["max_relative_error"] < 2**-11
    assert f"{manifest['max_error']:.2g}" in capsys.readouterr().out
    size = sum(file.stat().st_size for file in cached.path.glob("*.npy"))
    assert size == pytest.approx(ROWS * 5 * 2, abs=3 * 200)
    with pytest.raises(UserError, match=r"overflows float16.*features_precision"):
        make(tmp_path, store, Mean(gain=1e6).eval(), trainer, "float16")
    whole = make(tmp_path, store, encoder, trainer)
    assert whole.path != cached.path
    assert json.loads((whole.path / "features.json").read_text())["max_error"] == 0


def test_cache_key_covers_all_inputs(tmp_path, store, tiny_store, trainer):
    encoder = Mean().eval()
    paths = {make(tmp_path, store, encoder, trainer).path}
    encoder.embed.bias.data[0] += 1e-3
    paths.add(make(tmp_path, store, encoder, trainer).path)
    paths.add(make(tmp_path, store, Mean(pooled=False).eval(), trainer).path)
    paths.add(frozen_features(tmp_path, store, encoder, Plain(SIZE + 8), "float32", trainer).path)
    paths.add(make(tmp_path, tiny_store(), encoder, trainer).path)
    assert len(paths) == 5
    trunk = VisionEncoder("test_resnet", frozen=True)
    assert module_hash(trunk) != module_hash(ImageTokens(trunk.trunk))  # the same weights, pooled or not
    before = module_hash(trunk)
    trunk.trunk.bn1.running_mean[0] += 1
    assert module_hash(trunk) != before


def test_cache_refuses_other_encoder(tmp_path, store, trainer, capsys):
    first = make(tmp_path, store, Mean().eval(), trainer)
    assert "another encoder" not in capsys.readouterr().out
    make(tmp_path, store, Mean(gain=2).eval(), trainer)
    out = capsys.readouterr().out
    assert "another encoder" in out
    assert first.path.name in out


def flip_a_byte(folder):
    file = folder / "part-00001.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def truncate(folder):
    file = folder / "part-00001.npy"
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = {
    "flipped": flip_a_byte,
    "truncated": truncate,
    "gone": lambda folder: (folder / "part-00001.npy").unlink(),
    "manifest gone": lambda folder: (folder / "features.json").unlink(),
    "manifest torn": lambda folder: (folder / "features.json").write_text("{"),
    "manifest of another": lambda folder: (folder / "features.json").write_text('{"arguments": {}, "sha256": []}'),
}


def test_cache_has_more_parts_than_open_file_limit(tmp_path):
    rows = 40 * PART_ROWS + 3
    files = FeatureCacheWriter(tmp_path / "frames-0", rows, {"shape": [1], "precision": "float32"})
    values = torch.arange(rows, dtype=torch.float32)[:, None]
    with files.create():
        for number in files.missing():
            files.commit(number, values[number * PART_ROWS : (number + 1) * PART_ROWS])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len([*Path("/proc/self/fd").iterdir()])
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, before[1]))
    try:
        cached = CachedFeatures(files.path)
        assert [cached[row].item() for row in range(0, rows, 7)] == list(range(0, rows, 7))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_part_is_detected_and_recomputed(tmp_path, store, trainer, capsys, damage):
    encoder = Mean().eval()
    before = torch.stack([make(tmp_path, store, encoder, trainer)[row] for row in (0, PART_ROWS + 5, ROWS - 1)])
    (path,) = tmp_path.glob("store-*/")
    DAMAGES[damage](path)
    capsys.readouterr()
    encoder.seen = 0
    cached = make(tmp_path, store, encoder, trainer)
    assert "corrupted or changed" in capsys.readouterr().out
    assert encoder.seen == 1 + ROWS
    assert torch.equal(torch.stack([cached[row] for row in (0, PART_ROWS + 5, ROWS - 1)]), before)
    assert not list(tmp_path.glob("*.partial"))


class Killed(Mean):
    """An encoder that kills its process in the second part."""

    def forward(self, images_BCHW):
        out = super().forward(images_BCHW)
        if self.seen > 1 + PART_ROWS:
            os.kill(os.getpid(), signal.SIGKILL)
        return out


@pytest.mark.parametrize("torn", [False, True])
def test_cache_resumes_after_kill(tmp_path, store, trainer, capsys, torn):
    encoder = Mean().eval()
    child = os.fork()
    if not child:
        encoder.__class__ = Killed
        Killed.__module__, Killed.__name__ = Mean.__module__, "Mean"
        make(tmp_path, store, encoder, trainer)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (partial,) = tmp_path.glob("*.partial")
    assert [file.name for file in partial.glob("*.npy")] == ["part-00000.npy"]
    if torn:
        os.truncate(partial / "part-00000.npy", 500)
    left = ROWS if torn else ROWS - PART_ROWS
    encoder.seen = 0
    make(tmp_path, store, encoder, trainer)
    assert encoder.seen == 1 + left
    assert f"features of {left} images" in capsys.readouterr().out


def test_concurrent_runs_build_cache_once(tmp_path, store, trainer):
    log = tmp_path / "log"
    encoder = Mean().eval()
    forward = encoder.forward

    def counted(images_BCHW):
        time.sleep(0.02)
        with log.open("a") as file:
            file.write(f"{len(images_BCHW)}\n")
        return forward(images_BCHW)

    encoder.forward = counted
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            make(tmp_path / "cache", store, encoder, trainer)
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert sum(map(int, log.read_text().split())) == 2 + ROWS


def test_cache_reports_size_and_refuses_full_disk(tmp_path, store, trainer, capsys, monkeypatch):
    usage = __import__("shutil")._ntuple_diskusage(total=10**6, used=0, free=ROWS * 5 * 4 - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    encoder = Mean().eval()
    size = f"{ROWS * 5 * 4 / 1e9:.3g} GB"
    with pytest.raises(UserError, match=f"needs {size}, but") as refusal:
        make(tmp_path, store, encoder, trainer)
    assert "\n" not in str(refusal.value)
    assert encoder.seen == 1
    assert f"features of {ROWS} images, 5 float32 each: {size}" in capsys.readouterr().out
    make(tmp_path, store, encoder, trainer, "float16")  # half of the size fits


# Complete runs. Utterances have several frames, of which each epoch shows one.
TEXTS = ["look at the ball", "the red dog", "wash", "a cup is red", "the dog runs", "look", "a ball", "wash the cup"]


@pytest.fixture(scope="module")
def stores(tiny_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    groups = [f"g{number // 3}" for number in range(48)]
    splits = ["train" if number < 36 else "val" if number < 42 else "test" for number in range(48)]
    texts = [TEXTS[number // 3 % 8] for number in range(48)]
    tiny_store(texts, groups=groups, splits=splits, path=root / "a", size=SIZE)
    tiny_store(texts[:24], groups=groups[:24], path=root / "b", size=SIZE)
    return root


def cvcl(vocabulary):
    torch.manual_seed(0)
    return CVCL(vocabulary, VisionEncoder("test_resnet", frozen=True), width=8, image_size=SIZE, max_tokens=6)


def babyllava(vocabulary):
    torch.manual_seed(0)
    shape = LanguageShape(width=16, layers=1, heads=2, inner=32, dropout=0, positions=64)
    vision = VisionEncoder("test_resnet", frozen=True)
    return BabyLLaVA(vocabulary, vision, shape, train_language=True, image_size=SIZE, max_tokens=6)


def mix(stores, vocabulary, **options):
    sources = [Source("a"), Source("b", utterances=4)]
    small = {"batch_size": 4, "image_size": SIZE, "max_tokens": 6, "augment": False, "seed": 3, "sample": "utterances"}
    return PairMix("mix", stores, sources, "a", vocabulary, **small | options)


class Losses(Callback):
    def __init__(self):
        self.losses, self.shapes = {}, set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses[trainer.global_step] = outputs["loss"].item()
        self.shapes.add((batch.images_BCHW.numel() == 0, None if batch.features is None else batch.features.ndim))

    def on_validation_end(self, trainer, pl_module):
        self.losses["val"] = trainer.callback_metrics["val_loss"].item()


def fit(folder, model, data, steps=10, ckpt_path=None):
    seen = Losses()
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
    run = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        callbacks=[seen, saved],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    run.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    seen.losses["test"] = run.test(model, datamodule=data, verbose=False)[0]["test_loss"]
    return seen


@pytest.mark.parametrize(("make_model", "ndim"), [(cvcl, 2), (babyllava, 3)])
def test_training_on_cache_equals_training_on_images(tmp_path, stores, vocabulary, monkeypatch, make_model, ndim):
    expected = fit(tmp_path / "plain", make_model(vocabulary), mix(stores, vocabulary))
    assert expected.shapes == {(False, None)}
    assert len(expected.losses) == 12
    assert expected.losses[1] != pytest.approx(expected.losses[10], rel=1e-3)
    cache = tmp_path / "cache"
    first = fit(tmp_path / "first", make_model(vocabulary), mix(stores, vocabulary, features=cache))
    assert len(list(cache.glob("*/"))) == 2  # one per store, for training and held-out pairs
    assert first.losses == pytest.approx(expected.losses, rel=1e-4)

    def untouched(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(babyvlm.data.pair_dataset, "open_rows", untouched)
    monkeypatch.setattr("babyvlm.curation.store.pair_store.PairStore.part", untouched)
    for workers in (0, 2):
        data = mix(stores, vocabulary, features=cache, num_workers=workers)
        then = fit(tmp_path / f"{workers}", make_model(vocabulary), data)
        assert then.shapes == {(True, ndim)}
        assert then.losses == first.losses
    data = mix(stores, vocabulary, features=cache)
    resumed = fit(tmp_path / "resumed", make_model(vocabulary), data, ckpt_path=tmp_path / "first" / "step=4.ckpt")
    assert resumed.losses == {name: loss for name, loss in first.losses.items() if name not in (1, 2, 3, 4)}


def test_predict_reads_cache(tmp_path, stores, vocabulary, trainer):
    model = cvcl(vocabulary)
    found = []
    for features in (None, tmp_path / "cache"):
        (batch,) = trainer.predict(model, datamodule=mix(stores, vocabulary, features=features, batch_size=8))
        found.append(batch)
    assert found[0]["key"] == found[1]["key"]
    torch.testing.assert_close(found[0]["image"], found[1]["image"], atol=1e-5, rtol=1e-4)


def test_cache_refuses_unsupported_settings(tmp_path, stores, vocabulary):
    with pytest.raises(UserError, match=r"data\.augment to false"):
        mix(stores, vocabulary, features=tmp_path, augment=True)
    learning = CVCL(vocabulary, VisionEncoder("test_resnet"), width=8, image_size=SIZE, max_tokens=6)
    with pytest.raises(UserError, match=r"vision encoder of CVCL changes in training.*model\.vision\.frozen"):
        fit(tmp_path, learning, mix(stores, vocabulary, features=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_scores_are_computed_from_pixels(vocabulary):
    """A benchmark does not use the cache."""
    model = cvcl(vocabulary).eval()
    image = model.preprocess(Image.new("RGB", (40, 40), "red"))[None]
    batch = Batch(
        ["k"], torch.empty(1, 0), torch.zeros(1, 1, dtype=torch.long), ["look"], model.network.vision_encoder(image)
    )
    with torch.no_grad():
        assert model.score(image, ["look"]).shape == (1, 1)
        torch.testing.assert_close(model.predict_step(batch, 0)["image"], model.network.encode_image(image))


TWO_RANKS = """
import sys
from pathlib import Path
import torch
from lightning import Trainer
import test_feature_cache as t
from babyvlm.curation.store import pair_store
from babyvlm.data import feature_cache

feature_cache.PART_ROWS = pair_store.GROUP_ROWS = t.PART_ROWS
torch.set_num_threads(1)
stores, vocabulary, folder, devices = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])


class Saved(t.Losses):  # by the process that trained: ddp_fork's are children
    def on_fit_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save(self.losses, folder / f"{devices}.pt")


trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", logger=False, max_steps=10,
    callbacks=[Saved()], use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, default_root_dir=folder,
)
trainer.fit(t.cvcl(vocabulary), datamodule=t.mix(stores, vocabulary, features=folder / f"cache{devices}"))
"""


@pytest.mark.soak
def test_ranks_share_work_and_folder(tmp_path, stores, vocabulary):
    (tmp_path / "run.py").write_text(TWO_RANKS)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    for devices in (1, 2):
        command = [sys.executable, tmp_path / "run.py", stores, vocabulary, tmp_path, str(devices)]
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("complete. Maximum error") == 2
    one, two = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    assert one == pytest.approx(two, rel=1e-4)
    parts = [sorted((tmp_path / f"cache{devices}").glob("*/*.npy")) for devices in (1, 2)]
    assert [part.name for part in parts[0]] == [part.name for part in parts[1]]
    assert all(np.allclose(np.load(a), np.load(b), atol=1e-5) for a, b in zip(*parts, strict=True))
