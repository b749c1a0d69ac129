"""Among what a shopper's messages are chosen where several are to be unlike: a short list of each shopper's items, by maximal marginal relevance (Carbonell and Goldstein, "The use of
MMR, diversity-based reranking for reordering documents and producing summaries", 1998).

In: offers as marketing/assignment.py takes them, what is known of items. Out: the offers of the items on the lists.
"""

from dataclasses import dataclass

import numba
import numpy as np

from marketing.assignment import Offers


@dataclass(frozen=True)
class Likeness:
    """What is known of I items. Two are as alike as the mean of: the same category or not, the same brand or not, the cosine of their vectors."""

    kinds: np.ndarray  # (I, K) int32: category, brand, ...: the same number where they are the same
    vectors: np.ndarray  # (I, W) float32 of length 1, or 0 of an item without one; W = 0: there are none


def short_lists(offers: Offers, alike: Likeness, diversity: float, most: int) -> np.ndarray:
    """(N,) bool: the offers of each shopper's items that come first by what they are worth and how unlike those before they are.

    The next on a list has the largest (1 - diversity) x worth - diversity x likeness: worth as a share of what the shopper's best offer is worth, likeness to whichever on the list it is most like.

    Args:
        diversity: 0 (what is worth most) to 1 (what is least alike). most: items on a list.
    """
    kept = np.zeros(len(offers.value), np.bool_)
    _listed(offers.starts, offers.value, offers.item, alike.kinds, alike.vectors, diversity, most, kept)
    return kept


@numba.njit(parallel=True)
def _listed(starts, value, item, kinds, vectors, diversity, most, kept):
    parts = kinds.shape[1] + (vectors.shape[1] > 0)
    for shopper in numba.prange(len(starts) - 1):
        first, last = starts[shopper], starts[shopper + 1]
        worth, nearest = value[first:last].astype(np.float64), np.zeros(last - first)
        top = max(worth.max(), 1e-9) if last > first else 1.0
        for _ in range(most):
            chosen, best = -1, -np.inf
            for place in range(last - first):
                found = (1 - diversity) * worth[place] / top - diversity * nearest[place]
                if worth[place] > 0 and not kept[first + place] and found > best:
                    chosen, best = place, found
            if chosen < 0:
                break
            one = item[first + chosen]
            for place in range(last - first):
                other = item[first + place]
                if other == one:
                    kept[first + place] = True
                elif not kept[first + place]:
                    same = 0.0
                    for kind in range(kinds.shape[1]):
                        same += kinds[one, kind] == kinds[other, kind]
                    for width in range(vectors.shape[1]):
                        same += vectors[one, width] * vectors[other, width]
                    nearest[place] = max(nearest[place], same / parts)
