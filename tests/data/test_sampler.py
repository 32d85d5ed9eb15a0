import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from babyvlm.data.sampler import WINDOW, GlobalBatchSampler, ResumableLoader
from babyvlm.errors import UserError


class Echo(Dataset):
    """A dataset whose items are their own indices."""

    def __len__(self):
        return 50

    def __getitem__(self, index_epoch):
        return torch.tensor(index_epoch)


LENGTHS = np.random.default_rng(0).geometric(0.2, 50)


def loader(workers=0, **kwargs):
    return ResumableLoader(Echo(), batch_sampler=GlobalBatchSampler(50, 8, seed=3, **kwargs), num_workers=workers)


def batches(loader, epochs=1):
    return [batch.tolist() for _ in range(epochs) for batch in loader]


@given(
    length=st.integers(4, 60),
    per_rank=st.integers(1, 4),
    world=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**32),
    bucketed=st.booleans(),
)
def test_sampler_gives_ranks_one_global_order(length, per_rank, world, seed, bucketed):
    batch_size = per_rank * 4
    if length < batch_size:
        length += batch_size
    lengths = np.random.default_rng(seed).geometric(0.2, length) if bucketed else None
    options = {"seed": seed, "lengths": lengths}
    complete = list(GlobalBatchSampler(length, batch_size, **options))
    parts = [list(GlobalBatchSampler(length, batch_size, **options, rank=r, world_size=world)) for r in range(world)]
    for number, batch in enumerate(complete):
        together = itertools.chain.from_iterable(zip(*(part[number] for part in parts), strict=True))
        assert list(together) == batch
    used = [index for batch in complete for index, _ in batch]
    assert len(set(used)) == len(used) == length // batch_size * batch_size
    assert set(used) <= set(range(length))


def test_sampler_order_depends_on_seed_epoch_and_mix():
    first = GlobalBatchSampler(50, 50, seed=0)
    orders = [[index for index, _ in next(iter(first))]]
    first.samples_used = 50
    orders.append([index for index, _ in next(iter(first))])
    for kwargs in ({"seed": 1}, {"seed": 0, "mix": 9}):
        orders.append([index for index, _ in next(iter(GlobalBatchSampler(50, 50, **kwargs)))])
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize(
    ("stop", "before", "after"), [(1, 0, 0), (5, 2, 0), (5, 0, 2), (6, 2, 0), (6, 0, 0), (7, 0, 0), (13, 0, 0)]
)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["shuffled", "bucketed"])
def test_sampler_resumes_at_position(stop, before, after, lengths):
    """``before`` and ``after`` are numbers of workers; an epoch has 6 batches."""
    expected = batches(loader(lengths=lengths), epochs=3)
    stopped = loader(before, lengths=lengths)
    stream = itertools.chain.from_iterable(itertools.repeat(stopped))
    seen = [batch.tolist() for batch in itertools.islice(stream, stop)]
    state = stopped.state_dict()
    assert state == {"samples_used": 8 * stop}  # batches that workers prefetched do not count
    resumed = loader(after, lengths=lengths)
    resumed.load_state_dict(state)
    rest = [
        batch.tolist()
        for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(resumed)), 18 - stop)
    ]
    assert seen + rest == expected


def test_sampler_resumes_on_other_number_of_ranks():
    complete = batches(loader())
    half = [loader(rank=rank, world_size=2) for rank in range(2)]
    for part in half:
        part.load_state_dict({"samples_used": 16})
    for number, (even, odd) in enumerate(zip(*map(batches, half), strict=True), start=2):
        assert [pair for both in zip(even, odd, strict=True) for pair in both] == complete[number]


def test_sampler_starts_full_epoch_after_interrupted_one():
    """As with trainer.limit_train_batches."""
    complete, cut = loader(), loader()
    expected = batches(complete, 2)[:4] + batches(loader(), 2)[6:]
    found = batches(itertools.islice(cut, 4))
    assert found + batches(cut) == expected


@pytest.mark.parametrize(("length", "size", "world", "say"), [(50, 9, 2, "multiple"), (5, 8, 1, "exceeds")])
def test_sampler_refuses_indivisible_batch(length, size, world, say):
    with pytest.raises(UserError, match=say):
        GlobalBatchSampler(length, size, seed=0, world_size=world)


def test_sampler_refuses_state_of_other_batch_size():
    with pytest.raises(UserError, match="batch_size 8 differs from"):
        loader().load_state_dict({"samples_used": 12})


def padding(batches, lengths):
    """Return the number of padding tokens if each batch is padded to its longest text."""
    return sum(max(lengths[i] for i, _ in batch) * len(batch) - sum(lengths[i] for i, _ in batch) for batch in batches)


def test_length_batches_pad_little_and_are_random():
    lengths = np.random.default_rng(1).geometric(0.15, 2000)
    shuffled, bucketed = (GlobalBatchSampler(2000, 8, seed=0, lengths=each) for each in (None, lengths))
    assert padding(bucketed, lengths) < 0.05 * padding(shuffled, lengths)
    # Short texts do not come first in the epoch or a window, and batches differ between epochs.
    means = np.array([np.mean([lengths[i] for i, _ in batch]) for batch in bucketed])
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.2
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3
    together = []
    for epoch in range(2):
        bucketed.samples_used = epoch * 2000
        together.append({frozenset(i for i, _ in batch) for batch in bucketed})
    assert len(together[0] & together[1]) < 5


def test_length_batches_do_not_always_drop_longest():
    """The incomplete batch that is dropped is drawn before sorting."""
    lengths = np.arange(20)
    sampler = GlobalBatchSampler(20, 8, seed=0, lengths=lengths)
    used = set()
    for epoch in range(20):
        sampler.samples_used = epoch * 16
        used |= {i for batch in sampler for i, _ in batch}
    assert used == set(range(20))


def test_length_batches_sort_within_window():
    """A batch has samples of one window of the permutation only, so that long texts are spread over an epoch."""
    count = 2 * WINDOW * 4
    lengths = np.random.default_rng(2).permutation(count)  # all different: a batch is a run of a sorted window
    permutation = np.random.default_rng([5, 0, 0]).permutation(count)
    windows = [set(permutation[: count // 2]), set(permutation[count // 2 :])]
    for batch in GlobalBatchSampler(count, 4, seed=5, lengths=lengths):
        members = {i for i, _ in batch}
        assert members <= windows[0] or members <= windows[1]
