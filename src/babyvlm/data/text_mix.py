"""The utterances of a mix without their images, packed into contexts: the data of the language model's phase 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.pair_dataset import EVERY, Groups, Item, Split, Subset, chosen_groups, collate, utterances
from babyvlm.data.pair_mix import Mix, Source
from babyvlm.data.sampler import ResumableLoader
from babyvlm.data.vocabulary import Vocabulary, check_words
from babyvlm.errors import UserError, require_at_least


class PackedText(Dataset[Item]):
    """Utterances concatenated in the order of their store and cut into contexts of one length, without padding.

    Each is ``<sos> words <eos>``, and attention crosses from one utterance to the next: earlier utterances are context,
    as in ShawnKing98/BabyLLaVA since October 2025 (``llava/train/train_babylm.py``; before, nothing separated them).

    Args:
        texts: the utterances.
        vocabulary: encodes them, without a limit on their length.
        context: tokens per context.
        seed: with the epoch it determines where the first context starts, as if the text were a ring, so that each
            epoch leaves out another remainder of less than one context. None for evaluation: contexts are shortened
            just enough that no more than one token per context is left out.

    Raises:
        UserError: the text to train on is shorter than one context.
    """

    def __init__(self, texts: Iterable[str], vocabulary: Vocabulary, context: int, seed: int | None = None) -> None:
        ids = chain.from_iterable(vocabulary.encode(texts, max_tokens=None))
        self.tokens_N = torch.from_numpy(np.fromiter(ids, np.int32))
        self.seed = seed
        if seed is None:
            context = len(self.tokens_N) // -(-len(self.tokens_N) // context)
        elif len(self.tokens_N) < context:
            raise UserError(f"data.max_tokens {context} exceeds the {len(self.tokens_N)} tokens of text. Lower it")
        self.context = context

    def __len__(self) -> int:
        return len(self.tokens_N) // self.context

    def __getitem__(self, index_epoch: tuple[int, int]) -> Item:
        """Return the context of (index, epoch); it has no image."""
        index, epoch = index_epoch
        start = 0 if self.seed is None else int(np.random.default_rng([self.seed, epoch]).integers(len(self.tokens_N)))
        positions_L = (torch.arange(self.context) + start + index * self.context) % len(self.tokens_N)
        return Item(f"context {index} of epoch {epoch}", self.tokens_N[positions_L].long(), "")


class TextMix(Mix):
    """Training text from some stores, packed; validation and test text from one.

    Args:
        name: of the mix, for the run's name and tables.
        stores: folder of the pair stores.
        sources: the stores to train on: the training utterances that ``PairMix`` uses, each once.
        validation: name of the store whose ``val`` and ``test`` splits the losses are measured on.
        vocabulary: folder created by ``curate vocabulary``.
        batch_size: in contexts; global, split over all devices.
        max_tokens: tokens per context.
        seed: of order and cuts; that of the run.
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
        require_at_least(2, max_tokens=max_tokens)  # the first one predicts the second
        super().__init__(name, stores, sources, batch_size, seed)
        self.validation, self.vocabulary, self.max_tokens = validation, Vocabulary(vocabulary), max_tokens

    unit = "utterances"

    def _items(self, utterances: Groups) -> Groups:
        return utterances

    @cached_property
    def _training(self) -> PackedText:
        texts = [self._texts(source.store, source.splits, source.utterances, source.subset) for source in self.sources]
        for source, part in zip(self.sources, texts, strict=True):
            check_words(part, self.vocabulary, str(self.stores / source.store))
        return PackedText(chain.from_iterable(texts), self.vocabulary, self.max_tokens, self.seed)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of training data per epoch."""
        return len(self._training) // self.batch_size

    def train_dataloader(self) -> ResumableLoader[Item]:
        """Return batches of contexts in the order of (seed, epoch, mix)."""
        return self._training_loader(self._training, collate)

    def val_dataloader(self) -> DataLoader[Item]:
        """Return batches of the validation text."""
        return self._held_out(["val"])

    def test_dataloader(self) -> DataLoader[Item]:
        """Return batches of the test text."""
        return self._held_out(["test"])

    def _held_out(self, splits: Sequence[Split]) -> DataLoader[Item]:
        packed = PackedText(self._texts(self.validation, splits), self.vocabulary, self.max_tokens)
        # The complete split on every rank: it is small, and nothing is counted twice or left out.
        every = [(index, 0) for index in range(len(packed))]
        return DataLoader(packed, batch_size=self.batch_size, sampler=every, collate_fn=collate)

    def _texts(self, name: str, splits: Sequence[Split], limit: int | None = None, subset: Subset = EVERY) -> list[str]:
        store = PairStore(self.stores / name)
        return utterances(store, chosen_groups(store, splits, self.seed, limit, subset))
