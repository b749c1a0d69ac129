"""Short lists hold what maximal marginal relevance takes, told item by item."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marketing.assignment import Offers
from marketing.diversity import Likeness, short_lists


def reference(value: np.ndarray, item: np.ndarray, likeness: np.ndarray, diversity: float, most: int) -> set[int]:
    worth = {i: value[item == i].max() for i in item if value[item == i].max() > 0}
    top, chosen = max(worth.values(), default=1.0), []
    while len(chosen) < most and len(worth) > len(chosen):
        left = [i for i in worth if i not in chosen]
        chosen.append(
            max(
                left,
                key=lambda i: (1 - diversity) * worth[i] / top - diversity * max((likeness[i, j] for j in chosen), default=0.0),
            )
        )
    return set(chosen)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7, 0.9]), st.integers(1, 4), st.sampled_from([0, 5]))
def test_lists_are_those_of_the_formula(seed: int, diversity: float, most: int, width: int):
    rng = np.random.default_rng(seed)
    sizes, items = rng.integers(0, 9, 6), 7
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    value = rng.normal(0.5, 0.5, starts[-1]).astype(np.float32)
    item = rng.integers(0, items, starts[-1]).astype(np.int32)
    kinds, vectors = rng.integers(0, 3, (items, 2)).astype(np.int32), rng.normal(size=(items, width)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    same = (kinds[:, None] == kinds[None]).sum(2)
    likeness = np.maximum((same + vectors @ vectors.T) / (2 + (width > 0)), 0)
    kept = short_lists(Offers(starts, value, item, np.zeros(len(item), np.int8)), Likeness(kinds, vectors), diversity, most)
    for first, last in pairwise(starts):
        wanted = reference(value[first:last], item[first:last], likeness, diversity, most)
        assert set(item[first:last][kept[first:last]]) == wanted
