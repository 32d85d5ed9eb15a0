import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from babyvlm.contracts import UserError
from babyvlm.data.sampler import GlobalBatchSampler, ResumableLoader


class Echo(Dataset):
    """Gives back what it is asked for."""

    def __len__(self):
        return 50

    def __getitem__(self, index_epoch):
        return torch.tensor(index_epoch)


def loader(workers=0, **kwargs):
    return ResumableLoader(Echo(), batch_sampler=GlobalBatchSampler(50, 8, seed=3, **kwargs), num_workers=workers)


def batches(loader, epochs=1):
    return [batch.tolist() for _ in range(epochs) for batch in loader]


@given(
    length=st.integers(4, 60), per_rank=st.integers(1, 4), world=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32)
)
def test_ranks_share_one_global_order(length, per_rank, world, seed):
    batch_size = per_rank * 4
    if length < batch_size:
        length += batch_size
    whole = list(GlobalBatchSampler(length, batch_size, seed=seed))
    parts = [list(GlobalBatchSampler(length, batch_size, seed=seed, rank=r, world_size=world)) for r in range(world)]
    for number, batch in enumerate(whole):
        together = itertools.chain.from_iterable(zip(*(part[number] for part in parts), strict=True))
        assert list(together) == batch
    used = [index for batch in whole for index, _ in batch]
    assert len(set(used)) == len(used) == length // batch_size * batch_size
    assert set(used) <= set(range(length))


def test_order_changes_with_seed_epoch_and_mix():
    first = GlobalBatchSampler(50, 50, seed=0)
    orders = [[index for index, _ in next(iter(first))]]
    first.samples_used = 50
    orders.append([index for index, _ in next(iter(first))])
    for kwargs in ({"seed": 1}, {"seed": 0, "mix": 9}):
        orders.append([index for index, _ in next(iter(GlobalBatchSampler(50, 50, **kwargs)))])
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 6, 7, 13])
def test_resumes_where_it_was(workers, stop):
    expected = batches(loader(), epochs=3)
    stopped = loader(workers)
    stream = itertools.chain.from_iterable(itertools.repeat(stopped))
    seen = [batch.tolist() for batch in itertools.islice(stream, stop)]
    state = stopped.state_dict()
    assert state == {"samples_used": 8 * stop}  # what workers fetched ahead does not count
    resumed = loader(2 - workers)
    resumed.load_state_dict(state)
    rest = [
        batch.tolist()
        for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(resumed)), 18 - stop)
    ]
    assert seen + rest == expected


def test_resumes_on_another_number_of_ranks():
    whole = batches(loader())
    half = [loader(rank=rank, world_size=2) for rank in range(2)]
    for part in half:
        part.load_state_dict({"samples_used": 16})
    for number, (even, odd) in enumerate(zip(*map(batches, half), strict=True), start=2):
        assert [pair for both in zip(even, odd, strict=True) for pair in both] == whole[number]


@pytest.mark.parametrize(("length", "size", "world", "say"), [(50, 9, 2, "divide"), (5, 8, 1, "more than")])
def test_refuses_a_batch_that_cannot_be_cut(length, size, world, say):
    with pytest.raises(UserError, match=say):
        GlobalBatchSampler(length, size, seed=0, world_size=world)
