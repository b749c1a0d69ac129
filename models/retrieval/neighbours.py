"""The nearest of many vectors by cosine: of all pairs, or, of larger catalogues, through inverted lists. Arrays only."""

import numpy as np
import torch

EXACT = 20_000  # vectors up to which all pairs are compared
PROBES, PER_LIST = 16, 64  # lists looked through of an inverted file, and vectors a list, for more


def nearest(vectors: np.ndarray, k: int, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each vector but itself, best first: numbers (V, k) int64 and cosines (V, k) float32; of what is not found 0 and 0.

    vectors: (V, D) float32, of any length. among: (V,) bool, which of them may be found.
    """
    vectors = torch.nn.functional.normalize(torch.from_numpy(np.ascontiguousarray(vectors, np.float32)), dim=1)
    if len(vectors) > EXACT:
        return _by_lists(vectors.numpy(), k, among)
    closed, numbers, cosines = torch.from_numpy(~among), [], []
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024] @ vectors.T
        block[:, closed] = -torch.inf
        rows = torch.arange(len(block))
        block[rows, rows + start] = -torch.inf
        top = block.topk(k)
        found = top.values > -torch.inf
        numbers.append(top.indices.where(found, 0).numpy())
        cosines.append(top.values.where(found, 0.0).numpy())
    return np.concatenate(numbers), np.concatenate(cosines)


def _by_lists(vectors: np.ndarray, k: int, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See nearest: vectors of length 1."""
    import faiss

    chosen = np.flatnonzero(among)
    lists = max(1, len(chosen) // PER_LIST)
    index = faiss.index_factory(vectors.shape[1], f"IVF{min(lists, 65536)},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = PER_LIST
    index.train(vectors[chosen])
    index.add_with_ids(vectors[chosen], chosen)
    index.nprobe = PROBES
    cosines, numbers = index.search(vectors, k + 1)
    cosines[(numbers == np.arange(len(vectors))[:, None]) | (numbers < 0)] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    cosines, numbers = np.take_along_axis(cosines, order, 1), np.take_along_axis(numbers, order, 1)
    found = np.isfinite(cosines)
    return np.where(found, numbers, 0), np.where(found, cosines, 0)
