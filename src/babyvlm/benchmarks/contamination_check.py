"""Check the training images of a mix against the images of the benchmarks before ``fit``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm.benchmarks.base import Benchmark
from babyvlm.benchmarks.evaluation_callback import benchmarks_of
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


class ContaminationCheck(Callback):
    """Refuses to train on images that are near-duplicates of benchmark images.

    The benchmarks are those of the ``EvaluationCallback`` of the run, whether or not they can score its model, and
    further lists. Near-duplicates are found as by ``curate check-contamination``: by perceptual hash and, optionally,
    by embedding. The outcome is cached under the fingerprints of stores and images, so each check runs once.

    Args:
        cache: Folder of the outcomes.
        max_hash_distance: Hashes of 256 bits that differ in at most this many bits count as near-duplicates.
        trials: Lists beside those of the run's benchmarks: CSVs with a column ``image``.
        images: Folder that image paths in these lists start from; by default the folder of each list.
        allow_missing: Leave out images that do not exist.
        embeddings: Embeddings of each store of the mix, by its name; those of a store that it was derived from will do
            if the keys are the same.
        threshold: Cosine similarity above which two embeddings count as near-duplicates; depends on their model.
        num_workers: Processes that hash images, on the first rank.
    """

    def __init__(
        self,
        cache: Path,
        max_hash_distance: int = MAX_HASH_DISTANCE,
        trials: list[Path] | None = None,
        images: Path | None = None,
        allow_missing: bool = False,
        embeddings: dict[str, Path] | None = None,
        threshold: float = 0.95,
        num_workers: int = 1,
    ) -> None:
        super().__init__()
        self.cache, self.max_hash_distance, self.num_workers = cache, max_hash_distance, num_workers
        self.trials, self.images, self.allow_missing = trials or [], images, allow_missing
        self.embeddings, self.threshold = embeddings or {}, threshold

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Run the check on the first rank while the others wait.

        Raises:
            UserError: a training image is a near-duplicate of a benchmark image, or the check is impossible.
        """
        if stage == "fit":
            on_rank_zero(lambda: self._check(trainer))

    def _check(self, trainer: Trainer) -> None:
        mix = getattr(trainer, "datamodule", None)
        files = self._benchmark_images(benchmarks_of(trainer))
        if not isinstance(mix, PairMix | FrameMix) or not files:
            raise UserError(
                "ContaminationCheck needs a PairMix or a FrameMix, and benchmarks in an EvaluationCallback or its own "
                "trials; remove it from trainer.callbacks"
            )
        names = sorted({source.store for source in mix.sources})
        stores, vectors = [PairStore(mix.stores / name) for name in names], self._vectors(names)
        checked = [[store.fingerprint for store in stores], fingerprint_files(files), self.max_hash_distance]
        if vectors:
            checked += [[one.fingerprint for one in vectors], self.threshold]
        folder = self.cache / hashlib.sha256(json.dumps(checked).encode()).hexdigest()[:16]
        refuse_near_duplicates(
            folder,
            stores,
            files,
            vectors,
            threshold=self.threshold,
            max_hash_distance=self.max_hash_distance,
            num_workers=self.num_workers,
        )

    def _benchmark_images(self, benchmarks: list[Benchmark]) -> dict[Path, str]:
        """Return the images that the lists name, with a name for messages."""
        files = {
            (benchmark.images / image).resolve(): f"{benchmark.path.stem}/{image}"
            for benchmark, (trials, _) in zip(benchmarks, read_each(benchmarks, Benchmark.load), strict=True)
            for trial in trials
            for image in trial.images
        }
        if self.trials:
            files |= find_benchmark_images(
                self.trials, root=self.images, root_option="images:", allow_missing=self.allow_missing
            )
        return files

    def _vectors(self, stores: list[str]) -> list[Embeddings]:
        """Return the embeddings of the stores, or an empty list if none were given."""
        without = [name for name in stores if name not in self.embeddings]
        if self.embeddings and without:
            raise UserError(
                f"ContaminationCheck has no embeddings of store {without[0]}: add them, or remove all embeddings"
            )
        return [Embeddings(self.embeddings[name]) for name in stores] if self.embeddings else []
