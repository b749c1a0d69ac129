"""What would another way of choosing have brought? Told from a log of what was chosen, with which chance, and what came of it, before anybody is disturbed.

In: of each logged choice its reward, the chance with which it was made, and with which the other way (the target) would have made it; where there is a model of
rewards, what it expects. Out: the target's mean reward by several estimators with intervals, how many choices it rests on, or a refusal. Knows no
campaigns.

Estimators: inverse propensity scores (IPS) and their self-normalised form (SNIPS; Swaminathan & Joachims 2015); doubly robust (DR; Dudik et al. 2014); Switch-DR (Wang
et al. 2017); DR with optimistic shrinkage (DRos; Su et al., "Doubly robust off-policy evaluation with shrinkage", 2020).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FAR = 3.0  # standard errors from 1 at which mean weights say that the propensities are wrong
CANDIDATES = 15  # limits of weights that Switch and DRos choose among
SAMPLES, AT_ONCE = 300, 20  # of the bootstrap


class NoValue(ValueError):
    """Nothing can be told of the target from this log; the message says why."""


@dataclass(frozen=True)
class Log:
    """N logged choices."""

    reward: np.ndarray  # (N,)
    weight: np.ndarray  # (N,), the target's chance of the choice over the chance with which it was made
    expected: np.ndarray | None = None  # (N,), the reward that a model expects of the choice
    expected_of_target: np.ndarray | None = None  # (N,), of what the target would choose, on average


@dataclass(frozen=True)
class Value:
    """A target's mean reward, by one estimator."""

    estimator: str
    value: float
    interval: tuple[float, float]  # 95 %, bootstrap of choices


@dataclass(frozen=True)
class Overlap:
    """How far a log speaks of a target."""

    mean_weight: float  # 1 but for chance, where the propensities are right
    error: float  # its standard error
    effective: float  # choices made by the target itself that would say as much
    heaviest: float  # the largest weight


def overlap(weight: np.ndarray) -> Overlap:
    """See Overlap.

    Raises:
        NoValue: weights are not those of chances, or their mean is not 1 within FAR standard errors.
    """
    if not len(weight) or not np.isfinite(weight).all() or (weight < 0).any():
        raise NoValue("every logged choice needs a chance above 0 with which it was made, and one with which the target makes it")
    found = Overlap(
        float(weight.mean()),
        float(weight.std(ddof=1) / len(weight) ** 0.5) if len(weight) > 1 else np.inf,
        float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300)),
        float(weight.max()),
    )
    if abs(found.mean_weight - 1) > FAR * found.error:
        raise NoValue(
            f"the mean weight is {found.mean_weight:.3f}, which is not 1 within {FAR:g} standard errors ({found.error:.3f}): these are not the chances with which "
            f"choices were made, or the target chooses what was never tried; no value can be told"
        )
    return found


def values(log: Log, seed: int = 0) -> list[Value]:
    """The target's mean reward by every estimator that the log allows.

    Raises:
        NoValue: see overlap.
    """
    overlap(log.weight)
    rng, size = np.random.default_rng(seed), len(log.reward)
    names = [name for name in ESTIMATORS if log.expected is not None or name in ("IPS", "SNIPS")]
    ways = {name: ESTIMATORS[name](log) for name in names}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for _ in range(0, SAMPLES, AT_ONCE):
        counts = rng.multinomial(size, np.full(size, 1 / size), AT_ONCE).astype(float)
        for name, way in ways.items():
            drawn[name].append(way.values(counts))
    intervals = {name: tuple(float(v) for v in np.quantile(np.concatenate(drawn[name]), [0.025, 0.975])) for name in names}
    return [Value(name, float(ways[name].values(np.ones((1, size)))[0]), intervals[name]) for name in names]


@dataclass(frozen=True)
class Way:
    """An estimator as sums over choices: C candidates of it, of which the one of the least estimated squared error counts."""

    above: np.ndarray  # (C, N): the estimate is the sum of these over that of `below`
    below: np.ndarray  # (N,)
    missing: np.ndarray  # (C, N), whose mean is what each candidate is off by, as far as the log tells

    @cached_property
    def squares(self) -> np.ndarray:
        return self.above**2

    def values(self, counts: np.ndarray) -> np.ndarray:
        """(S,) the estimate where each choice counts so many times: (S, N)."""
        size, above = counts.sum(1, keepdims=True), counts @ self.above.T
        variance = counts @ self.squares.T / size - (above / size) ** 2
        best = np.argmin(variance / size + (counts @ self.missing.T / size) ** 2, 1)
        return above[np.arange(len(best)), best] / (counts @ self.below)


def ips(log: Log) -> Way:
    """Mean of weight x reward."""
    return _single(log.weight * log.reward)


def snips(log: Log) -> Way:
    """The same over the sum of the weights."""
    return _single(log.weight * log.reward, log.weight)


def doubly_robust(log: Log) -> Way:
    """What the model expects of the target, and the weighted error of the model."""
    return _single(log.expected_of_target + log.weight * (log.reward - log.expected))


def switch(log: Log) -> Way:
    """DR whose weights above a limit are left to the model."""
    return _limited(log, [np.where(log.weight <= limit, log.weight, 0.0) for limit in _limits(log.weight)])


def shrunk(log: Log) -> Way:
    """DR with weights lambda w / (w^2 + lambda)."""
    return _limited(log, [limit**2 * log.weight / (log.weight**2 + limit**2) for limit in _limits(log.weight)])


ESTIMATORS = {"IPS": ips, "SNIPS": snips, "DR": doubly_robust, "Switch-DR": switch, "DRos": shrunk}


def _single(above: np.ndarray, below: np.ndarray | None = None) -> Way:
    return Way(above[None], np.ones(len(above)) if below is None else below, np.zeros((1, len(above))))


def _limited(log: Log, weights: list[np.ndarray]) -> Way:
    """DR by each of the weights; what they miss of the full ones is their bias."""
    error = log.reward - log.expected
    limited = np.stack(weights)
    return Way(log.expected_of_target + limited * error, np.ones(len(error)), (limited - log.weight) * error)


def _limits(weight: np.ndarray) -> np.ndarray:
    return np.geomspace(max(float(np.quantile(weight, 0.05)), 1e-3), 10 * max(float(weight.max()), 1e-2), CANDIDATES)
