"""The order of samples: a pure function of (seed, epoch, mix). The state is how many samples were used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Sampler

from babyvlm.errors import UserError
from babyvlm.types import Batch

T = TypeVar("T")

WINDOW = 50  # batches whose samples are sorted together (our choice): little padding, and near to random batches


class GlobalBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (index, epoch) for one rank, cut from one global order.

    Every global batch is the next ``batch_size`` samples of the epoch's permutation; rank r of R takes every R-th of
    them, so that the union over ranks is the same on 1, 2 or 4 of them. A last batch that is not full is left out;
    another permutation leaves out others.

    Args:
        length: samples in the mix.
        batch_size: global, over all ranks.
        seed: of the run.
        mix: identity of the mix; another mix has another order.
        rank: this process.
        world_size: number of processes.
        lengths: of the samples, if those of a batch are to be about equally long: each ``WINDOW`` batches of the
            permutation are sorted by length and cut anew, and all batches of the epoch shuffled.

    Raises:
        UserError: the batch cannot be split evenly over the ranks, or the mix holds less than one batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        mix: int = 0,
        rank: int = 0,
        world_size: int = 1,
        lengths: npt.NDArray[np.integer] | None = None,
    ) -> None:
        if batch_size % world_size:
            raise UserError(f"data.batch_size {batch_size} is global: it must divide by the {world_size} devices")
        if length < batch_size:
            raise UserError(f"data.batch_size {batch_size} is more than the {length} training utterances; lower it")
        self.length, self.batch_size, self.seed, self.mix = length, batch_size, seed, mix
        self.rank, self.world_size, self.lengths = rank, world_size, lengths
        self.samples_used = 0

    @property
    def samples_per_epoch(self) -> int:
        """Samples in the whole batches of an epoch."""
        return self.length // self.batch_size * self.batch_size

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """From where ``samples_used`` stands to the end of that epoch."""
        epoch, start = divmod(self.samples_used, self.samples_per_epoch)
        for batch in self._order(epoch)[start // self.batch_size :]:
            yield [(int(index), epoch) for index in batch[self.rank :: self.world_size]]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(batches, batch_size) samples of an epoch, all ranks together."""
        random = np.random.default_rng([self.seed, epoch, self.mix])
        order = random.permutation(self.length)[: self.samples_per_epoch]
        if self.lengths is None:
            return order.reshape(-1, self.batch_size)
        for first in range(0, len(order), WINDOW * self.batch_size):
            window = order[first : first + WINDOW * self.batch_size]
            window[:] = window[np.argsort(self.lengths[window], kind="stable")]
        return random.permutation(order.reshape(-1, self.batch_size))


def held_out_batches(length: int, batch_size: int, rank: int, world_size: int) -> list[list[tuple[int, int]]]:
    """Batches of (index, 0) for one rank: every sample once, in an order that never changes.

    All global batches are of about one size, at most ``batch_size``, and hold the same samples on any number of ranks,
    since a contrastive loss depends on its negatives. A rank takes every R-th sample of each, at least one.

    Raises:
        UserError: there are fewer samples than ranks.
    """
    if length < world_size:
        raise UserError(f"{length} held-out utterances cannot be shared by {world_size} devices; take fewer")
    batches = min(-(-length // batch_size), length // world_size)
    order = np.random.default_rng(0).permutation(length)
    return [[(int(index), 0) for index in batch[rank::world_size]] for batch in np.array_split(order, batches)]


class ResumableLoader(DataLoader[T]):
    """A DataLoader that knows how many samples were handed out, and goes on from there.

    Its ``batch_sampler`` must be a ``GlobalBatchSampler``. What workers fetched ahead does not count.
    """

    batch_sampler: GlobalBatchSampler
    _resumed = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # torch types a loader by its items, not its batches
        """The rest of the epoch that a state was loaded from, else the next whole one."""
        sampler = self.batch_sampler
        if not self._resumed:  # the one before may have been cut short, by limit_train_batches
            sampler.samples_used += -sampler.samples_used % sampler.samples_per_epoch
        self._resumed = False
        for batch in super().__iter__():
            self.batch_sampler.samples_used += self.batch_sampler.batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many samples were used, over all epochs and ranks."""
        return {"samples_used": self.batch_sampler.samples_used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state, whatever the number of workers and ranks it was saved with.

        Raises:
            UserError: it was saved in the midst of one of our batches: the batch size was another one.
        """
        if state["samples_used"] % self.batch_sampler.batch_size:
            raise UserError(f"data.batch_size {self.batch_sampler.batch_size} is not what the checkpoint's run had")
        self.batch_sampler.samples_used = state["samples_used"]
        self._resumed = True
