"""Shared helpers of the benchmark scripts: command line, simulated frames and stores, quiet Lightning."""

from __future__ import annotations

import argparse
import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

FRAME_SIZE = 224  # pixels, as SAYCam's frames


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_threads", type=int, default=1, help="threads of PyTorch, BLAS and compiled code")
    return parser


def describe_machine(num_threads: int) -> str:
    """Return what the timings depend on."""
    return f"{num_threads} thread(s), {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"


def simulated_frames(count: int) -> Iterator[bytes]:
    """Yield JPEG files of blurred noise, about 12 KB each, as large as SAYCam's frames."""
    random = np.random.default_rng(0)
    for _ in range(count):
        noise = Image.fromarray(random.integers(0, 256, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8))
        file = io.BytesIO()
        noise.filter(ImageFilter.GaussianBlur(2)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def write_simulated_store(folder: Path, pairs: Iterable[tuple[str, bytes, str, str]]) -> None:
    """Write ``folder/store`` and ``folder/vocabulary``.

    Args:
        folder: folder of both.
        pairs: (key, image, utterance, split). Keys that differ only after the last underscore share an utterance.
    """
    from babyvlm.curation.funnel import Funnel
    from babyvlm.curation.store.pair_store import write_store
    from babyvlm.data.vocabulary import create_vocabulary

    rows = (
        {
            "key": key,
            "image": image,
            "utterance": utterance,
            "source": "simulated",
            "group": key.rpartition("_")[0] or key,
            "split": split,
        }
        for key, image, utterance, split in pairs
    )
    write_store(folder / "store", rows, arguments={}, funnel=Funnel("simulated"), licensed=False)
    create_vocabulary(folder / "vocabulary", [folder / "store"], min_count=1)


def silence_lightning() -> None:
    """Hide Lightning's advice, which is meant for training runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
