"""Time from JPEG bytes to augmented, normalized 224-pixel batches, compared with CVCL's transforms.

    python perf/loader.py

Compares CVCL's transforms (Pillow, torchvision v1, one image at a time), ours, ours on a pair store with utterances,
and decoding only, in turn on the same files. Images are simulated frames unless --frames names a folder of JPEGs. The
medians are of CPU time, which depends little on the load of the machine.
"""

from __future__ import annotations

import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from common import FRAME_SIZE, describe_machine, make_parser, simulated_frames, write_simulated_store
from PIL import Image, ImageFilter
from torchvision import transforms

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.pair_dataset import Pairs, collate
from babyvlm.data.transforms import MEAN, STD, Augmented, normalized
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.io.images import rgb_pixels

BATCH_SIZE = 8  # as in CVCL
Pass = Callable[[list[bytes]], object]  # one pass over all images


def batches(count: int) -> Iterator[range]:
    """Return the indices of the images of each batch."""
    return (range(start, min(start + BATCH_SIZE, count)) for start in range(0, count, BATCH_SIZE))


class Blur:
    """Gaussian blur as in CVCL, which took it from MoCo."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur one image."""
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def cvcl(images: list[bytes]) -> None:
    """Load images as CVCL's authors do."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop((FRAME_SIZE, FRAME_SIZE), scale=(0.2, 1.0)),
            transforms.RandomApply([Blur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for batch in batches(len(images)):
        torch.stack([transform(Image.open(io.BytesIO(images[number])).convert("RGB")) for number in batch])


def ours(images: list[bytes]) -> None:
    augment = Augmented(FRAME_SIZE)
    for batch in batches(len(images)):
        normalized([augment(images[number], np.random.default_rng([0, 0, number])) for number in batch])


def ours_from_store(images: list[bytes], folder: Path) -> Pass:
    """Return our pass with everything a loader worker does: read rows, choose frames, encode utterances."""
    write_simulated_store(
        folder, ((f"{i:06d}", image, "look at the red ball", "train") for i, image in enumerate(images))
    )
    store = PairStore(folder / "store")
    data = Pairs(store, ["train"], Augmented(FRAME_SIZE), Vocabulary(folder / "vocabulary"))

    def read(_: list[bytes]) -> None:
        for batch in batches(len(data)):
            collate([data[index, 0] for index in batch])

    return read


def decode(images: list[bytes]) -> None:
    for image in images:
        rgb_pixels(image)


def decode_with_pillow(images: list[bytes]) -> None:
    for image in images:
        np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def seconds_per_image(read: Pass, images: list[bytes]) -> float:
    """Return the CPU time of one pass per image."""
    started = time.process_time()
    read(images)
    return (time.process_time() - started) / len(images)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--frames", type=Path, help="folder of JPEGs; simulated frames by default")
    parser.add_argument("--num_images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    cv2.setNumThreads(0 if args.num_threads == 1 else args.num_threads)
    if args.frames:
        images = [path.read_bytes() for path in sorted(args.frames.glob("*.jpg"))[: args.num_images]]
    else:
        images = list(simulated_frames(args.num_images))
    size = np.mean([len(image) for image in images]) / 1000
    print(f"{len(images)} images of {size:.1f} KB; {describe_machine(args.num_threads)}")
    with tempfile.TemporaryDirectory() as folder:
        passes: dict[str, Pass] = {
            "CVCL's transforms": cvcl,
            "ours": ours,
            "ours, from a store": ours_from_store(images, Path(folder)),
            "decoding only": decode,
            "decoding only, Pillow": decode_with_pillow,
        }
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for number in range(args.repeats + 1):
            for name, read in passes.items():
                measured = seconds_per_image(read, images)
                seconds[name] += [measured] if number else []  # the first pass is a warm-up
    baseline = statistics.median(seconds["CVCL's transforms"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:<24} {1 / median:8.0f} images/s per core, {baseline / median:5.2f}x CVCL's transforms")


if __name__ == "__main__":
    main()
