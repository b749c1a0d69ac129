"""Trains the head of service/intents.py on labelled messages."""

from collections.abc import Sequence

import numpy as np

from service.intents import HASHED, NEAREST, SHARES, Intents, features

STRENGTH = 100.0  # inverse of the regularisation
FOLDS, BINS = 5, 15
MOST_LEARNT = 4000  # messages whose meanings are kept
FAR, NEAR = (
    0.05,
    0.5,
)  # quantiles of messages' cosines with others of theirs: where one is doubtful, and where it is surely one of them


def fit(messages: Sequence[str], intents: Sequence[str], seed: int = 0) -> Intents:
    """A logistic regression over words, letters and meaning, its temperature fitted on messages held out of it.

    Raises:
        ValueError: there are fewer than two intents.
    """
    from sklearn.model_selection import StratifiedKFold

    messages, intents = list(messages), np.array(list(intents))
    names = np.unique(intents)
    if len(names) < 2:
        raise ValueError(f"messages of {len(names)} intent cannot be told apart; at least two are needed")
    grams, meant = features(messages)
    inputs, temperature = _matrix(grams, meant), 1.0
    rarest = min(np.unique(intents, return_counts=True)[1])
    if rarest >= 2:
        said, wanted = [], []
        for train, held in StratifiedKFold(min(FOLDS, int(rarest)), shuffle=True, random_state=seed).split(inputs, intents):
            said.append(_regression(inputs[train], intents[train]).decision_function(inputs[held]))
            wanted.append(np.searchsorted(names, intents[held]))
        temperature = _temperature(_both(np.concatenate(said)), np.concatenate(wanted))
    found = _regression(inputs, intents)
    weights, bias = _both(found.coef_.T).astype(np.float32), _both(found.intercept_[None])[0]
    rng = np.random.default_rng(seed)
    learnt = (meant / SHARES[2])[np.sort(rng.permutation(len(messages))[:MOST_LEARNT])].astype(np.float16)
    some = learnt[np.sort(rng.permutation(len(learnt))[:1000])].astype(np.float32)
    cosines = -np.sort(-(some @ learnt.T.astype(np.float32)), axis=1)[:, 1 : NEAREST + 1].mean(
        1
    )  # the first is the message itself
    far = float(np.quantile(cosines, FAR)) - 0.25
    return Intents(names.tolist(), weights[:HASHED].astype(np.float16), weights[HASHED:].astype(np.float16), bias.astype(np.float32), temperature, learnt, far, float(np.quantile(cosines, NEAR)))  # fmt: skip


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
    from scipy.special import log_softmax

    def unlikeliness(log: float) -> float:
        return -log_softmax(logits / np.exp(log), axis=1)[np.arange(len(wanted)), wanted].mean()

    return float(np.exp(minimize_scalar(unlikeliness, bounds=(-3, 3), method="bounded").x))


def held_out(messages: Sequence[str], intents: Sequence[str], seed: int = 0) -> dict:
    """Accuracy and expected calibration error (Naeini et al. 2015) of messages that heads had not learnt from: {"accuracy", "interval", "ece", "by_intent"}."""
    from sklearn.model_selection import StratifiedKFold

    messages, intents = list(messages), np.array(list(intents))
    right, sure = np.zeros(len(messages), bool), np.zeros(len(messages))
    folds = min(FOLDS, int(min(np.unique(intents, return_counts=True)[1])))
    for train, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(messages, intents):
        head = fit([messages[i] for i in train], intents[train], seed)
        chances, _ = head.chances([messages[i] for i in held])
        right[held], sure[held] = np.array(head.names)[chances.argmax(1)] == intents[held], chances.max(1)
    spread = 1.96 * right.std() / len(right) ** 0.5
    by_intent = {name: round(float(right[intents == name].mean()), 4) for name in np.unique(intents).tolist()}
    return {"accuracy": float(right.mean()), "interval": [float(right.mean() - spread), float(right.mean() + spread)], "ece": calibration_error(right, sure), "by_intent": by_intent}  # fmt: skip


def calibration_error(right: np.ndarray, sure: np.ndarray) -> float:
    """Mean distance between how sure and how often right, in BINS bins. (N,) bool and (N,) float"""
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    return float(sum(abs(right[place == b].mean() - sure[place == b].mean()) * (place == b).mean() for b in np.unique(place)))
