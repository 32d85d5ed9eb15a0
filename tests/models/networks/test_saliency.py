"""Grad-CAM and attention maps, against derivations by hand and transformers' own attention."""

import random

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from babyvlm.curation.clip import Clip
from babyvlm.data.vocabulary import SOS
from babyvlm.errors import UserError
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.saliency import clip_grad_cam, grad_cam
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.zero_shot import OpenClip
from babyvlm.playroom.topics import Topic
from babyvlm.playroom.trials import labeled_nouns
from babyvlm.playroom.web import draw_web_image
from babyvlm.types import SaliencyModel

SIZE = 64
WORDS = ["ball", "dog", "cup"]


def images(count=3, seed=1):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_grad_cam_equals_derivation_by_hand():
    """Mean pooling and a linear layer W: the gradient of the cosine is W'(t - cos z) / |Wx| / positions."""
    draw = torch.Generator().manual_seed(0)
    features_BChw = torch.randn(3, 6, 4, 5, generator=draw)
    weight_DC, text_BD = torch.randn(7, 6, generator=draw), normalize(torch.randn(3, 7, generator=draw), dim=-1)

    def embed(features):
        return normalize(features.mean((2, 3)) @ weight_DC.T, dim=-1)

    found = grad_cam(features_BChw, embed, text_BD)
    raw_BD = features_BChw.mean((2, 3)) @ weight_DC.T
    length_B1 = raw_BD.norm(dim=1, keepdim=True)
    unit_BD = raw_BD / length_B1
    cosine_B1 = (unit_BD * text_BD).sum(1, keepdim=True)
    channel_BC = (text_BD - cosine_B1 * unit_BD) / length_B1 @ weight_DC / 20
    expected = torch.einsum("bc,bchw->bhw", channel_BC, features_BChw).clamp(min=0)
    torch.testing.assert_close(found, expected)
    assert (found >= 0).all()
    assert 0 < (found == 0).float().mean() < 1


def by_hooks(model, layer, encode, images_BCHW, text_BD):
    """Grad-CAM from one pass through the complete encoder, with the output of a layer caught on its way."""
    caught = []
    handle = layer.register_forward_hook(lambda module, given, output: caught.append(output))
    with torch.enable_grad():
        for parameter in model.parameters():
            parameter.requires_grad_()
        cosines_B = torch.nn.functional.cosine_similarity(encode(images_BCHW), text_BD)
        gradients = torch.autograd.grad(cosines_B.sum(), caught[-1])[0]
    handle.remove()
    return (gradients.mean((2, 3), keepdim=True) * caught[-1]).sum(1).relu().detach()


@pytest.mark.parametrize("frozen", [True, False])
def test_cvcl_maps_are_grad_cam_of_last_layer(vocabulary, frozen):
    torch.manual_seed(0)
    model = CVCL(vocabulary, VisionEncoder("test_resnet", frozen=frozen), width=16, image_size=SIZE).eval()
    assert isinstance(model, SaliencyModel)
    found = model.saliency(images(), WORDS)
    vision, text_BD = model.network.vision_encoder, model.embed_texts(WORDS)
    vision.frozen = False  # so that the gradient reaches the layer
    expected = by_hooks(model, vision.trunk.layer4, model.network.encode_image, images(), text_BD)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.saliency(images()[1:2], WORDS[1:2])[0], found[1])  # alone as in a batch
    assert found.shape == (3, 2, 2)
    assert found.any()


@pytest.mark.parametrize("tower", ["resnet", "timm", "vit"])
def test_clip_maps_are_grad_cam_of_last_layer(tower):
    torch.manual_seed(0)
    vision = {
        "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": SIZE},
        "timm": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": SIZE},
        "vit": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": SIZE},
    }[tower]
    text = {"context_length": 4, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, vision, text).eval()
    clip = Clip(model, None, lambda texts: torch.tensor([[len(text) % 7 + 1, 2, 8, 0] for text in texts]))
    if tower == "vit":
        with pytest.raises(UserError, match="Grad-CAM needs a convolutional vision encoder"):
            clip_grad_cam(clip, images(), WORDS)
        return
    found = clip_grad_cam(clip, images(), WORDS)
    layer = model.visual.layer4 if tower == "resnet" else model.visual.trunk.layer4
    text_BD = clip.texts(WORDS, torch.device("cpu")).detach()
    torch.testing.assert_close(found, by_hooks(model, layer, model.encode_image, images(), text_BD))
    assert found.any()


def test_cvcl_with_vision_transformer_has_no_maps(vocabulary):
    model = CVCL(vocabulary, VisionEncoder("test_vit", {"img_size": SIZE}), width=8, image_size=SIZE).eval()
    with pytest.raises(UserError, match="Grad-CAM needs a convolutional vision encoder"):
        model.saliency(images(), WORDS)


def test_clip_finds_which_of_two_things_is_named():
    """Playroom's CLIP, which was trained on scenes with one named thing, is right in 47 of 66 pictures of two."""
    rng, clip = random.Random(0), OpenClip("playroom").eval()
    nouns, hits = labeled_nouns(), 0
    for wanted in [*nouns, *nouns, *nouns]:
        shown = [wanted, rng.choice([noun for noun in nouns if noun != wanted])]
        rng.shuffle(shown)
        picture = Image.new("RGB", (128, 128), "white")
        for place, noun in enumerate(shown):
            thing = draw_web_image(rng, Topic(noun), noun.training_exemplars, 1.0)
            picture.paste(thing.resize((64, 64)), (64 * place, 32))
        map_hw = clip.saliency(clip.preprocess(picture)[None], [wanted.name])[0]
        left, right = interpolate(map_hw[None, None], (64, 64), mode="bilinear").split(32, dim=3)
        hits += bool((left.sum() > right.sum()) == (shown[0] == wanted))
    assert hits >= 44  # of 66; by chance, as many in 1 of 200 tests


@pytest.mark.parametrize("template", ["sos_eos", "plain"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_maps_equal_those_of_transformers(vocabulary, family, template):
    torch.manual_seed(0)
    shape = LanguageShape(family, width=16, layers=2, heads=4, inner=32, positions=40)
    model = BabyLLaVA(vocabulary, VisionEncoder("test_resnet"), shape, image_size=SIZE, template=template).eval()
    with torch.no_grad():  # as if trained: attention of random weights is nearly uniform
        for parameter in model.network.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    words = ["ball", "the dog", "cup"]
    found = model.saliency(images(), words)
    assert found.shape == (3, 2, 2)
    llava = model.network.llava
    llava.set_attn_implementation("eager")
    for image, word, map_hw in zip(images(), words, found, strict=True):
        (ids,) = model.vocabulary.encode_raw([word], None)
        text = [*([SOS] if template == "sos_eos" else []), *ids[1:-1]]
        prompt = torch.tensor([[model.network.image_token] * 4 + text])
        with torch.no_grad():
            output = llava(input_ids=prompt, pixel_values=image[None], output_attentions=True)
        over_layers_LL = torch.stack([one[0].mean(0) for one in output.attentions]).mean(0)
        expected_P = over_layers_LL[-len(word.split()) :, :4].mean(0)
        torch.testing.assert_close(map_hw.flatten(), expected_P)
        assert 0 < map_hw.sum() < 1
    assert (found[0] - found[0].mean()).abs().max() > 0.01  # not uniform
    assert isinstance(model, SaliencyModel)
