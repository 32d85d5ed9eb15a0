"""Tiny models in the layouts, key names and file formats of the authors' published checkpoints.

Run as a script with a folder to write all of them. The weights come from NumPy, so that they are the same on
every machine; ``tests/data/published/expected.json`` holds what the authors' code returned on them.
"""

import hashlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

WORDS = [
    ".",
    ",",
    "?",
    "!",
    "'s",
    "n't",
    "the",
    "a",
    "you",
    "it",
    "look",
    "at",
    "this",
    "that",
    "is",
    "do",
    "want",
    "ball",
    "cup",
    "dog",
    "baby",
    "cat",
    "book",
    "red",
    "blue",
    "big",
    "see",
    "touch",
    "eat",
    "wash",
    "read",
    "hold",
    "kitty",
    "car",
    "happy",
    "sad",
]
SPECIALS = ["<pad>", "<unk>", "<sos>", "<eos>"]
TEXTS = ["ball", "see dog", "wash cup", "do n't touch it .", "look at the red ball , baby", "a zebra is big !"]
WIDTH, LAYERS, HEADS, INNER, POSITIONS = 64, 2, 4, 96, 320
VIT = {"image_size": 224, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 128, "mlp_dim": 512}
BLOCKS = [1, 1, 1, 1]  # of the ResNeXt, instead of [3, 4, 6, 3]


def pictures():
    """Return five images: three squares of 224 pixels, a wide one and a high one."""
    random = np.random.default_rng(5)
    sizes = [(224, 224)] * 3 + [(120, 200), (240, 160)]
    coarse = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in sizes]
    return [
        Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
        for small, (height, width) in zip(coarse, sizes, strict=True)
    ]


def fill(shapes, seed):
    """Return weights by name: about the scale of a trained network, positive where a variance or a gain is."""
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if name.endswith("running_var"):
            values = 1 + 0.2 * np.abs(values)
        elif len(shape) < 2:
            gain = name.endswith("weight")
            values = gain + 0.1 * values
        else:
            values *= 1.2 / np.sqrt(np.prod(shape[1:])) if len(shape) == 4 else 0.12
        state[name] = torch.from_numpy(np.asarray(values))
    return state


def shapes_of(module):
    return {n: tuple(t.shape) for n, t in module.state_dict().items() if "num_batches_tracked" not in n}


def batch_counts(module, prefix):
    """Return batch norm's counters, which are integers."""
    return {f"{prefix}{n}": t for n, t in module.state_dict().items() if "num_batches_tracked" in n}


def resnext():
    trunk = ResNet(Bottleneck, BLOCKS, groups=32, width_per_group=4)
    trunk.fc = nn.Identity()
    return trunk


def vit():
    trunk = VisionTransformer(**VIT)
    trunk.heads.head = nn.Identity()
    return trunk


def language_shapes(family, vocabulary):
    """Return the names and shapes of transformers 4.39."""
    if family == "gpt2":
        shapes = {"transformer.wte.weight": (vocabulary, WIDTH), "transformer.wpe.weight": (POSITIONS, WIDTH)}
        for layer in range(LAYERS):
            head = f"transformer.h.{layer}."
            for name, shape in {
                "attn.c_attn": (WIDTH, 3 * WIDTH),
                "attn.c_proj": (WIDTH, WIDTH),
                "mlp.c_fc": (WIDTH, INNER),
                "mlp.c_proj": (INNER, WIDTH),
            }.items():
                shapes |= {f"{head}{name}.weight": shape, f"{head}{name}.bias": shape[1:]}
            for name in ("ln_1", "ln_2"):
                shapes |= {f"{head}{name}.weight": (WIDTH,), f"{head}{name}.bias": (WIDTH,)}
        return shapes | {"transformer.ln_f.weight": (WIDTH,), "transformer.ln_f.bias": (WIDTH,)}
    shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH)}
    for layer in range(LAYERS):
        head = f"model.layers.{layer}."
        shapes |= {
            f"{head}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{head}self_attn.k_proj.weight": (WIDTH // 2, WIDTH),
            f"{head}self_attn.v_proj.weight": (WIDTH // 2, WIDTH),
            f"{head}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{head}mlp.gate_proj.weight": (INNER, WIDTH),
            f"{head}mlp.up_proj.weight": (INNER, WIDTH),
            f"{head}mlp.down_proj.weight": (WIDTH, INNER),
            f"{head}input_layernorm.weight": (WIDTH,),
            f"{head}post_attention_layernorm.weight": (WIDTH,),
        }
    return shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (vocabulary, WIDTH)}


def config(family, vocabulary, tower, channels, aspect):
    shape = (
        {
            "architectures": ["LlavaGPT2ForCausalLM"],
            "model_type": "llava_gpt2",
            "activation_function": "gelu_new",
            "attn_pdrop": 0.15,
            "embd_pdrop": 0.15,
            "resid_pdrop": 0.15,
            "layer_norm_epsilon": 1e-05,
            "n_embd": WIDTH,
            "n_head": HEADS,
            "n_inner": INNER,
            "n_layer": LAYERS,
            "n_positions": POSITIONS,
        }
        if family == "gpt2"
        else {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava_llama",
            "hidden_act": "silu",
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "max_position_embeddings": POSITIONS,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": HEADS // 2,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        }
    )
    return shape | {
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0 if family == "llama" else None,
        "image_aspect_ratio": aspect,
        "mm_hidden_size": channels,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right",
        "torch_dtype": "float32",
        "transformers_version": "4.39.3",
        "tune_mm_mlp_adapter": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": vocabulary,
    }


def tokenizer_files(kind):
    """Return ``tokenizer.json`` in the format of tokenizers 0.15, and the number of tokens (``train_babylm.py``)."""
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate(SPECIALS)
    ]
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    if kind == "word":
        vocab = {word: index for index, word in enumerate(SPECIALS + WORDS)}
        body = {
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        }
        return head | body, len(vocab)
    letters = sorted(set("".join(WORDS)) | {"\u0120"})
    tokens, merges = [*SPECIALS, *letters], []
    for word in WORDS:
        piece = "\u0120"
        for letter in word:
            if piece + letter not in tokens:
                merges.append(f"{piece} {letter}")
                tokens.append(piece + letter)
            piece += letter
    level = {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    body = {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "ByteLevel"} | level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<sos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<sos>": {"id": "<sos>", "ids": [2], "tokens": ["<sos>"]}},
        },
        "decoder": {"type": "ByteLevel"} | level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    return head | body, len(tokens)


def write_babyllava(folder, family="gpt2", kind="word", tower="resnext", aspect="pad", seed=0):
    """Write a BabyLLaVA V1 folder and return it."""
    folder.mkdir(parents=True)
    tokenizer, vocabulary = tokenizer_files(kind)
    trunk, channels, name = (
        (resnext(), 2048, "eminorhan/dino_sfp_resnext50")
        if tower == "resnext"
        else (vit(), VIT["hidden_dim"], "eminorhan/dino_say_vitl16")
    )
    body = "transformer" if family == "gpt2" else "model"
    shapes = language_shapes(family, vocabulary)
    shapes |= {f"{body}.vision_tower.vision_tower.{n}": shape for n, shape in shapes_of(trunk).items()}
    shapes |= {
        f"{body}.mm_projector.0.weight": (WIDTH, channels),
        f"{body}.mm_projector.0.bias": (WIDTH,),
        f"{body}.mm_projector.2.weight": (WIDTH, WIDTH),
        f"{body}.mm_projector.2.bias": (WIDTH,),
    }
    state = fill(shapes, seed)
    for part, tensor in state.items():  # so that captions differ between images and are not one word
        if part.endswith(("wte.weight", "embed_tokens.weight", "lm_head.weight", "wpe.weight")):
            tensor.mul_(3)
        elif ".h." in part or ".layers." in part:
            tensor.mul_({"gpt2": 2.5, "llama": 1.5}[family] if tensor.dim() == 2 else 1)
    state |= batch_counts(trunk, f"{body}.vision_tower.vision_tower.")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "added_tokens_decoder": {
            str(one["id"]): {k: v for k, v in one.items() if k != "id"} for one in tokenizer["added_tokens"]
        },
        "bos_token": "<sos>",
        "clean_up_tokenization_spaces": True,
        "eos_token": "<eos>",
        "model_max_length": 2048,
        "pad_token": "<pad>",
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    tokens = {name: settings[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    generation = {"_from_model_config": True, "bos_token_id": 2, "eos_token_id": 3, "transformers_version": "4.39.3"}
    for file, content in {
        "config.json": config(family, vocabulary, name, channels, aspect),
        "generation_config.json": generation,
        "special_tokens_map.json": tokens,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
    }.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def write_dino(file, tower="resnext", seed=1):
    """Write a checkpoint of DINO (``main_dino.py``): student, teacher, and the pickled options."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shapes = shapes_of(resnext()) if tower == "resnext" else dino_vit_shapes()
    head = {"head.mlp.0.weight": (16, 8), "head.last_layer.weight_v": (32, 16)}
    teacher = fill({f"backbone.{name}": shape for name, shape in shapes.items()} | head, seed)
    student = fill({f"module.backbone.{name}": shape for name, shape in shapes.items()}, seed + 100)
    if tower == "resnext":
        teacher |= batch_counts(resnext(), "backbone.")
    options = Namespace(arch="resnext50_32x4d" if tower == "resnext" else "vit_large", patch_size=16, lr=5e-4)
    torch.save({"student": student, "teacher": teacher, "epoch": 100, "args": options}, file)
    return file


def dino_vit_shapes():
    """Return the names and shapes of DINO's own vision transformer."""
    width, places = VIT["hidden_dim"], (VIT["image_size"] // VIT["patch_size"]) ** 2
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, places + 1, width),
        "patch_embed.proj.weight": (width, 3, VIT["patch_size"], VIT["patch_size"]),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(VIT["num_layers"]):
        for name, shape in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.weight": (width,), f"blocks.{block}.{name}.bias": (width,)}
    return shapes


class VisionEncoder(nn.Module):
    """Pickled under the name of CVCL's class."""


class TextEncoder(nn.Module):
    """Pickled under the name of CVCL's class."""


class LockedDropout(nn.Module):
    """Pickled under the name of CVCL's class."""


def write_cvcl(folder, text="embedding", seed=2):
    """Write a CVCL folder: a Lightning checkpoint, which pickles both encoders, and ``vocab.json``; return it."""
    folder.mkdir(parents=True)
    vocabulary = {word: index for index, word in enumerate(SPECIALS + WORDS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    options = {
        "text_encoder": text,
        "embedding_type": "flat",
        "embedding_dim": 512,
        "pretrained_cnn": True,
        "cnn_dino": True,
        "vit_dino": False,
        "finetune_cnn": False,
        "normalize_features": True,
        "sim": "mean",
        "temperature": 0.07,
        "fix_temperature": True,
        "crange": 1,
        "dropout_i": 0.5 if text == "lstm" else 0.0,
        "dropout_o": 0.0,
        "pos_embed_type": "learned" if text == "transformer" else "no_pos_embed",
        "optimizer": torch.optim.AdamW,
        "lr": 1e-4,
        "lambda_mm": 1.0,
        "lambda_lm": 0.0,
        "tie": True,
        "bias": True,
    }
    vision = VisionEncoder()
    vision.args = options
    for name in ("embedding_type", "embedding_dim", "pretrained_cnn", "cnn_dino", "vit_dino", "finetune_cnn"):
        setattr(vision, name, options[name])
    vision.model = resnext()
    vision.model.fc = nn.Linear(2048, 512)
    encoder = TextEncoder()
    encoder.args, encoder.vocab, encoder.word2idx = options, vocabulary, vocabulary
    encoder.idx2word = {index: word for word, index in vocabulary.items()}
    encoder._captioning = encoder._attention = encoder._attention_gate = False
    encoder.hidden_dim = encoder.input_dim = 512
    encoder.device = torch.device("cpu")
    for name in (
        "text_encoder",
        "embedding_type",
        "embedding_dim",
        "crange",
        "dropout_i",
        "dropout_o",
        "pos_embed_type",
    ):
        setattr(encoder, name, options[name])
    encoder.embedding = nn.Embedding(len(vocabulary), 512, padding_idx=0)
    if text == "lstm":
        encoder.lstm = nn.LSTM(512, 512)
    if text == "transformer":
        encoder.encoder_layer = nn.TransformerEncoderLayer(512, 8)
        encoder.transformer_encoder = nn.TransformerEncoder(encoder.encoder_layer, 1)
        encoder.pos_embed = nn.Parameter(torch.zeros(25, 1, 512))
    encoder.lockdrop, encoder.output_dropout = LockedDropout(), nn.Dropout(0.0)
    for part, module in enumerate((vision, encoder)):
        state = fill(shapes_of(module), seed + part)
        if part:
            state["embedding.weight"][0] = 0  # padding
        module.load_state_dict(state, strict=False)
    state = {f"vision_encoder.{n}": t for n, t in vision.state_dict().items()}
    state |= {f"text_encoder.{n}": t for n, t in encoder.state_dict().items()}
    state |= {f"model.image_embed.{n}": t for n, t in vision.state_dict().items()}
    state |= {f"model.text_embed.{n}": t for n, t in encoder.state_dict().items()}
    state |= {f"language_model.text_encoder.{n}": t for n, t in encoder.state_dict().items()}
    state |= {
        "language_model.output_layer.weight": encoder.embedding.weight.detach(),
        "language_model.output_layer.bias": torch.zeros(len(vocabulary)),
    }
    checkpoint = {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "1.6.0",
        "state_dict": state,
        "callbacks": {},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.state_dict": {}}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"vision_encoder": vision, "text_encoder": encoder, "args": Namespace(**options)},
    }
    with NamedAs("multimodal.multimodal", VisionEncoder, TextEncoder, LockedDropout):
        torch.save(checkpoint, folder / f"cvcl_s_dino_resnext50_{text}.ckpt")
    return folder


class NamedAs:
    """Let pickle write classes under the name of another module."""

    def __init__(self, module, *classes):
        self.module, self.classes = module, classes

    def __enter__(self):
        package, _, _ = self.module.partition(".")
        for name in (package, self.module):
            sys.modules[name] = ModuleType(name)
        for one in self.classes:
            one.__module__ = self.module
            setattr(sys.modules[self.module], one.__name__, one)

    def __exit__(self, *_):
        for one in self.classes:
            one.__module__ = __name__
        for name in (self.module.partition(".")[0], self.module):
            del sys.modules[name]


BABYLLAVA = {
    "babyllava_resnext_gpt2_word": {"family": "gpt2", "kind": "word"},
    "babyllava_resnext_gpt2_bpe": {"family": "gpt2", "kind": "bpe", "aspect": "square", "seed": 10},
    "babyllava_vit_tinyllama_bpe": {"family": "llama", "kind": "bpe", "tower": "vit", "seed": 20},
}
CVCL = {f"cvcl_{text}": {"text": text} for text in ("embedding", "lstm", "transformer")}
DINO = {"dino_sfp_resnext50": "resnext", "dino_say_vitl16": "vit"}


def write(folder, name):
    """Write one of the models above into a folder, and return its own folder."""
    if name in BABYLLAVA:
        return write_babyllava(folder / name, **BABYLLAVA[name])
    if name in CVCL:
        return write_cvcl(folder / name, **CVCL[name])
    return write_dino(folder / name / f"{name}.pth", DINO[name]).parent


def digest(folder):
    """Return a hash of the weights in a folder, whatever their file's format."""
    (file,) = (path for path in folder.iterdir() if path.suffix in (".safetensors", ".ckpt", ".pth"))
    state = load_file(file) if file.suffix == ".safetensors" else _weights(file)
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode() + state[name].float().numpy().tobytes())
    return found.hexdigest()[:16]


def _weights(file):
    with NamedAs("multimodal.multimodal", VisionEncoder, TextEncoder, LockedDropout):
        content = torch.load(file, weights_only=False)  # written by this module
    return content.get("teacher") or content["state_dict"]


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for model in (*BABYLLAVA, *CVCL, *DINO):
        print(write(root, model))
    (root / "images").mkdir()
    for number, picture in enumerate(pictures()):
        picture.save(root / "images" / f"{number}.png")
