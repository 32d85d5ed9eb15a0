"""The utterances of a mix without their images, packed: what phase 0 of the language model trains on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.pair_dataset import Item, chosen_groups, collate, utterances
from babyvlm.data.pair_mix import Source, identify
from babyvlm.data.sampler import GlobalBatchSampler, ResumableLoader
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError


class PackedText(Dataset[Item]):
    """Utterances end to end in the order of their store, cut into contexts of one length: nothing is padding.

    Each is ``<sos> words <eos>``, so that it begins as it will behind an image, and attention crosses from one to the
    next: what was said before is context, as in the authors' run (their documents have no ``<sos>``).

    Args:
        texts: the utterances.
        vocabulary: encodes them, however long they are.
        context: tokens a context.
        seed: with the epoch it fixes where the first cut is, as if the text were a ring: another epoch cuts elsewhere,
            and leaves out another rest of less than a context. None for text that is measured: the contexts are made
            as little shorter as it takes to leave no more than one token a context out.

    Raises:
        UserError: there is less than one context to train on.
    """

    def __init__(self, texts: Iterable[str], vocabulary: Vocabulary, context: int, seed: int | None = None) -> None:
        ids = chain.from_iterable(vocabulary.encode(texts, max_tokens=None))
        self.tokens_N = torch.from_numpy(np.fromiter(ids, np.int32))
        self.seed = seed
        if seed is None:
            context = len(self.tokens_N) // -(-len(self.tokens_N) // context)
        elif len(self.tokens_N) < context:
            raise UserError(f"data.max_tokens {context} is more than the {len(self.tokens_N)} tokens of text; lower it")
        self.context = context

    def __len__(self) -> int:
        return len(self.tokens_N) // self.context

    def __getitem__(self, index_epoch: tuple[int, int]) -> Item:
        """Context of (index, epoch); it has no image."""
        index, epoch = index_epoch
        start = 0 if self.seed is None else int(np.random.default_rng([self.seed, epoch]).integers(len(self.tokens_N)))
        places_L = (torch.arange(self.context) + start + index * self.context) % len(self.tokens_N)
        return Item(f"context {index} of epoch {epoch}", self.tokens_N[places_L].long(), "")


class TextMix(LightningDataModule):
    """What is said in some stores, packed; validation text from one.

    Args:
        name: of the mix, for the run's name and the tables.
        stores: folder of the pair stores.
        sources: what is trained on: the training utterances that ``PairMix`` takes of them, each once.
        validation: name of the store whose ``val`` and ``test`` splits the losses are measured on.
        vocabulary: folder made by ``curate vocabulary``.
        batch_size: contexts, global: split over all devices.
        max_tokens: tokens a context.
        seed: of order and cuts; the run's.
    """

    def __init__(
        self,
        name: str,
        stores: Path,
        sources: list[Source],
        validation: str,
        vocabulary: Path,
        batch_size: int = 8,
        max_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.stores, self.sources, self.validation = name, stores, sources, validation
        self.vocabulary = Vocabulary(vocabulary)
        self.batch_size, self.max_tokens, self.seed = batch_size, max_tokens, seed

    @cached_property
    def _training(self) -> PackedText:
        texts = [self._texts(source.store, "train", source.utterances) for source in self.sources]
        return PackedText(chain.from_iterable(texts), self.vocabulary, self.max_tokens, self.seed)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of training data an epoch."""
        return len(self._training) // self.batch_size

    def train_dataloader(self) -> ResumableLoader[Item]:
        """Contexts in the order of (seed, epoch, mix)."""
        assert self.trainer is not None
        sampler = GlobalBatchSampler(
            len(self._training),
            self.batch_size,
            seed=self.seed,
            mix=identify(self.stores, self.sources),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return ResumableLoader(self._training, batch_sampler=sampler, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Item]:
        """All validation text."""
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """All test text."""
        return self._held_out("test")

    def _held_out(self, split: str) -> DataLoader[Item]:
        packed = PackedText(self._texts(self.validation, split), self.vocabulary, self.max_tokens)
        # All of it on every rank: it is little, and so nothing is counted twice or left out on any number of them.
        every = [(index, 0) for index in range(len(packed))]
        return DataLoader(packed, batch_size=self.batch_size, sampler=every, collate_fn=collate)

    def _texts(self, name: str, split: str, limit: int | None = None) -> list[str]:
        store = PairStore(self.stores / name)
        return utterances(store, chosen_groups(store, split, self.seed, limit))
