"""Results of version 0.1.0, made by ``tests/data/version_0_1_0/make.py``: they must not change.

Losses are compared bit by bit on the machine type and torch version that made them, elsewhere up to rounding.
"""

import json
import platform
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import babyvlm
from babyvlm.data.frame_mix import Views
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.clip import ClipTraining
from babyvlm.models.cvcl import CVCL
from babyvlm.models.dino import DINO
from babyvlm.models.language import LanguageModel
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.text import LSTMText, MeanEmbedding, TransformerText
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.types import Batch
from support.golden import CLIP, GOLDEN, GPT2, HEAD, LLAMA, SIZE, TEXTS, TRUNK, draw, noise, pair_batches, view_batches

EXPECTED = json.loads((GOLDEN / "golden.json").read_text())
WORDS, RUNS = GOLDEN / "vocabulary", GOLDEN / "runs"
SAME_MACHINE = EXPECTED["made_on"] == {
    "torch": torch.__version__,
    "machine": platform.machine(),
    "cpu": torch.backends.cpu.get_cpu_capability(),
}


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def trunk(frozen=False):
    return VisionEncoder(**TRUNK, frozen=frozen)


def transformer(size, width):
    return TransformerText(size, width, heads=2)


def cvcl(vision, text=MeanEmbedding, **options):
    return CVCL(WORDS, vision, text, width=16, image_size=SIZE, max_tokens=9, optimizer=adamw, **options)


def babyllava(vision, shape, **options):
    return BabyLLaVA(WORDS, vision, LanguageShape(**shape), image_size=SIZE, max_tokens=9, optimizer=adamw, **options)


def language_model(shape):
    return LanguageModel(WORDS, LanguageShape(**shape), 9, predict_sos=False, optimizer=adamw)


MODELS = {
    "CVCL": lambda: cvcl(trunk()),
    "CVCL-frozen": lambda: cvcl(trunk(frozen=True), learn_temperature=True),
    "CVCL-lstm": lambda: cvcl(trunk(), partial(LSTMText, dropout=0.0)),
    "CVCL-transformer": lambda: cvcl(trunk(), transformer),
    "BabyLLaVA-phase-1": lambda: babyllava(trunk(frozen=True), GPT2),
    "BabyLLaVA-phase-2": lambda: babyllava(trunk(), GPT2, train_language=True),
    "BabyLLaVA-recompute": lambda: babyllava(trunk(), LLAMA, train_language=True, gradient_checkpointing=True),
    "Language": lambda: language_model(GPT2),
    "Language-llama": lambda: language_model(LLAMA),
    "DINO": lambda: DINO(trunk(), adamw, 12, HEAD, {"center_momentum": 0.8}, 0.9),
    "CLIP": lambda: ClipTraining(WORDS, **CLIP, optimizer=adamw, image_size=SIZE),
}


def pairs():
    vocabulary = Vocabulary(WORDS)
    for texts, images in pair_batches():
        yield Batch(
            texts, images, pad_sequence([torch.tensor(row) for row in vocabulary.encode(texts, 9)], True), texts
        )


@pytest.mark.parametrize("name", MODELS)
def test_model_has_losses_of_0_1_0(tmp_path, name):
    torch.manual_seed(7)
    model, recorded = MODELS[name](), Losses()
    torch.manual_seed(8)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=4,
        logger=False,
        callbacks=[recorded],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batches = [Views(*views) for views in view_batches()] if name == "DINO" else list(pairs())
    trainer.fit(model, DataLoader(batches, batch_size=None))
    assert recorded.losses == (
        EXPECTED["losses"][name] if SAME_MACHINE else pytest.approx(EXPECTED["losses"][name], rel=1e-3)
    )


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def check_outputs(model, expected):
    images = torch.stack([model.preprocess(draw(number)) for number in range(3)])
    if "caption" in expected:
        model.score_eos = True  # as in 0.1.0
    with torch.no_grad():
        score, evidence = model.score(images, TEXTS), getattr(model, "likelihood", None) == "evidence"
        # The evidence of 0.1.0 was relative to the text without an image.
        close(score - model.score_texts(TEXTS) if evidence else score, expected["score"])
        if "caption" in expected:
            if not evidence:
                close(model.score_texts(TEXTS), expected["score_texts"])
            assert model.caption(images) == expected["caption"]


@pytest.mark.parametrize("name", ["CVCL", "CVCL-lstm", "CVCL-transformer", "BabyLLaVA", "BabyLLaVA-llama", "CLIP"])
def test_load_run_of_0_1_0_gives_its_scores(name):
    check_outputs(babyvlm.load(RUNS / name), EXPECTED["outputs"][name])


@pytest.mark.parametrize("name", ["CVCL", "BabyLLaVA"])
def test_load_export_of_0_1_0_gives_its_scores(name):
    check_outputs(babyvlm.load(GOLDEN / "exports" / name), EXPECTED["outputs"][name])


def test_load_language_model_of_0_1_0_gives_its_logits():
    model = babyvlm.load(RUNS / "Language")
    tokens = pad_sequence([torch.tensor(row) for row in model.vocabulary.encode(TEXTS)], True)
    with torch.no_grad():
        logits = model(Batch(TEXTS, torch.empty(0), tokens, TEXTS))
    close(logits[:, -1], EXPECTED["outputs"]["Language"]["logits"])


@pytest.mark.parametrize(
    ("name", "file"), [("checkpoint", "checkpoints/one.ckpt"), ("backbone", "backbone.safetensors")]
)
def test_vision_encoder_reads_dino_run_of_0_1_0(name, file):
    encoder = VisionEncoder(**TRUNK, weights=str(RUNS / "DINO" / file)).eval()
    with torch.no_grad():
        close(encoder(noise(0, 4, 3, SIZE, SIZE)), EXPECTED["outputs"]["DINO"]["features"][name])


def test_load_dino_run_of_0_1_0():
    assert isinstance(babyvlm.load(RUNS / "DINO"), DINO)


@pytest.mark.parametrize("name", ["CVCL", "BabyLLaVA"])
def test_init_from_takes_weights_of_0_1_0(name):
    options = {"init_from": RUNS / name}
    make = {
        "CVCL": lambda: cvcl(trunk(), **options),
        "BabyLLaVA": lambda: babyllava(trunk(frozen=True), GPT2, **options),
    }
    check_outputs(make[name]().eval(), EXPECTED["outputs"][name])


def test_init_language_takes_weights_of_0_1_0():
    language = torch.load(RUNS / "Language" / "checkpoints" / "one.ckpt", weights_only=True)["state_dict"]
    model = babyllava(trunk(), GPT2, init_language=RUNS / "Language").state_dict()
    (name,) = (name for name in model if name.endswith("language_model.h.1.mlp.c_fc.weight"))
    assert torch.equal(model[name], language["lm.transformer.h.1.mlp.c_fc.weight"])


def test_trainer_tests_checkpoint_of_0_1_0(tmp_path):
    checkpoint = shutil.copy(RUNS / "CVCL" / "checkpoints" / "one.ckpt", tmp_path)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    model = cvcl(trunk())
    trainer.test(model, DataLoader(list(pairs()), batch_size=None), Path(checkpoint), verbose=False, weights_only=True)
    check_outputs(model.eval(), EXPECTED["outputs"]["CVCL"])
