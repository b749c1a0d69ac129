"""Pointwise-aggregated attention with relative position and time bias (Zhai et al., "Actions Speak Louder than Words: Trillion-
Parameter Sequential Transducers for Generative Recommendations", 2024). Tensors only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TIME_BUCKETS = 32  # by powers of two of seconds: the last holds gaps of over 68 years


class Block(nn.Module):
    """One HSTU layer: no softmax (how often an interest was met is kept), and a gate instead of a feed-forward layer."""

    def __init__(self, width: int, heads: int, dropout: float, max_len: int):
        super().__init__()
        self.heads, self.max_len = heads, max_len
        self.norm = nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width)
        self.position_bias = nn.Parameter(torch.zeros(heads, max_len))
        self.time_bias = nn.Parameter(torch.zeros(heads, TIME_BUCKETS))
        self.mixed_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, back: Tensor, gap: Tensor) -> Tensor:
        """x (B, L, D) float; back (L, L) int64: how many events back, negative = the future; gap (B, L, L) int64: bucket."""
        batch, length, width = x.shape
        uvqk = F.silu(self.uvqk(self.norm(x))).view(batch, length, 4, self.heads, width // self.heads)
        u, v, q, k = uvqk.permute(2, 0, 3, 1, 4)
        bias = self.position_bias[:, back.clamp(min=0)] + self.time_bias[:, gap].transpose(0, 1)
        weight = F.silu(q @ k.transpose(2, 3) + bias) / self.max_len
        mixed = torch.where(back >= 0, weight, 0.0) @ v
        mixed, u = (t.transpose(1, 2).reshape(batch, length, width) for t in (mixed, u))
        return x + self.out(self.dropout(self.mixed_norm(mixed) * u))


class Hstu(nn.Module):
    """A stack of HSTU layers: (B, L, D) -> (B, L, D).

    Args:
        width, layers, heads, dropout: of the stack; it scales in width, depth and max_len, the longest history.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_len: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout, max_len) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """x (B, L, D) float, times (B, L) int64: seconds, any origin; all equal where unknown."""
        position = torch.arange(x.shape[1], device=x.device)
        back = position[:, None] - position[None, :]
        gap = (times[:, :, None] - times[:, None, :]).clamp(min=0)
        bucket = torch.log2(gap.float() + 1).long().clamp(max=TIME_BUCKETS - 1)
        for block in self.blocks:
            x = block(x, back, bucket)
        return self.norm(x)
