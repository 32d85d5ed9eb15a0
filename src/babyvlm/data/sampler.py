"""The order of samples: a pure function of (seed, epoch, mix). Its state is the number of samples used so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Sampler

from babyvlm.errors import UserError
from babyvlm.ranges import require_in_range
from babyvlm.types import Batch

T = TypeVar("T")

WINDOW = 50  # batches whose samples are sorted together (our choice): little padding, and close to random batches


def check_divisible(batch_size: int, world_size: int) -> None:
    """Check that a global batch can be split evenly.

    Raises:
        UserError: it cannot.
    """
    if batch_size % world_size:
        raise UserError(f"data.batch_size {batch_size} is global and must be a multiple of the {world_size} devices")


class GlobalBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (index, epoch) for one rank, taken from one global order.

    Every global batch is the next ``batch_size`` samples of the epoch's permutation; rank r of R takes every R-th of
    them, so that the union over ranks is the same on 1, 2 or 4 ranks. An incomplete last batch is dropped; each epoch
    drops other samples.

    >>> list(GlobalBatchSampler(5, 2, seed=0))
    [[(2, 0), (4, 0)], [(3, 0), (0, 0)]]
    >>> list(GlobalBatchSampler(5, 2, seed=0, rank=1, world_size=2))
    [[(4, 0)], [(0, 0)]]

    Args:
        length: number of samples in the mix.
        batch_size: global, over all ranks.
        seed: of the run.
        mix: identity of the mix; another mix has another order.
        rank: this process.
        world_size: number of processes.
        lengths: of the samples, to make batches of similar length: each ``WINDOW`` batches of the permutation are
            sorted by length and cut again, and all batches of the epoch are shuffled.
        repeat: use the samples of epoch 0 in every epoch, to overfit some batches.
        order: the samples of an epoch in the order in which they are used, instead of a permutation.

    Raises:
        UserError: a number is out of range, the batch cannot be split evenly over the ranks, or the mix has less than
            one batch.
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
        repeat: bool = False,
        order: npt.NDArray[np.int64] | None = None,
    ) -> None:
        require_in_range(batch_size=batch_size, seed=seed)
        check_divisible(batch_size, world_size)
        if length < batch_size:
            raise UserError(f"data.batch_size {batch_size} exceeds the {length} training samples. Lower it")
        self.length, self.batch_size, self.seed, self.mix = length, batch_size, seed, mix
        self.rank, self.world_size, self.lengths, self.repeat = rank, world_size, lengths, repeat
        self.order = order
        self.samples_used = 0

    @property
    def samples_per_epoch(self) -> int:
        """Samples in the complete batches of an epoch."""
        return self.length // self.batch_size * self.batch_size

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches after ``samples_used`` until the end of that epoch."""
        epoch, start = divmod(self.samples_used, self.samples_per_epoch)
        epoch = 0 if self.repeat else epoch
        for batch in self._order(epoch)[start // self.batch_size :]:
            yield [(int(index), epoch) for index in batch[self.rank :: self.world_size]]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return (batches, batch_size) samples of an epoch, of all ranks."""
        if self.order is not None:
            return self.order[: self.samples_per_epoch].reshape(-1, self.batch_size)
        random = np.random.default_rng([self.seed, epoch, self.mix])
        order = random.permutation(self.length)[: self.samples_per_epoch]
        if self.lengths is None:
            return order.reshape(-1, self.batch_size)
        for first in range(0, len(order), WINDOW * self.batch_size):
            window = order[first : first + WINDOW * self.batch_size]
            window[:] = window[np.argsort(self.lengths[window], kind="stable")]
        return random.permutation(order.reshape(-1, self.batch_size))


def held_out_batches(length: int, batch_size: int, rank: int, world_size: int) -> list[list[tuple[int, int]]]:
    """Return batches of (index, 0) for one rank: every sample once, in order, as CVCL's validation.

    The global batches contain the same samples on any number of ranks, because a contrastive loss depends on its
    negatives. A rank takes every R-th sample of each, at least one: a last batch with fewer samples than ranks, or with
    one, which would have no negatives, joins the one before it.

    >>> held_out_batches(5, 3, rank=0, world_size=1)
    [[(0, 0), (1, 0), (2, 0)], [(3, 0), (4, 0)]]
    >>> held_out_batches(5, 4, rank=0, world_size=1)
    [[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]]
    >>> held_out_batches(5, 4, rank=1, world_size=2)
    [[(1, 0), (3, 0)]]

    Args:
        length: number of samples.
        batch_size: global, over all ranks.
        rank: this process.
        world_size: number of processes.

    Raises:
        UserError: there are fewer samples in the split or in a batch than ranks.
    """
    if length < world_size:
        raise UserError(f"{length} held-out samples cannot be split over {world_size} devices. Use fewer devices")
    if batch_size < world_size:
        raise UserError(f"data.val_batch_size {batch_size} cannot be split over {world_size} devices. Raise it")
    starts = list(range(0, length, batch_size))
    if length > batch_size > 1 and length - starts[-1] < max(2, world_size):
        starts.pop()
    return [
        [(index, 0) for index in range(start + rank, end, world_size)]
        for start, end in zip(starts, [*starts[1:], length], strict=True)
    ]


class ResumableLoader(DataLoader[T]):
    """A DataLoader that counts the samples it has returned, and can resume after them.

    Its ``batch_sampler`` must be a ``GlobalBatchSampler``. Samples that workers prefetched do not count.
    """

    batch_sampler: GlobalBatchSampler
    _resumed = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # torch types a loader by its items, not its batches
        """Yield the rest of the epoch that a state was loaded from, otherwise the next complete epoch."""
        sampler = self.batch_sampler
        if not self._resumed:  # limit_train_batches may have ended the previous epoch early
            sampler.samples_used += -sampler.samples_used % sampler.samples_per_epoch
        self._resumed = False
        for batch in super().__iter__():
            self.batch_sampler.samples_used += self.batch_sampler.batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of samples used, over all epochs and ranks."""
        return {"samples_used": self.batch_sampler.samples_used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from a state, whatever the number of workers and ranks it was saved with.

        Raises:
            UserError: the state was saved with another batch size.
        """
        if state["samples_used"] % self.batch_sampler.batch_size:
            raise UserError(
                f"data.batch_size {self.batch_sampler.batch_size} differs from that of the checkpoint's run. "
                "Resume with the original batch size"
            )
        self.batch_sampler.samples_used = state["samples_used"]
        self._resumed = True
