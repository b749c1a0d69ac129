"""Recommenders of linear algebra, which every network must beat: popularity, item-kNN, transitions, EASE. Each is a bias an item
and a few weighted neighbours an item, so all are scored, exported and served by one module. Tensors and arrays only.
"""

import math

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.table import Table

REACH = 50  # events between two that count as a transition, at most
BLOCK = 1024  # items at a time, which bounds the memory
MAX_EASE_ITEMS = 20_000  # the dense inverse takes 8 * items^2 bytes


class Neighbours(nn.Module):
    """score of item j = bias_j + sum over the history's items i of decay^(events after i) * weight_ij, j among i's neighbours.

    Args:
        items: (V, N) integers, neighbours of each item, padded with 0. weights: (V, N) float32. bias: (V,) float32.
        decay: 1 where all events count alike. form: of the weights (models.table.FORMS); codes of 4 bits are too coarse for them.
    """

    def __init__(self, items: Tensor, weights: Tensor, bias: Tensor, decay: float = 1.0, form: str = "fp32"):
        super().__init__()
        self.items = nn.Buffer(items.to(torch.int16 if len(bias) <= 1 << 15 else torch.int32))
        self.bias, self.decay = nn.Buffer(bias), nn.Buffer(torch.tensor(float(decay)))
        whole = form.endswith("fp32") or not weights.shape[1]
        self.weights = Table(weights, "fp32" if whole else {"int4": "int8"}.get(form, form))
        self.max_len = 200

    def stored(self, form: str, kept: float = 1.0) -> "Neighbours":
        """A copy with the share `kept` of each item's neighbours, the strongest, and the weights in this form."""
        count = math.ceil(self.items.shape[1] * kept)
        weights = self.weights.all()
        strongest = weights.abs().topk(count).indices
        return Neighbours(
            self.items.long().gather(1, strongest), weights.gather(1, strongest), self.bias, self.decay.item(), form
        )

    def evidence(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> (B, V) float, without the bias."""
        evidence = torch.zeros_like(self.bias).repeat(history.shape[0], 1)
        return evidence.scatter_add(1, *self.told(history)) if self.items.shape[1] else evidence

    def told(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """history (B, L) int64 -> its items' neighbours (B, L * N) int64, one of them perhaps several times, and what each is told, float."""
        position = torch.arange(history.shape[1], device=history.device)
        after = ((history > 0).sum(1, keepdim=True) - 1 - position).clamp(min=0)
        weights = self.weights.lookup(history) * (self.decay**after)[:, :, None]
        return tuple(part.reshape(history.shape[0], -1) for part in (F.embedding(history, self.items).long(), weights))

    def scores(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """history (B, L) int64 -> (B, V) float; padding scores -inf."""
        scores = self.bias + self.evidence(history)
        return scores.index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), -torch.inf)


class Memory(nn.Module):
    """What a network forgets: weight * ln(evidence + floor), to be added to its logits.

    A network says what shoppers like these tend to do; counts say what happened. The sum of logarithms is a product of experts
    (Hinton 2002), and the floor is what an item without any evidence gets.

    Args:
        evidence: which items followed which (`transitions`). weight: of the counts beside the network.
    """

    FLOOR = 1e-3

    def __init__(self, evidence: Neighbours, weight: float = 1.0):
        super().__init__()
        self.neighbours, self.weight = evidence, nn.Buffer(torch.tensor(float(weight)))

    def stored(self, form: str, kept: float = 1.0) -> "Memory":
        """A copy to be served, see Neighbours."""
        return Memory(self.neighbours.stored(form, kept), self.weight.item())

    def forward(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> (B, V) float."""
        return self.weight * torch.log(self.neighbours.evidence(history) + self.FLOOR)

    def silent(self) -> Tensor:
        """What every item gets of which there is no evidence."""
        return self.weight * math.log(self.FLOOR)

    def added(self, scores: Tensor, history: Tensor) -> Tensor:
        """scores + forward(history) - silent(), computed only where there is evidence, which is of few items: (B, V) float."""
        told, weights = self.neighbours.told(history)
        evidence = torch.zeros_like(scores).scatter_add(1, told, weights).gather(1, told)
        return scores.scatter(1, told, scores.gather(1, told) + self.above_silence(evidence))

    def above_silence(self, evidence: Tensor) -> Tensor:
        """evidence (...) -> (...) float, what it adds to silent()."""
        return self.weight * torch.log(evidence / self.FLOOR + 1)


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


def transitions(histories: list[np.ndarray], items: int, neighbours: int = 32) -> Neighbours:
    """Which items followed which, not only at once (Markov chains with skips, as in He & McAuley's Fossil, 2016).

    weight_ij = sum over the times that j came g events after i of 0.9^(g-1), divided by 5 + the same for all j; of a history the
    newest events count most (0.8 an event).

    histories: of item numbers, oldest first; items: V; neighbours: the strongest kept an item.
    """
    rows, columns, values = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    for gap in range(1, REACH + 1):
        pairs = [(h[:-gap], h[gap:]) for h in histories if len(h) > gap]
        rows += [before for before, _ in pairs]
        columns += [after for _, after in pairs]
        values += [np.full(sum(len(before) for before, _ in pairs), 0.9 ** (gap - 1))]
    counts = sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(items, items))
    share = sp.diags(1 / (np.asarray(counts.sum(1)).ravel() + 5)) @ counts
    made = _strongest(lambda start: share[start : start + BLOCK].toarray().astype(np.float32), items, neighbours)
    made.decay.fill_(0.8)
    return made


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
