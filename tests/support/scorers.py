"""Scorers that know nothing or everything about pictures of ``draw_things``, in which a color is a category."""

import hashlib
import re

import numpy as np
import torch
from PIL import Image

THINGS = ("ball", "cup", "dog", "hat", "key")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
CELL = 6  # pixels of a cell of a 3 x 3 mosaic, as the oracle sees it
COPIES = 3


def draw_things(folder, things=THINGS, copies=COPIES):
    """Write pictures of some things, a subfolder each: red is the thing; blue tells left from right."""
    for number, thing in enumerate(things):
        for copy in range(copies):
            (folder / thing).mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((24, 24, 3), np.uint8)
            pixels[..., 0], pixels[..., 1] = 20 + 40 * number, 10 * copy
            pixels[:12, :, 2], pixels[:, :12, 2] = 90, 200
            Image.fromarray(pixels).save(folder / thing / f"{thing}{copy}.png")
    return folder


class Oracle:
    """Sees which things a picture shows, and how many of 3 x 3 cells each fills."""

    def preprocess(self, image):
        seen = np.asarray(image.resize((3 * CELL, 3 * CELL), Image.Resampling.NEAREST))
        return torch.from_numpy(seen.copy()).permute(2, 0, 1).float()

    def score(self, images_BCHW, texts, wanted_BT=None):
        seen = [self.seen(image) for image in images_BCHW]
        return torch.tensor([[self.rule(one, text) for text in texts] for one in seen])

    def seen(self, image):
        red = image[0].round().int()
        return {thing: int((red == 20 + 40 * n).sum()) / CELL**2 for n, thing in enumerate(THINGS)}

    def rule(self, seen, text):
        wanted = {}
        for phrase in text.split(" and "):
            *before, noun = phrase.split()
            thing = next((thing for thing in THINGS if noun.startswith(thing)), None)
            number = next((NUMBERS.index(word) + 1 for word in before if word in NUMBERS), None)
            if thing is None:
                return 0.0
            if number is None:
                return float(seen[thing])
            wanted[thing] = number
        return -float(sum(abs(seen[thing] - number) for thing, number in wanted.items()))

    def embed_images(self, images_BCHW):
        return images_BCHW.flatten(1)


class Adversary(Oracle):
    """Is always wrong."""

    def rule(self, seen, text):
        return -super().rule(seen, text)

    def embed_images(self, images_BCHW):
        return images_BCHW.flip(-1).flatten(1)


class Constant(Oracle):
    """Scores everything the same."""

    def rule(self, seen, text):
        return 0.25

    def embed_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), 3)


class Blind(Oracle):
    """Prefers some texts, whatever the image."""

    def rule(self, seen, text):
        return float(len(re.sub(r"\s", "", text)))

    def embed_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), 3)


class Noise(Oracle):
    """Scores at random, the same pair the same way; every file has an embedding of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def score(self, images_BCHW, texts, wanted_BT=None):
        content = [image.numpy().tobytes() for image in images_BCHW]
        return torch.tensor([[self._draw(image, text) for text in texts] for image in content])

    @staticmethod
    def _draw(image, text):
        digest = hashlib.sha256(image + text.encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def embed_images(self, images_BCHW):
        return torch.randn(len(images_BCHW), 8, generator=self.generator)
