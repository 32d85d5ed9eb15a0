"""Inputs of the golden tests, independent of the version of babyvlm: ``data/version_0_1_0/make.py`` uses them too."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

GOLDEN = Path(__file__).parents[1] / "data" / "version_0_1_0"
WORDS = ["ball", "dog", "cup", "shoe", "hat", "spoon"]
COLORS = ["red", "blue", "green", "white"]
UTTERANCES = [
    f"look at the {color} {word}" if number % 2 else f"a {color} {word}"
    for number, word in enumerate(WORDS)
    for color in COLORS
]
TEXTS = ["a red ball", "look at the dog", "the blue spoon", "zebra"]
SIZE = 32
TRUNK = {"backbone": "resnet10t", "options": {"channels": [8, 8, 8, 16], "stem_width": 4}}
GPT2 = {"family": "gpt2", "width": 16, "layers": 2, "heads": 2, "inner": 32, "dropout": 0.1, "positions": 40}
LLAMA = GPT2 | {"family": "llama", "heads": 4, "kv_heads": 2, "dropout": 0.0}
HEAD = {"hidden_dim": 16, "bottleneck_dim": 8, "batch_norm": True, "freeze_last_layer": -1}
CLIP = {
    "embed_dim": 8,
    "vision": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text": {"context_length": 9, "width": 16, "heads": 2, "layers": 1},
}


def draw(seed, size=40):
    """A drawn image, another one for each seed."""
    colors = np.random.default_rng(seed).integers(0, 256, (2, 3))
    image = Image.new("RGB", (size, size), tuple(colors[0].tolist()))
    ImageDraw.Draw(image).ellipse((size // 6, seed % 3 * 6, size // 2, size // 2 + 8), tuple(colors[1].tolist()))
    return image


def noise(seed, *shape):
    """Normal values, a function of the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair_batches():
    """Arguments of four training batches: utterances and images (4, 3, 32, 32)."""
    return [(UTTERANCES[step * 5 : step * 5 + 4], noise(step, 4, 3, SIZE, SIZE)) for step in range(4)]


def view_batches():
    """Arguments of four batches for DINO: two large and three small views of two images."""
    return [(["a", "b"], noise(step, 2, 2, 3, SIZE, SIZE), noise(step, 3, 2, 3, 16, 16)) for step in range(4)]
