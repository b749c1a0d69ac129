"""Self-attention over a history (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018), with pre-norm blocks (Xiong
et al. 2020). Tensors only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders.dropout import Dropout
from models.encoders.items import take


class Attention(nn.Module):
    """Causal scaled dot-product attention in `heads` parts of the width; `dropout` of its weights."""

    def __init__(self, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None) -> Tensor:
        """q (B, Q, D), k and v (B, L, D) float -> (B, Q, D).

        at: (B,) int64, the position of the one query of each row (Q = 1); None: those of the keys.
        """
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if self.training and self.dropout.share and q.device.type == "cpu":  # where torch's has no kernel that drops
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
            future = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
            mixed = self.dropout(scores.masked_fill(future, -torch.inf).softmax(-1)) @ v
        else:
            allowed = None if at is None else torch.arange(k.shape[2], device=k.device) <= at.view(-1, 1, 1, 1)
            share = self.dropout.share if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=share, is_causal=at is None)
        return mixed.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A pre-norm transformer block; `width` in and out, `heads` attention heads, a feed-forward layer of `hidden` units.

    gated: each of the two branches is added through a gate, x + sigmoid(W x) * branch(x), as in LiGR (Borisyuk et al., "From
    Features to Transformers", 2025).
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, gated: bool):
        super().__init__()
        self.attention = Attention(heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)
        self.gates = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)]) if gated else None

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """x (B, L, D) float -> (B, L, D), each position looking at itself and those before it.

        at: (B,) int64, the one position of each history whose output is wanted -> (B, 1, D).
        """
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, -1)
        if at is not None:
            x, q = take(x, at), take(q, at)
        x = self.add(x, self.dropout(self.out(self.attention(q, k, v, at))), 0)
        return self.add(x, self.dropout(self.down(self.dropout(F.gelu(self.up(self.ff_norm(x)))))), 1)

    def add(self, x: Tensor, branch: Tensor, gate: int) -> Tensor:
        return x + branch if self.gates is None else x + torch.sigmoid(self.gates[gate](x)) * branch


class SelfAttention(nn.Module):
    """Learned positions and a stack of blocks: (B, L, D) -> (B, L, D). Reads no times.

    Args:
        width, layers, heads, dropout: of the transformer. max_len: longest history. gated: LiGR's gates.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_len: int, gated: bool):
        super().__init__()
        self.position = nn.Embedding(max_len, width)
        nn.init.normal_(self.position.weight, std=0.1 * width**-0.5)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width, dropout, gated) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        x = self.with_positions(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def state(self, x: Tensor, times: Tensor | None, at: Tensor) -> Tensor:
        """forward(x, times) at one position of each history, at (B,) int64 -> (B, 1, D): the last block is spared the others."""
        x = self.with_positions(x)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm(self.blocks[-1](x, at))

    def with_positions(self, x: Tensor) -> Tensor:
        """x (B, L, D) plus the vectors of its positions."""
        return x + self.position.weight[: x.shape[1]]
