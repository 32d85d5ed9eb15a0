"""The DataModule of image-text pairs. A mix is a list of pair stores and sizes, which a YAML file describes."""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.feature_cache import Precision, features_for
from babyvlm.data.pair_dataset import (
    EVERY,
    Groups,
    Item,
    Mixed,
    Order,
    Pairs,
    Sample,
    Split,
    Subset,
    chosen_groups,
    collate,
    collate_pixels,
    items_of,
    open_rows,
)
from babyvlm.data.sampler import GlobalBatchSampler, ResumableLoader, held_out_batches
from babyvlm.data.transforms import MEAN, STD, Augmented, Plain, Resize, View, normalized_pixels
from babyvlm.data.vocabulary import Vocabulary, check_words
from babyvlm.errors import UserError
from babyvlm.ranges import require_in_range
from babyvlm.types import Batch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A pair store in a mix.

    Attributes:
        store: its folder's name in the mix's ``stores``.
        utterances: number of training utterances to use, drawn by the run's seed; all by default.
        splits: splits to train on. Web pairs that were matched to validation and test frames are in their splits.
        subset: which utterances of these splits: children, ages, a share.

    Raises:
        UserError: ``utterances`` is less than 1.
    """

    store: str
    utterances: int | None = None
    splits: tuple[Split, ...] = ("train",)
    subset: Subset = EVERY

    def __post_init__(self) -> None:
        """Check the number."""
        require_in_range(utterances=self.utterances)


@dataclass(frozen=True)
class Content:
    """What a mix takes from one of its stores.

    Attributes:
        store: its name.
        items: number of items per epoch.
        utterances: number of utterances.
        share: of all items of the mix, from 0 to 1.
        corpora: number of items per corpus (``Pair.source``).
    """

    store: str
    items: int
    utterances: int
    share: float
    corpora: dict[str, int]


class Mix(LightningDataModule):
    """Base class of the DataModules of pairs, text and frames; works with and without a Trainer.

    Args:
        name: of the mix, for the run's name and tables.
        stores: folder of the pair stores.
        sources: the stores to train on.
        batch_size: global, split over all devices.
        seed: of the order of samples and everything random; that of the run.

    Attributes:
        identity: number that identifies the contents of the mix; the order of samples depends on it.
        unit: plural noun of what an item is.

    Raises:
        UserError: there are no sources, a number is out of range, or a store was matched by a version that did not
            separate the matches of held-out frames.
    """

    unit = "pairs"

    def __init__(self, name: str, stores: Path, sources: Sequence[Source], batch_size: int, seed: int) -> None:
        require_in_range(batch_size=batch_size, seed=seed)
        if not sources:
            raise UserError("data.sources: is empty. Name at least one store")
        super().__init__()
        self.name, self.stores, self.sources = name, Path(stores), sources
        self.batch_size, self.seed = batch_size, seed
        parts = []
        for source in sources:
            store = PairStore(self.stores / source.store)
            _check_matches(store, source)
            others = "" if source.splits == ("train",) else f":{','.join(source.splits)}"
            subset = "" if source.subset == EVERY else f":{source.subset}"
            parts.append(f"{store.fingerprint}:{source.utterances}{others}{subset}")
        self.identity = self._hash(parts)

    @staticmethod
    def _hash(parts: Sequence[str]) -> int:
        return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:8], "big")

    def check_split(self, split: Split) -> None:
        """Check that a held-out split exists, without reading images.

        Raises:
            UserError: it is empty.
        """
        validation = getattr(self, "validation", None)  # not every mix has held-out data
        if validation is not None:
            chosen_groups(PairStore(self.stores / validation), (split,), 0, None, getattr(self, "held_out", EVERY))

    def contents(self) -> list[Content]:
        """Return what the mix takes from each of its stores, in the order of ``sources``."""
        counted = []
        for source in self.sources:
            store = PairStore(self.stores / source.store)
            utterances = chosen_groups(store, source.splits, self.seed, source.utterances, source.subset)
            items = self._items(utterances)
            corpora = Counter(store.columns("source")["source"].take(items.first).to_pylist())
            counted.append((source.store, len(items), len(utterances), dict(corpora)))
        total = sum(items for _, items, _, _ in counted)
        return [Content(name, items, texts, items / total, corpora) for name, items, texts, corpora in counted]

    def summary(self) -> str:
        """Return the contents as lines of text."""
        contents = self.contents()
        lines = [f"mix {self.name}: {sum(part.items for part in contents):,} {self.unit} per epoch"]
        for part in contents:
            texts = "" if part.utterances == part.items else f" of {part.utterances:,} utterances"
            corpora = ", ".join(f"{corpus} {items:,}" for corpus, items in part.corpora.items())
            listed = f" ({corpora})" if len(part.corpora) > 1 else ""
            lines.append(f"  {part.store}: {part.items:,} {self.unit}{texts}, {part.share:.1%}{listed}")
        return "\n".join(lines)

    def _items(self, utterances: Groups) -> Groups:
        """Return the items of some utterances."""
        return utterances.single()

    def setup(self, stage: str | None = None) -> None:
        """Prepare the data, if there is no Trainer that has done so."""
        if self.trainer is None:
            self.prepare_data()

    def _training_loader(
        self,
        dataset: Dataset[T],
        collate_fn: Callable[[Sequence[T]], object],
        num_workers: int = 0,
        lengths: npt.NDArray[np.int64] | None = None,
        order: npt.NDArray[np.int64] | None = None,
    ) -> ResumableLoader[T]:
        """Return this process's part of the training batches, in the order of (seed, epoch, mix), or in ``order``."""
        sampler = GlobalBatchSampler(
            len(cast("Sized", dataset)),
            self.batch_size,
            seed=self.seed,
            mix=self.identity,
            rank=self.rank,
            world_size=self.world_size,
            lengths=lengths,
            repeat=getattr(self.trainer, "overfit_batches", 0) > 0,
            order=order,
        )
        if self.trainer is not None:  # it may ask for another loader in each epoch
            sampler.samples_used = self.trainer.current_epoch * sampler.samples_per_epoch
        return ResumableLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self._on_gpu,
        )

    @property
    def _on_gpu(self) -> bool:
        """Whether a Trainer moves the batches to a GPU."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def converted(self, batch: T) -> T:
        """Convert floats to the precision of the run, such as ``bf16-true``, as Lightning does before the transfer."""
        return batch if self.trainer is None else cast("T", self.trainer.precision_plugin.convert_input(batch))

    @property
    def rank(self) -> int:
        """Index of this process; 0 without a Trainer."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def world_size(self) -> int:
        """Number of processes; 1 without a Trainer."""
        return 1 if self.trainer is None else self.trainer.world_size


class PairMix(Mix):
    """Training pairs from some stores, validation and test pairs from one.

    In a notebook, without a Trainer::

        mix = PairMix("demo", Path("data/playroom/stores"), [Source("filtered")], "filtered",
                      Path("data/playroom/vocabulary"), image_size=64)
        mix.setup()
        mix.plot(next(iter(mix.train_dataloader())))

    Args:
        name: of the mix, for the run's name and tables.
        stores: folder of the pair stores.
        sources: the stores to train on.
        validation: name of the store whose ``val`` and ``test`` splits the losses are measured on. Use the same for all
            mixes, so that their losses can be compared.
        vocabulary: folder created by ``curate vocabulary``.
        batch_size: global, split over all devices.
        sample: what an item is: every pair, or every utterance with one of its frames, or with its first frame; see
            ``pair_dataset.Sample``.
        val_batch_size: of validation and test, in the order of the store; global (16 in CVCL:
            wkvong/multimodal-baby, ``runner_config``). The loss of a contrastive model depends on it.
        image_size: side of the square images, in pixels.
        resize: how an image becomes square; see ``transforms.Resize``.
        max_tokens: longest utterance, in tokens, ``<sos>`` and ``<eos>`` included.
        keep_eos: end an utterance that is too long with ``<eos>`` (our choice). CVCL cuts it after ``max_tokens``, so
            that ``<eos>`` is lost (wkvong/multimodal-baby, ``multiModalDataset_collate_fn``).
        augment: augment training images as CVCL does (``transforms.Augmented``); otherwise they are only made square.
        min_scale: smallest fraction of a training image's area that a random crop covers (0.2 in CVCL).
        bucket_by_length: batch training utterances of similar length, which saves padding. The negatives of a
            contrastive model then depend on length.
        features: folder of caches of the features of the model's frozen vision encoder. They are computed once and then
            read instead of the images (see ``data.features`` in the documentation). Ignored without a Trainer.
        features_precision: of cached features. float16 takes half of the space; its error is measured and reported.
        num_workers: processes per device that decode and augment.
        seed: of order, frames and augmentation; that of the run.
        cache_dir: folder of the memory-mapped copies of the stores, if they cannot be written beside the stores.
        home: which home pairs to train on: those of the sources whose store is ``validation``. Matched and random web
            pairs are not affected.
        held_out: which validation and test pairs the losses are measured on.
        order: ``shuffled``: another order in each epoch; ``date`` and ``age``: a single pass in the order in which the
            pairs were recorded, or of the age of the child (a stream, as in BabyCL: arXiv 2606.05115). Web pairs, which
            have no date, are spread evenly.
        shuffle_utterances: train on the frames of each utterance with the text of another one, drawn once by the seed:
            a control, in which nothing can be learned about what words refer to (Vong et al. 2024). Validation and test
            pairs are as they are.

    Raises:
        UserError: features of augmented images are requested, a number is out of range, ``home`` applies to no source,
            or batches of a stream are to be sorted by length.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each is a setting of the data that a YAML may override
        self,
        name: str,
        stores: Path,
        sources: list[Source],
        validation: str,
        vocabulary: Path,
        batch_size: int = 8,
        image_size: int = 224,
        max_tokens: int = 25,
        sample: Sample = "pairs",
        val_batch_size: int = 16,
        resize: Resize = "crop",
        keep_eos: bool = True,
        augment: bool = True,
        min_scale: float = 0.2,
        bucket_by_length: bool = False,
        features: Path | None = None,
        features_precision: Precision = "float32",
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: Path | None = None,
        home: Subset = EVERY,
        held_out: Subset = EVERY,
        order: Order = "shuffled",
        shuffle_utterances: bool = False,
    ) -> None:
        require_in_range(image_size=image_size, max_tokens=max_tokens, min_scale=min_scale, num_workers=num_workers)
        require_in_range(val_batch_size=val_batch_size)
        if home != EVERY:
            if validation not in {source.store for source in sources}:
                raise UserError(f"data.home: no source is the home store, {validation} (data.validation)")
            sources = [replace(one, subset=home) if one.store == validation else one for one in sources]
        if order != "shuffled" and bucket_by_length:
            raise UserError(f"data.order {order}: batches of similar length are not in this order. Set one of the two")
        super().__init__(name, stores, sources, batch_size, seed)
        self.cache_dir = cache_dir
        self.validation, self.vocabulary = validation, Vocabulary(vocabulary)
        self.image_size, self.max_tokens = image_size, max_tokens
        self.sample, self.val_batch_size, self.resize, self.keep_eos = sample, val_batch_size, resize, keep_eos
        self.unit = "pairs" if sample == "pairs" else "utterances"
        self.shuffle_utterances = shuffle_utterances
        if sample != "utterances":  # another order than that of utterances
            self.identity = self._hash([str(self.identity), sample])
        if shuffle_utterances:
            self.identity = self._hash([str(self.identity), "shuffled utterances"])
        if order != "shuffled":
            self.identity = self._hash([str(self.identity), order])
        self.home, self.held_out, self.order = home, held_out, order
        self.augment, self.min_scale, self.num_workers = augment, min_scale, num_workers
        self.bucket_by_length = bucket_by_length
        self.features, self.features_precision = features, features_precision
        if features is not None and augment:
            raise UserError("data.features caches one set of features per image. Set data.augment to false")

    def prepare_data(self) -> None:
        """Write the memory-mapped copies of the stores, on one rank."""
        if self._caches_features:
            return
        for store in {self.validation, *(source.store for source in self.sources)}:
            open_rows(PairStore(self.stores / store), self.cache_dir)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of training data per epoch."""
        return len(self._training) // self.batch_size

    def train_dataloader(self) -> ResumableLoader[Item]:
        """Return batches of pairs of all sources, in the order of (seed, epoch, mix), or of their recordings.

        Raises:
            UserError: a stream would begin a second time.
        """
        dataset = self._training
        for part in dataset.parts:
            self._add_features(part)
        lengths = dataset.lengths() if self.bucket_by_length else None
        order = None if self.order == "shuffled" else dataset.recording_order(self.order, self.seed)
        loader = self._training_loader(dataset, self._collate, self.num_workers, lengths, order)
        if self.order != "shuffled" and self.trainer is not None:
            self._check_single_pass(self.trainer, len(loader.batch_sampler))
        return loader

    def _check_single_pass(self, trainer: Trainer, batches: int) -> None:
        steps = batches // trainer.accumulate_grad_batches
        if trainer.max_epochs != 1 and not 0 <= trainer.max_steps <= steps:
            raise UserError(
                f"data.order {self.order}: the stream ends after {steps:,} steps and does not begin again. Set"
                f" trainer.max_epochs to 1, or trainer.max_steps to at most {steps}"
            )

    @property
    def _collate(self) -> Callable[[Sequence[Item]], Batch]:
        """Images are normalized on the device, if a Trainer moves them there."""
        return collate if self.trainer is None else collate_pixels

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalize the images, on the device."""
        if batch.images_BCHW.dtype != torch.uint8:
            return batch
        return self.converted(replace(batch, images_BCHW=normalized_pixels(batch.images_BCHW)))

    def val_dataloader(self) -> DataLoader[Item]:
        """Return batches of the validation items, in order; an utterance has one fixed frame."""
        return self._held_out_loader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """Return batches of the test items, in order; an utterance has one fixed frame."""
        return self._held_out_loader("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """Return batches of the test items in the store's order, each once."""
        dataset = self._held_out("test")
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=[(index, 0) for index in range(self.rank, len(dataset), self.world_size)],
            collate_fn=self._collate,
            num_workers=self.num_workers,
            pin_memory=self._on_gpu,
        )

    def held_out_pairs(self, split: Split) -> int:
        """Return the number of items of the validation or test split."""
        source = Source(self.validation, splits=(split,), subset=self.held_out)
        return len(self._dataset(source, Plain(self.image_size, self.resize), seed=0))

    def plot(self, batch: Batch, columns: int = 4) -> Figure:
        """Plot the images of a batch with their utterances.

        Args:
            batch: from one of the loaders.
            columns: images per row.

        Raises:
            UserError: the batch has cached features instead of images.
        """
        from matplotlib.figure import Figure

        if batch.features is not None:
            raise UserError("the batch has cached features instead of images. Create PairMix without features")
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        columns = min(columns, len(batch.keys))
        rows = -(-len(batch.keys) // columns)
        figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, image_CHW, utterance in zip(axes, batch.images_BCHW, batch.utterances, strict=False):
            axis.imshow((image_CHW * std_C11 + mean_C11).clamp(0, 1).permute(1, 2, 0).numpy())
            axis.set_title("\n".join(textwrap.wrap(utterance, 24)), fontsize=8, parse_math=False)
        return figure

    @cached_property
    def _training(self) -> Mixed:
        plain = Plain(self.image_size, self.resize)
        view = Augmented(self.image_size, self.min_scale, resize=self.resize) if self.augment else plain
        parts = [self._dataset(source, view, self.seed) for source in self.sources]
        for part in parts:
            if self.shuffle_utterances:
                part.shuffle_utterances()
            check_words(part.utterances(), self.vocabulary, str(part.store.path))
        return Mixed(parts)

    def _dataset(self, source: Source, view: View, seed: int) -> Pairs:
        return Pairs(
            PairStore(self.stores / source.store),
            source.splits,
            view,
            self.vocabulary,
            sample=self.sample,
            max_tokens=self.max_tokens,
            keep_eos=self.keep_eos,
            seed=seed,
            limit=source.utterances,
            cache_dir=self.cache_dir,
            subset=source.subset,
        )

    def _items(self, utterances: Groups) -> Groups:
        return items_of(utterances, self.sample)

    def _held_out(self, split: Split) -> Pairs:
        source = Source(self.validation, splits=(split,), subset=self.held_out)
        dataset = self._dataset(source, Plain(self.image_size, self.resize), seed=0)
        self._add_features(dataset)
        return dataset

    def _held_out_loader(self, split: Split) -> DataLoader[Item]:
        dataset = self._held_out(split)
        batches = held_out_batches(len(dataset), self.val_batch_size, self.rank, self.world_size)
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self._collate,
            num_workers=self.num_workers,
            pin_memory=self._on_gpu,
        )

    @property
    def _caches_features(self) -> bool:
        return self.features is not None and self.trainer is not None

    def _add_features(self, dataset: Pairs) -> None:
        """Let a dataset read cached features, if so configured; missing ones are computed."""
        if self.features is not None and self.trainer is not None:
            dataset.features = features_for(
                self.trainer,
                self.features,
                dataset.store,
                Plain(self.image_size, self.resize),
                self.features_precision,
                self.num_workers,
            )


def _check_matches(store: PairStore, source: Source) -> None:
    """Refuse to train on matches of held-out frames that are not known as such."""
    stages = [manifest.get("arguments", {}) for manifest in store.lineage.values()]
    matched_before = any(stage.get("command") == "match" and "splits" not in stage for stage in stages)
    if matched_before and source.splits == ("train",):
        raise UserError(
            f"{store.path}: was matched by an earlier version, and web pairs that were matched to validation and test "
            "frames are in its split train. Run curate match again, or request them: splits: [train, val, test]"
        )
