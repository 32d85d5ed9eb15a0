"""The DataModule of every mix: a mix is a list of stores and sizes in a YAML."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.feature_cache import features_for
from babyvlm.data.feature_files import Precision
from babyvlm.data.pair_dataset import Item, Mixed, UtteranceFrames, collate, open_rows
from babyvlm.data.sampler import GlobalBatchSampler, ResumableLoader, held_out_batches
from babyvlm.data.transforms import Augmented, Plain, eval_transform
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError


@dataclass(frozen=True)
class Source:
    """A pair store in a mix.

    Attributes:
        store: its folder's name below the mix's ``stores``.
        utterances: how many of its training utterances to take, drawn by the run's seed; all by default.
    """

    store: str
    utterances: int | None = None


def identify(stores: Path, sources: Sequence[Source]) -> int:
    """A number that changes with what is in a mix."""
    parts = [f"{PairStore(stores / source.store).fingerprint}:{source.utterances}" for source in sources]
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:8], "big")


class PairMix(LightningDataModule):
    """Training pairs from some stores, validation pairs from one.

    Args:
        name: of the mix, for the run's name and the tables.
        stores: folder of the pair stores.
        sources: what is trained on.
        validation: name of the store whose ``val`` and ``test`` splits the losses are measured on; the same for all
            mixes, so that they compare.
        vocabulary: folder made by ``curate vocabulary``.
        batch_size: global: split over all devices.
        image_size: side of the square that models see, in pixels.
        max_tokens: tokens an utterance, ``<sos>`` and ``<eos>`` included.
        augment: augment training images as CVCL does; else they are only resized.
        min_scale: least share of a training image's area that a random crop shows (0.2 in CVCL).
        bucket_by_length: batch training utterances of about one length, so that little is padding; which negatives a
            contrastive model meets then depends on it.
        features: folder of caches of what the model's frozen vision encoder makes of the images: filled once, then
            read in place of the images (see ``data.features``).
        features_precision: of what is stored there; float16 takes half the space, its error is measured and told.
        num_workers: processes a device that decode and augment.
        seed: of order, frames and augmentation; the run's.

    Raises:
        UserError: features are asked for of images that are augmented.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each is a setting of the data that a YAML may change alone
        self,
        name: str,
        stores: Path,
        sources: list[Source],
        validation: str,
        vocabulary: Path,
        batch_size: int = 8,
        image_size: int = 224,
        max_tokens: int = 25,
        augment: bool = True,
        min_scale: float = 0.2,
        bucket_by_length: bool = False,
        features: Path | None = None,
        features_precision: Precision = "float32",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.stores, self.sources, self.validation = name, stores, sources, validation
        self.vocabulary = Vocabulary(vocabulary)
        self.batch_size, self.image_size, self.max_tokens = batch_size, image_size, max_tokens
        self.augment, self.min_scale, self.num_workers, self.seed = augment, min_scale, num_workers, seed
        self.bucket_by_length = bucket_by_length
        self.features, self.features_precision = features, features_precision
        if features is not None and augment:
            raise UserError("data.features keeps what an image looks like once for all: set data.augment to false")
        self.identity = identify(stores, sources)

    def prepare_data(self) -> None:
        """Write the memory-mapped copies once, on one rank."""
        if self.features is not None:
            return
        for store in {self.validation, *(source.store for source in self.sources)}:
            open_rows(PairStore(self.stores / store))

    @cached_property
    def _training(self) -> Mixed:
        view = Augmented(self.image_size, self.min_scale) if self.augment else Plain(self.image_size)
        return Mixed(
            [
                UtteranceFrames(
                    PairStore(self.stores / source.store),
                    "train",
                    view,
                    self.vocabulary,
                    max_tokens=self.max_tokens,
                    seed=self.seed,
                    limit=source.utterances,
                )
                for source in self.sources
            ]
        )

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of training data an epoch."""
        return len(self._training) // self.batch_size

    def train_dataloader(self) -> ResumableLoader[Item]:
        """Utterances of all sources in the order of (seed, epoch, mix)."""
        assert self.trainer is not None
        dataset = self._training
        for part in dataset.parts:
            self._with_features(part)
        sampler = GlobalBatchSampler(
            len(dataset),
            self.batch_size,
            seed=self.seed,
            mix=self.identity,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            lengths=dataset.lengths() if self.bucket_by_length else None,
        )
        return ResumableLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Item]:
        """The validation utterances, each with one fixed frame."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """The held-out utterances, each with one fixed frame."""
        return self._fixed("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """All held-out utterances once, each with one fixed frame."""
        assert self.trainer is not None
        dataset = self._held_out("test")
        mine = range(self.trainer.global_rank, len(dataset), self.trainer.world_size)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=[(index, 0) for index in mine],
            collate_fn=collate,
            num_workers=self.num_workers,
        )

    def _held_out(self, split: str) -> UtteranceFrames:
        return self._with_features(
            UtteranceFrames(
                PairStore(self.stores / self.validation),
                split,
                Plain(self.image_size),
                self.vocabulary,
                max_tokens=self.max_tokens,
                seed=0,
            )
        )

    def _with_features(self, frames: UtteranceFrames) -> UtteranceFrames:
        """Let it read cached features, if so configured; computes what of them is missing."""
        if self.features is not None:
            assert self.trainer is not None
            frames.features = features_for(
                self.trainer,
                self.features,
                frames.store,
                eval_transform(self.image_size),
                self.features_precision,
                self.num_workers,
            )
        return frames

    def _fixed(self, split: str) -> DataLoader[Item]:
        assert self.trainer is not None
        dataset = self._held_out(split)
        batches = held_out_batches(len(dataset), self.batch_size, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=self.num_workers)
