"""Recommenders that need no training, as every model must beat them: popularity and item-kNN. Arrays only."""

import numpy as np
import scipy.sparse as sp


class Popularity:
    """Everyone gets what most shoppers met. interactions: (shoppers, V) sparse counts."""

    def __init__(self, interactions: sp.csr_matrix):
        self.counts = np.asarray(interactions.sum(0)).ravel()

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """Histories of item numbers -> (N, V) float32."""
        return np.tile(self.counts.astype(np.float32), (len(histories), 1))


class ItemKNN:
    """Items met by the same shoppers as those of the history (Sarwar et al. 2001), cosine with a shrunk denominator.

    interactions: (shoppers, V) sparse counts; neighbours: most similar items kept an item; shrink damps chance pairs.
    """

    def __init__(self, interactions: sp.csr_matrix, neighbours: int = 100, shrink: float = 10.0):
        met = interactions.astype(np.float32)
        norms = np.sqrt(np.asarray(met.multiply(met).sum(0)).ravel())
        rows = []
        transposed = met.T.tocsr()
        for start in range(0, met.shape[1], 1024):  # a block of items at a time bounds the memory
            block = (transposed[start : start + 1024] @ met).tocsr()
            for i in range(block.shape[0]):
                row = block[i]
                value = row.data / (norms[start + i] * norms[row.indices] + shrink)
                value[row.indices == start + i] = 0
                keep = np.argsort(-value, kind="stable")[:neighbours]
                rows.append(sp.csr_matrix((value[keep], row.indices[keep], [0, len(keep)]), shape=(1, met.shape[1])))
        self.similarity = sp.vstack(rows).tocsr()

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """Histories of item numbers -> (N, V) float32."""
        return (incidence(histories, self.similarity.shape[0]) @ self.similarity).toarray()


def incidence(histories: list[np.ndarray], width: int) -> sp.csr_matrix:
    """Who met what: histories of item numbers -> (N, width) sparse float32."""
    ends = np.cumsum([0, *map(len, histories)])
    flat = np.concatenate(histories) if histories else np.zeros(0, int)
    matrix = sp.csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape=(len(histories), width))
    matrix.sum_duplicates()
    return matrix
