import json

import open_clip
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from babyvlm.curation.clip import load_clip
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.clip import ClipTraining
from babyvlm.models.zero_shot import OpenClip
from babyvlm.types import Batch, ImageTextScorer

SIZE, CONTEXT = 16, 10
TEXTS = ["look at the ball", "the dog runs", "a zebra", "wash the cup and look at the red dog and the ball again"]


def training(vocabulary):
    torch.manual_seed(0)
    return ClipTraining(
        vocabulary,
        embed_dim=8,
        vision={"layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        text={"context_length": CONTEXT, "width": 16, "heads": 2, "layers": 1},
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        image_size=SIZE,
    ).eval()


@pytest.fixture(scope="module")
def pil_images():
    torch.manual_seed(3)
    noise = torch.randint(0, 256, (3, 20, 30, 3), dtype=torch.uint8)
    return [Image.fromarray(pixels.numpy()) for pixels in noise]


@pytest.fixture
def folder(tmp_path, vocabulary):
    training(vocabulary).save_open_clip(tmp_path / "clip")
    return tmp_path / "clip"


def test_score_equals_open_clip(folder, pil_images):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    scorer = OpenClip(f"local-dir:{folder}")
    assert isinstance(scorer, ImageTextScorer)
    assert not scorer.model.training
    images = torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images])
    torch.testing.assert_close(images, torch.stack([preprocess(pil_image) for pil_image in pil_images]))
    with torch.no_grad():
        image, text = model.eval().encode_image(images), model.encode_text(tokenize(TEXTS))
        expected = normalize(image, dim=-1) @ normalize(text, dim=-1).T
        scores = scorer.score(images, TEXTS)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)
    assert scores.std() > 1e-3


def test_saved_clip_equals_trained_to_half_precision(folder, vocabulary, pil_images):
    teacher, scorer = training(vocabulary), OpenClip(f"local-dir:{folder}")
    images = torch.stack([teacher.preprocess(pil_image) for pil_image in pil_images])
    torch.testing.assert_close(images, torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images]))
    with torch.no_grad():
        torch.testing.assert_close(scorer.score(images, TEXTS), teacher.score(images, TEXTS), atol=5e-3, rtol=0)
    weights = open_clip.factory.load_state_dict(str(folder / "open_clip_model.safetensors"))
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}


def test_clip_tokenizer_equals_vocabulary(folder, vocabulary):
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    ids = Vocabulary(vocabulary).encode(TEXTS, CONTEXT)
    assert tokens.tolist() == [row + [0] * (CONTEXT - len(row)) for row in ids]


def test_fit_lowers_loss_and_saves_model_in_run(tmp_path, vocabulary, pil_images):
    clip = training(vocabulary)
    images = torch.stack([clip.preprocess(pil_image) for pil_image in pil_images])
    data = DataLoader([Batch(["a", "b", "c"], images, torch.zeros(3, 1), TEXTS[:3])], batch_size=None)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(tmp_path),
        max_epochs=40,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    before = trainer.validate(clip, data, verbose=False)[0]["val_loss"]
    trainer.fit(clip, data)
    after = trainer.validate(clip, data, verbose=False)[0]["val_loss"]
    assert after < before / 2
    scorer = OpenClip(f"local-dir:{trainer.log_dir}/open_clip")
    with torch.no_grad():
        assert scorer.score(images, TEXTS[:3]).argmax(1).tolist() == [0, 1, 2]
        torch.testing.assert_close(scorer.score(images, TEXTS), clip.eval().score(images, TEXTS), atol=1e-2, rtol=0)


def test_test_needs_no_data(tmp_path, folder):
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    assert trainer.test(OpenClip(f"local-dir:{folder}"), verbose=False) == [{}]


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-L-14/none", "NoSuch/openai", "local-dir:/no/such/folder"])
def test_model_reports_unusable_names(name):
    with pytest.raises(UserError, match=f"--clip {name}") as refusal:
        load_clip(name)
    assert "\n" not in str(refusal.value)


def test_model_refuses_folder_of_other_kind(folder):
    (folder / "open_clip_config.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(UserError, match="open_clip cannot load it"):
        load_clip(f"local-dir:{folder}")
