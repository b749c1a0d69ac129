"""The graph that is served: history in, the k best items out, everything between inside it. Tensors only.

One item table serves both lookup and scoring, in whichever form it is stored (models/served/table.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.batches import ShopperBatch
from models.rankers.two_stage import TwoStage, first_stage
from models.retrieval.blend import Blend, group_of
from models.retrieval.evidence import Evidence
from models.retrieval.network import NextItemNetwork
from models.retrieval.sparse_item_model import SparseItemModel
from models.served.stored import StoredEvidence, StoredItemModel, stored_second_stage
from models.served.table import Table

SHORTLIST = 4  # times k items are scored again by a table that keeps its rows beside the codes


class EvidenceScores(nn.Module):
    """What a blend, or a network's prior, says beside a network.

    Args:
        parts: of evidence, by name. form: of the evidence's weights. neighbours: share kept of those of an item, one or of each part.
        blend: in which the parts stand.
    """

    def __init__(self, parts: dict[str, Evidence], form: str, neighbours: float | dict[str, float], blend: Blend | None):
        super().__init__()
        shares = neighbours if isinstance(neighbours, dict) else dict.fromkeys(parts, neighbours)
        self.parts = nn.ModuleList(StoredEvidence(part, form, shares[name]) for name, part in parts.items())
        self.of_groups, self.groups = (nn.Buffer(blend.bias), nn.Buffer(blend.groups)) if blend else (None, None)
        self.usual = nn.Buffer(blend.bias.mean(1, keepdim=True)) if blend else None

    def said(self, history: Tensor, times: Tensor) -> "Said":
        """(B, L) int64 both -> what every part says."""
        group = None if self.groups is None else group_of(history, self.groups)
        return Said(group, [part.found(history, times) for part in self.parts], *self.of_network(history, times))

    def of_network(self, history: Tensor, times: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """A network's query (B, D') and its scores (B, V); None: there is no network."""
        return None, None

    def total(self, said: "Said") -> Tensor:
        """-> (B, V) float."""
        scores = said.alone
        if said.group is not None:
            bias = self.of_groups[said.group]
            scores = bias if scores is None else scores + bias
        for part, found in zip(self.parts, said.evidence, strict=True):
            scores = part.added(scores, *found, said.group)
        return scores

    def carried(self, items: Tensor, said: "Said") -> Tensor:
        """Which part of a blend says most for each of items (B, k), beside what it says for items at large: (B, k) int64, its place among
        parts, popularity, network.
        """
        evidence = zip(self.parts, said.evidence, strict=True)
        worth = [part.worth(evidence.gather(1, items), said.group) for part, (_, evidence) in evidence]
        worth.append(self.of_groups[said.group].gather(1, items) - self.usual[said.group])
        if said.alone is not None:
            worth.append(said.alone.gather(1, items) - said.alone.mean(1, keepdim=True))
        return torch.stack(worth).argmax(0)


class Said(NamedTuple):
    """What the parts of a model say to B shoppers."""

    group: Tensor | None  # (B,) int64, of a blend
    evidence: list[tuple[Tensor, Tensor]]  # of each part, see Evidence.found
    query: Tensor | None  # (B, D') float, of a network
    alone: Tensor | None  # (B, V) float, the network's scores


class NetworkScores(EvidenceScores):
    """A trained network, with what is known of items folded into the table, and the evidence beside it, as one step from history to scores.

    Args:
        network: of any family. form, rank: of its tables. neighbours: share kept of those that its prior has of an item. blend: in which it
            stands.
    """

    def __init__(
        self,
        network: NextItemNetwork,
        form: str,
        rank: int | None,
        neighbours: float | dict[str, float],
        blend: Blend | None = None,
    ):
        parts = ({"prior": network.prior} if network.prior else {}) | (dict(blend.parts) if blend else {})
        super().__init__(parts, form, neighbours, blend)
        self.network, self.bias = network, nn.Buffer(network.head.bias.detach())
        embeddings = network.embeddings().detach()
        vectors = network.head.vectors(embeddings).detach()
        self.table = Table(embeddings, form, rank)
        self.rescored = form.endswith("+fp32") and network.head.dot
        if network.head.tied:
            self.vectors, scale = self.table, vectors.norm(dim=1) / embeddings.norm(dim=1).clamp(min=1e-12)
        else:
            self.vectors, scale = Table(vectors, form, rank), torch.ones(len(vectors))
        self.scale = nn.Buffer(scale)

    def of_network(self, history: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """See EvidenceScores."""
        query = self.query(history, times)
        return query, self.network_scores(query)

    def query(self, history: Tensor, times: Tensor) -> Tensor:
        """(B, L) int64 both -> (B, D') float."""
        return self.network.newest(self.table.lookup(history), history, times)

    def network_scores(self, query: Tensor) -> Tensor:
        """Scores without the evidence: (B, D') -> (B, V) float."""
        if self.network.head.dot:
            return self.vectors.product(query, self.scale, self.bias)
        return self.network.head.scores(query, self.vectors.all(), self.bias)

    def shortlist(self, said: Said, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` best allowed (B, V) by codes, and their scores by the rows that the table keeps: (B, count) both."""
        scores = torch.where(allowed, self.total(said), -torch.inf)
        by_codes, items = scores.topk(min(count, scores.shape[1]))
        return items, by_codes - said.alone.gather(1, items) + self.exact(said.query, items)

    def exact(self, query: Tensor, items: Tensor) -> Tensor:
        """The network's scores of items (B, C), by the rows as lookups give them: (B, D'), (B, C) -> (B, C) float."""
        return self.vectors.exact(query, items) * self.scale[items] + self.bias[items]


class IndexQuery(nn.Module):
    """The first half of an answer by an index: history in; out the query of the index, and the evidence that the prior has for which items.

    Args:
        scores: of a network whose head is a product.
    """

    def __init__(self, scores: NetworkScores):
        super().__init__()
        self.scores = scores

    def forward(self, history: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L) int64 both -> query (B, D + 1) float, of which the products with index_rows are the network's scores; items
        (B, T) int64 and the evidence for each (B, T) float, an item perhaps several times.
        """
        query = self.scores.query(history, times)
        none = (history, torch.zeros_like(history).float())
        evidence = self.scores.parts[0].neighbours_of(history, times) if self.scores.parts else none
        return torch.cat([query, torch.ones_like(query[:, :1])], 1), *evidence


class CandidateScores(nn.Module):
    """The second half: scores of some items, as exact as the table has them."""

    def __init__(self, scores: NetworkScores):
        super().__init__()
        self.scores = scores

    def forward(self, query: Tensor, items: Tensor, evidence: Tensor) -> Tensor:
        """query (B, D + 1), items (B, C) int64, evidence of the prior for each (B, C) -> scores (B, C) float."""
        scores = self.scores.exact(query[:, :-1], items)
        return scores + self.scores.parts[0].worth(evidence) if self.scores.parts else scores


def index_rows(scores: NetworkScores) -> Tensor:
    """Rows (V, D + 1) float32 that an index of inner products holds: the vectors, scaled, and the bias."""
    return torch.cat([scores.vectors.all() * scores.scale[:, None], scores.bias[:, None]], 1)


class TopK(nn.Module):
    """Wraps a trained model for export.

    Args:
        model: a network, neighbours, a blend, or two stages. k: length of the answer (at most the number of items).
        form, rank: of item tables and neighbours' weights (models.served.table.Table). neighbours: share of an item's neighbours kept, or
            of each part of a blend.
    """

    def __init__(
        self,
        model: NextItemNetwork | SparseItemModel | Blend | TwoStage,
        k: int,
        form: str = "fp32",
        rank: int | None = None,
        neighbours: float | dict[str, float] = 1.0,
    ):
        super().__init__()
        first, self.k = first_stage(model), k
        self.second = stored_second_stage(model.second, k, form, rank) if isinstance(model, TwoStage) else None
        blend = first if isinstance(first, Blend) else None
        network = blend.network if blend else first if isinstance(first, NextItemNetwork) else None
        if network is not None:
            self.first = NetworkScores(network, form, rank, neighbours, blend)
        elif blend:
            self.first = EvidenceScores(dict(blend.parts), form, neighbours, blend)
        else:
            self.first = StoredItemModel(first, form, neighbours)
        self.rescored = network is not None and self.second is None and self.first.rescored
        self.carries = blend is not None and self.second is None

    def forward(
        self, history: Tensor, times: Tensor, actions: Tensor, platform: Tensor, exclude: Tensor, allowed: Tensor
    ) -> tuple[Tensor, ...]:
        """The k best allowed items after each history.

        Args:
            history: (B, L) int64 item numbers, oldest first, padded with 0 on the right, 1 <= L <= max_len.
            times: (B, L) int64 seconds of the events; all equal where unknown.
            actions: (B, L) int64, what was done to each item, 1 = seen ... 4 = bought, padded with 0.
            platform: (B,) int64 from 1, where the shopper is; 0 = not told.
            exclude: (B, S) int64 item numbers never to answer (those already seen), padded with 0.
            allowed: (B, items + 1) bool, true where the request's filters let the item through; false of item 0.

        Returns:
            items (B, k) int64 and scores (B, k) float32, best first; a score of -inf marks that no item was left. Of a blend also which
            part carried each, (B, k) int64: see EvidenceScores.carried.
        """
        allowed = allowed.scatter(1, exclude, False)
        said = None if isinstance(self.first, StoredItemModel) else self.first.said(history, times)
        if self.rescored:
            items, scores = self.first.shortlist(said, allowed, SHORTLIST * self.k)
        else:
            scores = self.first.scores(history, times) if said is None else self.first.total(said)
            scores, items = torch.where(allowed, scores, -torch.inf), None
        if self.second is not None:
            items, scores = self.second.shortlist(scores, ShopperBatch(history, times, actions, platform))
        values, places = scores.topk(self.k)
        items = places if items is None else items.gather(1, places)
        return (items, values, self.first.carried(items, said)) if self.carries else (items, values)
