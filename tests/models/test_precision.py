"""Half precision and accumulated gradients, on tiny shapes: losses and weights stay the same."""

from functools import partial

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.models import base
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.language import LanguageModel
from babyvlm.models.losses import language_loss, symmetric_info_nce
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.types import Batch

SIZE = 64
GPT2 = LanguageShape("gpt2", width=16, layers=2, heads=2, inner=32, positions=40, dropout=0.0)
LLAMA = LanguageShape("llama", width=16, layers=2, heads=4, kv_heads=2, inner=32, positions=40, dropout=0.0)
TEXTS = [
    "look at the ball",
    "a cup",
    "the red dog runs at the ball",
    "wash",
    "a cup is red",
    "the dog is at the cup",
    "look",
    "the ball is red",
    "wash the red cup",
    "a dog",
]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def at_once(optimizer, steps):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def llava(vocabulary, shape):
    trunk = VisionEncoder("test_resnet", frozen=True)  # no batch norm that sees a batch
    options = {"train_language": True, "image_size": SIZE, "max_tokens": 10, "scheduler": at_once}
    return BabyLLaVA(vocabulary, trunk, shape, optimizer=sgd, **options)


MODELS = {
    "CVCL": lambda words: CVCL(words, VisionEncoder("test_resnet"), width=8, image_size=SIZE, optimizer=sgd),
    "BabyLLaVA-GPT2": lambda words: llava(words, GPT2),
    "BabyLLaVA-Llama": lambda words: llava(words, LLAMA),
    "Language": lambda words: LanguageModel(words, GPT2, max_tokens=10, optimizer=sgd, scheduler=at_once),
}


def model(vocabulary, name):
    torch.manual_seed(0)
    return MODELS[name](vocabulary)


def batch(vocabulary, first, last, size=SIZE):
    """Some of the texts, each with an image."""
    rows = [torch.tensor(row) for row in Vocabulary(vocabulary).encode(TEXTS[first:last], 10)]
    images = torch.randn(len(TEXTS), 3, size, size, generator=torch.Generator().manual_seed(1))[first:last]
    return Batch(TEXTS[first:last], images, nn.utils.rnn.pad_sequence(rows, True), TEXTS[first:last])


def fit(folder, fitted, batches, **options):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        max_epochs=-1,
        max_steps=2,
        **options,
    )
    trainer.fit(fitted, DataLoader(batches, batch_size=None))
    return trainer


@pytest.mark.parametrize("name", MODELS)
def test_loss_is_computed_in_float32_under_half_precision(tmp_path, vocabulary, monkeypatch, name):
    """The loss equals that of the model's outputs in double precision, with and without autocast."""
    taken = []

    def watched(function, *args):
        exact = function(*(a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args))
        taken.append((args[0].dtype, function(*args), exact))
        return taken[-1][1]

    monkeypatch.setattr(base, "symmetric_info_nce", partial(watched, symmetric_info_nce))
    monkeypatch.setattr(base, "language_loss", partial(watched, language_loss))
    fitted = model(vocabulary, name)
    trainer = fit(tmp_path, fitted, [batch(vocabulary, 0, 5)] * 2, precision="bf16-mixed")
    assert trainer.global_step == len(taken) == 2
    for given, loss, exact in taken:
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), abs=2e-6)
        assert given == torch.bfloat16 or name == "CVCL"  # CVCL's embeddings leave their norm in single precision
    assert {parameter.dtype for parameter in fitted.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "CVCL"])
def test_accumulated_gradients_equal_large_batch(tmp_path, vocabulary, name):
    """Also if batches have different numbers of tokens, and the last step has fewer batches."""
    parts = [(0, 2), (2, 3), (3, 6), (6, 8), (8, 10)]  # in steps of three: ten texts in two steps
    fitted, large = model(vocabulary, name), model(vocabulary, name)
    options = {"precision": "64-true"}
    trainer = fit(tmp_path, fitted, [batch(vocabulary, *part) for part in parts], accumulate_grad_batches=3, **options)
    fit(tmp_path, large, [batch(vocabulary, 0, 6), batch(vocabulary, 6, 10)], **options)
    assert trainer.global_step == 2
    start = model(vocabulary, name).double().state_dict()
    assert any((tensor - start[key]).abs().max() > 1e-3 for key, tensor in large.state_dict().items())
    torch.testing.assert_close(fitted.state_dict(), large.state_dict(), atol=1e-7, rtol=1e-6)


def test_contrastive_model_refuses_gradient_accumulation(tmp_path, vocabulary):
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches 2: .* raise data\.batch_size"):
        fit(tmp_path, model(vocabulary, "CVCL"), [batch(vocabulary, 0, 4)] * 2, accumulate_grad_batches=2)


@pytest.mark.parametrize("name", ["BabyLLaVA-Llama", "Language"])
def test_gradient_checkpointing_changes_no_weights(tmp_path, vocabulary, monkeypatch, name):
    plain, sparing = model(vocabulary, name), model(vocabulary, name)
    body = sparing.network if name == "Language" else sparing.network.llava.model.language_model
    body.gradient_checkpointing_enable()
    layers = [part for part in body.modules() if getattr(part, "gradient_checkpointing", False)]
    assert layers
    for fitted in (plain, sparing):
        fit(tmp_path, fitted, [batch(vocabulary, 0, 5)] * 2)
    torch.testing.assert_close(sparing.state_dict(), plain.state_dict())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_fused_optimizer_clips_gradients_under_mixed_precision(tmp_path, vocabulary, precision, algorithm):
    """The weights are those of an optimizer that is not fused. float16 is computed here in bfloat16, but is scaled."""
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        fitted = CVCL(
            vocabulary,
            VisionEncoder("test_resnet"),
            width=8,
            image_size=48,
            optimizer=lambda parameters, fused=fused: torch.optim.AdamW(parameters, lr=1e-3, fused=fused),
        )
        options = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
        if precision == "16-mixed":
            options["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=128.0))]
        else:
            options["precision"] = precision
        norms = []
        fitted.on_before_optimizer_step = lambda optimizer, fitted=fitted, norms=norms: norms.append(
            max(float(parameter.grad.abs().max()) for parameter in fitted.parameters() if parameter.grad is not None)
        )
        fit(tmp_path, fitted, [batch(vocabulary, 0, 5, 48)] * 2, **options)
        weights.append(fitted.state_dict())
        assert 1e-3 < norms[0] < 10  # unscaled before it is clipped
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-4)
