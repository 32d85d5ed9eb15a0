import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from babyvlm.data.vocabulary import EOS, PAD, SOS, SPECIALS, UNK, Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.language import LanguageModel
from babyvlm.models.networks.babyllava import BabyLLaVANetwork
from babyvlm.models.networks.connector import ImageTokens, image_tokens, token_shape
from babyvlm.models.networks.language import GPT2 as PAPER_GPT2
from babyvlm.models.networks.language import TINY_LLAMA, LanguageShape
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.optimization import CosineWithWarmup
from babyvlm.types import Batch, Captioner, FrozenVision, ImageTextScorer, TextScorer

IMAGE = SPECIALS.index("<image>")
SIZE, PLACES = 64, 4  # the small trunk's last map is 2 x 2
GPT2 = LanguageShape("gpt2", width=16, layers=2, heads=2, inner=32, positions=40)
LLAMA = LanguageShape("llama", width=16, layers=2, heads=4, kv_heads=2, inner=32, positions=40, dropout=0)
TEXTS = ["look at the ball", "the red dog", "wash", "a cup is red", "", "the zebra runs at the dog and the cup"]


@pytest.fixture(params=[GPT2, LLAMA], ids=["gpt2", "llama"])
def shape(request):
    return request.param


def model(vocabulary, shape=GPT2, frozen=True, seed=0, **options):
    torch.manual_seed(seed)
    small = {"image_size": SIZE, "max_tokens": 8}
    made = BabyLLaVA(vocabulary, VisionEncoder("test_resnet", frozen=frozen), shape, **small | options)
    with torch.no_grad():  # as if trained: weights near zero would hide errors
        for name, parameter in made.network.llava.named_parameters():
            if "vision_tower" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def images(count=3, seed=1):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def batch(vocabulary, texts=TEXTS, seed=1):
    rows = [torch.tensor(row) for row in Vocabulary(vocabulary).encode(texts, 8)]
    keys = [f"k{i}" for i in range(len(texts))]
    return Batch(keys, images(len(texts), seed), nn.utils.rnn.pad_sequence(rows, True), list(texts))


def trainer(folder, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_steps": 2}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, enable_model_summary=False, **quiet | options)


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


class MapTower(nn.Module):
    """A vision tower of the kind that transformers' LLaVA knows, built without this project's code."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, pixel_values, **_):
        return BaseModelOutput(hidden_states=(None, self.trunk.forward_features(pixel_values).flatten(2).mT))


@pytest.fixture
def pair(vocabulary, shape):
    """BabyLLaVA and transformers' own LLaVA with its weights copied; its attention is the eager implementation."""
    ours = model(vocabulary, shape, train_language=True).eval()
    width = ours.network.llava.config.vision_config.hidden_size
    tower = CLIPVisionConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    text = copy.deepcopy(ours.network.llava.config.text_config)
    text.tie_word_embeddings = False  # transformers' LLaVA cannot tie GPT-2's
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        attn_implementation="eager",
    )
    theirs = LlavaForConditionalGeneration(config).eval()
    theirs.model.vision_tower = MapTower(ours.network.llava.model.vision_tower.timm_model)
    for part in ("multi_modal_projector", "language_model"):
        getattr(theirs.model, part).load_state_dict(getattr(ours.network.llava.model, part).state_dict())
    theirs.lm_head.load_state_dict(ours.network.llava.lm_head.state_dict())
    theirs.generation_config = ours.network.llava.generation_config
    assert theirs.model.language_model.config._attn_implementation == "eager"
    return ours, theirs


def with_places(tokens_BL):
    places = torch.full((len(tokens_BL), PLACES), IMAGE)
    return torch.cat([places, tokens_BL], 1)


def reference_loss(theirs, data):
    ids = with_places(data.tokens_BL)
    labels = ids.masked_fill((ids == PAD) | (ids == SOS) | (ids == IMAGE), -100)
    attention = (ids != PAD).long()
    return theirs(input_ids=ids, attention_mask=attention, pixel_values=data.images_BCHW, labels=labels)


def test_forward_and_gradients_equal_transformers(vocabulary, pair):
    ours, theirs = pair
    data = batch(vocabulary)
    expected = reference_loss(theirs, data)
    is_word = data.tokens_BL != PAD
    logits = ours(data)
    torch.testing.assert_close(logits[is_word], expected.logits[:, PLACES:][is_word], atol=1e-5, rtol=1e-5)
    loss = ours.training_step(data, 0)
    torch.testing.assert_close(loss, expected.loss, atol=1e-6, rtol=1e-6)
    loss.backward()
    expected.loss.backward()
    for part in ("multi_modal_projector", "language_model"):
        mine, other = (dict(getattr(vlm.model, part).named_parameters()) for vlm in (ours.network.llava, theirs))
        for name, parameter in mine.items():
            if name != "wte.weight":  # tied to the output layer here, separate in transformers
                torch.testing.assert_close(parameter.grad, other[name].grad, atol=1e-6, rtol=1e-4, msg=name)
    assert ours.network.llava.model.multi_modal_projector.linear_1.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}], ids=str)
def test_caption_equals_transformers(vocabulary, pair, how):
    ours, theirs = pair
    prompt = with_places(torch.full((3, 1), SOS))
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "pixel_values": images()}
    outs = []
    for vlm, cached in ((ours.network.llava, {}), (theirs, {"use_cache": True})):
        torch.manual_seed(3)
        outs.append(vlm.generate(**inputs, **cached | how, max_new_tokens=9))
    assert torch.equal(*outs)
    is_word = outs[0][:, prompt.shape[1] :]
    assert not torch.isin(is_word[:, :3], torch.tensor([UNK, SOS, IMAGE])).any()
    if not how:
        assert ours.caption(inputs["pixel_values"], 9) == [ours.vocabulary.decode(row) for row in is_word.tolist()]
        assert len(set(map(tuple, is_word.tolist()))) > 1  # the captions depend on the image


def one_by_one(theirs, vocabulary, image, text):
    """Return (log p, number of tokens) by transformers' loss of a single pair."""
    tokens = torch.tensor(Vocabulary(vocabulary).encode([text], 8))
    loss = reference_loss(theirs, Batch(["k"], image[None], tokens, [text])).loss
    count = tokens.shape[1] - 1
    return -loss.item() * count, count


def test_score_leaves_out_eos_by_default(vocabulary, pair):
    ours, theirs = pair
    image, texts = images(1), [text for text in TEXTS if text]
    expected = []
    for text in texts:
        tokens = torch.tensor(Vocabulary(vocabulary).encode([text], 8))[:, :-1]
        loss = reference_loss(theirs, Batch(["k"], image, tokens, [text])).loss
        expected.append(-loss.item())
    torch.testing.assert_close(ours.score(image, texts), torch.tensor([expected]), atol=1e-5, rtol=1e-5)
    assert ours.score(image, [""]).isnan().all()  # nothing to score


def test_score_of_plain_template_counts_all_words(vocabulary, shape):
    ours = model(vocabulary, shape, template="plain").eval()
    image, texts = images(2), [text for text in TEXTS if text]
    expected = []
    for text in texts:
        tokens = torch.tensor(Vocabulary(vocabulary).encode([text], 8))[:, :-1].expand(2, -1)
        with torch.no_grad():
            log_p = ours.network(tokens, image)[:, :-1].log_softmax(-1)
        expected.append(log_p.gather(-1, tokens[:, 1:, None])[..., 0].mean(1))
    torch.testing.assert_close(ours.score(image, texts), torch.stack(expected, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_score_equals_likelihood_pair_by_pair(vocabulary, pair, rows, monkeypatch):
    ours, theirs = pair
    ours.score_eos = True
    monkeypatch.setattr("babyvlm.models.scoring.BATCH_SIZE", rows)
    images_BCHW = images()
    with torch.no_grad():
        single = [[one_by_one(theirs, vocabulary, image, text) for text in TEXTS] for image in images_BCHW]
    total, count = torch.tensor(single).unbind(-1)
    ours.likelihood = "total"
    torch.testing.assert_close(ours.score(images_BCHW, TEXTS), total, atol=1e-5, rtol=1e-5)
    ours.likelihood = "mean"
    torch.testing.assert_close(ours.score(images_BCHW, TEXTS), total / count, atol=1e-5, rtol=1e-5)
    assert (total[0] - total[1]).abs().max() > 1e-2


def test_likelihood_without_image_matches_language_model(vocabulary, pair):
    ours, theirs = pair
    ours.score_eos = True
    lm = AutoModelForCausalLM.from_config(theirs.config.text_config).eval()
    lm.base_model.load_state_dict(theirs.model.language_model.state_dict())
    lm.lm_head.load_state_dict(theirs.lm_head.state_dict())
    alone = []
    for tokens in Vocabulary(vocabulary).encode(TEXTS, 8):
        ids = torch.tensor([tokens])
        with torch.no_grad():
            alone.append(-lm(input_ids=ids, labels=ids).loss.item() * (len(tokens) - 1))
    images_BCHW = images()
    ours.likelihood = "total"
    torch.testing.assert_close(ours.score_texts(TEXTS), torch.tensor(alone), atol=1e-5, rtol=1e-5)
    given = ours.score(images_BCHW, TEXTS)
    ours.likelihood = "evidence"  # an evaluation subtracts the likelihoods given other images
    assert torch.equal(ours.score(images_BCHW, TEXTS), given)
    ours.likelihood = "mean"
    counts = torch.tensor([len(tokens) - 1 for tokens in Vocabulary(vocabulary).encode(TEXTS, 8)])
    torch.testing.assert_close(ours.score_texts(TEXTS), torch.tensor(alone) / counts, atol=1e-5, rtol=1e-5)


def test_score_computes_wanted_pairs_only(vocabulary, shape):
    ours = model(vocabulary, shape).eval()
    images_BCHW = images()
    wanted = torch.zeros(3, len(TEXTS), dtype=torch.bool)
    wanted[0, 2] = wanted[1, 0] = wanted[1, 5] = True
    scores = ours.score(images_BCHW, TEXTS, wanted)
    assert torch.equal(scores.isnan(), ~wanted)
    torch.testing.assert_close(scores[wanted], ours.score(images_BCHW, TEXTS)[wanted], atol=1e-6, rtol=1e-6)


UNKNOWN = ["look <unk> the ball", "<unk>", "the red <unk> <unk> dog"]


@pytest.mark.parametrize("unknown", ["learn", "mask", "drop"])
@pytest.mark.parametrize("template", ["sos_eos", "plain"])
def test_template_and_unknown_words_equal_transformers(vocabulary, pair, shape, template, unknown):
    """The text of each pair written out as a list, one pair at a time, in transformers' own LLaVA."""
    _, theirs = pair
    torch.manual_seed(0)
    ours = model(vocabulary, shape, train_language=True, template=template, unknown_words=unknown).eval()
    reference = copy.deepcopy(theirs)
    reference.model.vision_tower = MapTower(ours.network.llava.model.vision_tower.timm_model)
    for part in ("multi_modal_projector", "language_model"):
        getattr(reference.model, part).load_state_dict(getattr(ours.network.llava.model, part).state_dict())
    reference.lm_head.load_state_dict(ours.network.llava.lm_head.state_dict())
    data = batch(vocabulary, TEXTS + UNKNOWN)
    total, count = 0.0, 0
    for image, text in zip(data.images_BCHW, data.utterances, strict=True):
        words = Vocabulary(vocabulary).encode([text], 8)[0][1:-1]
        if unknown == "drop":
            words = [word for word in words if word != UNK]
        ids = [IMAGE] * PLACES + (words if template == "plain" else [SOS, *words, EOS])
        labels = [-100 if token in (IMAGE, SOS) or (unknown == "mask" and token == UNK) else token for token in ids]
        supervised = sum(label != -100 for label in labels)
        if supervised:
            out = reference(input_ids=torch.tensor([ids]), pixel_values=image[None], labels=torch.tensor([labels]))
            total, count = total + out.loss * supervised, count + supervised
    torch.testing.assert_close(ours.training_step(data, 0), total / count, atol=1e-6, rtol=1e-5)


def test_plain_template_captions_from_the_image_alone(vocabulary, pair):
    ours, theirs = pair
    ours.network.template = "plain"
    prompt = with_places(torch.empty(3, 0, dtype=torch.long))
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "pixel_values": images()}
    expected = theirs.generate(**inputs, use_cache=True, do_sample=False, max_new_tokens=9)[:, PLACES:]
    assert torch.equal(ours.network.generate(images(), 9), expected)


def test_frozen_language_model_can_keep_its_dropout(vocabulary):
    data = batch(vocabulary)
    for kept in (False, True):
        ours = model(vocabulary, frozen_dropout=kept).train()
        losses = {ours.training_step(data, 0).item() for _ in range(3)}
        assert (len(losses) > 1) is kept
        assert not any(parameter.requires_grad for parameter in ours.network.language_model.parameters())
        assert not ours.network.vision_tower.training
        assert len({ours.eval().training_step(data, 0).item() for _ in range(3)}) == 1


def test_frozen_vision_can_update_its_batch_norm(tmp_path, vocabulary):
    torch.manual_seed(0)
    vision = VisionEncoder("test_resnet", frozen=True, update_batch_norm=True)
    ours = BabyLLaVA(vocabulary, vision, GPT2, image_size=SIZE, max_tokens=8)
    assert ours.frozen_vision() is None  # its features cannot be cached
    before = state_of(ours.network.vision_tower)
    trainer(tmp_path).fit(ours, loader(batch(vocabulary), batch(vocabulary, seed=2)))
    after = ours.network.vision_tower.state_dict()
    moved = {name.rpartition(".")[2] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}


def test_babyllava_implements_protocols(vocabulary):
    ours = model(vocabulary)
    for protocol in (ImageTextScorer, TextScorer, Captioner, FrozenVision):
        assert isinstance(ours, protocol)
    assert ours.preprocess(Image.new("RGB", (90, 80), "red")).shape == (3, SIZE, SIZE)


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("train_language", [False, True])
@pytest.mark.parametrize("frozen", [True, False])
def test_training_step_leaves_frozen_weights(tmp_path, vocabulary, shape, train_language, frozen):
    ours = model(vocabulary, shape, frozen=frozen, train_language=train_language)
    before = state_of(ours.network.llava)
    trainer(tmp_path).fit(ours, loader(batch(vocabulary), batch(vocabulary, seed=2)))
    moved = {name for name, tensor in ours.network.llava.state_dict().items() if not torch.equal(tensor, before[name])}
    parts = {"vision_tower": not frozen, "language_model": train_language, "multi_modal_projector": True}
    for part, learns in parts.items():
        assert any(part in name for name in moved) is learns, part
        module = getattr(ours.network.llava.model, part)
        assert all(child.training is learns for child in module.modules())
        assert all(parameter.requires_grad is learns for parameter in module.parameters())
        assert learns or all(parameter.grad is None for parameter in module.parameters())
    if not frozen:
        assert any("running_mean" in name for name in moved)
    assert ("lm_head.weight" in moved) is train_language
    vision = ours.frozen_vision()
    assert (vision is None) is not frozen


def test_feature_cache_changes_no_loss(vocabulary):
    ours = model(vocabulary)
    vision = ours.frozen_vision()
    assert isinstance(vision, ImageTokens)
    assert not vision.training
    data = batch(vocabulary)
    with torch.no_grad():
        features = vision(data.images_BCHW)
    assert features.shape == (len(TEXTS), PLACES, ours.network.llava.config.vision_config.hidden_size)
    cached = Batch(data.keys, torch.empty(0), data.tokens_BL, data.utterances, features)
    torch.testing.assert_close(ours.training_step(cached, 0), ours.training_step(data, 0), atol=0, rtol=0)


def test_forward_uses_images_and_ignores_padding(vocabulary, shape):
    ours = model(vocabulary, shape).eval()
    data = batch(vocabulary)
    longer = Batch(data.keys, data.images_BCHW, nn.functional.pad(data.tokens_BL, (0, 5)), data.utterances)
    torch.testing.assert_close(ours.training_step(longer, 0), ours.training_step(data, 0), atol=1e-6, rtol=0)
    other = Batch(data.keys, images(len(TEXTS), seed=9), data.tokens_BL, data.utterances)
    assert (ours.training_step(other, 0) - ours.training_step(data, 0)).abs() > 1e-3


def test_batch_without_supervised_token_is_refused(vocabulary, tmp_path):
    empty = Batch(["k"], images(1), torch.tensor([[SOS]]), [""])
    for unknown in ("learn", "drop"):
        ours = model(vocabulary, unknown_words=unknown)
        run = trainer(tmp_path, max_steps=1)
        with pytest.raises(UserError, match="no supervised token"):
            run.fit(ours, loader(empty))
    tokens = torch.tensor([[SOS, EOS]])
    assert model(vocabulary).training_step(Batch(["k"], images(1), tokens, [""]), 0) > 0


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 64), ("test_vit", 160), ("test_convnext", 64)])
def test_image_tokens_are_last_feature_map(name, size):
    encoder = VisionEncoder(name)
    with torch.no_grad():
        image_BCHW = torch.randn(1, 3, size, size)
        tokens = image_tokens(encoder.trunk.eval(), image_BCHW)
        whole = encoder.trunk.forward_features(image_BCHW)
    expected = whole.flatten(2).mT if whole.ndim == 4 else whole[:, encoder.trunk.num_prefix_tokens :]
    torch.testing.assert_close(tokens, expected)
    assert tokens.shape == (1, *token_shape(encoder, size))


def test_counting_tokens_keeps_random_state_and_mode():
    encoder = VisionEncoder("test_resnet")
    before = state_of(encoder)
    assert token_shape(encoder, SIZE)[0] == PLACES
    assert encoder.trunk.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_phase_starts_from_weights_of_previous_phase(tmp_path, vocabulary, shape):
    torch.manual_seed(5)
    language = LanguageModel(vocabulary, shape, max_tokens=8)
    zero, one = tmp_path / "zero.ckpt", tmp_path / "one.ckpt"
    run = trainer(tmp_path, max_steps=1)
    run.fit(language, loader(batch(vocabulary)))
    run.save_checkpoint(zero)
    first = BabyLLaVA(
        vocabulary, VisionEncoder("test_resnet", frozen=True), shape, init_language=zero, max_tokens=8, image_size=SIZE
    )
    data = batch(vocabulary)
    with torch.no_grad():
        mine = first.network.llava.lm_head(first.network.llava.model.language_model(data.tokens_BL).last_hidden_state)
        torch.testing.assert_close(mine, language.eval()(data), atol=1e-6, rtol=0)
    run = trainer(tmp_path, max_steps=1)
    run.fit(first, loader(batch(vocabulary)))
    run.save_checkpoint(one)
    second = model(vocabulary, shape, train_language=True, init_from=None, seed=8)
    before = state_of(second)
    second = BabyLLaVA(
        vocabulary,
        VisionEncoder("test_resnet", frozen=True),
        shape,
        train_language=True,
        init_from=one,
        max_tokens=8,
        image_size=SIZE,
    )
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    assert not torch.equal(before["network.llava.lm_head.weight"], state["network.llava.lm_head.weight"])


def test_init_from_refuses_other_number_of_heads(tmp_path, vocabulary, shape):
    run = trainer(tmp_path, max_steps=1)
    run.fit(LanguageModel(vocabulary, shape, max_tokens=8), loader(batch(vocabulary)))
    run.save_checkpoint(tmp_path / "zero.ckpt")
    fewer = replace(shape, heads=shape.heads // 2, kv_heads=shape.kv_heads and shape.kv_heads // 2)
    for begin in ({"init_language": tmp_path / "zero.ckpt"}, {"init_from": tmp_path / "zero.ckpt"}):
        with pytest.raises(UserError, match=r"zero.ckpt: its language model has .* heads .* Set heads and kv_heads"):
            BabyLLaVA(vocabulary, VisionEncoder("test_resnet"), fewer, max_tokens=8, image_size=SIZE, **begin)
    with pytest.raises(UserError, match="Set heads and kv_heads"):
        LanguageModel(vocabulary, fewer, max_tokens=8, init_from=tmp_path / "zero.ckpt")


def test_babyllava_reports_mistakes(tmp_path, vocabulary):
    with pytest.raises(UserError, match=r"4 image tokens and data.max_tokens 37 exceed .* 40 positions"):
        model(vocabulary, max_tokens=37)
    patches = VisionEncoder("vit_tiny_patch16_224", {"depth": 1})
    with pytest.raises(UserError, match="vit_tiny_patch16_224 does not accept images of 64 pixels"):
        BabyLLaVA(vocabulary, patches, GPT2, image_size=64)


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("backbone", "shape", "words", "tokens", "expected"),
    [
        ("resnext50_32x4d", PAPER_GPT2, 2_350, 49, (22.98, 7.18)),
        ("vit_large_patch16_224", TINY_LLAMA, 32_000, 196, (303.30, 1100.05)),
    ],
)
def test_babyllava_has_token_and_parameter_counts_of_paper(backbone, shape, words, tokens, expected):
    with torch.device("meta"):
        vlm = BabyLLaVANetwork(VisionEncoder(backbone), shape, words, 224).llava
    head = [] if vlm.config.tie_word_embeddings else [vlm.lm_head]
    counts = (millions(vlm.model.vision_tower), sum(map(millions, [vlm.model.language_model, *head])))
    assert counts == pytest.approx(expected, abs=0.005)
    width, channels = vlm.config.text_config.hidden_size, vlm.config.vision_config.hidden_size
    linear_1, _, linear_2 = vlm.model.multi_modal_projector.children()
    assert [tuple(linear.weight.shape) for linear in (linear_1, linear_2)] == [(width, channels), (width, width)]
    assert vlm.config.image_seq_length == tokens
    assert vlm.config._attn_implementation == vlm.config.text_config._attn_implementation == "sdpa"


def test_training_step_runs_at_paper_size(tmp_path, vocabulary):
    torch.manual_seed(0)
    at_once = partial(CosineWithWarmup, warmup=0)  # otherwise the first step has a learning rate of zero
    trunk = VisionEncoder("resnext50_32x4d", frozen=True)
    ours = BabyLLaVA(vocabulary, trunk, train_language=True, scheduler=at_once)
    image_BCHW = torch.randn(2, 3, 224, 224)
    data = Batch(["a", "b"], image_BCHW, batch(vocabulary).tokens_BL[:2], TEXTS[:2])
    before = state_of(ours.network.llava)
    run = trainer(tmp_path, max_steps=1)
    run.fit(ours, loader(data))
    assert run.callback_metrics["train_loss"] == pytest.approx(math.log(len(ours.vocabulary)), abs=0.6)  # untrained
    moved = {name for name, tensor in ours.network.llava.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("linear_1" in name for name in moved)
    assert any("h.7.mlp" in name for name in moved)
    assert not any("vision_tower" in name for name in moved)


def test_half_precision_training_is_close_to_single(tmp_path, vocabulary, shape):
    losses = []
    for precision in ("32", "bf16-mixed"):
        run = trainer(tmp_path, max_steps=3, precision=precision)
        run.fit(model(vocabulary, shape, train_language=True), loader(*[batch(vocabulary)] * 3))
        losses.append(run.callback_metrics["train_loss"].item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
