"""Items that read alike: what is written of them, weighed by how rarely it is written. Sparse matrices only."""

from typing import TYPE_CHECKING

import numpy as np

from models.retrieval.item_to_item import as_matrix, strongest
from models.retrieval.sparse_item_model import SparseItemModel, from_rows

if TYPE_CHECKING:
    import scipy.sparse as sp

SATURATION, LENGTH = 1.2, 0.75  # k1 and b of BM25
LENDERS = 10  # known items that a new one takes after
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


def alike(model: SparseItemModel, known: np.ndarray) -> "sp.csr_matrix":
    """The known items that each new one reads like, as shares of 1: sparse (V, V) float32, whose rows of known items are empty.

    model: of content. known: (V,) bool, has anybody met the item?
    """
    import scipy.sparse as sp

    rows = sp.diags((~known).astype(np.float32)) @ as_matrix(model) @ sp.diags(known.astype(np.float32))
    nearest = as_matrix(from_rows([rows], len(known), LENDERS))
    return sp.diags(1 / np.maximum(np.asarray(nearest.sum(1)).ravel(), 1e-9)).astype(np.float32) @ nearest


def lent(model: SparseItemModel, near: "sp.csr_matrix") -> SparseItemModel:
    """A model of counts in which each new item stands as those that it reads like stand on average; near: as alike gives it (V, V)."""
    if not near.nnz:
        return model
    matrix = as_matrix(model)
    matrix = matrix + matrix @ near.T
    own = from_rows([matrix + near @ matrix], len(model.bias), model.items.shape[1])
    own.decay.copy_(model.decay)
    own.half_life.copy_(model.half_life)
    return own
