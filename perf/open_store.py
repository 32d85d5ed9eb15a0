"""Time and memory of opening a store of 625,000 pairs and reading an epoch, compared with a table in memory.

    python perf/open_store.py

Writes a store of simulated pairs (tiny images, several frames per utterance, a vocabulary of the paper's size) to a
temporary folder, or to --folder, where it is reused. A new process opens it as training does and reads all utterances
of an epoch in random order; another reads all columns into memory with pyarrow. Memory is the process's own (RssAnon,
beyond that after the imports); pages of the memory-mapped file (RssFile), which the system shares between workers
and frees when needed, are reported separately.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import describe_machine, make_parser, silence_lightning, write_simulated_store
from PIL import Image

NUM_PAIRS = 625_000  # SAYCam's 67,000 and LLaVA's 558,000
FRAMES = 2  # per utterance
WORDS = 2_345
Figures = dict[str, float]


def simulate(folder: Path, num_pairs: int) -> None:
    """Write a store and its vocabulary, unless they exist."""
    if (folder / "store/store.json").exists():
        return
    random = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "JPEG", quality=50)

    def pairs() -> Iterator[tuple[str, bytes, str, str]]:
        utterance = ""
        for number in range(num_pairs):
            if number % FRAMES == 0:
                utterance = " ".join(f"w{word}" for word in random.integers(0, WORDS, random.integers(2, 12)))
            key = f"S_20140420_1803_01_{number // FRAMES:06d}_{number % FRAMES:02d}"
            yield key, file.getvalue(), utterance, "val" if number % 400 < FRAMES else "train"

    write_simulated_store(folder, pairs())


def resident_megabytes() -> tuple[float, float]:
    """Return the process's own memory and its pages of memory-mapped files, in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


def open_mix(folder: Path, num_threads: int, read_epoch: bool) -> Figures:
    """Open the store as training does, and read an epoch if requested."""
    import torch
    from lightning import Trainer

    from babyvlm.data.pair_mix import PairMix, Source

    torch.set_num_threads(num_threads)
    silence_lightning()
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    before = resident_megabytes()[0]
    started = time.perf_counter(), time.process_time()
    data = PairMix("mix", folder, [Source("store")], "store", folder / "vocabulary", batch_size=64, image_size=16)
    data.trainer = trainer
    data.prepare_data()
    loader = iter(data.train_dataloader())
    next(loader)
    figures = {"seconds": time.perf_counter() - started[0], "cpu_seconds": time.process_time() - started[1]}
    own, figures["mapped_mb"] = resident_megabytes()
    figures["own_mb"] = figures["max_own_mb"] = own - before
    if read_epoch:
        for _ in loader:
            figures["max_own_mb"] = max(figures["max_own_mb"], resident_megabytes()[0] - before)
    return figures


def read_table(folder: Path, num_threads: int) -> Figures:
    """Read all columns into memory with pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(num_threads)
    before = resident_megabytes()[0]
    started = time.perf_counter(), time.process_time()
    table = pq.ParquetDataset(sorted((folder / "store").glob("*.parquet"))).read()
    seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    own, mapped = resident_megabytes()
    assert len(table)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "own_mb": own - before, "mapped_mb": mapped}


def measure(folder: Path, read: str, num_threads: int) -> Figures:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--read", read, "--folder", folder, "--num_threads", str(num_threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout)
    print(
        f"  {figures['seconds']:.2f} s ({figures['cpu_seconds']:.2f} s of CPU), {figures['own_mb']:.0f} MB own memory, "
        f"{figures['mapped_mb']:.0f} MB mapped",
        flush=True,
    )
    return figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--num_pairs", type=int, default=NUM_PAIRS)
    parser.add_argument("--folder", type=Path, help="where to keep the store (default: a temporary folder)")
    parser.add_argument("--read", choices=["first", "epoch", "table"], help="measure the existing store in --folder")
    args = parser.parse_args()
    if args.read:
        if args.read == "table":
            figures = read_table(args.folder, args.num_threads)
        else:
            figures = open_mix(args.folder, args.num_threads, args.read == "epoch")
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        simulate(folder, args.num_pairs)
        print(f"{args.num_pairs:,} pairs; {describe_machine(args.num_threads)}")
        print("open for the first time and read a batch (writes the memory-mapped copy):", flush=True)
        measure(folder, "first", args.num_threads)
        print("open again and read an epoch:", flush=True)
        opened = measure(folder, "epoch", args.num_threads)
        print(f"  largest own memory during the epoch: {opened['max_own_mb']:.0f} MB")
        print("read all columns into memory with pyarrow:", flush=True)
        table = measure(folder, "table", args.num_threads)
        print(
            f"PairMix / pyarrow table: time {opened['seconds'] / table['seconds']:.2f}, "
            f"own memory {opened['max_own_mb'] / table['own_mb']:.3f}"
        )


if __name__ == "__main__":
    main()
