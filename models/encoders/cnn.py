"""Convolutions over a history: interest in what stands close together (Yuan et al., "A Simple Convolutional Generative Network
for Next Item Recommendation", NextItNet, 2019). Tensors only.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders.dropout import Dropout

KERNEL = 3


class Cnn(nn.Module):
    """Causal convolutions whose reach doubles from layer to layer: (B, L, D) -> (B, L, D). Reads no times."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(width, width, KERNEL, dilation=2**i) for i in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            reach = (KERNEL - 1) * layer.dilation[0]
            mixed = layer(F.pad(norm(x).transpose(1, 2), (reach, 0))).transpose(1, 2)
            x = x + self.dropout(F.gelu(mixed))
        return self.norms[-1](x)
