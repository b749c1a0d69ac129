"""Where held-out items stand among all that a shopper has not met. Shared by train and evaluate."""

import numpy as np
import torch

from models import metrics
from models.baselines import Neighbours, popularity
from models.batches import Asked, ByLength, Histories, Impressions, Sequences, Shoppers, pad
from models.ranker import log_probabilities
from models.sequence import NextItemNetwork
from models.two_stage import TwoStage, unseen
from pipelines.histories import Prepared

Model = NextItemNetwork | Neighbours | TwoStage

BATCH = 256
SAMPLE = 5000  # shoppers of the validation part that a choice between variants looks at, at most


def rank_all(model: Model, part: Sequences, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N,) of the targets among the items not met before, and what would be recommended, (N, k) item numbers.

    Runs on the best device there is.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, held_out = model.to(device), Histories(part, model.max_len)
    order, ranks, tops = [], [], []
    for rows in ByLength(held_out.lengths, BATCH):
        shoppers, target, seen = held_out[rows]
        shoppers = Shoppers(*(column.to(device) for column in shoppers))
        with torch.inference_mode():
            scores = unseen(model, shoppers, seen.to(device))
            ranks.append(metrics.ranks(scores, target.to(device)).cpu().numpy())
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


def ndcg_by_trust(model: TwoStage, part: Sequences, trusts: tuple[float, ...]) -> dict[float, float]:
    """NDCG@10 of two stages for each trust in the ranker, which is asked once; a target that is not proposed counts nothing."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, held_out, gains = model.to(device), Histories(part, model.max_len), dict.fromkeys(trusts, 0.0)
    second, trusted = model.second, model.second.trust.item()
    for rows in ByLength(held_out.lengths, BATCH):
        shoppers, target, seen = held_out[rows]
        shoppers = Shoppers(*(column.to(device) for column in shoppers))
        with torch.inference_mode():
            proposed, items = second.proposals(unseen(model.retriever, shoppers, seen.to(device)))
            judged, wanted = second.judged(shoppers, items), items == target.to(device)[:, None]
            for trust in trusts:
                second.trust.fill_(trust)
                final = second.weighed(proposed, judged)[wanted.any(1)]
                rank = metrics.ranks(final, wanted[wanted.any(1)].int().argmax(1))
                gains[trust] += metrics.ndcg(rank.cpu().numpy(), 10).sum()
    second.trust.fill_(trusted)
    return {trust: float(gain / len(held_out)) for trust, gain in gains.items()}


def best_popularity(data: Prepared) -> Neighbours:
    """Popularity, with recent events weighing more where validation likes that better."""
    return max((popularity(data.popularity()), popularity(data.recency())), key=lambda model: valid_ndcg(model, data.valid))
