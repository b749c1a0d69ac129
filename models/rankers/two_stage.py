"""Two stages: a retriever proposes some hundred candidates out of all items, a ranker orders them. Tensors only."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from models.batches import Candidates, ShopperBatch
from models.rankers.ranker import TASKS, Ranker, log_probabilities
from models.retrieval.blend import Blend
from models.retrieval.network import NextItemNetwork


class SecondStage(nn.Module):
    """Orders what a retriever proposes.

    Args:
        ranker: over the retriever's items. candidates: how many of the retriever's best it looks at.
        rank_by: the task that orders them. blend: weight of the ranker beside the retriever, 0 to 1: of `next`, candidates are ordered
            by (1 - blend) * retriever's logit + blend * ranker's; of other tasks by the ranker alone.
    """

    def __init__(self, ranker: Ranker, candidates: int, rank_by: str, blend: float = 1.0):
        super().__init__()
        self.ranker, self.candidates, self.rank_by = ranker, candidates, rank_by
        self.blend = nn.Buffer(torch.tensor(float(blend)))

    def proposals(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The retriever's scores (B, V) of all items -> those of the candidates and which these are, (B, C) each, best first."""
        return scores.topk(min(self.candidates, scores.shape[1] - 1))

    def shortlist(self, scores: Tensor, shoppers: ShopperBatch) -> tuple[Tensor, Tensor]:
        """scores (B, V), -inf what may not be answered -> items (B, C) int64 and their final scores (B, C)."""
        proposed, items = self.proposals(scores)
        return items, self.blended(proposed, self.rerank_logits(shoppers, items))

    def blended(self, proposed: Tensor, reranked: Tensor) -> Tensor:
        """The retriever's scores of candidates and what the ranker says of them, (B, C) each -> their final scores (B, C)."""
        final = reranked
        if self.rank_by == "next":
            final = (1 - self.blend) * proposed.nan_to_num(neginf=0.0) + self.blend * reranked
        return final.masked_fill(proposed == -torch.inf, -torch.inf)

    def rerank_logits(self, shoppers: ShopperBatch, items: Tensor) -> Tensor:
        """What the ranker says of candidates items (B, C): (B, C) float, the logit of `next` or ln p of another task."""
        length = (shoppers.history > 0).sum(1)
        row = torch.arange(items.shape[0], device=items.device)[:, None].expand_as(items)
        at, platform = (column[:, None].expand_as(items) for column in (length, shoppers.platform))
        candidates = Candidates(*(column.reshape(-1) for column in (row, at, items, platform)))
        logits = self.ranker(self.ranker.events(shoppers), candidates)
        value = logits[:, 0] if self.rank_by == "next" else log_probabilities(logits)[:, TASKS.index(self.rank_by) - 1]
        return value.view(items.shape)

    def reorder(self, scores: Tensor, shoppers: ShopperBatch) -> Tensor:
        """scores (B, V), -inf what may not be answered -> (B, V): the candidates by the ranker, all others below them."""
        items, final = self.shortlist(scores, shoppers)
        lowest = final.masked_fill(final == -torch.inf, torch.inf).amin(1, keepdim=True)
        below = scores - scores.amax(1, keepdim=True) + lowest - 1
        return below.scatter(1, items, final)


class TwoStage(nn.Module):
    """A retriever (a next-item network or a blend) and a second stage, as one model."""

    def __init__(self, retriever: NextItemNetwork | Blend, second: SecondStage):
        super().__init__()
        self.retriever, self.second, self.max_len = retriever, second, retriever.max_len

    def scores(self, history: Tensor, times: Tensor) -> Tensor:
        """(B, L) int64 both -> (B, V) float, the retriever's; padding scores -inf."""
        return self.retriever.scores(history, times)


def first_stage(model: nn.Module) -> nn.Module:
    """What proposes: the retriever of two stages, any other model itself."""
    return model.retriever if isinstance(model, TwoStage) else model


def network_of(model: nn.Module) -> NextItemNetwork | None:
    """The next-item network in any model: itself, that of its retriever, that of a blend; None where there is none."""
    first = first_stage(model)
    first = first.network if isinstance(first, Blend) else first
    return first if isinstance(first, NextItemNetwork) else None


def unchanged(model: nn.Module) -> AbstractContextManager[None]:
    """While this is entered no weight of any model changes: what its network computes of all items is computed once."""
    network = network_of(model)
    return network.unchanged() if network else nullcontext()


def unseen(model: nn.Module, shoppers: ShopperBatch, seen: Tensor) -> Tensor:
    """Any model's scores (B, V) float of what shoppers have not met; seen (B, S) int64, padded with 0, scores -inf."""
    scores = model.scores(shoppers.history, shoppers.times).float().scatter(1, seen, -torch.inf)
    return model.second.reorder(scores, shoppers) if isinstance(model, TwoStage) else scores
