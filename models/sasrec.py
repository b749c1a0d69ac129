"""Self-attention over a history: which item comes next? (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018),
with pre-norm blocks (Xiong et al. 2020), one table for looking items up and scoring them, and cosine logits with a learned
temperature and an item bias.

Tensors only. Item number 0 is padding; histories are padded on the right.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A pre-norm transformer block; `width` in and out, `heads` attention heads, a feed-forward layer of `hidden` units."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (B, L, D) float, allowed (L, L) bool: may the row's position look at the column's -> (B, L, D)."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        rate = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=rate)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.down(self.dropout(F.gelu(self.up(self.ff_norm(x))))))


class SASRec(nn.Module):
    """History of item numbers to a query vector, and the item table that queries are scored against.

    Args:
        items: items in the vocabulary; numbers run from 1 to `items`.
        width, layers, heads, dropout: of the transformer. max_len: longest history it reads.
        hidden: feed-forward units a layer; a list gives each layer its own (pruned models).
    """

    def __init__(
        self, items: int, width: int, layers: int, heads: int, dropout: float, max_len: int, hidden: list[int] | None = None
    ):
        super().__init__()
        self.max_len = max_len
        self.table = nn.Embedding(items + 1, width, padding_idx=0)
        self.position = nn.Embedding(max_len, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, h, dropout) for h in hidden or [4 * width] * layers)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(items + 1))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(15.0)))
        nn.init.normal_(self.table.weight, std=width**-0.5)
        nn.init.normal_(self.position.weight, std=0.1 * width**-0.5)
        with torch.no_grad():
            self.table.weight[0] = 0

    def encode(self, embedded: Tensor) -> Tensor:
        """Embedded history (B, L, D) float -> query (B, L, D) float of unit length: what comes after each position.

        Padding on the right needs no mask: no position looks to its right.
        """
        length = embedded.shape[1]
        position = torch.arange(length, device=embedded.device)
        allowed = position[:, None] >= position[None, :]
        x = self.dropout(embedded * self.table.embedding_dim**0.5 + self.position(position))
        for block in self.blocks:
            x = block(x, allowed)
        return F.normalize(self.norm(x), dim=-1)

    def forward(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> query (B, L, D) float."""
        return self.encode(self.table(history))

    def last_query(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> query (B, D) float after the last item; that of position 0 where there is none."""
        return last(self(history), history)

    def item_vectors(self) -> Tensor:
        """What queries are scored against: (items + 1, D) float, unit rows times the temperature."""
        return F.normalize(self.table.weight, dim=-1) * self.log_temperature.exp()

    def scores(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> (B, items + 1) float; padding scores -inf."""
        scores = self.last_query(history) @ self.item_vectors().T + self.bias
        return scores.index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), -torch.inf)


def last(query: Tensor, history: Tensor) -> Tensor:
    """query (B, L, D), history (B, L) int64 -> (B, D): the query at each history's last item."""
    at = ((history > 0).sum(1) - 1).clamp(min=0)
    return torch.gather(query, 1, at[:, None, None].expand(-1, 1, query.shape[2])).squeeze(1)
