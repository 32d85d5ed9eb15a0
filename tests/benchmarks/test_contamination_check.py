"""The check for benchmark images among the training pairs, before ``fit``."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from babyvlm.benchmarks import VTWT, ContaminationCheck, EvaluationCallback, LabeledS, SAYCamCaption
from babyvlm.curation.clip import load_clip
from babyvlm.curation.embed import embed
from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.frame_mix import Crops, FrameMix
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.images import open_rgb
from support.ranks import on_ranks

UTTERANCES = ["look at the ball", "wash the cup", "a red cup", "the dog runs"] * 4


class Model(LightningModule):
    """The least that trains and scores."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        return self.weight * batch.images_BCHW.mean()

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def preprocess(self, image):
        raise AssertionError

    score = preprocess


class Blind(LightningModule):
    """The least that trains on frames; it scores nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, views, _):
        return self.weight * views.large_VBCHW.mean()

    configure_optimizers = Model.configure_optimizers


@pytest.fixture
def setting(tmp_path, tiny_store, make_vocabulary, draw_jpeg):
    """``fit(copied)``: a run on a store, with a benchmark of which the images ``copied`` are the store's own."""
    store = tiny_store(UTTERANCES, path=tmp_path / "stores/s", size=48)
    words = make_vocabulary(store)
    images = [row["image"] for row in store.rows()]
    bench = tmp_path / "bench"
    bench.mkdir()

    def fit(copied=(), tests=None, frames=False, **options):
        names = [f"{n}.jpg" for n in range(3)]
        for n, name in enumerate(names):
            (bench / name).write_bytes(images[5] if n in copied else draw_jpeg(1000 + n, 48))
        (bench / "vtwt.csv").write_text(
            "image,positive_phrase,negative_phrase\n" + "".join(f"{name},red cup,red ball\n" for name in names)
        )
        mix = PairMix("s", tmp_path / "stores", [Source("s")], "s", words, batch_size=4, image_size=32)
        if frames:
            mix = FrameMix("s", tmp_path / "stores", [Source("s")], 4, 32, Crops(1, 16))
        tests = [VTWT(bench / "vtwt.csv")] if tests is None else tests
        callbacks = [ContaminationCheck(tmp_path / "cache", max_hash_distance=0, **options)]
        callbacks += [EvaluationCallback(tests)] if tests else []
        trainer = Trainer(
            accelerator="cpu",
            max_steps=1,
            limit_val_batches=0,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Blind() if frames else Model(), datamodule=mix)
        return trainer.global_step

    return fit


def test_check_passes_clean_mix_and_is_cached(setting, monkeypatch):
    assert setting() == 1
    monkeypatch.setattr("babyvlm.curation.decontaminate.perceptual_hashes", None)  # no image is hashed again
    assert setting() == 1


def test_check_runs_once_for_concurrent_runs(setting, tmp_path, capfd):
    setting()
    (made,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    shutil.rmtree(made)
    with ThreadPoolExecutor() as pool:
        with artifacts.exclusive(made):
            run = pool.submit(setting)
            message = ""
            while "another process is building it" not in message:
                message += capfd.readouterr().err
                assert not run.done()
                time.sleep(0.05)
            assert not list(made.parent.glob("*.partial"))
        assert run.result() == 1
    assert made.is_dir()


def test_check_refuses_benchmark_image_before_training(setting):
    for _ in range(2):  # the second time the answer is there already
        with pytest.raises(UserError) as error:
            setting(copied=[1])
        message = str(error.value)
        assert "1 training pairs are near-duplicates" in message
        assert "the first is k00005 of s, similar to vtwt/1.jpg" in message
        assert "\n" not in message
    assert setting() == 1  # other images, another answer


def test_check_uses_only_listed_images(setting, tmp_path, draw_jpeg, tiny_store):
    """Its folder may be the one that the training frames lie in."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for row in tiny_store(UTTERANCES, size=48).rows():
        (frames / f"{row['key']}.jpg").write_bytes(row["image"])
    (frames / "test.jpg").write_bytes(draw_jpeg(2000, 48))
    listed = tmp_path / "lists" / "vtwt.csv"
    listed.parent.mkdir()
    listed.write_text("image,positive_phrase,negative_phrase\ntest.jpg,red cup,red ball\n")
    assert setting(tests=[VTWT(listed, frames)]) == 1
    listed.write_text(listed.read_text() + "k00002.jpg,red cup,red ball\n")
    with pytest.raises(UserError, match=r"1 training pairs .* k00002 of s, similar to vtwt/k00002\.jpg"):
        setting(tests=[VTWT(listed, frames)])


def test_check_reports_missing_images_of_all_lists(setting, tmp_path):
    setting()
    bench = tmp_path / "bench"
    (bench / "caption.csv").write_text("image,text\n0.jpg,a cup\ngone.jpg,a dog\n")
    rows = "".join(f"{name}.jpg,a b,a c\n" for name in ("1", "x", "y"))
    (bench / "more.csv").write_text("image,positive_phrase,negative_phrase\n" + rows)

    def tests(**options):
        return [VTWT(bench / "more.csv", **options), SAYCamCaption(bench / "caption.csv", **options)]

    for one in ({"trials": [bench / "vtwt.csv"]}, {}):
        with pytest.raises(UserError) as error:
            setting(tests=tests(), **one)
        message = str(error.value)
        assert "more.csv: 2 of 3 images are missing" in message
        assert message.count("x.jpg, y.jpg") == 1
        assert "caption.csv: 1 of 2 images are missing" in message
        assert "gone.jpg" in message
        assert "\n" not in message
    assert setting(tests=tests(allow_missing=True)) == 1
    with pytest.raises(UserError, match="k00005 of s, similar to more/1"):
        setting(copied=[1], tests=tests(allow_missing=True))


def test_callback_reports_missing_images_of_all_lists(tmp_path):
    (tmp_path / "one.csv").write_text("image,positive_phrase,negative_phrase\none.jpg,a b,a c\n")
    rows = "".join(f"1,cup,{name},{name}.jpg\n" for name in ("cup", "ball", "dog", "bed"))
    (tmp_path / "two.csv").write_text(f"trial_id,target_category,real_category,image\n{rows}")
    tests = [VTWT(tmp_path / "one.csv"), LabeledS(tmp_path / "two.csv")]
    trainer = Trainer(
        accelerator="cpu", callbacks=[EvaluationCallback(tests)], logger=False, enable_checkpointing=False
    )
    with pytest.raises(UserError, match=r"one\.csv: none of .*; .*two\.csv: none of"):
        trainer.test(Model(), DataLoader([0]), verbose=False)


def test_check_of_frames_uses_its_own_lists(setting, tmp_path):
    setting()
    listed = [tmp_path / "bench" / "vtwt.csv"]
    assert setting(tests=[], frames=True, trials=listed) == 1
    with pytest.raises(UserError, match=r"k00005 of s, similar to vtwt/2\.jpg"):
        setting(copied=[2], tests=[], frames=True, trials=listed)
    with pytest.raises(UserError, match="needs a PairMix or a FrameMix, and benchmarks in an EvaluationCallback"):
        setting(tests=[], frames=True)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    listed[0].rename(moved / "vtwt.csv")
    with pytest.raises(UserError, match=r"k00005 of s, similar to vtwt/2\.jpg"):
        setting(copied=[2], tests=[], frames=True, trials=[moved / "vtwt.csv"], images=tmp_path / "bench")


def test_check_by_embeddings_finds_mirrored_image(setting, tmp_path, monkeypatch):
    """A mirrored training image: its hash does not match, but it is by far the most similar for the shipped CLIP."""
    setting()
    store = PairStore(tmp_path / "stores/s")
    picture = open_rgb(next(row["image"] for row in store.rows())).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.save(tmp_path / "bench" / "mirrored.png")
    (tmp_path / "mirrored.csv").write_text("image\nmirrored.png\n")
    embed(store.path, tmp_path / "e", accelerator="cpu")
    clip = load_clip("playroom")
    with torch.no_grad():
        theirs = clip.images(clip.preprocess(picture)[None]).numpy()
    alike = np.sort((Embeddings(tmp_path / "e").image.astype(np.float32) @ theirs.T).ravel())
    check = {"tests": [], "trials": [tmp_path / "mirrored.csv"], "images": tmp_path / "bench"}
    assert setting(**check) == 1
    by_embedding = check | {"embeddings": {"s": tmp_path / "e"}}
    assert setting(**by_embedding, threshold=float(alike[-1]) + 0.01) == 1
    count = int((alike > alike[-1] - 0.001).sum())
    with pytest.raises(UserError, match=f"{count} training pairs .* with --embeddings and --threshold"):
        setting(**by_embedding, threshold=float(alike[-1]) - 0.001)
    monkeypatch.setattr("babyvlm.curation.clip.load_clip", None)  # the vectors of the images are kept
    with pytest.raises(UserError, match="training pairs are near-duplicates"):
        setting(**by_embedding, threshold=float(alike[-1]) - 0.002)
    with pytest.raises(UserError, match="has no embeddings of store s"):
        setting(**check, embeddings={"t": tmp_path / "e"})


def test_check_runs_on_first_rank_and_fails_on_all(setting, tmp_path):
    setting()
    listed = tmp_path / "more.csv"
    listed.write_text("image\n0.jpg\n")
    mix = FrameMix("s", tmp_path / "stores", [Source("s")], 4, 32)

    def check(rank):
        trainer = SimpleNamespace(datamodule=mix, callbacks=[])
        ContaminationCheck(tmp_path / "ranks", trials=[listed], images=tmp_path / "bench").setup(trainer, None, "fit")

    assert on_ranks(2, check, tmp_path) == [None, None]
    assert len([path for path in (tmp_path / "ranks").iterdir() if path.is_dir()]) == 1
    (tmp_path / "bench" / "0.jpg").write_bytes(b"no image")
    (tmp_path / "again").mkdir()
    first, second = on_ranks(2, check, tmp_path / "again")
    assert first.startswith("UserError: ")
    assert "0.jpg: cannot be read as an image" in first
    assert "UserError: rank 0: " in second
