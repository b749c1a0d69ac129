"""Recommenders of linear algebra, which every network must beat: popularity, item-kNN, EASE. Each is a bias an item and a few
weighted neighbours an item, so all three are scored, exported and served by one module. Tensors and arrays only.
"""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

BLOCK = 1024  # items at a time, which bounds the memory
MAX_EASE_ITEMS = 20_000  # the dense inverse takes 8 * items^2 bytes


class Neighbours(nn.Module):
    """score of item j = bias_j + sum over the history's items i of weight_ij, where j is among i's neighbours.

    Args:
        items: (V, N) int64, neighbours of each item, padded with 0. weights: (V, N) float32. bias: (V,) float32.
    """

    def __init__(self, items: Tensor, weights: Tensor, bias: Tensor):
        super().__init__()
        self.items, self.weights, self.bias = nn.Buffer(items), nn.Buffer(weights), nn.Buffer(bias)
        self.max_len = 1000

    def scores(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """history (B, L) int64 -> (B, V) float; padding scores -inf."""
        scores = self.bias.repeat(history.shape[0], 1)
        if self.items.shape[1]:
            scores = scores.scatter_add(1, self.items[history].flatten(1), self.weights[history].flatten(1))
        return scores.index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), -torch.inf)


def popularity(weight: np.ndarray) -> Neighbours:
    """Everyone gets the items of largest weight (V,): how many shoppers met them, or that with recent ones weighing more."""
    none = torch.zeros(len(weight), 0)
    return Neighbours(none.long(), none, torch.from_numpy(weight.astype(np.float32)))


def item_knn(met: sp.csr_matrix, neighbours: int = 100, shrink: float = 10.0) -> Neighbours:
    """Items met by the same shoppers as those of the history (Sarwar et al. 2001), cosine with a shrunk denominator.

    met: (shoppers, V) sparse counts; neighbours: most similar items kept an item; shrink damps chance pairs.
    """
    met = met.astype(np.float32)
    norms = np.sqrt(np.asarray(met.multiply(met).sum(0)).ravel())
    transposed = met.T.tocsr()

    def block(start: int) -> np.ndarray:
        together = (transposed[start : start + BLOCK] @ met).toarray()
        return together / (norms[start : start + BLOCK, None] * norms + shrink)

    return _strongest(block, met.shape[1], neighbours)


def ease(met: sp.csr_matrix, neighbours: int = 200, regularisation: float = 500.0) -> Neighbours:
    """Each item from all others by ridge regression, in closed form (Steck, "Embarrassingly Shallow Autoencoders", 2019).

    B = I - P / diag(P), P = (X'X + regularisation I)^-1; of each row the `neighbours` weights of largest size are kept.

    Raises:
        ValueError: more items than a dense inverse has room for.
    """
    items = met.shape[1]
    if items > MAX_EASE_ITEMS:
        raise ValueError(
            f"ease inverts an items x items matrix; {items:,} items are too many (at most {MAX_EASE_ITEMS:,}), use item_knn"
        )
    gram = torch.from_numpy((met.T @ met).astype(np.float32).toarray())
    gram.diagonal().add_(regularisation)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = (-inverse / inverse.diagonal()).numpy()
    return _strongest(lambda start: weights[start : start + BLOCK], items, neighbours)


def incidence(histories: list[np.ndarray], width: int) -> sp.csr_matrix:
    """Who met what: histories of item numbers -> (N, width) sparse float32."""
    ends = np.cumsum([0, *map(len, histories)])
    flat = np.concatenate(histories) if histories else np.zeros(0, int)
    matrix = sp.csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape=(len(histories), width))
    matrix.sum_duplicates()
    return matrix


def _strongest(block, items: int, neighbours: int) -> Neighbours:
    """Keeps of every row of an items x items matrix, given a block of rows at a time, the weights of largest size."""
    numbers, weights = [], []
    for start in range(0, items, BLOCK):
        rows = torch.from_numpy(np.array(block(start)))
        at = torch.arange(len(rows))
        rows[at, at + start] = 0
        rows[:, 0] = 0
        rows[at + start == 0] = 0
        chosen = rows.abs().topk(min(neighbours, items - 1)).indices
        numbers.append(chosen)
        weights.append(rows.gather(1, chosen))
    numbers, weights = torch.cat(numbers), torch.cat(weights)
    return Neighbours(numbers.masked_fill(weights == 0, 0), weights, torch.zeros(items))
