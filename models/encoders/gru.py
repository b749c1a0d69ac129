"""A recurrent network over a history: preference as it drifts (Hidasi et al., "Session-based Recommendations with Recurrent
Neural Networks", 2016). Tensors only.
"""

from torch import Tensor, nn

from models.encoders.dropout import Dropout


class Gru(nn.Module):
    """Gated recurrent layers, each added to what it reads: (B, L, D) -> (B, L, D). Reads no times."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = x + self.dropout(layer(norm(x))[0])
        return self.norms[-1](x)
