"""What networks know of items: an embedding each, and what is said of them. Tensors only. Item number 0 is padding."""

import torch
from torch import Tensor, nn


class ItemTable(nn.Module):
    """An item's own embedding plus the mean of the embeddings of what is known of it.

    Args:
        items: in the vocabulary, numbered from 1. width: D.
        attributes: (items + 1, M) int64, what is known of each item (category, brand, words, ...) as numbers from 1, padded
            with 0. None: nothing is known.
        id_dropout: share of the items that, at each step of training, are known by their attributes alone, so that items without
            a history learn to stand where they should (Volkovs et al., "DropoutNet", 2017).
    """

    def __init__(self, items: int, width: int, attributes: Tensor | None, id_dropout: float = 0.0):
        super().__init__()
        self.id_dropout = id_dropout
        self.table = nn.Embedding(items + 1, width, padding_idx=0)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.attributes = None
        if attributes is not None:
            self.known = nn.Buffer(attributes)
            self.attributes = nn.EmbeddingBag(int(attributes.max()) + 1, width, mode="mean", padding_idx=0)
            nn.init.normal_(self.attributes.weight, std=width**-0.5)
        with torch.no_grad():
            for table in (self.table, self.attributes):
                if table is not None:
                    table.weight[0] = 0

    def embed(self, items: Tensor) -> Tensor:
        """Items (...) int64 with what is known of them -> (..., D) float; padding is zero."""
        own = self.table(items)
        if self.attributes is None:
            return own
        if self.training and self.id_dropout:
            own = own * (torch.rand(items.shape, device=own.device) >= self.id_dropout)[..., None]
        return own + self.attributes(self.known[items.flatten()]).view(own.shape)

    def embeddings(self) -> Tensor:
        """The whole catalogue: (items + 1, D) float, row 0 zero."""
        return self.embed(torch.arange(self.table.num_embeddings, device=self.table.weight.device))


def take(x: Tensor, at: Tensor) -> Tensor:
    """x (B, L, D), at (B,) int64 -> (B, 1, D): x at one position of each history."""
    return torch.gather(x, 1, at.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
