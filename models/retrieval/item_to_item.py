"""Item-to-item models that count, which every network must beat: item-kNN, transitions and EASE. Sparse matrices only."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.retrieval.sparse_item_model import SparseItemModel, from_rows
from models.sequences import Ragged

if TYPE_CHECKING:
    import scipy.sparse as sp

REACH = 50  # events between two that count as a transition, at most
BLOCK = 1 << 22  # pairs of events or products that stand in memory at a time
MAX_EASE_ITEMS = 20_000  # the dense inverse takes 8 * items^2 bytes


def item_knn(met: "sp.csr_matrix", neighbours: int = 100, shrink: float = 10.0) -> SparseItemModel:
    """Recommends items met by the same shoppers as those of the history (Sarwar et al. 2001): cosine with a shrunk denominator.

    Its cost grows with the pairs of items that shoppers met together, not with the square of the catalogue.

    met: (shoppers, V) sparse counts; neighbours: most similar items kept an item; shrink damps chance pairs.
    """
    met = met.astype(np.float32)
    norms = np.sqrt(np.asarray(met.multiply(met).sum(0)).ravel())
    transposed = met.T.tocsr()
    work = np.asarray(transposed @ np.diff(met.indptr)).ravel()  # pairs that each item's row is made of

    def blocks() -> Iterator["sp.csr_matrix"]:
        for start, end in _cuts(work):
            together = (transposed[start:end] @ met).tocoo()
            together.data /= norms[together.row + start] * norms[together.col] + shrink
            yield together.tocsr()

    return from_rows(blocks(), met.shape[1], neighbours)


def transitions(histories: Ragged | list[np.ndarray], items: int, neighbours: int = 32) -> SparseItemModel:
    """Recommends what followed the newest items of the history (Markov chains with skips, as in He & McAuley's Fossil, 2016).

    weight_ij = sum over the times that j came g events after i of 0.9^(g-1), divided by 5 + the same for all j; the events of a
    history count 0.8^(events after them).

    histories: of item numbers, oldest first; items: V; neighbours: the strongest kept an item.
    """
    import scipy.sparse as sp

    histories = Ragged.of(histories)
    flat, ends = histories.flat(), np.repeat(histories.lengths.cumsum(), histories.lengths)
    by_item = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[by_item], np.arange(items + 1))
    work = np.bincount(flat, np.minimum(ends - np.arange(len(flat)), REACH), items)

    def blocks() -> Iterator["sp.csr_matrix"]:
        for start, end in _cuts(work):
            places = by_item[first[start] : first[end]]
            rows, columns, values = [], [], []
            for gap in range(1, REACH + 1):
                places = places[places + gap < ends[places]]
                if not len(places):
                    break
                rows.append(flat[places] - start)
                columns.append(flat[places + gap])
                values.append(np.full(len(places), 0.9 ** (gap - 1)))
            if not rows:
                yield sp.csr_matrix((end - start, items))
                continue
            pairs = (np.concatenate(rows), np.concatenate(columns))
            counts = sp.csr_matrix((np.concatenate(values), pairs), shape=(end - start, items))
            yield sp.diags(1 / (np.asarray(counts.sum(1)).ravel() + 5)) @ counts

    model = from_rows(blocks(), items, neighbours)
    model.decay.fill_(0.8)
    return model


def two_hops(one: SparseItemModel, neighbours: int = 100) -> SparseItemModel:
    """Recommends what stands two steps away: the neighbours of neighbours by a model of one step, whose decay holds."""
    matrix = as_matrix(one)
    return strongest(matrix, matrix, neighbours, one.decay.item())


def strongest(left: "sp.csr_matrix", right: "sp.csr_matrix", neighbours: int, decay: float) -> SparseItemModel:
    """The strongest neighbours of each item by the product of two sparse float32 matrices (V, T) and (T, V), which is never whole in memory."""
    from sparse_dot_topn import sp_matmul_topn

    most = min(neighbours + 1, left.shape[0])  # an item is its own neighbour here, and is left out next
    product = sp_matmul_topn(left.tocsr(), right.tocsr(), top_n=most, sort=True, n_threads=torch.get_num_threads())
    model = from_rows([product.tocsr()], left.shape[0], neighbours)
    model.decay.fill_(decay)
    return model


def as_matrix(model: SparseItemModel) -> "sp.csr_matrix":
    """The weights of a model as a sparse (V, V) float32 matrix."""
    import scipy.sparse as sp

    items, weights = model.items.numpy(), model.weights.numpy()
    kept = weights != 0
    return sp.csr_matrix((weights[kept], (np.nonzero(kept)[0], items[kept])), shape=(len(items), len(items)))


def ease(met: "sp.csr_matrix", neighbours: int = 200, regularisation: float = 500.0) -> SparseItemModel:
    """Predicts each item from all others by ridge regression, in closed form (Steck, "Embarrassingly Shallow Autoencoders", 2019).

    B = I - P / diag(P), P = (X'X + regularisation I)^-1; of each row the `neighbours` weights of largest size are kept.

    Raises:
        ValueError: more items than a dense inverse has room for.
    """
    import scipy.sparse as sp

    items = met.shape[1]
    if items > MAX_EASE_ITEMS:
        raise ValueError(
            f"ease inverts an items x items matrix; {items:,} items are too many (at most {MAX_EASE_ITEMS:,}), use item_knn"
        )
    gram = torch.from_numpy((met.T @ met).astype(np.float32).toarray())
    gram.diagonal().add_(regularisation)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = (-inverse / inverse.diagonal()).numpy()
    rows = max(1, BLOCK // items)
    return from_rows((sp.csr_matrix(weights[start : start + rows]) for start in range(0, items, rows)), items, neighbours)


def incidence(histories: Ragged | list[np.ndarray], width: int) -> "sp.csr_matrix":
    """Who met what: histories of item numbers -> (N, width) sparse float32."""
    import scipy.sparse as sp

    histories = Ragged.of(histories)
    flat, ends = histories.flat(), np.append(0, histories.lengths.cumsum())
    matrix = sp.csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape=(len(histories), width))
    matrix.sum_duplicates()
    return matrix


def _cuts(work: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows [start, end) in order, each range of about BLOCK work or a single row; work (V,)."""
    total, start = np.cumsum(work), 0
    while start < len(work):
        before = total[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(total, before + BLOCK, side="right")))
        yield start, end
        start = end
