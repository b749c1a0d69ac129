"""Where held-out items stand among all that a shopper has not met. Shared by train and evaluate."""

import numpy as np
import torch

from models import metrics
from models.baselines import Neighbours, popularity
from models.batches import ByLength, Histories, Sequences
from models.sequence import NextItemNetwork
from pipelines.histories import Prepared

BATCH = 256
SAMPLE = 5000  # shoppers of the validation part that a choice between variants looks at, at most


def rank_all(model: NextItemNetwork | Neighbours, part: Sequences, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N,) of the targets among the items not met before, and what would be recommended, (N, k) item numbers.

    Runs on the best device there is.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, held_out = model.to(device), Histories(part, model.max_len)
    order, ranks, tops = [], [], []
    for rows in ByLength(held_out.lengths, BATCH):
        history, times, target, seen = (column.to(device) for column in held_out[rows])
        with torch.inference_mode():
            unseen = model.scores(history, times).float().scatter(1, seen, -torch.inf)
            ranks.append(metrics.ranks(unseen, target).cpu().numpy())
            tops.append(unseen.topk(min(k, unseen.shape[1])).indices.cpu().numpy())
        order += rows
    back = np.argsort(order)
    return np.concatenate(ranks)[back], np.concatenate(tops)[back]


def valid_ndcg(model: NextItemNetwork | Neighbours, valid: Sequences) -> float:
    """NDCG@10 on (a sample of) the validation part, to choose between variants by."""
    return float(metrics.ndcg(rank_all(model, valid.sample(SAMPLE), 10)[0], 10).mean())


def best_popularity(data: Prepared) -> Neighbours:
    """Popularity, with recent events weighing more where validation likes that better."""
    return max((popularity(data.popularity()), popularity(data.recency())), key=lambda model: valid_ndcg(model, data.valid))
