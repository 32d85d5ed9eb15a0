"""The check for benchmark images among the training pairs, before ``fit``."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lightning import LightningModule, Trainer

from babyvlm import artefact
from babyvlm.benchmarks import Contamination, VisualTwoWord
from babyvlm.contracts import UserError
from babyvlm.data.mixes import PairMix, Source

UTTERANCES = ["look at the ball", "wash the cup", "a red cup", "the dog runs"] * 4


class Model(LightningModule):
    """The least that trains and scores."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        return self.weight * batch.images_BCHW.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def preprocess(self, image):
        raise AssertionError

    score = preprocess


@pytest.fixture
def setting(tmp_path, tiny_store, make_vocabulary, draw_jpeg):
    """``fit(copied)``: a run on a store, with a benchmark of which the images ``copied`` are the store's own."""
    store = tiny_store(UTTERANCES, path=tmp_path / "stores/s", size=48)
    words = make_vocabulary(store)
    images = [row["image"] for row in store.rows()]

    def fit(copied=()):
        bench = tmp_path / "bench"
        bench.mkdir(exist_ok=True)
        names = [f"{n}.jpg" for n in range(3)]
        for n, name in enumerate(names):
            (bench / name).write_bytes(images[5] if n in copied else draw_jpeg(1000 + n, 48))
        (bench / "vtwt.csv").write_text(
            "image,positive_phrase,negative_phrase\n" + "".join(f"{name},red cup,red ball\n" for name in names)
        )
        mix = PairMix("s", tmp_path / "stores", [Source("s")], "s", words, batch_size=4, image_size=32)
        callbacks = [VisualTwoWord(bench / "vtwt.csv"), Contamination(tmp_path / "cache", distance=0)]
        trainer = Trainer(
            accelerator="cpu", max_steps=1, limit_val_batches=0, callbacks=callbacks, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Model(), datamodule=mix)
        return trainer.global_step

    return fit


def test_a_clean_mix_trains_and_is_checked_once(setting, monkeypatch):
    assert setting() == 1
    monkeypatch.setattr("babyvlm.curation.contamination.perceptual_hashes", None)  # no image is hashed again
    assert setting() == 1


def test_runs_that_start_together_check_one_after_another(setting, tmp_path, capfd):
    setting()
    (made,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    shutil.rmtree(made)
    with ThreadPoolExecutor() as pool:
        with artefact.alone(made):
            run = pool.submit(setting)
            told = ""
            while "another run is making it" not in told:
                told += capfd.readouterr().err
                assert not run.done()
                time.sleep(0.05)
            assert not list(made.parent.glob("*.partial"))
        assert run.result() == 1
    assert made.is_dir()


def test_a_benchmark_image_among_the_training_pairs_is_named_before_training(setting):
    for _ in range(2):  # the second time the answer is there already
        with pytest.raises(UserError) as error:
            setting(copied=[1])
        told = str(error.value)
        assert "1 training pairs are nearly the same" in told
        assert "the first is k00005 of s, like vtwt/1.jpg" in told
        assert "\n" not in told
    assert setting() == 1  # other images, another answer
