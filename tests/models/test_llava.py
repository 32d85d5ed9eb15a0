import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
)

from babyvlm.errors import UserError
from babyvlm.models import zero_shot
from babyvlm.models.zero_shot import CAPTION_PROMPT, PROMPT, HFVisionLanguage
from babyvlm.types import Captioner, ImageTextScorer, TextScorer
from support.tiny_llava import SIZE, SPECIALS, save_tiny_llava

TEXTS = ["a red ball", "wash", "kick the blue dog at the cup", "a zebra"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("llava"), vision=request.param)


@pytest.fixture(scope="module")
def pil_images():
    torch.manual_seed(3)
    sizes = [(20, 30), (SIZE, SIZE), (90, 61), (64, 64), (33, 70)]
    return [Image.fromarray(torch.randint(0, 256, (*size, 3), dtype=torch.uint8).numpy()) for size in sizes]


@pytest.fixture(scope="module")
def library(folder):
    return AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()


def one_by_one(library, pil_images, prompt, total=False, eos=""):
    """Return the log-likelihood of each answer by transformers: one full sequence per pair, no cache."""
    processor, model = library
    rows = []
    for pil_image in pil_images:
        row = []
        for text in TEXTS:
            given = processor(images=pil_image, text=prompt, return_tensors="pt")["input_ids"].shape[1]
            inputs = processor(images=pil_image, text=f"{prompt} {text}{eos}", return_tensors="pt")
            with torch.no_grad():
                log_p_LV = model(**inputs).logits[0].log_softmax(-1)
            ids_L = inputs["input_ids"][0]
            assert (ids_L[-1] == processor.tokenizer.eos_token_id) == bool(eos)
            each = log_p_LV[given - 1 : -1].gather(1, ids_L[given:, None])
            row.append((each.sum() if total else each.mean()).item())
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_score_equals_transformers_pair_by_pair(folder, library, pil_images, rows):
    scorer = HFVisionLanguage(str(folder), "float32", batch_size=rows)
    assert all(isinstance(scorer, protocol) for protocol in (ImageTextScorer, TextScorer, Captioner))
    images = torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images])
    expected = one_by_one(library, pil_images, PROMPT)
    torch.testing.assert_close(scorer.score(images, TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert expected.std(0).min() > 1e-3  # the scores depend on the image
    wanted = torch.rand(expected.shape, generator=torch.Generator().manual_seed(rows)) < 0.5
    some = scorer.score(images, TEXTS, wanted)
    torch.testing.assert_close(some[wanted], expected[wanted], atol=1e-5, rtol=1e-5)
    assert some[~wanted].isnan().all()


def test_score_counts_eos_if_asked(folder, library, pil_images):
    scorer = HFVisionLanguage(str(folder), "float32", score_eos=True)
    images = torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images[:2]])
    expected = one_by_one(library, pil_images[:2], PROMPT, eos="</s>")
    torch.testing.assert_close(scorer.score(images, TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_score_supports_total_and_evidence(folder, library, pil_images):
    scorer = HFVisionLanguage(str(folder), "float32", likelihood="total", prompt="Look: <image> ASSISTANT:")
    images = torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images])
    total = one_by_one(library, pil_images, "Look: <image> ASSISTANT:", total=True)
    prior = one_by_one(library, [None], "Look: ASSISTANT:", total=True)[0]
    torch.testing.assert_close(scorer.score(images, TEXTS), total, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(scorer.score_texts(TEXTS), prior, atol=1e-4, rtol=1e-5)
    scorer.likelihood = "evidence"
    torch.testing.assert_close(scorer.score(images, TEXTS), total, atol=1e-4, rtol=1e-5)
    scorer.likelihood = "mean"
    expected = one_by_one(library, [None], "Look: ASSISTANT:")[0]
    torch.testing.assert_close(scorer.score_texts(TEXTS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("prompt", "rows"), [(CAPTION_PROMPT, 8), ("<image> ASSISTANT:", 2)])
def test_caption_equals_transformers_image_by_image(folder, library, pil_images, prompt, rows):
    processor, model = library
    scorer = HFVisionLanguage(str(folder), "float32", caption_prompt=prompt, batch_size=rows)
    images = torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images])
    expected = []
    for pil_image in pil_images:
        inputs = processor(images=pil_image, text=prompt, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=9, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(out, skip_special_tokens=True).strip())
    assert scorer.caption(images, 9) == expected
    assert len(set(expected)) > 1 or prompt == CAPTION_PROMPT  # long: one image in a tiny model changes little


def test_score_in_bfloat16_is_close_to_float32(folder, library, pil_images):
    scorer = HFVisionLanguage(str(folder), "bfloat16")
    assert {weight.dtype for weight in scorer.parameters()} == {torch.bfloat16}
    images = torch.stack([scorer.preprocess(pil_image) for pil_image in pil_images[:2]])
    scores = scorer.score(images, TEXTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, one_by_one(library, pil_images[:2], PROMPT), atol=0.3, rtol=0.1)


def test_model_reports_unusable_names(folder, tmp_path):
    (tmp_path / "bert").mkdir()
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path / "bert")
    for name, message in [
        ("llava-hf/no-such-model", "no such folder, and the hub does not provide it"),
        (str(tmp_path), "transformers cannot load it"),
        (str(tmp_path / "bert"), "transformers cannot load it"),
    ]:
        with pytest.raises(UserError, match=message) as refusal:
            HFVisionLanguage(name, "float32")
        assert str(refusal.value).startswith(f"{name}: ")
        assert "\n" not in str(refusal.value)


def test_model_reports_broken_weights_in_one_line(folder, tmp_path):
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    with (broken / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * 64)
    with pytest.raises(UserError, match="transformers cannot load it") as refusal:
        HFVisionLanguage(str(broken), "float32")
    assert "\n" not in str(refusal.value)


def test_model_refuses_processor_that_keeps_aspect_ratio(folder, tmp_path):
    loose = Path(shutil.copytree(folder, tmp_path / "loose"))
    pixels = CLIPImageProcessor(size={"shortest_edge": SIZE}, do_center_crop=False)
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = pixels
    processor.save_pretrained(loose)
    with pytest.raises(UserError, match="keeps the aspect ratio"):
        HFVisionLanguage(str(loose), "float32")


def test_model_refuses_prompt_without_exactly_one_image(folder):
    for prompt in ("What is it?", "<image> <image> What?"):
        with pytest.raises(UserError, match="exactly once"):
            HFVisionLanguage(str(folder), prompt=prompt)


def test_score_refuses_tokenizer_that_merges_prompt_and_answer(folder):
    scorer = HFVisionLanguage(str(folder), "float32")
    joins = Tokenizer(models.BPE())  # no words: a token may hold the end of the prompt and the answer's beginning
    joins.train_from_iterator([f"{PROMPT} red"] * 5, trainers.BpeTrainer(special_tokens=SPECIALS, show_progress=False))
    scorer.processor.tokenizer = PreTrainedTokenizerFast(tokenizer_object=joins, eos_token="</s>")
    with pytest.raises(UserError, match=r"its last token merges with 'red'"):
        scorer.score(torch.zeros(1, 3, SIZE, SIZE), ["red"])


@pytest.mark.parametrize(("scheme", "num_fewer"), [("always", 0), ("first", 1)])
def test_caption_prompt_has_the_tokens_of_its_parts(scheme, num_fewer):
    """The authors split the prompt at the image and tokenize each part alone, by which each begins with a blank."""
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=[*SPECIALS, *letters], show_progress=False)
    tokenizer.train_from_iterator([CAPTION_PROMPT.replace("<image>\n", " ")] * 3, trainer)
    before, after = (tokenizer.encode(part).tokens for part in CAPTION_PROMPT.split("<image>"))
    assert after[:2] == ["▁", "<0x0A>"]
    assert tokenizer.encode(CAPTION_PROMPT).tokens == [*before, "<image>", *after[num_fewer:]]


def test_int8_needs_a_gpu_and_is_pinned_to_that_of_the_rank(folder, monkeypatch):
    """Without a GPU the placement is only checked, not made."""
    with pytest.raises(UserError, match="precision int8: needs a GPU"):
        HFVisionLanguage(str(folder), "int8")
    model, placed = HFVisionLanguage(str(folder), "float32"), {}

    def load(folder, **options):
        placed.update(options)
        raise OSError("no GPU here")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(zero_shot, "AutoModelForImageTextToText", SimpleNamespace(from_pretrained=load))
    monkeypatch.setattr(zero_shot, "BitsAndBytesConfig", lambda **_: None)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match="no GPU here"):
        HFVisionLanguage(str(folder), "int8")
    assert placed["device_map"] == {"": torch.device("cuda", 3)}
    strategy = SimpleNamespace(root_device=torch.device("cuda", 1))
    monkeypatch.setattr(HFVisionLanguage, "trainer", SimpleNamespace(strategy=strategy))
    model.setup("test")
    model.precision = "int8"
    with pytest.raises(UserError, match="the weights are on cpu and cannot be moved to cuda:1"):
        model.setup("test")
