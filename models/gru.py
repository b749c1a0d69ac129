"""A recurrent network over a history: preference as it drifts (Hidasi et al., "Session-based Recommendations with Recurrent
Neural Networks", 2016). Tensors only.
"""

import torch
from torch import Tensor, nn


class Gru(nn.Module):
    """Gated recurrent layers, each added to what it reads: (B, L, D) -> (B, L, D). Reads no times."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = x + self.dropout(run(layer, norm(x)))
        return self.norms[-1](x)


def run(layer: nn.GRU, x: Tensor) -> Tensor:
    """What one recurrent layer says after each event: (B, L, D) -> (B, L, D)."""
    return as_onnx(layer, x) if torch.compiler.is_exporting() else layer(x)[0]


def as_onnx(layer: nn.GRU, x: Tensor) -> Tensor:
    """What `layer` says of x (B, L, D), written as ONNX's own GRU: torch's exporter would unroll it for one length only."""

    def in_onnx_order(parameter: Tensor) -> Tensor:
        reset, update, new = parameter.chunk(3)
        return torch.cat([update, reset, new])

    w, r, w_bias, r_bias = (
        in_onnx_order(p) for p in (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    )
    inputs = (x.transpose(0, 1), w[None], r[None], torch.cat([w_bias, r_bias])[None])
    batch, length, width = x.shape
    attributes = {"hidden_size": width, "linear_before_reset": 1}
    out = torch.onnx.ops.symbolic("GRU", inputs, attributes, dtype=x.dtype, shape=(length, 1, batch, width), version=14)
    return out.squeeze(1).transpose(0, 1)
