"""What networks are fed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.batches import ByLength, Histories, ImpressionData
from models.sequences import Impressions, Sequences


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 16), st.integers(0, 5))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int], size: int, epoch: int):
    sampler = ByLength(np.array(lengths), size, seed=3)
    sampler.set_epoch(epoch)
    batches = [batch.tolist() for batch in sampler]
    assert sorted(r for b in batches for r in b) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    # The same epoch, the same order: a resumed run sees what the killed one would have.
    assert batches == [batch.tolist() for batch in sampler]


def pad(histories: list[np.ndarray]) -> list[list[int]]:
    """Row by row, as anybody would."""
    longest = max([1, *map(len, histories)])
    return [[*h.tolist(), *[0] * (longest - len(h))] for h in histories]


HISTORIES = st.lists(st.integers(0, 9), min_size=1, max_size=30)


@given(HISTORIES, st.integers(1, 12), st.integers(0, 99), st.booleans())
def test_gathered_batches_are_what_padding_row_by_row_gives(lengths: list[int], max_len: int, seed: int, held_out: bool):
    rng = np.random.default_rng(seed)
    items, times, actions, platforms = ([rng.integers(1, 99, n + held_out) for n in lengths] for _ in range(4))
    part = Sequences(items, times, None, actions, platforms)
    if held_out:
        start, end = part.items.start, part.items.end - 1
        part = part.within(start, end, targets=part.items.last(), platform=part.platforms.last())
    data = Histories(part, max_len)
    kept = [i for i, n in enumerate(lengths) if held_out or n > 1]
    assert data.lengths.tolist() == [min(lengths[i] - (not held_out), max_len) for i in kept]
    for rows in ByLength(data.lengths, 4, seed):
        shoppers, target, *seen = data[rows]
        chosen = [kept[r] for r in rows]
        for column, name in ((items, "history"), (times, "times"), (actions, "actions")):
            assert getattr(shoppers, name).tolist() == pad([column[i][:-1][-max_len:] for i in chosen])
        assert shoppers.platform.tolist() == [platforms[i][-1] for i in chosen]
        if held_out:
            assert target.tolist() == [items[i][-1] for i in chosen]
            assert seen[0].tolist() == pad([items[i][:-1] for i in chosen])
        else:
            assert target.tolist() == pad([items[i][1:][-max_len:] for i in chosen])


@given(HISTORIES, st.integers(1, 12), st.integers(0, 99))
def test_gathered_impressions_are_those_of_the_shoppers(lengths: list[int], max_len: int, seed: int):
    rng = np.random.default_rng(seed)
    items = [rng.integers(1, 99, n) for n in lengths]
    users = np.sort(rng.integers(0, len(lengths), 40))
    position = np.array([rng.integers(0, lengths[u] + 1) for u in users])
    shown = Impressions(users, position, rng.integers(1, 99, 40), rng.integers(0, 4, 40), rng.random((40, 3)).astype(np.float32))
    data = ImpressionData(Sequences(items, items), shown, max_len)
    for rows in ByLength(data.lengths, 4, seed):
        _, _, wanted, labels = data[rows]
        found = zip(*(column.tolist() for column in (wanted.row, wanted.at, wanted.item, wanted.platform, labels)), strict=True)
        expected = []
        for i, user in enumerate(data.kept[rows]):
            own = shown.rows(np.flatnonzero(users == user))
            at = own.position - max(lengths[user] - max_len, 0)
            expected += [
                (i, a, *rest) for a, *rest in zip(at, own.item, own.platform, own.labels.tolist(), strict=True) if a >= 0
            ]
        assert list(found) == expected


def test_training_windows_predict_the_next_item():
    shoppers, target = Histories(Sequences([np.array([1, 2, 3, 4, 5])], [np.arange(5) * 10]), max_len=3)[[0]]
    assert shoppers.history.tolist() == [[2, 3, 4]]
    assert shoppers.times.tolist() == [[10, 20, 30]]
    assert target.tolist() == [[3, 4, 5]]
