"""Self-attention over a history (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018), with pre-norm blocks (Xiong
et al. 2020). Tensors only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A pre-norm transformer block; `width` in and out, `heads` attention heads, a feed-forward layer of `hidden` units.

    gated: each of the two branches is added through a gate, x + sigmoid(W x) * branch(x), as in LiGR (Borisyuk et al., "From
    Features to Transformers", 2025).
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, gated: bool):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.gates = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)]) if gated else None

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (B, L, D) float, allowed (L, L) bool: may the row's position look at the column's -> (B, L, D)."""
        batch, length, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        rate = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=rate)
        x = self.add(x, self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, -1))), 0)
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
        position = torch.arange(x.shape[1], device=x.device)
        allowed = position[:, None] >= position[None, :]
        x = x + self.position(position)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x)
