"""The plain dense network of the introductory literature: the mean of what was met, through dense layers. Tensors only."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders.dropout import Dropout


class Mean(nn.Module):
    """The mean of each event and all before it: (B, L, D) -> (B, L, D). Knows no order."""

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device)
        return x.cumsum(1) / count[:, None]


class Mlp(nn.Module):
    """Dense layers over the mean of the history, each added to what it reads: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        self.mean = Mean()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        x = self.mean(x, times)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = x + self.dropout(F.gelu(layer(norm(x))))
        return self.norms[-1](x)
