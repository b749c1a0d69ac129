"""Ranking metrics from ranks: one relevant item a shopper, every item of the catalogue ranked, never a sample. And metrics of
probabilities.
"""

import math

import numpy as np
import torch
from torch import Tensor


def ranks(scores: Tensor, target: Tensor) -> Tensor:
    """scores (B, V) float, target (B,) int64 -> (B,) int64: rank of the target, 0 = first.

    Ties count as ranked before the target, so that a constant score gains nothing; so do items whose score is no number, and a target
    whose score is not finite is ranked last, so that a network that diverged gains nothing either.
    """
    of_target = scores.gather(1, target[:, None])
    not_below = scores.shape[1] - (scores < of_target).sum(1)
    return torch.where(of_target.squeeze(1).isfinite(), not_below, scores.shape[1]) - 1


def recall(rank: np.ndarray, k: int) -> np.ndarray:
    """rank (N,) -> (N,): 1 where the target is among the first k."""
    return (rank < k).astype(float)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """rank (N,) -> (N,): 1 / log2(rank + 2) among the first k, else 0 (Järvelin & Kekäläinen 2002; the ideal is 1)."""
    return np.where(rank < k, 1 / np.log2(rank + 2.0), 0.0)


def mrr(rank: np.ndarray, k: int) -> np.ndarray:
    """rank (N,) -> (N,): 1 / (rank + 1) among the first k, else 0."""
    return np.where(rank < k, 1 / (rank + 1.0), 0.0)


METRICS = {"ndcg": ndcg, "recall": recall, "mrr": mrr}


def coverage(recommended: np.ndarray, items: int) -> float:
    """recommended (N, k) item numbers, 0 where no item was left -> share of the catalogue that was recommended to anyone."""
    return len(np.unique(recommended[recommended > 0])) / items


def novelty(recommended: np.ndarray, popularity: np.ndarray) -> float:
    """Mean self-information of what was recommended, in bits (Vargas & Castells 2011).

    recommended (N, k) item numbers, 0 where no item was left; popularity (V,) counts, indexed by item number. Unseen items count as seen once.
    """
    share = np.maximum(popularity, 1) / max(popularity.sum(), 1)
    return float(-np.log2(share[recommended[recommended > 0]]).mean())


def interval(values: np.ndarray, samples: int, seed: int) -> list[float]:
    """95 % bootstrap interval of the mean over shoppers (Efron 1979). values (N,) -> [low, high]."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(samples)]
    return [float(v) for v in np.quantile(means, [0.025, 0.975])]


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """How often a positive (label 1) scores above a negative, ties half: area under the ROC curve (Hanley & McNeil 1982).

    score, label (N,). NaN where one of the two is missing.
    """
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return math.nan
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (count.cumsum() - (count - 1) / 2)[place]  # from 1, ties at their mean
    return float((rank[label > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    """Mean -ln of the probability (N,) given to what happened, label (N,) of 0 and 1; in nats."""
    sure = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(-np.where(label > 0, np.log(sure), np.log1p(-sure)).mean())


def calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = 10) -> float:
    """Mean distance of predicted from observed frequency over bins of as many predictions each (Naeini et al. 2015, equal mass).

    probability, label (N,) -> 0 to 1.
    """
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(probability[p].mean() - label[p].mean()) * len(p) for p in parts) / len(order))
