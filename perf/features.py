"""What the cache of frozen features saves: epochs of CVCL and BabyLLaVA with and without it, and with all in memory.

`python perf/features.py --images 256 --threads 1`: the paper's sizes (ResNeXt-50 at 224 pixels, random weights,
frozen; GPT-2 of 7 M parameters; 2,350 words), real runs by Lightning over simulated frames, fused AdamW, no loader
workers. "In memory" trains on the same batches, made beforehand. Compared is CPU time, the threads' sum, which a busy
machine changes little; clock time stands beside it. The first epoch of a cached run also makes the cache.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import write_store
from babyvlm.data.pair_dataset import Item
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.vocabulary import vocabulary
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.vision import VisionEncoder

SIDE = 224
BATCH = 8  # CVCL's
WORDS = [f"w{number}" for number in range(2_345)]  # with the specials the paper's vocabulary of SAYCam
Seconds = tuple[float, float]  # of CPU, of the clock


def simulate(folder: Path, images: int) -> None:
    """A store of blurred noise as JPEGs (about 12 KB each, as SAYCam's frames), one utterance each; a vocabulary."""
    random = np.random.default_rng(0)

    def rows() -> Iterator[dict[str, object]]:
        for number in range(images):
            noise = Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            file = io.BytesIO()
            noise.filter(ImageFilter.GaussianBlur(2)).save(file, "JPEG", quality=90)
            # The first utterance, cut off in training, brings all words into the vocabulary.
            words = " ".join(random.choice(WORDS, random.integers(2, 10)) if number else WORDS)
            yield {
                "key": f"{number:06d}",
                "image": file.getvalue(),
                "utterance": words,
                "source": "simulated",
                "group": f"{number:06d}",
                "split": "train",
            }

    write_store(folder / "store", rows(), arguments={}, funnel=Funnel("simulated"), licensed=False)
    vocabulary([folder / "store"], folder / "vocabulary", min_count=1)


class Epochs(Callback):
    """Times each epoch; the first one includes the making of its loader."""

    def __init__(self) -> None:
        self.seconds: list[Seconds] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self.now = time.process_time(), time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read them."""
        now = time.process_time(), time.perf_counter()
        self.seconds.append((now[0] - self.now[0], now[1] - self.now[1]))
        self.now = now


def epochs_of(model: LightningModule, data: PairMix | DataLoader[Item], steps: int, epochs: int) -> list[Seconds]:
    seen = Epochs()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        max_steps=steps * epochs,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=tempfile.gettempdir(),
    )
    trainer.fit(model, data)
    return seen.seconds


def compare(name: str, make_model: partial[LightningModule], folder: Path, steps: int, rounds: int) -> None:
    """Print the epochs of a model: on images, on cached features, on the same features in memory."""
    words = folder / "vocabulary"

    def model() -> LightningModule:
        torch.manual_seed(0)
        return make_model(words, VisionEncoder("resnext50_32x4d", frozen=True), optimizer=fused)

    def mix(features: Path | None) -> PairMix:
        return PairMix(
            "mix",
            folder,
            [Source("store")],
            "store",
            words,
            batch_size=BATCH,
            image_size=SIDE,
            augment=False,
            features=features,
        )

    images = epochs_of(model(), mix(None), steps, 1)[0]
    first = epochs_of(model(), mix(folder / name), steps, 1)[0]
    ready = list(loader_of(mix(folder / name), model()))
    runs: dict[str, list[Seconds]] = {"cached": [], "in memory": []}
    for _ in range(rounds):  # in turns, since a machine's load drifts
        runs["cached"] += epochs_of(model(), mix(folder / name), steps, 3)[1:]
        runs["in memory"] += epochs_of(model(), DataLoader(ready, batch_size=None), steps, 3)[1:]
    cached, in_memory = (tuple(map(statistics.median, zip(*seconds, strict=True))) for seconds in runs.values())
    print(f"{name}: CPU seconds (clock) an epoch of {steps} steps of {BATCH}")
    for what, (cpu, clock) in [
        ("on images", images),
        ("first, making the cache", first),
        ("cached", cached),
        ("in memory", in_memory),
    ]:
        print(f"  {what:<24} {cpu:8.2f} ({clock:.2f})")
    print(
        f"  images / cached {images[0] / cached[0]:.1f}, cached / in memory {cached[0] / in_memory[0]:.3f}", flush=True
    )


def loader_of(data: PairMix, model: LightningModule) -> DataLoader[Item]:
    """The training batches of a mix, as a run of the model would get them."""
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.trainer.strategy.connect(model)
    return data.train_dataloader()


def fused(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True)  # type: ignore[arg-type]


MODELS = {
    "CVCL": partial(CVCL),
    "BabyLLaVA-phase-1": partial(BabyLLaVA, train_language=False),
    "BabyLLaVA-phase-2": partial(BabyLLaVA, train_language=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="of two epochs each, cached and in memory in turns")
    parser.add_argument("--only", choices=MODELS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    print(f"{given.images} images, {given.threads} thread(s), {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate(folder, given.images)
        for name, make_model in MODELS.items():
            if given.only in (None, name):
                compare(name, make_model, folder, given.images // BATCH, given.rounds)


if __name__ == "__main__":
    main()
