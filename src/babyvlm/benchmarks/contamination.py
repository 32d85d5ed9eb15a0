"""No training on the test: the mix's stores are checked against the benchmarks' images before ``fit``."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm import artefact
from babyvlm.benchmarks.callback import Benchmark
from babyvlm.contracts import UserError
from babyvlm.curation.contamination import benchmark_images, contamination
from babyvlm.curation.duplicates import SAME_BITS
from babyvlm.curation.files import fingerprint_files
from babyvlm.curation.store import Store
from babyvlm.data.mixes import PairMix


class Contamination(Callback):
    """Refuses to train on pairs that are nearly the same as an image of a benchmark of this run.

    By perceptual hash, as ``curate contamination`` does it. What was found is kept by the fingerprints of stores and
    images, so that a check is paid for once.

    Args:
        cache: folder of the checks' results.
        distance: hashes of 256 bits that differ in at most so many count as nearly the same.
    """

    def __init__(self, cache: Path, distance: int = SAME_BITS) -> None:
        super().__init__()
        self.cache, self.distance = cache, distance

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, on one rank, while the others wait.

        Raises:
            UserError: a training pair is nearly the same as a benchmark's image.
        """
        if stage != "fit":
            return
        complaint = self._complaint(trainer) if trainer.is_global_zero else ""
        complaint = trainer.strategy.broadcast(complaint)
        if complaint:
            raise UserError(complaint)

    def _complaint(self, trainer: Trainer) -> str:
        """What was found, in one line; empty if nothing was."""
        mix = getattr(trainer, "datamodule", None)
        tests = [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, Benchmark)]
        if not isinstance(mix, PairMix) or not tests:
            return "the contamination check needs a PairMix and a benchmark among the callbacks; leave it out"
        stores = [mix.stores / name for name in sorted({source.store for source in mix.sources})]
        lists = sorted({test.path for test in tests if test.images == test.path.parent})
        elsewhere = sorted({test.images for test in tests if test.images != test.path.parent})
        pictures = fingerprint_files(benchmark_images(lists, elsewhere).values())
        checked = [[Store(path).fingerprint for path in stores], pictures, self.distance]
        folder = self.cache / hashlib.sha256(json.dumps(checked).encode()).hexdigest()[:16]
        try:
            with artefact.alone(folder):
                contamination(stores, folder, lists, elsewhere, distance=self.distance, workers=1)
        except UserError as error:
            return f"{error}{_example(folder)}"
        return ""


def _example(folder: Path) -> str:
    """The first of the pairs that were found, if that is what the check complains about."""
    listed = folder / "near_duplicates.csv"
    if not listed.is_file():
        return ""
    with listed.open(newline="") as file:
        row = next(csv.DictReader(file))
    return f"; the first is {row['key']} of {row['store']}, like {row['benchmark_image']}"
