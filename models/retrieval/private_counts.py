"""What counts tell of a shop without telling of anybody: sums over shoppers, to which each adds a vector of bounded length, with noise. NumPy alone.

The Gaussian mechanism (Dwork & Roth 2014, A.1) on sums of vectors whose L2 norm is clipped: with one shopper more or less a sum changes by at most BOUND, and gets normal noise of `noise` times that in
every cell, also in cells that nobody filled. What is made of it afterwards tells no more.
"""

import numpy as np

from models.retrieval.sparse_item_model import SparseItemModel, from_rows
from models.sequences import Ragged

NEWEST = 20  # events of a history that count, at most
REACH, FADING = 5, 0.5  # events between two that count as a transition, and by how much each counts less
BOUND = 2.0  # the L2 norm of what one shopper adds, at most
STRENGTH = 5.0  # of noise: by how many standard deviations shares of transitions are shrunk
DECAY = 0.4  # of events of a history, by how many came after
LARGEST = 10_000  # items up to which all pairs have room


def noised_popularity(histories: Ragged, items: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(items,) float, how many shoppers met each item, each shopper's met items clipped to BOUND; under 0 where noise took more than there was.

    histories: of item numbers, oldest first, each once. items: V, with padding. noise: standard deviations over BOUND.
    """
    flat, lengths = _newest(histories)
    weight = np.repeat(np.minimum(1.0, BOUND / np.sqrt(np.maximum(lengths, 1))), lengths)
    return np.bincount(flat, weight, items) + rng.normal(0.0, noise * BOUND, items)


def noised_transitions(
    histories: Ragged, items: int, noise: float, rng: np.random.Generator, neighbours: int = 100
) -> tuple[SparseItemModel, SparseItemModel]:
    """What followed what, as shares of all that followed; and what came before what, of the same noised counts. See noised_pairs."""
    counts = noised_pairs(histories, items, noise, rng)
    counts[0], counts[:, 0] = 0.0, 0.0
    np.fill_diagonal(counts, 0.0)
    counts = np.maximum(counts, 0.0)
    forward, back = (_shares(way, STRENGTH * max(noise * BOUND, 1.0), neighbours) for way in (counts, counts.T))
    return forward, back


def noised_pairs(histories: Ragged, items: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(items, items) float: how often an item followed another, up to REACH events later; see noised_popularity.

    Raises:
        ValueError: more items than all pairs have room for.
    """
    if items > LARGEST:
        raise ValueError(f"noise on all pairs of items has no room; {items:,} items are too many (at most {LARGEST:,})")
    flat, lengths = _newest(histories)
    squares = sum(FADING ** (2 * gap - 2) * np.maximum(lengths - gap, 0) for gap in range(1, REACH + 1))
    weight = np.repeat(np.minimum(1.0, BOUND / np.sqrt(np.maximum(squares, 1e-9))), lengths)
    left = np.repeat(lengths.cumsum(), lengths) - np.arange(len(flat))  # events to the end of the history, this one too
    counts = np.zeros(items * items)
    for gap in range(1, REACH + 1):
        at = np.flatnonzero(left > gap)
        counts += np.bincount(flat[at] * items + flat[at + gap], FADING ** (gap - 1) * weight[at], items * items)
    return counts.reshape(items, items) + rng.normal(0.0, noise * BOUND, (items, items))


def _shares(counts: np.ndarray, shrink: float, neighbours: int) -> SparseItemModel:
    import scipy.sparse as sp

    shares = counts / (counts.sum(1, keepdims=True) + shrink)
    model = from_rows([sp.csr_matrix(shares.astype(np.float32))], len(counts), neighbours)
    model.decay.fill_(DECAY)
    return model


def _newest(histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """The newest events of each history, one after the other, and how many each has."""
    start = np.maximum(histories.start, histories.end - NEWEST)
    short = Ragged(histories.values, start, histories.end)
    return short.flat().astype(np.int64), short.lengths
