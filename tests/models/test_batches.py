"""What networks are fed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.batches import ByLength, Histories, Sequences


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 16), st.integers(0, 5))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int], size: int, epoch: int):
    sampler = ByLength(np.array(lengths), size, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(r for b in batches for r in b) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert batches == list(sampler)  # the same epoch, the same order: a resumed run sees what the killed one would have


def test_training_windows_predict_the_next_item():
    shoppers, target = Histories(Sequences([np.array([1, 2, 3, 4, 5])], [np.arange(5) * 10]), max_len=3)[[0]]
    assert shoppers.history.tolist() == [[2, 3, 4]]
    assert shoppers.times.tolist() == [[10, 20, 30]]
    assert target.tolist() == [[3, 4, 5]]
