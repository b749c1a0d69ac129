"""What networks know of items: an embedding each, and what is said of them. Tensors only. Item number 0 is padding."""

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


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
        self.attributes, self._shares = None, None
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
        return self.own(own) + self.attributes(self.known[items.flatten()]).view(own.shape)

    def own(self, embedded: Tensor) -> Tensor:
        """Items' own embeddings (..., D), while training without those that are to be known by their attributes alone."""
        if not self.training or not self.id_dropout:
            return embedded
        return embedded * (torch.rand(embedded.shape[:-1], device=embedded.device) >= self.id_dropout)[..., None]

    def embeddings(self) -> Tensor:
        """The whole catalogue: (items + 1, D) float, row 0 zero."""
        everything = torch.arange(self.table.num_embeddings, device=self.table.weight.device)
        if not self.training or self.attributes is None:
            return self.embed(everything)
        sharded = isinstance(self.table.weight, DTensor)  # and put together by the table's own forward alone
        own = self.table(everything) if sharded else self.table.weight
        return self.own(own) + Mixed.apply(self.attributes.weight, *self.shares())

    def shares(self) -> tuple[Tensor, Tensor]:
        """What each attribute is of each item's mean: sparse (items + 1, attributes), and its transpose."""
        place = self.known.device
        if self._shares is None or self._shares[0].device != place:
            item, column = self.known.cpu().nonzero(as_tuple=True)
            number = self.known.cpu()[item, column]
            share = 1 / (self.known.cpu() > 0).sum(1).clamp(min=1).float()[item]
            size = (len(self.known), self.attributes.num_embeddings)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks)")
                matrix = torch.sparse_coo_tensor(torch.stack([item, number]), share, size).coalesce()
                self._shares = tuple(m.to_sparse_csr().to(place) for m in (matrix, matrix.t().coalesce()))
        return self._shares


class Mixed(torch.autograd.Function):
    """A sparse float32 matrix (V, A) times a table (A, D); the transpose is given, so that the gradient is a product as well."""

    @staticmethod
    def forward(ctx, table: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.transpose = transpose
        return in_full(matrix, table)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return in_full(ctx.transpose, gradient), None, None


def in_full(matrix: Tensor, table: Tensor) -> Tensor:
    """The product of a sparse matrix and a table of any dtype, computed in float32, which alone every device can."""
    with torch.autocast(table.device.type, enabled=False):
        return (matrix @ table.float()).to(table.dtype)


def take(x: Tensor, at: Tensor) -> Tensor:
    """x (B, L, D), at (B,) int64 -> (B, 1, D): x at one position of each history."""
    return torch.gather(x, 1, at.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
