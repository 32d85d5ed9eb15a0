"""Time of training epochs with cached frozen features, compared with computing them from images.

    python perf/features.py --num_images 256 --num_threads 1

CVCL and BabyLLaVA at the paper's sizes (ResNeXt-50 at 224 pixels, random weights, frozen; GPT-2 with 7 M parameters;
2,350 words) are trained by Lightning on simulated frames, with fused AdamW and without loader workers. "in memory"
trains on the same batches, prepared beforehand, and is a lower bound. The ratios are of CPU time, summed over threads,
which depends little on the load of the machine; wall-clock time stands in parentheses. The first cached epoch also
writes the cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import FRAME_SIZE, describe_machine, make_parser, silence_lightning, simulated_frames, write_simulated_store
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from babyvlm.data.pair_dataset import Item
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.vision import VisionEncoder

BATCH_SIZE = 8  # as in CVCL
WORDS = [f"w{number}" for number in range(2_345)]  # with the special tokens, the size of the paper's SAYCam vocabulary
Seconds = tuple[float, float]  # CPU time, wall-clock time


def simulate(folder: Path, num_images: int) -> None:
    """Write a store of simulated frames with one random utterance each, and its vocabulary."""
    random = np.random.default_rng(0)
    # The first utterance, truncated in training, brings all words into the vocabulary.
    write_simulated_store(
        folder,
        (
            (f"{i:06d}", image, " ".join(random.choice(WORDS, random.integers(2, 10)) if i else WORDS), "train")
            for i, image in enumerate(simulated_frames(num_images))
        ),
    )


class EpochTimer(Callback):
    """Measures each epoch; the first one includes the construction of its loader."""

    def __init__(self) -> None:
        self.seconds: list[Seconds] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self.started = time.process_time(), time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch."""
        now = time.process_time(), time.perf_counter()
        self.seconds.append((now[0] - self.started[0], now[1] - self.started[1]))
        self.started = now


def time_epochs(model: LightningModule, data: PairMix | DataLoader[Item], steps: int, epochs: int) -> list[Seconds]:
    """Train for some epochs and return the time of each."""
    timer = EpochTimer()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        max_steps=steps * epochs,
        callbacks=[timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=tempfile.gettempdir(),
    )
    trainer.fit(model, data)
    return timer.seconds


def training_batches(data: PairMix, model: LightningModule) -> DataLoader[Item]:
    """Return the training batches of a mix as a run of the model gets them."""
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.trainer.strategy.connect(model)
    return data.train_dataloader()


def fused_adamw(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True)  # type: ignore[arg-type]


def compare(name: str, model_class: partial[LightningModule], folder: Path, steps: int, repeats: int) -> None:
    """Print the time of an epoch on images, on cached features, and on the same features in memory."""
    vocabulary = folder / "vocabulary"

    def model() -> LightningModule:
        torch.manual_seed(0)
        return model_class(vocabulary, VisionEncoder("resnext50_32x4d", frozen=True), optimizer=fused_adamw)

    def mix(features: Path | None) -> PairMix:
        return PairMix(
            "mix",
            folder,
            [Source("store")],
            "store",
            vocabulary,
            batch_size=BATCH_SIZE,
            image_size=FRAME_SIZE,
            augment=False,
            features=features,
        )

    images = time_epochs(model(), mix(None), steps, 1)[0]
    first = time_epochs(model(), mix(folder / name), steps, 1)[0]
    batches = list(training_batches(mix(folder / name), model()))
    runs: dict[str, list[Seconds]] = {"cached": [], "in memory": []}
    for _ in range(repeats):  # in turn, because the load of a machine drifts
        runs["cached"] += time_epochs(model(), mix(folder / name), steps, 3)[1:]
        runs["in memory"] += time_epochs(model(), DataLoader(batches, batch_size=None), steps, 3)[1:]
    cached, in_memory = (tuple(map(statistics.median, zip(*seconds, strict=True))) for seconds in runs.values())
    print(f"{name}: CPU seconds (wall clock) per epoch of {steps} steps of {BATCH_SIZE}")
    for data, (cpu, clock) in [
        ("images", images),
        ("cached, first epoch", first),
        ("cached", cached),
        ("in memory", in_memory),
    ]:
        print(f"  {data:<24} {cpu:8.2f} ({clock:.2f})")
    print(f"  images / cached: {images[0] / cached[0]:.1f}", flush=True)
    print(f"  cached / in memory: {cached[0] / in_memory[0]:.3f}", flush=True)


MODELS = {
    "CVCL": partial(CVCL),
    "BabyLLaVA-phase-1": partial(BabyLLaVA, train_language=False),
    "BabyLLaVA-phase-2": partial(BabyLLaVA, train_language=True),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--num_images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3, help="each of two epochs, cached and in memory in turn")
    parser.add_argument("--model", choices=MODELS, help="all by default")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    silence_lightning()
    print(f"{args.num_images} images; {describe_machine(args.num_threads)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate(folder, args.num_images)
        for name, model_class in MODELS.items():
            if args.model in (None, name):
                compare(name, model_class, folder, args.num_images // BATCH_SIZE, args.repeats)


if __name__ == "__main__":
    main()
