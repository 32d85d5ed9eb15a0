"""No training on the test: the mix's stores are checked against the benchmarks' images before ``fit``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm.benchmarks.base import Benchmark, benchmarks_of
from babyvlm.curation.benchmark_images import find_benchmark_images, read_each
from babyvlm.curation.decontaminate import refuse_near_duplicates
from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.near_duplicates import MAX_HASH_DISTANCE
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.frame_mix import FrameMix
from babyvlm.data.pair_mix import PairMix
from babyvlm.errors import UserError
from babyvlm.io.distributed import on_rank_zero
from babyvlm.io.files import fingerprint_files


class Contamination(Callback):
    """Refuses to train on images that are nearly the same as an image of a benchmark of this run.

    Those of all its benchmarks count, whether or not they can test this model, and those of further lists. As ``curate
    contamination`` does it: by perceptual hash and, if told so, by embedding. What was found is kept by the
    fingerprints of stores and images, so that a check is paid for once.

    Args:
        cache: folder of the checks' results.
        distance: hashes of 256 bits that differ in at most so many count as nearly the same.
        trials: benchmark lists beside those of the run's benchmarks: CSVs with a column ``image``.
        images: folder that their image paths start from; each list's own by default.
        allow_missing: leave out what they name and is not there.
        embeddings: of each store of the mix, by its name; of what a store was made from, if it has the same keys.
        cosine: embeddings above it count as nearly the same; it belongs to their model.
        workers: processes that hash images, on the first rank.
    """

    def __init__(
        self,
        cache: Path,
        distance: int = MAX_HASH_DISTANCE,
        trials: list[Path] | None = None,
        images: Path | None = None,
        allow_missing: bool = False,
        embeddings: dict[str, Path] | None = None,
        cosine: float = 0.95,
        workers: int = 1,
    ) -> None:
        super().__init__()
        self.cache, self.distance, self.workers = cache, distance, workers
        self.trials, self.images, self.allow_missing = trials or [], images, allow_missing
        self.embeddings, self.cosine = embeddings or {}, cosine

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, on one rank, while the others wait.

        Raises:
            UserError: a training image is nearly the same as a benchmark's, or the check cannot be made.
        """
        if stage == "fit":
            on_rank_zero(lambda: self._check(trainer))

    def _check(self, trainer: Trainer) -> None:
        mix = getattr(trainer, "datamodule", None)
        files = self._pictures(benchmarks_of(trainer))
        if not isinstance(mix, PairMix | FrameMix) or not files:
            raise UserError(
                "the contamination check needs a PairMix or a FrameMix, and a benchmark among the callbacks or in its "
                "own trials; leave it out"
            )
        names = sorted({source.store for source in mix.sources})
        stores, vectors = [PairStore(mix.stores / name) for name in names], self._vectors(names)
        checked = [[store.fingerprint for store in stores], fingerprint_files(files), self.distance]
        if vectors:
            checked += [[one.fingerprint for one in vectors], self.cosine]
        folder = self.cache / hashlib.sha256(json.dumps(checked).encode()).hexdigest()[:16]
        refuse_near_duplicates(
            folder,
            stores,
            files,
            vectors,
            threshold=self.cosine,
            max_hash_distance=self.distance,
            num_workers=self.workers,
        )

    def _pictures(self, tests: list[Benchmark]) -> dict[Path, str]:
        """The images that the lists name, and what to call each."""
        files = {
            (test.images / image).resolve(): f"{test.path.stem}/{image}"
            for test, (trials, _) in zip(tests, read_each(tests, Benchmark.found), strict=True)
            for trial in trials
            for image, _ in trial.options
        }
        if self.trials:
            files |= find_benchmark_images(
                self.trials, root=self.images, root_option="images:", allow_missing=self.allow_missing
            )
        return files

    def _vectors(self, stores: list[str]) -> list[Embeddings]:
        """The embeddings of the stores, or none at all."""
        without = [name for name in stores if name not in self.embeddings]
        if self.embeddings and without:
            raise UserError(f"the contamination check has no embeddings of {without[0]}: add them, or leave all out")
        return [Embeddings(self.embeddings[name]) for name in stores] if self.embeddings else []
