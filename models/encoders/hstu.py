"""Pointwise-aggregated attention with relative position and time bias (Zhai et al., "Actions Speak Louder than Words: Trillion-
Parameter Sequential Transducers for Generative Recommendations", 2024). Tensors only.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders.dropout import Dropout

SHARE = 8  # histories whose buckets are spread out at a time
TIME_BUCKETS = 32  # by powers of two of seconds: the last holds gaps of over 68 years


def attention(q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, time_bias: Tensor, gap: Tensor) -> Tensor:
    """silu(q k' + biases) / M over each event and those before it, times v.

    q, k, v (B, H, L, d) float; position_bias (H, M), by how many events back; time_bias (H, TIME_BUCKETS); gap (B, L, L) int64 -> (B, H, L, d).
    """
    position = torch.arange(q.shape[2], device=q.device)
    back = position[:, None] - position[None, :]
    bias = position_bias[:, back.clamp(min=0)] + time_bias[:, gap].transpose(0, 1)
    weight = F.silu(q @ k.transpose(2, 3) + bias) / position_bias.shape[1]
    return torch.where(back >= 0, weight, 0.0).to(v.dtype) @ v


class PointwiseAttention(torch.autograd.Function):
    """attention(), with a gradient that stores two (B, H, L, L) tensors and adds up those of the biases without collisions: of positions along
    diagonals, of time by counting.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, time_bias: Tensor, gap: Tensor) -> Tensor:
        length, most = q.shape[2], position_bias.shape[1]
        position = torch.arange(length, device=q.device)
        back = position[:, None] - position[None, :]
        scores = (q @ k.transpose(2, 3)).float()
        scores += position_bias[:, back.clamp(min=0)]
        for head, bias in enumerate(time_bias):
            scores[:, head] += bias.take(gap)
        known = (back >= 0).float() / most
        gate = torch.sigmoid(scores)
        weight = scores.mul_(gate)
        slope = torch.addcmul(gate + weight, weight, gate, value=-1).mul_(known).to(v.dtype)
        weight = weight.mul_(known).to(v.dtype)
        ctx.save_for_backward(q, k, v, weight, slope, gap)
        ctx.sizes = most, time_bias.shape[1]
        return weight @ v

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weight, slope, gap = ctx.saved_tensors
        most, buckets = ctx.sizes
        of_scores = (gradient @ v.transpose(2, 3)).mul_(slope)
        of_position = F.pad(along_diagonals(of_scores.sum(0, dtype=torch.float32)), (0, most - q.shape[2]))
        summed = counted if q.device.type == "cpu" else spread
        of_time = torch.stack([summed(of_scores[:, head], gap, buckets) for head in range(q.shape[1])])
        return of_scores @ k, of_scores.transpose(2, 3) @ q, weight.transpose(2, 3) @ gradient, of_position, of_time, None


def along_diagonals(x: Tensor) -> Tensor:
    """x (H, L, L) -> (H, L): sums of x[h, i, i - g], by g."""
    heads, length, _ = x.shape
    # A row longer by one, read as if it were longer by none, moves by one place a row: diagonals become columns.
    skewed = F.pad(x.flip(2), (0, length)).flatten(1)[:, : length * (2 * length - 1)].view(heads, length, 2 * length - 1)
    return skewed.sum(1)[:, length - 1 :]


def counted(x: Tensor, bucket: Tensor, buckets: int) -> Tensor:
    """Sums of x (B, L, L) by bucket (B, L, L) int64 -> (buckets,) float32."""
    return torch.bincount(bucket.flatten(), x.flatten().float(), buckets).float()


def spread(x: Tensor, bucket: Tensor, buckets: int) -> Tensor:
    """counted() as a product with indicators of the buckets: on a GPU, additions to so few cells would wait for each other."""
    numbers, total = torch.arange(buckets, device=x.device), torch.zeros(buckets, device=x.device)
    for some, of_some in zip(x.split(SHARE), bucket.split(SHARE), strict=True):
        total += (of_some.flatten()[:, None] == numbers).to(x.dtype).T @ some.flatten()
    return total


@cache
def fused(width: int) -> bool:
    """Are there kernels for heads of this width, and Triton to build them?"""
    if find_spec("triton") is None:
        return False
    from models.encoders.fused_hstu import WIDTHS

    return width in WIDTHS


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
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, gap: Tensor) -> Tensor:
        """x (B, L, D) float; gap (B, L, L) int64: bucket of the time between two events; uint8 where fused kernels are to read it."""
        return x + self.out((self.mixed_by_kernels if gap.dtype == torch.uint8 else self.mixed)(x, gap))

    def mixed(self, x: Tensor, gap: Tensor) -> Tensor:
        """What goes into the last product: (B, L, D)."""
        batch, length, width = x.shape
        uvqk = F.silu(self.uvqk(self.norm(x))).view(batch, length, 4, self.heads, width // self.heads)
        u, v, q, k = uvqk.permute(2, 0, 3, 1, 4)
        way = PointwiseAttention.apply if self.training and torch.is_grad_enabled() else attention
        mixed = way(q, k, v, self.position_bias, self.time_bias, gap)
        mixed, u = (t.transpose(1, 2).reshape(batch, length, width) for t in (mixed, u))
        return self.dropout(self.mixed_norm(mixed) * u)

    def mixed_by_kernels(self, x: Tensor, gap: Tensor) -> Tensor:
        """mixed() on a GPU."""
        from models.encoders.fused_hstu import Mixing, Norm

        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        uvqk = self.uvqk(Norm.apply(x.contiguous(), self.norm.weight, self.norm.bias, self.norm.eps, kind))
        norm, share = self.mixed_norm, self.dropout.share if self.training else 0.0
        return Mixing.apply(uvqk, self.position_bias, self.time_bias, gap, norm.weight, norm.bias, norm.eps, share)


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
        gap = (times[:, :, None] - times[:, None, :]).clamp(min=0)
        bucket = torch.log2(gap.float() + 1).long().clamp(max=TIME_BUCKETS - 1)
        if x.device.type != "cpu" and fused(x.shape[2] // self.blocks[0].heads):
            bucket = bucket.to(torch.uint8)
        for block in self.blocks:
            x = block(x, bucket)
        return self.norm(x)
