"""Where held-out items stand among all that a shopper has not met. Shared by train and evaluate."""

import numpy as np
import torch

from models import metrics
from models.baselines import Neighbours, popularity
from models.batches import Sequences, pad
from models.sequence import NextItemNetwork
from pipelines.histories import Prepared

BATCH = 256
SAMPLE = 5000  # shoppers of the validation part that a choice between variants looks at, at most


def rank_all(model: NextItemNetwork | Neighbours, part: Sequences, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N,) of the targets among the items not met before, and what would be recommended, (N, k) item numbers.

    Runs on the best device there is.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    ranks, tops = np.zeros(len(part), int), np.zeros((len(part), 0), int)
    order = np.argsort([len(h) for h in part.items], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        history, times = (pad([column[r][-model.max_len :] for r in rows]).to(device) for column in (part.items, part.times))
        with torch.inference_mode():
            scores = model.scores(history, times).float()
            unseen = scores.scatter(1, pad([part.items[r] for r in rows]).to(device), -torch.inf)
            ranks[rows] = metrics.ranks(unseen, torch.from_numpy(part.targets[rows]).to(device)).cpu().numpy()
            top = unseen.topk(min(k, unseen.shape[1])).indices.cpu().numpy()
        if not start:
            tops = np.zeros((len(part), top.shape[1]), int)
        tops[rows] = top
    return ranks, tops


def valid_ndcg(model: NextItemNetwork | Neighbours, valid: Sequences) -> float:
    """NDCG@10 on (a sample of) the validation part, to choose between variants by."""
    some = range(0, len(valid), max(1, len(valid) // SAMPLE))
    part = Sequences([valid.items[r] for r in some], [valid.times[r] for r in some], valid.targets[some])
    return float(metrics.ndcg(rank_all(model, part, 10)[0], 10).mean())


def best_popularity(data: Prepared) -> Neighbours:
    """Popularity, with recent events weighing more where validation likes that better."""
    return max((popularity(data.popularity()), popularity(data.recency())), key=lambda model: valid_ndcg(model, data.valid))
