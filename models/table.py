"""A table of rows, in float32 or in int8 with a scale a row. Tensors only."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Table(nn.Module):
    """Rows (V, D) float, kept as they are or as int8 with a symmetric scale a row: row = int8 * scale, |error| <= scale / 2."""

    def __init__(self, rows: Tensor, int8: bool = False):
        super().__init__()
        self.scale = nn.Buffer(rows.abs().amax(1).clamp(min=1e-12) / 127) if int8 else None
        self.rows = nn.Buffer((rows / self.scale[:, None]).round().to(torch.int8) if int8 else rows.clone())

    def lookup(self, items: Tensor) -> Tensor:
        """items (...) -> (..., D) float."""
        rows = F.embedding(items, self.rows).float()
        return rows if self.scale is None else rows * self.scale[items][..., None]

    def all(self) -> Tensor:
        """(V, D) float."""
        return self.rows if self.scale is None else self.rows.float() * self.scale[:, None]

    def product(self, query: Tensor) -> Tensor:
        """query (B, D) -> (B, V) float; the scale is applied to the products, which are fewer than the rows' numbers."""
        return query @ self.rows.T if self.scale is None else query @ self.rows.float().T * self.scale
