import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from PIL import Image
from scipy.special import logsumexp
from torch.utils.data import DataLoader

from babyvlm.data.vocabulary import Vocabulary
from babyvlm.models.cvcl import CVCL, CVCLAdamW
from babyvlm.models.networks.text import LSTMText, TransformerText
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.types import Batch, ImageTextScorer

SIZE = 32
TEXTS = ["look at the ball", "the red dog", "wash", "a cup is red"]


def model(vocabulary, frozen=False, **options):
    torch.manual_seed(0)
    small = {"width": 8, "image_size": SIZE, "max_tokens": 6}
    return CVCL(vocabulary, VisionEncoder("test_resnet", frozen=frozen), **small | options)


def batch(vocabulary, texts=TEXTS, seed=1):
    rows = [torch.tensor(row) for row in Vocabulary(vocabulary).encode(texts, 6)]
    images = torch.randn(len(texts), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return Batch([f"k{i}" for i in range(len(texts))], images, torch.nn.utils.rnn.pad_sequence(rows, True), list(texts))


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


def trainer(folder, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet | options)


def by_hand(cvcl, data):
    """Return the loss by numpy, from the trunk's features and the weights."""
    with torch.no_grad():
        features = cvcl.network.vision_encoder(data.images_BCHW).double().numpy()
    weight, bias = (p.detach().double().numpy() for p in (cvcl.network.projection.weight, cvcl.network.projection.bias))
    table = cvcl.network.text_encoder.embedding.weight.detach().double().numpy()
    image = features @ weight.T + bias
    text = np.stack([table[[t for t in row if t]].mean(0) for row in data.tokens_BL.tolist()])
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    logits = image @ text.T / math.exp(cvcl.network.log_temperature.item())
    right = np.diag(logits)
    return ((logsumexp(logits, 1) - right).mean() + (logsumexp(logits, 0) - right).mean()) / 2


def test_training_and_validation_loss_equal_paper(tmp_path, vocabulary):
    data = batch(vocabulary)
    cvcl = model(vocabulary, frozen=True).eval()
    expected = by_hand(cvcl, data)
    assert abs(expected - math.log(4)) > 0.01  # the expected value is not trivial
    run = trainer(tmp_path, max_epochs=1, limit_val_batches=1)
    run.validate(cvcl, loader(data), verbose=False)
    assert run.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=1e-5)
    run.fit(cvcl, loader(data))
    assert run.callback_metrics["train_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert run.callback_metrics["temperature"].item() == pytest.approx(0.07)
    run.test(cvcl, loader(data), verbose=False)
    assert run.callback_metrics["test_loss"].item() == pytest.approx(by_hand(cvcl, data), rel=1e-5)
    assert run.callback_metrics["test_loss"] < expected  # training lowered the loss


@pytest.mark.parametrize("frozen", [True, False])
def test_training_step_updates_expected_weights(tmp_path, vocabulary, frozen):
    cvcl = model(vocabulary, frozen=frozen)
    before = {name: tensor.clone() for name, tensor in cvcl.state_dict().items()}
    trainer(tmp_path, max_steps=2).fit(cvcl, loader(batch(vocabulary), batch(vocabulary, seed=2)))
    moved = {name for name, tensor in cvcl.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"network.projection.weight", "network.projection.bias", "network.text_encoder.embedding.weight"} <= moved
    assert "network.log_temperature" not in moved
    trunk = {name for name in before if name.startswith("network.vision_encoder.")}
    if frozen:
        assert not trunk & moved
        assert all(parameter.grad is None for parameter in cvcl.network.vision_encoder.parameters())
    else:
        assert {
            name for name, _ in cvcl.network.vision_encoder.named_parameters(prefix="network.vision_encoder")
        } <= moved
        assert {name for name in trunk if "running" in name} <= moved
    assert cvcl.network.text_encoder.embedding.weight[0].abs().max() == 0


def test_temperature_is_saved_and_learned_on_request(tmp_path, vocabulary):
    fixed, learned = model(vocabulary), model(vocabulary, learn_temperature=True, temperature=0.5)
    assert "network.log_temperature" not in dict(fixed.named_parameters())
    assert "network.log_temperature" in dict(learned.named_parameters())
    assert fixed.network.log_temperature.exp().item() == pytest.approx(0.07)
    other = model(vocabulary, temperature=0.3)
    other.load_state_dict(fixed.state_dict())
    assert other.network.log_temperature.exp().item() == pytest.approx(0.07)
    before = learned.network.log_temperature.item()
    trainer(tmp_path, max_steps=1).fit(learned, loader(batch(vocabulary)))
    assert learned.network.log_temperature.item() != before


@pytest.mark.parametrize("text", [None, LSTMText, lambda words, width: TransformerText(words, width, heads=2)])
def test_score_is_cosine(vocabulary, text):
    cvcl = model(vocabulary, **{"text": text} if text else {}).eval()
    assert isinstance(cvcl, ImageTextScorer)
    texts = [*TEXTS, "zebra", "the zebra and the quagga at the opera with a ball"]  # unknown words; too long
    images = torch.stack([cvcl.preprocess(Image.new("RGB", (40, 50), colour)) for colour in ("red", "blue", "white")])
    assert images.shape == (3, 3, SIZE, SIZE)
    with torch.no_grad():
        scores = cvcl.score(images, texts)
        assert scores.shape == (3, 6)
        assert scores.abs().max() <= 1 + 1e-6
        one_by_one = torch.cat([cvcl.score(images, [text]) for text in texts], 1)
        torch.testing.assert_close(scores, one_by_one, atol=1e-6, rtol=0)
        torch.testing.assert_close(cvcl.score(images, ["zebra"]), cvcl.score(images, ["quagga"]))
        torch.testing.assert_close(
            cvcl.score(images, texts[-1:]), cvcl.score(images, ["the zebra and the"])
        )  # 6 tokens
        norms = cvcl.network.encode_image(images).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(3))


def test_score_is_cosine_of_training(vocabulary):
    cvcl, data = model(vocabulary).eval(), batch(vocabulary)
    with torch.no_grad():
        scores = cvcl.score(data.images_BCHW, data.utterances)
        expected = cvcl.network.encode_image(data.images_BCHW) @ cvcl.network.encode_text(data.tokens_BL).T
    torch.testing.assert_close(scores, expected)


def test_score_is_finite_in_any_precision(vocabulary):
    cvcl = model(vocabulary).eval()
    images = batch(vocabulary).images_BCHW
    exact = cvcl.score(images, TEXTS)
    assert not exact.requires_grad
    torch.testing.assert_close(cvcl.bfloat16().score(images, TEXTS).float(), exact, atol=0.05, rtol=0)


def test_optimizer_equals_paper_and_has_trainable_weights(vocabulary):
    cvcl = model(vocabulary, frozen=True)
    optimizer = cvcl.configure_optimizers()
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"]) == (1e-4, 0.1)
    assert {id(p) for p in group["params"]} == {
        id(p) for p in [*cvcl.network.projection.parameters(), *cvcl.network.text_encoder.parameters()]
    }


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Two epochs of three steps; the loss never falls by 100, so the plateau of no patience acts after the second.
        (lambda o: ReduceLROnPlateau(o, "val_loss", patience=0, factor=0.1, threshold=100, threshold_mode="abs"), 1e-5),
        (lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), 1e-4 / 2**6),
    ],
)
def test_schedules_step_per_batch_or_epoch(tmp_path, vocabulary, schedule, expected):
    cvcl = model(vocabulary, frozen=True, optimizer=CVCLAdamW, scheduler=schedule)
    data = batch(vocabulary)
    run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    run.fit(cvcl, loader(data, data, data), loader(data))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected)


TWO_RANKS = """
import os, sys
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
import test_cvcl as t
from babyvlm.benchmarks import VTWT, EvaluationCallback
from babyvlm.types import Batch

vocabulary, folder, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
whole = t.batch(t.Path(vocabulary))

class Split(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(int(os.environ.get("LOCAL_RANK", 0)), None, devices)
        return Batch(whole.keys[part], whole.images_BCHW[part], whole.tokens_BL[part], whole.utterances[part])

cvcl = t.model(t.Path(vocabulary), frozen=True)
logger = CSVLogger(folder, "run")
words = EvaluationCallback([VTWT(t.Path(folder) / "vtwt.csv")])
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", logger=logger, max_epochs=2,
    callbacks=[words], use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, num_sanity_val_steps=0,
)
loader = torch.utils.data.DataLoader(Split(), batch_size=None)
trainer.fit(cvcl, loader, loader)
metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
torch.save({"state": cvcl.state_dict(), "metrics": metrics}, f"{folder}/{devices}.pt")
"""


@pytest.mark.soak
def test_fit_on_two_ranks_equals_one_rank(tmp_path, vocabulary):
    """A pair's negatives are the global batch, so weights, losses and scores are equal on 1 and 2 processes."""
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "x.png")
    (tmp_path / "vtwt.csv").write_text("image,positive_phrase,negative_phrase,half\nx.png,a red cup,the dog,dev\n")
    (tmp_path / "run.py").write_text(TWO_RANKS)
    for devices in (1, 2):
        command = [sys.executable, tmp_path / "run.py", vocabulary, tmp_path, str(devices)]
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # the script imports this file
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-4)
    start = model(vocabulary, frozen=True).state_dict()
    for name, tensor in one["state"].items():
        torch.testing.assert_close(two["state"][name], tensor, atol=2e-6, rtol=1e-4)
    assert not torch.equal(one["state"]["network.projection.weight"], start["network.projection.weight"])
    assert len(list((tmp_path / "run").glob("version_*/results/vtwt-dev-*.parquet"))) == 4
