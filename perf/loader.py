"""How fast pictures become training batches: JPEG bytes -> augmented, normalised 224-pixel batch, on one thread.

`python perf/loader.py`: CVCL's way (Pillow, torchvision's v1 transforms, one picture at a time), ours,
ours from a pair store with its utterances, and decoding alone, all on the same files in turns, each on one thread.
Images are simulated frames (noise, blurred, about 10 KB each) unless `--images FOLDER` names a folder of JPEGs.
Compared is CPU time, which a busy machine changes little; what is printed are medians over the rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import write_store
from babyvlm.data.pair_dataset import UtteranceFrames, collate
from babyvlm.data.transforms import MEAN, STD, Augmented, normalised
from babyvlm.data.vocabulary import Vocabulary, vocabulary
from babyvlm.io.images import rgb_pixels

SIDE = 224
BATCH = 8  # CVCL's


def simulated(count: int) -> list[bytes]:
    """Frames of SAYCam's size."""
    noise = np.random.default_rng(0)
    images = []
    for _ in range(count):
        frame = Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
        file = io.BytesIO()
        frame.filter(ImageFilter.GaussianBlur(2)).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    return images


def batches(count: int) -> Iterator[range]:
    """Numbers of the images of each batch."""
    return (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


class Blur:
    """CVCL's, after MoCo's."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Blur one picture."""
        return picture.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def of_cvcl(images: list[bytes]) -> None:
    """What the authors' loader does with its files."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop((SIDE, SIDE), scale=(0.2, 1.0)),
            transforms.RandomApply([Blur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for part in batches(len(images)):
        torch.stack([transform(Image.open(io.BytesIO(images[number])).convert("RGB")) for number in part])


def ours(images: list[bytes]) -> None:
    view = Augmented(SIDE)
    for part in batches(len(images)):
        normalised([view(images[number], np.random.default_rng([0, 0, number])) for number in part])


def from_store(images: list[bytes], folder: Path) -> Callable[[list[bytes]], object]:
    """Ours again, with all that a loader's worker does: rows of a store, its frames drawn, its utterances encoded."""

    def rows() -> Iterator[dict[str, object]]:
        for number, image in enumerate(images):
            key = f"{number:06d}"
            yield {
                "key": key,
                "image": image,
                "utterance": "look at the red ball",
                "source": "benchmark",
                "group": key,
                "split": "train",
            }

    store = write_store(folder / "store", rows(), arguments={}, funnel=Funnel("benchmark"), licensed=False)
    vocabulary([store.path], folder / "vocabulary", min_count=1)
    data = UtteranceFrames(store, "train", Augmented(SIDE), Vocabulary(folder / "vocabulary"))

    def all_batches(_: list[bytes]) -> None:
        for part in batches(len(data)):
            collate([data[index, 0] for index in part])

    return all_batches


def decoded(images: list[bytes]) -> None:
    for image in images:
        rgb_pixels(image)


def pillow_decoded(images: list[bytes]) -> None:
    for image in images:
        np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def seconds(way: Callable[[list[bytes]], object], images: list[bytes]) -> float:
    """CPU time of one pass, an image."""
    started = time.process_time()
    way(images)
    return (time.process_time() - started) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; simulated frames by default")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    found = sorted(given.images.glob("*.jpg"))[: given.count] if given.images else []
    images = [path.read_bytes() for path in found] if given.images else simulated(given.count)
    print(
        f"{len(images)} images of {np.mean([len(image) for image in images]) / 1000:.1f} KB, one thread, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "CVCL's way": of_cvcl,
            "ours": ours,
            "ours, from a store": from_store(images, Path(folder)),
            "decoding alone": decoded,
            "decoding alone, Pillow": pillow_decoded,
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(given.rounds + 1):
            for name, way in ways.items():
                spent = seconds(way, images)
                took[name] += [spent] if number else []  # the first round warms up
    base = statistics.median(took["CVCL's way"])
    for name, times in took.items():
        middle = statistics.median(times)
        print(f"{name:<24} {1 / middle:8.0f} images/s a core, {base / middle:5.2f} x CVCL's way")


if __name__ == "__main__":
    main()
