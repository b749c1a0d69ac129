"""Neural collaborative filtering, NeuMF (He et al., 2017): a product of factors beside a dense network over (shopper, item). Tensors
only. The shopper is the mean of the history, not a row of a table, so that new shoppers and new events need no training.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NeuMF(nn.Module):
    """Head: logit = w1 . (shopper * item) + w2 . relu(W relu(A shopper + B item)) + bias of the item.

    Args:
        items: numbers run from 1 to `items`. width: of shopper and item. hidden: units of the dense network.
    """

    tied = False
    dot = False

    def __init__(self, items: int, width: int, hidden: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(items + 1))
        self.hidden = hidden
        self.of_shopper = nn.Linear(width, hidden)
        self.of_item = nn.Linear(width, hidden, bias=False)
        self.deep = nn.Linear(hidden, hidden // 2)
        self.factors = nn.Parameter(torch.ones(width))
        self.out = nn.Linear(hidden // 2, 1, bias=False)

    def query(self, x: Tensor) -> Tensor:
        return torch.cat([x * self.factors, self.of_shopper(x)], -1)

    def vectors(self, table: Tensor) -> Tensor:
        return torch.cat([table, self.of_item(table)], -1)

    def scores(self, query: Tensor, vectors: Tensor, bias: Tensor, at_once: int | None = 16) -> Tensor:
        """Every query (N, D) against every item (K, D), (K,) -> logits (N, K).

        at_once: shoppers at a time, since the dense network makes (shoppers, items, hidden) numbers; None: all.
        """
        product = query[:, : -self.hidden] @ vectors[:, : -self.hidden].T
        shoppers = [query] if at_once is None else query.split(at_once)
        dense = [self.dense(s[:, None, -self.hidden :] + vectors[None, :, -self.hidden :]) for s in shoppers]
        return product + torch.cat(dense) + bias

    def pairs(self, query: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        product = (query[:, : -self.hidden] * vectors[:, : -self.hidden]).sum(-1)
        return product + self.dense(query[:, -self.hidden :] + vectors[:, -self.hidden :]) + bias

    def dense(self, mixed: Tensor) -> Tensor:
        """(..., hidden) -> (...)."""
        return self.out(F.relu(self.deep(F.relu(mixed)))).squeeze(-1)
