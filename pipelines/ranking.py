"""Where held-out items stand among all that a shopper has not met. Shared by train and evaluate."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models import metrics
from models.baselines import Memory, Neighbours, popularity
from models.batches import Asked, ByLength, Histories, Impressions, Sequences, Shoppers, pad
from models.ranker import log_probabilities
from models.sequence import NextItemNetwork
from models.two_stage import TwoStage, unseen
from pipelines.histories import Prepared

Model = NextItemNetwork | Neighbours | TwoStage

BATCH = 256
SAMPLE = 5000  # shoppers of the validation part that a choice between variants looks at, at most


def rank_all(model: Model, part: Sequences, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N,) of the targets among the items not met before, and what would be recommended, (N, k) item numbers."""
    order, ranks, tops = [], [], []
    for rows, shoppers, target, seen in batches(model, part):
        with torch.inference_mode():
            scores = unseen(model, shoppers, seen)
            ranks.append(metrics.ranks(scores, target).cpu().numpy())
            tops.append(scores.topk(min(k, scores.shape[1])).indices.cpu().numpy())
        order += rows
    back = np.argsort(order)
    return np.concatenate(ranks)[back], np.concatenate(tops)[back]


def task_probabilities(model: TwoStage, histories: Sequences, shown: Impressions) -> np.ndarray:
    """What a ranker expects of impressions: (N, 3) float32, probabilities of click, cart and purchase.

    histories: whole ones, of all shoppers; of each only what came before the impression is read.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ranker, found = model.second.ranker.to(device), []
    for start in range(0, len(shown), BATCH * 8):
        part = shown.rows(np.arange(start, min(start + BATCH * 8, len(shown))))
        moments, row = np.unique(np.stack([part.user, part.position]), axis=1, return_inverse=True)
        columns = (
            pad([column[user][:position][-model.max_len :] for user, position in moments.T])
            for column in (histories.items, histories.times, histories.actions)
        )
        shoppers = Shoppers(*(c.to(device) for c in columns), torch.zeros(0, dtype=torch.long))
        at = np.minimum(part.position, model.max_len)
        asked = Asked(*(torch.from_numpy(c).to(device) for c in (row, at, part.item, part.platform)))
        with torch.inference_mode():
            found.append(log_probabilities(ranker(ranker.events(shoppers), asked)).exp().cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 3), np.float32)


def valid_ndcg(model: Model, valid: Sequences) -> float:
    """NDCG@10 on (a sample of) the validation part, to choose between variants by."""
    return float(metrics.ndcg(rank_all(model, valid.sample(SAMPLE), 10)[0], 10).mean())


def ndcg_by_memory(network: NextItemNetwork, memory: Memory, part: Sequences, weights: tuple[float, ...]) -> dict[float, float]:
    """NDCG@10 of a network that has no memory for each weight of one beside it; both are asked once."""
    gains = dict.fromkeys(weights, 0.0)
    memory = memory.to(network.table.weight.device)
    for _, shoppers, target, seen in batches(network, part):
        with torch.inference_mode():
            scores, told = unseen(network, shoppers, seen), memory(shoppers.history)
            for weight in weights:
                gains[weight] += metrics.ndcg(metrics.ranks(scores + weight * told, target).cpu().numpy(), 10).sum()
    return {weight: float(gain / len(part)) for weight, gain in gains.items()}


def ndcg_by_trust(model: TwoStage, part: Sequences, trusts: tuple[float, ...]) -> dict[float, float]:
    """NDCG@10 of two stages for each trust in the ranker, which is asked once; a target that is not proposed counts nothing."""
    gains = dict.fromkeys(trusts, 0.0)
    second, trusted = model.second, model.second.trust.item()
    for _, shoppers, target, seen in batches(model, part):
        with torch.inference_mode():
            proposed, items = second.proposals(unseen(model.retriever, shoppers, seen))
            judged, wanted = second.judged(shoppers, items), items == target[:, None]
            found, place = wanted.any(1), wanted.int().argmax(1)
            for trust in trusts:
                second.trust.fill_(trust)
                rank = metrics.ranks(second.weighed(proposed, judged)[found], place[found])
                gains[trust] += metrics.ndcg(rank.cpu().numpy(), 10).sum()
    second.trust.fill_(trusted)
    return {trust: float(gain / len(part)) for trust, gain in gains.items()}


def batches(model: Model, part: Sequences) -> Iterator[tuple[list[int], Shoppers, Tensor, Tensor]]:
    """Rows of the part, their shoppers, targets (B,) and items seen (B, S) int64, a batch of like lengths at a time, on the best
    device there is, to which the model is moved.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    held_out = Histories(part, model.max_len)
    for rows in ByLength(held_out.lengths, BATCH):
        shoppers, target, seen = held_out[rows]
        yield rows, Shoppers(*(column.to(device) for column in shoppers)), target.to(device), seen.to(device)


def best_popularity(data: Prepared) -> Neighbours:
    """Popularity, with recent events weighing more where validation likes that better."""
    return max((popularity(data.popularity()), popularity(data.recency())), key=lambda model: valid_ndcg(model, data.valid))
