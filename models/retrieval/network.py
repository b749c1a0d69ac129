"""What all next-item families share: the step from a history to scores of all items.

A family is an encoder (embedded history -> a vector after each event) and a head (that vector against items -> logits).
Tensors only. Item number 0 is padding; histories are padded on the right, and no encoder looks to its right, so padding
needs no mask.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.encoders.dropout import Dropout
from models.encoders.items import ItemTable, take
from models.retrieval.evidence import Evidence


class Directions(torch.autograd.Function):
    """Rows (..., D) at the length of a scalar, zero rows as they are, and by what they were scaled; its gradient in the fewest passes over the table."""

    generate_vmap_rule = True  # gradients of each shopper are taken of it too

    @staticmethod
    def forward(rows: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        scale = length / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return rows * scale, scale

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        scaled, scale = output
        ctx.mark_non_differentiable(scale)
        ctx.save_for_backward(scaled, scale, inputs[1])

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        scaled, scale, length = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, scaled)[..., None] / length
        return torch.addcmul(gradient, scaled, along / length, value=-1) * scale, along.sum()


class Cosine(nn.Module):
    """Cosine times a learned temperature, plus an item bias. Lookup and scoring share one table.

    Args:
        items: numbers run from 1 to `items`. temperature: to start with.
    """

    dot = True  # scores() is a product plus the bias
    tied = True  # vectors() are the rows of the table times a scale each

    def __init__(self, items: int, temperature: float = 15.0):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(items + 1))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def query(self, x: Tensor) -> Tensor:
        """What the encoder says (..., D) -> what is held against items (..., D)."""
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    def vectors(self, table: Tensor) -> Tensor:
        """Item embeddings (..., D) -> what queries are held against (..., D)."""
        return Directions.apply(table, self.log_temperature.exp())[0]

    def scores(self, query: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """Every query (N, D) against every item (K, D), (K,) -> logits (N, K)."""
        return query @ vectors.T + bias

    def pairs(self, query: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """Queries (N, D) against one item each (N, D), (N,) -> logits (N,)."""
        return (query * vectors).sum(-1) + bias


class NextItemNetwork(ItemTable):
    """A history of item numbers to a query, and the items that queries are scored against.

    Args:
        encoder: embedded history (B, L, D) float and times (B, L) int64, seconds -> (B, L, D) float, causal. It may have a method
            `state` that gives one position of it for less.
        head: Cosine, or another with its methods.
        items, width, attributes, id_dropout: of the item table. max_len: longest history it reads. dropout: of the embedded history.
        event_dropout: share of a history's events that are blanked in training.

    `prior` (counts of which item followed which), where one was given after training, adds to the scores.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        items: int,
        width: int,
        max_len: int,
        dropout: float,
        attributes: Tensor | None,
        id_dropout: float = 0.0,
        event_dropout: float = 0.0,
    ):
        super().__init__(items, width, attributes, id_dropout)
        self.encoder, self.head, self.max_len = encoder, head, max_len
        self.event_dropout = event_dropout
        self.prior: Evidence | None = None
        self.dropout = Dropout(dropout)
        self._vectors: Tensor | None = None  # of all items, while unchanged()

    def encode(self, embedded: Tensor, times: Tensor | None) -> Tensor:
        """Embedded history (B, L, D) and its times (B, L) -> query (B, L, D'): what comes after each position."""
        if self.training and self.event_dropout:
            kept = torch.rand(embedded.shape[:2], device=embedded.device) >= self.event_dropout
            embedded = embedded * kept[..., None]
        return self.head.query(self.encoder(self.dropout(embedded * self.table.embedding_dim**0.5), times))

    def newest(self, embedded: Tensor, history: Tensor, times: Tensor | None) -> Tensor:
        """As encode, of the position of each history's last item alone -> (B, D'); not for training."""
        at = ((history > 0).sum(1) - 1).clamp(min=0)
        embedded = embedded * self.table.embedding_dim**0.5
        short = hasattr(self.encoder, "state")
        state = self.encoder.state(embedded, times, at) if short else take(self.encoder(embedded, times), at)
        return self.head.query(state.squeeze(1))

    def forward(self, history: Tensor, times: Tensor) -> Tensor:
        """history (B, L) int64, times (B, L) int64 seconds -> query (B, L, D') float."""
        return self.encode(self.embed(history), times)

    def scores(self, history: Tensor, times: Tensor) -> Tensor:
        """(B, L) int64 both -> (B, items + 1) float; padding scores -inf. An empty history is read as one padding event."""
        query = self.newest(self.embed(history), history, times)
        vectors = self.head.vectors(self.embeddings()) if self._vectors is None else self._vectors
        scores = self.head.scores(query, vectors, self.head.bias)
        if self.prior is not None:
            scores = scores + self.prior(history)
        return scores.index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), -torch.inf)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """While the block runs no weight changes: what queries are held against is computed once."""
        with torch.no_grad():
            self._vectors = self.head.vectors(self.embeddings())
        try:
            yield
        finally:
            self._vectors = None

    @torch.no_grad()
    def initialise_cold_items(self, popularity: Tensor, history: Tensor, times: Tensor) -> None:
        """Gives items that training never showed what they can have: what is known of them, and a bias.

        The bias is that with which the given shoppers would be shown each new item as often as one of the rarest tenth of the
        others, had they been shown items in proportion to the softmax. An item of which nothing is known gets the lowest bias
        there is.

        Args:
            popularity: (items + 1,) how often each item stands in training. history, times: (B, L) int64, of any shoppers.
        """
        new = popularity == 0
        new[0] = False
        self.table.weight[new] = 0
        bias, met = self.head.bias, popularity > 0
        bias[new] = bias[met].min()
        if self.attributes is None:
            return
        placed = new & (self.known > 0).any(1)
        rare = met & (popularity <= popularity[met].float().quantile(0.1))
        query = self.newest(self.embed(history), history, times)
        vectors, none = self.head.vectors(self.embeddings()), torch.zeros_like(bias)
        mass = torch.logsumexp(self.head.scores(query, vectors, none), 0)
        bias[placed] = torch.logsumexp((mass + bias)[rare], 0) - rare.sum().log() - mass[placed]
