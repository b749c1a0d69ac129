"""The form that all models of counts share: a bias an item and the strongest neighbours of each item. Tensors and sparse matrices only.

All of them are therefore scored, exported, compressed and served by the same code.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    import scipy.sparse as sp


class SparseItemModel(nn.Module):
    """score of item j = bias_j + sum over the history's items i of w_i * weight_ij, for j among i's neighbours, with
    w_i = decay^(events after i) * 2^(-(time since i, at the newest event) / half_life).

    Args:
        items: (V, N) integers, neighbours of each item, padded with 0. weights: (V, N) float32. bias: (V,) float32.
        decay: 1 where all events count alike. half_life: seconds; infinite where time says nothing.
    """

    def __init__(self, items: Tensor, weights: Tensor, bias: Tensor, decay: float = 1.0, half_life: float = math.inf):
        super().__init__()
        self.items = nn.Buffer(items.to(torch.int16 if len(bias) <= 1 << 15 else torch.int32))
        self.weights = nn.Buffer(weights)
        self.bias, self.decay = nn.Buffer(bias), nn.Buffer(torch.tensor(float(decay)))
        self.half_life = nn.Buffer(torch.tensor(float(half_life)))
        self.max_len = 200

    def strongest(self, share: float) -> tuple[Tensor, Tensor]:
        """The share of each item's neighbours with the largest weights: numbers (V, N') int64 and weights (V, N') float32."""
        order = self.weights.abs().topk(math.ceil(self.items.shape[1] * share)).indices
        return self.items.long().gather(1, order), self.weights.gather(1, order)

    def lookup(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> weights of each event's neighbours (B, L, N) float."""
        return F.embedding(history, self.weights)

    def event_weights(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """history, times (B, L) int64 -> what each event counts (B, L) float, 0 of padding."""
        position = torch.arange(history.shape[1], device=history.device)
        after = ((history > 0).sum(1, keepdim=True) - 1 - position).clamp(min=0)
        weights = self.decay**after * (history > 0)
        if times is not None and self.timed:
            since = times.masked_fill(history == 0, 0).amax(1, keepdim=True) - times
            weights = weights * torch.exp2(-since.clamp(min=0) / self.half_life)
        return weights

    @property
    def timed(self) -> bool:
        """Does the time since an event count?"""
        return math.isfinite(float(self.half_life))

    def neighbours_of(self, history: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """history, times (B, L) int64 -> neighbours of its items (B, L * N) int64, possibly repeated, and the evidence for each, float."""
        weights = self.lookup(history) * self.event_weights(history, times)[:, :, None]
        return tuple(part.reshape(history.shape[0], -1) for part in (F.embedding(history, self.items).long(), weights))

    def evidence(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """history, times (B, L) int64 -> (B, V) float, without the bias."""
        evidence = torch.zeros_like(self.bias).repeat(history.shape[0], 1)
        return evidence.scatter_add(1, *self.neighbours_of(history, times)) if self.items.shape[1] else evidence

    def scores(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """history (B, L) int64 -> (B, V) float; padding scores -inf."""
        scores = self.bias + self.evidence(history, times)
        return scores.index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), -torch.inf)


def from_rows(blocks: Iterable["sp.csr_matrix"], items: int, neighbours: int) -> SparseItemModel:
    """Keeps of every row of a sparse (V, V) matrix the `neighbours` weights of largest size, without the diagonal and padding.

    blocks: consecutive rows of the matrix, a block at a time, so that no more than one stands in memory. items: V.
    """
    numbers = np.zeros((items, min(neighbours, items - 1)), np.int64)
    weights = np.zeros(numbers.shape, np.float32)
    start = 0
    for block in blocks:
        block = block.tocsr()
        block.sort_indices()
        block = block.tocoo()
        row, column, value = block.row.astype(np.int64) + start, block.col, block.data.astype(np.float32)
        kept = (row != column) & (row != 0) & (column != 0) & (value != 0)
        row, column, value = row[kept], column[kept], value[kept]
        # By row, then by size, the largest first; of equal ones in the order of columns. Bits of positive floats are ordered as these are.
        order = np.argsort((row << 32) - np.abs(value).view(np.int32), kind="stable")
        row, column, value = row[order], column[order], value[order]
        first = np.searchsorted(row, np.arange(start, start + block.shape[0]))
        place = np.arange(len(row)) - first[row - start]
        kept = place < numbers.shape[1]
        numbers[row[kept], place[kept]], weights[row[kept], place[kept]] = column[kept], value[kept]
        start += block.shape[0]
    return SparseItemModel(torch.from_numpy(numbers), torch.from_numpy(weights), torch.zeros(items))
