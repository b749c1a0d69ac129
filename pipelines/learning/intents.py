"""Trains the head of service/intents.py on labelled messages."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, softmax

from service.intents import HASHED, NEAREST, SHARES, Intents, features

STRENGTH = 100.0  # inverse of the regularisation
FOLDS, BINS = 5, 15
MOST_LEARNT = 4000  # messages whose meanings are kept
# Quantiles of messages' cosines with others of theirs: where one is doubtful, and where it is surely one of them.
DOUBTFUL, NEAR = 0.05, 0.5
FARTHER = 0.25  # than where one is doubtful it is none of them


def fit(messages: Sequence[str], intents: Sequence[str], seed: int = 0) -> Intents:
    """See learn; the head alone."""
    return learn(messages, intents, seed)[0]


def learn(messages: Sequence[str], intents: Sequence[str], seed: int = 0) -> tuple[Intents, dict]:
    """A logistic regression over words, letters and meaning, its temperature fitted on messages held out of it; and of those messages accuracy and expected calibration
    error (Naeini et al. 2015): {"accuracy", "interval", "ece", "by_intent"}, empty where an intent has one message alone.

    Raises:
        ValueError: there are fewer than two intents.
    """
    messages, intents = list(messages), np.array(list(intents))
    names = np.unique(intents)
    if len(names) < 2:
        raise ValueError(f"messages of {len(names)} intent cannot be told apart; at least two are needed")
    grams, meant = features(messages)
    inputs, temperature, report = _matrix(grams, meant), 1.0, {}
    if min(np.unique(intents, return_counts=True)[1]) >= 2:
        logits, wanted = _held_out(inputs, intents, seed), np.searchsorted(names, intents)
        temperature = _temperature(logits, wanted)
        report = _measured(softmax(logits / temperature, axis=1), wanted, names)
    found = _regression(inputs, intents)
    weights, bias = _both(found.coef_.T).astype(np.float32), _both(found.intercept_[None])[0]
    rng = np.random.default_rng(seed)
    learnt = (meant / SHARES[2])[np.sort(rng.permutation(len(messages))[:MOST_LEARNT])].astype(np.float16)
    some = learnt[np.sort(rng.permutation(len(learnt))[:1000])].astype(np.float32)
    # The nearest of each is the message itself.
    cosines = -np.sort(-(some @ learnt.T.astype(np.float32)), axis=1)[:, 1 : NEAREST + 1].mean(1)
    far, near = float(np.quantile(cosines, DOUBTFUL)) - FARTHER, float(np.quantile(cosines, NEAR))
    return Intents(
        names.tolist(), weights[:HASHED].astype(np.float16), weights[HASHED:].astype(np.float16), bias.astype(np.float32), temperature, learnt, far, near
    ), report  # fmt: skip


def _held_out(inputs, intents: np.ndarray, seed: int) -> np.ndarray:
    """Logits (N, C) of each message by a regression that had not learnt from it."""
    from sklearn.model_selection import StratifiedKFold

    names, counts = np.unique(intents, return_counts=True)
    logits = np.zeros((len(intents), len(names)))
    for train, held in StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=seed).split(inputs, intents):
        logits[held] = _both(_regression(inputs[train], intents[train]).decision_function(inputs[held]))
    return logits


def _measured(chances: np.ndarray, wanted: np.ndarray, names: np.ndarray) -> dict:
    right = chances.argmax(1) == wanted
    spread = 1.96 * right.std() / len(right) ** 0.5
    by_intent = {name: round(float(right[wanted == i].mean()), 4) for i, name in enumerate(names.tolist())}
    interval = [float(right.mean() - spread), float(right.mean() + spread)]
    return {
        "accuracy": float(right.mean()), "interval": interval, "ece": calibration_error(right, chances.max(1)), "by_intent": by_intent
    }  # fmt: skip


def _matrix(grams: list[tuple[np.ndarray, np.ndarray]], meant: np.ndarray):
    import scipy.sparse as sp

    starts = np.cumsum([0, *(len(columns) for columns, _ in grams)])
    columns, values = (np.concatenate(part) for part in zip(*grams, strict=True))
    return sp.hstack([sp.csr_matrix((values, columns, starts), shape=(len(grams), HASHED)), sp.csr_matrix(meant)]).tocsr()


def _regression(inputs, intents: np.ndarray):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=STRENGTH, max_iter=300).fit(inputs, intents)


def _both(scores: np.ndarray) -> np.ndarray:
    """Logits of two intents where scikit-learn gives their difference. (N,) or (N, 1) -> (N, 2)"""
    scores = scores[:, None] if scores.ndim == 1 else scores
    return np.concatenate([-scores / 2, scores / 2], 1) if scores.shape[1] == 1 else scores


def _temperature(logits: np.ndarray, wanted: np.ndarray) -> float:
    """By which held-out intents are likeliest (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
    from scipy.optimize import minimize_scalar

    def unlikeliness(log: float) -> float:
        return -log_softmax(logits / np.exp(log), axis=1)[np.arange(len(wanted)), wanted].mean()

    return float(np.exp(minimize_scalar(unlikeliness, bounds=(-3, 3), method="bounded").x))


def calibration_error(right: np.ndarray, sure: np.ndarray) -> float:
    """Mean distance between how sure and how often right, in BINS bins. (N,) bool and (N,) float"""
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    return float(sum(abs(right[place == b].mean() - sure[place == b].mean()) * (place == b).mean() for b in np.unique(place)))
