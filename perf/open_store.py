"""What it takes to open a store of 625,000 pairs and to read an epoch of it: seconds and memory of a loader's process.

`python perf/open_store.py`: makes a store of simulated rows (noise of a few pixels as images, several frames an
utterance, the paper's vocabulary in size) in a temporary folder, or in `--folder`, where it is used again; opens it as
training does in a fresh process, and reads all utterances of an epoch in their random order. Memory is what is the
process's own (`RssAnon`, beyond what it holds once torch is imported): pages of the mapped file, which the system
shares between workers and takes back at will, are told apart (`RssFile`).
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import write_store
from babyvlm.data.vocabulary import vocabulary

ROWS = 625_000  # SAYCam's 67,000 and LLaVA's 558,000
FRAMES = 2  # of an utterance
WORDS = 2_345


def simulate(folder: Path, rows: int) -> None:
    """A store and its vocabulary; left as they are if they are there."""
    random = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "JPEG", quality=50)

    def simulated() -> Iterator[dict[str, object]]:
        for number in range(rows):
            if number % FRAMES == 0:
                said = " ".join(f"w{word}" for word in random.integers(0, WORDS, random.integers(2, 12)))
            key = f"S_20140420_1803_01_{number // FRAMES:06d}_{number % FRAMES:02d}"
            yield {
                "key": key,
                "image": file.getvalue(),
                "utterance": said,
                "source": "simulated",
                "group": key[:-3],
                "split": "val" if number % 400 < FRAMES else "train",
            }

    if not (folder / "store/store.json").exists():
        write_store(folder / "store", simulated(), arguments={}, funnel=Funnel("simulated"), licensed=False)
        vocabulary([folder / "store"], folder / "vocabulary", min_count=1)


def own_megabytes() -> tuple[float, float]:
    """Of this process: its own memory, pages of mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, mapped = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, mapped


def read(folder: Path, whole: bool) -> None:
    """Open the store, and read an epoch if asked; what the parent process starts."""
    import logging
    import warnings

    import torch
    from lightning import Trainer

    from babyvlm.data.pair_mix import PairMix, Source

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    before = own_megabytes()[0]
    began = time.perf_counter(), time.process_time()
    data = PairMix("mix", folder, [Source("store")], "store", folder / "vocabulary", batch_size=64, image_size=16)
    data.trainer = trainer
    data.prepare_data()
    loader = iter(data.train_dataloader())
    next(loader)
    clock, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    opened, mapped = own_megabytes()
    print(
        f"opened, first batch: {clock:.2f} s ({cpu:.2f} s of CPU), {opened - before:.0f} MB of its own, "
        f"{mapped:.0f} MB mapped"
    )
    if not whole:
        return
    tenth = data.batches_per_epoch // 10
    held = [own_megabytes()[0] - before for number, _ in enumerate(loader) if number % tenth == 0]
    print("its own memory over an epoch: " + ", ".join(f"{size:.0f}" for size in held) + " MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--read", choices=["first", "epoch"], help="open what is in --folder")
    given = parser.parse_args()
    if given.read:
        read(given.folder, given.read == "epoch")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        simulate(folder, given.rows)
        print(f"{given.rows:,} rows, load {os.getloadavg()[0]:.1f}", flush=True)
        for what in ("first", "first", "epoch"):  # the first one makes the mapped copy
            subprocess.run([sys.executable, __file__, "--read", what, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
