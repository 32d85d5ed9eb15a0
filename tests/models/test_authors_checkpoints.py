"""Checkpoints in the authors' layout, written by a model built like theirs from transformers and torchvision."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer
from transformers import AutoModelForCausalLM

from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.networks.language import LanguageShape, language_config
from babyvlm.models.networks.vision import VisionEncoder

GPT2 = LanguageShape("gpt2", width=16, layers=2, heads=2, inner=32, positions=40)
LLAMA = LanguageShape("llama", width=16, layers=2, heads=4, kv_heads=2, inner=32, positions=40, dropout=0)
TWINS = {
    "gpt2-resnext": (GPT2, "transformer", "resnext50_32x4d", {"layers": [1, 1, 1, 1]}),
    "llama-vit": (LLAMA, "model", "vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 24}),
}
SIZE = 64


def torchvision_trunk(name):
    if "resnext" in name:
        trunk = ResNet(Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4)
        trunk(torch.randn(4, 3, SIZE, SIZE))  # so that the running statistics are not the defaults
        trunk.fc = nn.Identity()
    else:
        trunk = VisionTransformer(SIZE, 16, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=96)
        trunk.heads = nn.Identity()
    return trunk.eval()


def last_map(trunk, images):
    if isinstance(trunk, ResNet):
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            images = getattr(trunk, name)(images)
        return images.flatten(2).mT
    patches = trunk._process_input(images)
    whole = torch.cat([trunk.class_token.expand(len(patches), -1, -1), patches], 1)
    return trunk.encoder(whole)[:, 1:]  # theirs keeps the class token


class Authors:
    """The parts of the authors' model, and its state under their names."""

    def __init__(self, vocabulary, name):
        shape, body, _, _ = TWINS[name]
        torch.manual_seed(0)
        self.trunk = torchvision_trunk(name)
        width = 2048 if "resnext" in name else 24
        self.connector = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, 16))
        # Their vocabulary has other words too, another order, and no <image>.
        self.words = ["zebra", *reversed([word for word in Vocabulary(vocabulary).words if word != "<image>"]), "owl"]
        self.lm = AutoModelForCausalLM.from_config(language_config(shape, len(self.words)))
        with torch.no_grad():
            for parameter in [*self.lm.parameters(), *self.connector.parameters()]:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        self.lm.eval()
        parts = {"vision_tower.vision_tower": self.trunk, "mm_projector": self.connector}
        self.state = dict(self.lm.state_dict())
        self.state |= {
            f"{body}.{part}.{key}": t for part, module in parts.items() for key, t in module.state_dict().items()
        }
        self.body = body

    def save(self, folder, file="pytorch_model.bin"):
        folder.mkdir(parents=True)
        model_type = "llava_gpt2" if self.body == "transformer" else "llava_llama"
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        vocab = {word: index for index, word in enumerate(self.words)}
        tokenizer = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        }
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        if file == "mm_projector.bin":
            torch.save({key: tensor for key, tensor in self.state.items() if "mm_projector" in key}, folder / file)
        elif file.endswith(".bin"):
            torch.save(self.state, folder / file)
        else:
            tied = {"lm_head.weight"} if self.body == "transformer" else set()
            save_file({key: t.contiguous() for key, t in self.state.items() if key not in tied}, folder / file)
        return folder

    def logits(self, image, words):
        """Return the logits of each word of a text after an image, by the authors' parts."""
        ids = torch.tensor([[self.words.index(word) for word in words]])
        with torch.no_grad():
            prefix = self.connector(last_map(self.trunk, image[None]))
            embedded = torch.cat([prefix, self.lm.get_input_embeddings()(ids)], 1)
            logits = self.lm(inputs_embeds=embedded).logits[0, prefix.shape[1] :]
        return logits[:-1].gather(1, ids[0, 1:, None])[:, 0]


def twin(vocabulary, name, **options):
    torch.manual_seed(1)
    shape, _, backbone, arguments = TWINS[name]
    return BabyLLaVA(vocabulary, VisionEncoder(backbone, arguments), shape, max_tokens=8, image_size=SIZE, **options)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("name", TWINS)
def test_load_reads_authors_checkpoints(vocabulary, tmp_path, name, file):
    authors = Authors(vocabulary, name)
    ours = twin(vocabulary, name, init_from=authors.save(tmp_path / "theirs", file)).eval()
    words = ["<sos>", "look", "at", "the", "ball", "<eos>"]
    tokens = ours.vocabulary.encode(["look at the ball"], 8)[0]
    assert [ours.vocabulary.words[token] for token in tokens] == words
    image = torch.randn(3, SIZE, SIZE)
    prompt = torch.tensor([[ours.vocabulary.image_token] * ours.network.image_length + tokens])
    with torch.no_grad():
        logits = ours.network.llava(input_ids=prompt, pixel_values=image[None]).logits[
            0, ours.network.image_length : -1
        ]
    mine = logits.gather(1, torch.tensor(tokens)[1:, None])[:, 0]
    torch.testing.assert_close(mine, authors.logits(image, words), atol=1e-4, rtol=1e-4)


def test_phase_1_checkpoint_initializes_connector_only(vocabulary, tmp_path):
    authors, fresh = Authors(vocabulary, "gpt2-resnext"), twin(vocabulary, "gpt2-resnext")
    folder = authors.save(tmp_path / "theirs", "mm_projector.bin")
    (folder / "tokenizer.json").unlink()
    ours = twin(vocabulary, "gpt2-resnext", init_from=folder)
    before = fresh.state_dict()
    moved = {name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}
    assert torch.equal(ours.network.llava.model.multi_modal_projector.linear_2.bias, authors.connector[2].bias)


def test_load_names_weights_that_do_not_fit(vocabulary, tmp_path):
    authors = Authors(vocabulary, "gpt2-resnext")
    folder = authors.save(tmp_path / "whole")

    def refused(message, change):
        other = tmp_path / "changed"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(folder, other)
        change(other)
        with pytest.raises(UserError, match=message) as refusal:
            twin(vocabulary, "gpt2-resnext", init_from=other)
        assert "\n" not in str(refusal.value)

    def without(key):
        def change(other):
            torch.save({k: v for k, v in authors.state.items() if k != key}, other / "pytorch_model.bin")

        return change

    refused("none of .* found", lambda other: (other / "pytorch_model.bin").unlink())
    refused("tokenizer.json: cannot be read", lambda other: (other / "tokenizer.json").write_text("{"))
    refused(r"linear_1.bias is missing", without("transformer.mm_projector.0.bias"))
    refused("cannot be read as weights", lambda other: (other / "pytorch_model.bin").write_bytes(b"no"))
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"].pop("ball")
    refused("lacks 1 words of .* 'ball'", lambda other: (other / "tokenizer.json").write_text(json.dumps(words)))
    with pytest.raises(UserError, match=r"wpe.weight is \(40, 16\), but the model needs \(50, 16\)"):
        BabyLLaVA(
            vocabulary,
            VisionEncoder("resnext50_32x4d", {"layers": [1, 1, 1, 1]}),
            LanguageShape("gpt2", width=16, layers=2, heads=2, inner=32, positions=50),
            init_from=folder,
            image_size=SIZE,
        )
