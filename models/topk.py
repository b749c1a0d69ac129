"""The graph that is served: history in, the k best items out, everything between inside it. Tensors only.

One item table serves both lookup and scoring, in float32 or in int8 with a scale a row.
"""

import torch
from torch import Tensor, nn

from models.baselines import Neighbours
from models.batches import Shoppers
from models.sequence import NextItemNetwork, last
from models.table import Table
from models.two_stage import TwoStage


class NetworkScores(nn.Module):
    """A trained network, with what is known of items folded into the table, as one step from history to scores."""

    def __init__(self, network: NextItemNetwork, int8: bool):
        super().__init__()
        self.network = network
        embeddings = network.embeddings().detach()
        vectors = network.head.vectors(embeddings).detach()
        self.table = Table(embeddings, int8)
        self.bias = nn.Buffer(network.head.bias.detach().clone())
        self.memory = network.memory and network.memory.stored(int8)
        if network.head.tied:
            self.norm_scale = nn.Buffer(vectors.norm(dim=1) / embeddings.norm(dim=1).clamp(min=1e-12))
        else:
            self.vectors = Table(vectors, int8)

    def scores(self, history: Tensor, times: Tensor) -> Tensor:
        """(B, L) int64 both -> (B, items + 1) float."""
        scores = self.of_network(last(self.network.encode(self.table.lookup(history), times), history))
        return scores if self.memory is None else scores + self.memory(history)

    def of_network(self, query: Tensor) -> Tensor:
        """query (B, D') -> (B, items + 1) float."""
        if self.network.head.tied:
            return self.table.product(query) * self.norm_scale + self.bias
        if self.network.head.dot:
            return self.vectors.product(query) + self.bias
        return self.network.head.scores(query, self.vectors.all(), self.bias)


class TopK(nn.Module):
    """Wraps a trained model for export.

    Args:
        model: a network, neighbours, or two stages. k: length of the answer (at most the number of items).
        int8: keep item tables, and neighbours' weights, as int8, one symmetric scale a row.
    """

    def __init__(self, model: NextItemNetwork | Neighbours | TwoStage, k: int, int8: bool = False):
        super().__init__()
        staged = isinstance(model, TwoStage)
        first, self.k = model.retriever if staged else model, k
        self.second = model.second.stored(int8, k) if staged else None
        self.first = NetworkScores(first, int8) if isinstance(first, NextItemNetwork) else first.stored(int8)

    def forward(
        self, history: Tensor, times: Tensor, actions: Tensor, platform: Tensor, exclude: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The k best allowed items after each history.

        Args:
            history: (B, L) int64 item numbers, oldest first, padded with 0 on the right, 1 <= L <= max_len.
            times: (B, L) int64 seconds of the events; all equal where unknown.
            actions: (B, L) int64, what was done to each item, 1 = seen ... 4 = bought, padded with 0.
            platform: (B,) int64 from 1, where the shopper is; 0 = not told.
            exclude: (B, S) int64 item numbers never to answer (those already seen), padded with 0.
            allowed: (B, items + 1) bool, true where the request's filters let the item through.

        Returns:
            items (B, k) int64 and scores (B, k) float32, best first; a score of -inf marks that no item was left.
        """
        scores = torch.where(allowed, self.first.scores(history, times), -torch.inf)
        nothing = torch.zeros_like(exclude[:, :1])  # padding (item 0) is excluded always
        excluded = torch.cat([exclude, nothing], 1)
        scores = scores.scatter(1, excluded, torch.full_like(excluded, -torch.inf, dtype=scores.dtype))
        if self.second is None:
            values, items = scores.topk(self.k)
            return items, values
        items, scores = self.second.shortlist(scores, Shoppers(history, times, actions, platform))
        values, places = scores.topk(self.k)
        return items.gather(1, places), values
