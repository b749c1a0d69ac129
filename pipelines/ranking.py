"""Where held-out items stand among all that a shopper has not met. Shared by train and evaluate."""

import numpy as np
import torch

from models import metrics
from models.baselines import Neighbours
from models.batches import Sequences, pad
from models.sequence import NextItemNetwork

BATCH = 256


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
