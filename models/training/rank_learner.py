"""Trains any ranker beside a trained retriever: the Lightning module. Knows no files."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batches import Candidates, ShopperBatch
from models.losses import uniform_draws
from models.rankers.ranker import Ranker, log_probabilities
from models.rankers.two_stage import SecondStage, TwoStage
from models.retrieval.blend import Blend
from models.retrieval.network import NextItemNetwork
from models.training.learner import NextItem

POSITIONS = 4  # of each history, at which the next item is to be told from others
PROPOSED, DRAWN = 8, 7  # others: of the retriever's candidates, and of all items
SHOWN = 10.0  # weight of what came of impressions: most are passed over, so their mean loss is small beside that of next items


class RankImpressions(NextItem):
    """Learns two things at once: which of some candidates is met next (softmax over the item that was and others that the
    retriever proposed or that were drawn; each pair also by itself: Lee et al., "Deeply-Supervised Nets", 2015), and what came of
    each impression (binary cross-entropy of click, cart and purchase).

    Args:
        ranker: models.rankers.ranker.Ranker. retriever: trained; it stays as it is. candidates: proposed by it.
        The rest as for NextItem, whose validation it shares: NDCG@10 of the candidates in the ranker's order.
    """

    capturable = False

    def __init__(
        self,
        ranker: Ranker,
        retriever: NextItemNetwork | Blend,
        candidates: int,
        popularity: np.ndarray,
        learning_rate: float,
        weight_decay: float,
    ):
        both = TwoStage(retriever.eval().requires_grad_(False), SecondStage(ranker, candidates, "next"))
        super().__init__(both, "next", popularity, PROPOSED + DRAWN, learning_rate, weight_decay)
        # The retriever is the same in every process, and gloo sends no int16, in which its neighbours are numbered.
        fixed = [f"network.retriever.{name}" for name in retriever.state_dict()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, fixed)

    def training_step(self, batch: tuple[ShopperBatch, Tensor, Candidates, Tensor], index: int) -> Tensor:
        shoppers, platforms, shown, labels = batch
        ranker = self.network.second.ranker
        events = ranker.events(shoppers)
        following, others = self.next_items(shoppers, platforms)
        both = Candidates(*(torch.cat(columns) for columns in zip(following, shown, strict=True)))
        logits, alone = ranker.logits_and_parts(events, both)
        of_next = next_loss(logits[: len(following.row), 0], alone[: len(following.row)], others) if len(others) else 0.0
        of_shown = task_loss(logits[len(following.row) :], labels) if len(labels) else 0.0
        loss = of_next + SHOWN * of_shown + ranker.encoder.auxiliary(events, shoppers.history > 0)
        self.count_loss(loss, len(platforms))
        return loss

    @torch.no_grad()
    def next_items(self, shoppers: ShopperBatch, platforms: Tensor) -> tuple[Candidates, Tensor]:
        """At some positions of each history the item that was met next, first, and others: candidates (P * K,), and which
        of them (P, K) bool are that item again.
        """
        history, retriever = shoppers.history, self.network.retriever
        lot = torch.rand(history.shape, device=self.device).masked_fill(history == 0, -1.0)
        lot[:, 0] = -1.0
        row, at = (lot >= lot.topk(min(POSITIONS, lot.shape[1])).values[:, -1:].clamp(min=0)).nonzero(as_tuple=True)
        known = torch.arange(history.shape[1], device=self.device) < at[:, None]
        scores = retriever.scores(history[row] * known, shoppers.times[row] * known).masked_fill(self.share == 0, -torch.inf)
        proposed = scores.topk(min(self.network.second.candidates, len(self.pool))).indices
        some = torch.randint(proposed.shape[1], (len(row), PROPOSED), device=self.device)
        drawn = uniform_draws(len(row) * DRAWN, self.pool)[0].view(-1, DRAWN)
        items = torch.cat([history[row, at][:, None], proposed.gather(1, some), drawn], 1)
        again = items == items[:, :1]
        again[:, 0] = False
        spread = (column[:, None].expand_as(items) for column in (row, at, platforms[row, at]))
        row, at, platform = (column.reshape(-1) for column in spread)
        return Candidates(row, at, items.reshape(-1), platform), again


def next_loss(logits: Tensor, alone: Tensor, others: Tensor) -> Tensor:
    """Cross-entropy of the first of each list's candidates by all pairs together, and the mean of those by each of them alone:
    else the others would learn little beside the one that learns fastest.

    logits (P * K,), alone (P * K, parts), others (P, K) bool: left out -> scalar.
    """
    by = torch.cat([logits[:, None], alone], 1).view(*others.shape, -1).masked_fill(others[..., None], -torch.inf)
    loss = -by.log_softmax(1)[:, 0].mean(0)
    return loss[0] + loss[1:].mean()


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of click, cart and purchase over all impressions, summed over the tasks.

    logits (N, tasks), labels (N, 3) float -> scalar.
    """
    yes = log_probabilities(logits).clamp(max=-1e-6)
    no = torch.log(-torch.expm1(yes))
    return -(labels * yes + (1 - labels) * no).mean(0).sum()
