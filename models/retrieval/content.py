"""Items that are alike: by the words written of them, weighed by how rarely they are written; or by vectors of what they read, look or sound like. Matrices only."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.retrieval.item_to_item import as_matrix, strongest
from models.retrieval.neighbours import nearest
from models.retrieval.sparse_item_model import SparseItemModel, from_rows

if TYPE_CHECKING:
    import scipy.sparse as sp

SATURATION, LENGTH = 1.2, 0.75  # k1 and b of BM25
LENDERS = 10  # known items that a new one takes after
AT_ONCE = 2048  # items for which lenders stand in together: what they say of all is larger than memory
COMMON = 0.1  # share of the described items from which a word tells nothing apart


def content(terms: "sp.csr_matrix", neighbours: int = 300) -> SparseItemModel:
    """Recommends what is described as the newest items of the history are: cosine of BM25 weights (Robertson & Zaragoza 2009).

    terms: (V, T) counts of words in what is written of each item; neighbours: the most alike kept an item.
    """
    import scipy.sparse as sp

    terms = terms.astype(np.float32).tocoo()
    described = max(1, len(np.unique(terms.row)))
    found = np.bincount(terms.col, minlength=terms.shape[1])
    rarity = np.log1p((described - found + 0.5) / (found + 0.5)).astype(np.float32)
    length = np.bincount(terms.row, terms.data, terms.shape[0])
    usual = length.sum() / described
    saturated = (
        terms.data * (SATURATION + 1) / (terms.data + SATURATION * (1 - LENGTH + LENGTH * length[terms.row] / max(usual, 1)))
    )
    telling = found[terms.col] <= max(2, COMMON * described)
    entries = (saturated * rarity[terms.col])[telling].astype(np.float32), (terms.row[telling], terms.col[telling])
    weighed = sp.csr_matrix(entries, shape=terms.shape)
    norms = np.sqrt(np.asarray(weighed.multiply(weighed).sum(1)).ravel())
    weighed = sp.diags(1 / np.maximum(norms, 1e-9)).astype(np.float32) @ weighed
    return strongest(weighed.tocsr(), weighed.T.tocsr(), neighbours, decay=0.6)


def embedded(vectors: np.ndarray, neighbours: int = 300) -> SparseItemModel:
    """Recommends what is like the newest items of the history by the cosine of their vectors, as telling leaves them.

    vectors: (V, D) of any length, zeros where nothing is known; neighbours: the most alike kept an item.
    """
    known = vectors.any(1)
    numbers, cosines = nearest(telling(vectors), min(neighbours, len(vectors) - 1), known)
    cosines[~known] = 0
    numbers, cosines = np.where(cosines > 0, numbers, 0), cosines.clip(min=0)
    return SparseItemModel(torch.from_numpy(numbers), torch.from_numpy(cosines), torch.zeros(len(vectors)), decay=0.6)


def telling(vectors: np.ndarray) -> np.ndarray:
    """Vectors (V, D) without their mean and without the direction in which they differ most (Mu & Viswanath, "All-but-the-Top", 2018): of texts that is the
    language, which would keep a Chinese title away from the English one that says the same. float32; zeros stay zeros.
    """
    known, vectors = vectors.any(1), vectors.astype(np.float32)
    if known.sum() < 2:
        return vectors
    centred = vectors[known] - vectors[known].mean(0)
    first = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    vectors[known] = centred - np.outer(centred @ first, first)
    return vectors


def alike(models: Collection[SparseItemModel], known: np.ndarray) -> "sp.csr_matrix":
    """The known items that each new one is like, as shares of 1: sparse (V, V) float32, whose rows of known items are empty.

    models: of content and embedded; an item takes after those that the first of them names which names any. known: (V,) bool, has anybody met the item?
    """
    import scipy.sparse as sp

    total, placed = sp.csr_matrix((len(known), len(known)), dtype=np.float32), known
    for model in models:
        rows = sp.diags((~placed).astype(np.float32)) @ as_matrix(model) @ sp.diags(known.astype(np.float32))
        total = total + as_matrix(from_rows([rows], len(known), LENDERS))
        placed = known | (total.getnnz(1) > 0)
    return sp.diags(1 / np.maximum(np.asarray(total.sum(1)).ravel(), 1e-9)).astype(np.float32) @ total


def lent(model: SparseItemModel, near: "sp.csr_matrix") -> SparseItemModel:
    """A model of counts in which each new item stands as those that it reads like stand on average; near: as alike gives it (V, V)."""
    if not near.nnz:
        return model
    matrix, to_new = as_matrix(model), near.T.tocsr()

    def stands_for(rows: slice) -> "sp.csr_matrix":
        lending = matrix[rows] + near[rows] @ matrix
        return lending + lending @ to_new

    starts = range(0, len(model.bias), AT_ONCE)
    own = from_rows((stands_for(slice(start, start + AT_ONCE)) for start in starts), len(model.bias), model.items.shape[1])
    own.decay.copy_(model.decay)
    own.half_life.copy_(model.half_life)
    return own
