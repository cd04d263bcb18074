import pytest

from common.errors import UserError
from training.batches import DeterministicBatchSampler


def batches(length=10, batch_size=4, seed=1, start=0, stop=9, rank=0, world_size=1, flip=False):
    return list(DeterministicBatchSampler(length, batch_size, seed, start, stop, rank, world_size, flip))


@pytest.mark.parametrize("flip", [False, True])
def test_resumed_batches_are_those_of_an_uninterrupted_run(flip):
    assert batches(start=5, flip=flip) == batches(flip=flip)[5:]


def test_every_epoch_uses_each_item_once_in_another_order():
    indices = [index for batch in batches(stop=10) for index in batch]
    epochs = [indices[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = batches(length=3, batch_size=7, stop=1)
    assert sorted(batch[:6]) == [0, 0, 1, 1, 2, 2]


def test_the_order_depends_on_the_seed():
    assert batches(seed=1) != batches(seed=2)


def test_half_of_the_items_are_flipped_and_the_order_stays():
    keys = [key for batch in batches(length=20, batch_size=8, stop=40, flip=True) for key in batch]
    assert [index for index, _ in keys] == [i for batch in batches(length=20, batch_size=8, stop=40) for i in batch]
    assert 0.4 < sum(flipped for _, flipped in keys) / len(keys) < 0.6


@pytest.mark.parametrize("flip", [False, True])
def test_processes_divide_the_global_batch(flip):
    ranks = [batches(rank=rank, world_size=2, flip=flip) for rank in (0, 1)]
    assert all(len(batch) == 2 for batch in ranks[0])
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in batches(flip=flip)]


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(UserError, match="3 is not a multiple of the 2 processes: set it to 4"):
        batches(batch_size=3, world_size=2)


def test_the_length_is_the_number_of_steps_left():
    assert len(DeterministicBatchSampler(10, 4, 1, 5, 9)) == 4
