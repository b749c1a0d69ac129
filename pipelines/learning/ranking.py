"""Where held-out items stand among all that a shopper has not met. Everything happens on the model's own device."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models import metrics
from models.batches import ACTIONS, ITEMS, TIMES, Batches, ByLength, Candidates, Histories, ShopperBatch, Windows
from models.rankers.ranker import log_probabilities
from models.rankers.two_stage import TwoStage, unchanged, unseen
from models.retrieval.evidence import Evidence
from models.retrieval.network import NextItemNetwork
from models.sequences import Impressions, Sequences
from pipelines.learning.device import device_of, room
from pipelines.learning.saved import Model

BATCH = 256
SAMPLE = 5000  # shoppers of the validation part that a choice between variants looks at, at most


def rank_all(model: Model, part: Sequences, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N,) of the targets among the items not met before, and what would be recommended, (N, k) item numbers, 0 where
    no item was left.
    """
    order, ranks, tops = [], [], []
    with torch.inference_mode(), unchanged(model):
        for rows, shoppers, target, seen in batches(model, part):
            scores = unseen(model, shoppers, seen)
            ranks.append(metrics.ranks(scores, target).cpu().numpy())
            best = scores.topk(min(k, scores.shape[1]))
            tops.append(best.indices.masked_fill(best.values == -torch.inf, 0).cpu().numpy())
            order.append(rows)
    back = np.argsort(np.concatenate(order))
    return np.concatenate(ranks)[back], np.concatenate(tops)[back]


def candidates(model: Model, histories: Sequences, k: int, worth: np.ndarray) -> np.ndarray:
    """What each shopper may be offered next, (N, k) item numbers, 0 where no item was left: half of them what is likeliest to be met, best first, then what promises most, by the chance of
    being met (a softmax of the scores) x worth (V,), what a purchase of each item brings.
    """
    nothing = np.zeros(len(histories), np.int64)  # is to be predicted: what is new is asked for
    part = histories.within(histories.items.start, histories.items.end, targets=nothing)
    bonus, order, found = torch.from_numpy(np.log(np.maximum(worth, 1e-6))).float().to(device_of(model)), [], []
    with torch.inference_mode(), unchanged(model):
        for rows, shoppers, _, seen in batches(model, part):
            scores = unseen(model, shoppers, seen).log_softmax(1)
            likely = scores.topk(min(k - k // 2, scores.shape[1]))
            rest = scores.scatter(1, likely.indices, -torch.inf) + bonus
            promising = rest.topk(min(k // 2, scores.shape[1]))
            both = (likely, promising)
            found.append(torch.cat([b.indices.masked_fill(b.values == -torch.inf, 0) for b in both], 1).cpu().numpy())
            order.append(rows)
    return np.concatenate(found)[np.argsort(np.concatenate(order))]


def task_probabilities(model: TwoStage, histories: Sequences, shown: Impressions) -> np.ndarray:
    """What a ranker expects of impressions: (N, 3) float32, probabilities of click, cart and purchase.

    histories: whole ones, of all shoppers; of each only what came before the impression is read.
    """
    device, ranker, found = device_of(model), model.second.ranker, []
    windows = Windows(histories.items.values, histories.times.values, histories.actions.values)
    windows.to(device, room(device))
    for start in range(0, len(shown), BATCH * 8):
        part = shown.rows(np.arange(start, min(start + BATCH * 8, len(shown))))
        moments, row = np.unique(np.stack([part.user, part.position]), axis=1, return_inverse=True)
        start, length = histories.items.start[moments[0]], np.minimum(moments[1], model.max_len)
        [columns] = windows.of(start + moments[1] - length, length, [len(start)], (ITEMS, 0), (TIMES, 0), (ACTIONS, 0))
        shoppers = ShopperBatch(*columns, torch.zeros(0, dtype=torch.long, device=device))
        at = np.minimum(part.position, model.max_len)
        candidates = Candidates(*(torch.from_numpy(c).to(device) for c in (row, at, part.item, part.platform)))
        with torch.inference_mode():
            found.append(log_probabilities(ranker(ranker.events(shoppers), candidates)).exp().cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 3), np.float32)


def valid_ndcg(model: Model, valid: Sequences) -> float:
    """NDCG@10 on (a sample of) the validation part, to choose between variants by."""
    return float(metrics.ndcg(rank_all(model, valid.sample(SAMPLE), 10)[0], 10).mean())


def ndcg_by_prior_weight(
    network: NextItemNetwork, prior: Evidence, part: Sequences, weights: tuple[float, ...]
) -> dict[float, float]:
    """NDCG@10 of a network without a prior for each weight of one beside it; both are computed once a batch."""
    gains = dict.fromkeys(weights, 0.0)
    for _, shoppers, target, seen in batches(network, part):
        with torch.inference_mode():
            scores, added = unseen(network, shoppers, seen), prior(shoppers.history)
            for weight in weights:
                gains[weight] += metrics.ndcg(metrics.ranks(scores + weight * added, target).cpu().numpy(), 10).sum()
    return {weight: float(gain / len(part)) for weight, gain in gains.items()}


def ndcg_by_blend(model: TwoStage, part: Sequences, blends: tuple[float, ...]) -> dict[float, float]:
    """NDCG@10 of two stages for each weight of the ranker, which is computed once a batch; a target that is not proposed counts 0."""
    gains = dict.fromkeys(blends, 0.0)
    second, before = model.second, model.second.blend.item()
    for _, shoppers, target, seen in batches(model, part):
        with torch.inference_mode():
            proposed, items = second.proposals(unseen(model.retriever, shoppers, seen))
            reranked, wanted = second.rerank_logits(shoppers, items), items == target[:, None]
            hit, place = wanted.any(1), wanted.int().argmax(1)
            for blend in blends:
                second.blend.fill_(blend)
                rank = metrics.ranks(second.blended(proposed, reranked)[hit], place[hit])
                gains[blend] += metrics.ndcg(rank.cpu().numpy(), 10).sum()
    second.blend.fill_(before)
    return {blend: float(gain / len(part)) for blend, gain in gains.items()}


def batches(model: Model, part: Sequences) -> Iterator[tuple[np.ndarray, ShopperBatch, Tensor, Tensor]]:
    """Rows of the part, their shoppers, targets (B,) and items seen (B, S) int64, a batch of like lengths at a time, on the model's device."""
    place = device_of(model)
    held_out = Histories(part, model.max_len).to(place, room(place))
    order = ByLength(held_out.lengths, BATCH)
    for rows, batch in zip(order, Batches(held_out, order), strict=True):
        yield rows, *batch
