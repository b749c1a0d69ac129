"""Whom does a push help? From a trial in which chance decided who got it: what it changes for each person, how well that ranks people, and whether sending
by it pays beside sending to those who would answer anyway.

In: features, who was treated, what came of it. Out: scores by models that never saw the person, Qini of each with its interval, a decision in words, the
money of sending by it. Knows no channels, no campaigns.

Learners: S, T and X (Künzel et al., "Metalearners for estimating heterogeneous treatment effects", PNAS 2019) and DR (Kennedy, "Towards optimal doubly robust
estimation of heterogeneous causal effects", 2023), of EconML over LightGBM.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from marketing import off_policy

FOLDS = 5
SAMPLES = 300  # of the bootstrap
CERTAIN = 4.0  # standard errors from which a guess of who was treated is no chance
OVERLAP, OUTSIDE = (0.02, 0.98), 0.01  # propensities that can be weighed by, and the share of people who may lie outside
BINS = 20  # groups of people by score, whose effects are looked at apart
LEARNERS = ("S", "T", "X", "DR")
MEAN = "mean"  # of what the learners say
RESPONSE = "response"
TOPS = (0.1, 0.3)  # shares of the people, those with the best scores
TREES = {
    "n_estimators": 120, "learning_rate": 0.04, "num_leaves": 8, "min_child_samples": 200, "subsample": 0.8, "subsample_freq": 1, "colsample_bytree": 0.8,
    "reg_lambda": 10.0, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip

Order = tuple[np.ndarray, np.ndarray]  # rows, and where each group of people whose scores are equal ends


class NotRandom(ValueError):
    """Who was treated follows from the features so surely that nothing can be learnt of what treatment changes."""


@dataclass(frozen=True)
class Trial:
    """Who was treated and what came of it."""

    features: np.ndarray  # (N, F) float64; categories as codes, what is not known as NaN
    treated: np.ndarray  # (N,) bool
    outcome: np.ndarray  # (N,) float64, never negative
    propensity: np.ndarray  # (N,) float64, the chance of treatment

    @cached_property
    def inverse(self) -> np.ndarray:
        """(N,) one over the chance of the arm that each was in."""
        return 1 / np.where(self.treated, self.propensity, 1 - self.propensity)

    def rows(self, chosen: np.ndarray) -> "Trial":
        return Trial(self.features[chosen], self.treated[chosen], self.outcome[chosen], self.propensity[chosen])


@dataclass(frozen=True)
class Top:
    """What the treatment changes for each of the best share of the people, on average."""

    share: float
    uplift: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Ranked:
    """How well a score ranks people by what the treatment changes."""

    name: str
    qini: float
    interval: tuple[float, float]
    beside_response: tuple[float, float] | None  # interval of the paired difference of Qini; None of response itself
    auuc: float  # _figures() says of what
    auuc_interval: tuple[float, float]
    tops: list[Top]


@dataclass(frozen=True)
class Verdict:
    """What to send by, and why."""

    ranked: list[Ranked]
    best: str  # of the learners
    pays: bool  # is the best one surely ahead of response?
    reason: str


def trial(features: np.ndarray, treated: np.ndarray, outcome: np.ndarray, seed: int = 0) -> tuple[Trial, float]:
    """A trial with its propensities, and the area under the ROC curve of a guess of who was treated by the features (0.5 = chance decided).

    Propensities are the treated share where chance decided, else what the guess says.

    Raises:
        NotRandom: the guess is so sure that propensities of the treated and the others do not overlap.
    """
    from sklearn.metrics import roc_auc_score

    share = float(treated.mean())
    guessed = np.empty(len(treated))
    for rest, held in _folds(treated, seed):
        guessed[held] = _classifier(seed).fit(features[rest], treated[rest]).predict_proba(features[held])[:, 1]
    yes, no = int(treated.sum()), int((~treated).sum())
    auc = float(roc_auc_score(treated, guessed))
    error = ((yes + no + 1) / (12 * yes * no)) ** 0.5
    if (auc - 0.5) / error < CERTAIN:
        return Trial(features, treated, outcome, np.full(len(treated), share)), auc
    outside = float(((guessed < OVERLAP[0]) | (guessed > OVERLAP[1])).mean())
    if outside > OUTSIDE:
        raise NotRandom(
            f"who was treated is known from the features (area under the curve {auc:.3f}), and for {outside:.1%} of the people nearly surely: "
            f"nothing can be told of what the treatment changed; leave out what came after it, or run a trial"
        )
    return Trial(features, treated, outcome, np.clip(guessed, *OVERLAP)), auc


def out_of_fold(data: Trial, seed: int = 0, watch: Callable[[str], None] = lambda name: None) -> dict[str, np.ndarray]:
    """Of each person what the treatment is to change, by each learner and by all on average (MEAN), and under RESPONSE what is to come of treating: (N,) each,
    by models that did not see the person. watch: told each learner's name when it begins.
    """
    found = {name: np.empty(len(data.treated)) for name in (RESPONSE, *LEARNERS)}
    for name, scores in found.items():
        watch(name)
        for rest, held in _folds(data.treated, seed):
            scores[held] = fit(name, data.rows(rest), seed)(data.features[held])
    return found | {MEAN: np.mean([found[name] for name in LEARNERS], 0)}


@dataclass(frozen=True)
class Calibration:
    """What treatment changes by a score: straight lines between (K,) knots; below the first as there, beyond the last in proportion to the score."""

    score: list[float]  # rising
    effect: list[float]  # not falling
    variance: list[float]  # of each effect

    def of(self, score: np.ndarray) -> np.ndarray:
        """(N,) what treatment is to change for people of these scores."""
        return np.interp(score, self.score, self.effect) * self._beyond(score)

    def error(self, score: np.ndarray) -> float:
        """The standard error of the sum of what treatment changes for people of these scores."""
        beyond = self._beyond(score)
        parts = [np.interp(score, self.score, knot) @ beyond for knot in np.eye(len(self.score))]
        return float(np.square(parts) @ np.array(self.variance)) ** 0.5

    def _beyond(self, score: np.ndarray) -> np.ndarray:
        last = self.score[-1]
        return np.maximum(score / last, 1.0) if last > 0 else np.ones(len(score))


def calibrated(data: Trial, score: np.ndarray) -> Calibration:
    """What treatment changed at each height of scores of people whom no model saw: mean differences of the arms in BINS groups of as many people, made to rise with the score
    (isotonic regression by pooling; Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability estimates", 2002, of effects here).
    """
    from sklearn.isotonic import isotonic_regression

    usual = data.outcome.mean()  # taken off, which leaves the effect and takes noise away
    changed = np.where(data.treated, 1.0, -1.0) * data.inverse * (data.outcome - usual)
    groups = [g for g in np.array_split(np.argsort(score, kind="stable"), BINS) if len(g) > 1]
    sizes = np.array([len(g) for g in groups], float)
    centre, mean, spread = (
        np.array([f(v[g]) for g in groups]) for f, v in ((np.mean, score), (np.mean, changed), (np.var, changed))
    )
    effect = isotonic_regression(mean, sample_weight=sizes)
    pool = np.cumsum(np.diff(effect, prepend=effect[:1]) > 0)  # groups of one effect share its variance
    together = np.bincount(pool, spread * sizes) / np.bincount(pool, sizes) ** 2
    share = np.bincount(pool)[pool]
    knots, first = np.unique(centre, return_index=True)
    return Calibration(knots.tolist(), effect[first].tolist(), (together[pool] * share)[first].tolist())


def qini(data: Trial, score: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Normalised Qini coefficient of a score: 0 for chance, 1 for the best order that there can be (Radcliffe, "Using control groups to target on predicted
    lift", 2007; normalised as in Devriendt et al. 2020).

    People in falling order of the score; Q after the first n: Yt - Yc Nt / Nc, sums of outcomes and people among the treated and the others, each
    weighed by one over its propensity. Equal scores enter together. The coefficient is the area between Q over n and the straight line to its end,
    over the same area of the best order: treated in falling order of their outcome, then the others in rising.

    weight: (N,) how often each person counts; None: once. The figure of one score does not depend on any other.
    """
    weight = np.ones(len(score)) if weight is None else weight
    return float(_figures(data, [_ordered(score)], _best(data), weight)[0, 0])


def _figures(data: Trial, orders: list[Order], best: Order, weight: np.ndarray) -> np.ndarray:
    """(orders, 2 + TOPS) Qini, AUUC and the uplift of the best shares, of each order.

    AUUC is the area under Q a person over the share of people treated: what treating brings, a person, on average over all shares.
    """
    curves = [gains(data, order, weight) for order in (*orders, best)]
    areas = [float(np.trapezoid(gain, people)) for people, gain, _ in curves]
    beyond = [area - people[-1] * gain[-1] / 2 for area, (people, gain, _) in zip(areas, curves, strict=True)]
    most = beyond.pop()
    return np.array([
        [own / most if most > 0 else 0.0, area / curve[0][-1] ** 2, *(_at(*curve, share) for share in TOPS)]
        for own, area, curve in zip(beyond, areas[:-1], curves[:-1], strict=True)
    ])  # fmt: skip


def _best(data: Trial) -> Order:
    """The order that cannot be beaten."""
    return _ordered(np.where(data.treated, data.outcome, -data.outcome))


def gains(data: Trial, order: Order, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many people there are, what treating them brought and how many were treated, after each group of equal scores: Q and Nt of qini()."""
    rows, ends = order
    treated, outcome = data.treated[rows], data.outcome[rows]
    each = weight[rows] * data.inverse[rows]
    yes, no = np.where(treated, each, 0.0), np.where(treated, 0.0, each)
    sums = (np.concatenate([[0.0], np.cumsum(column)[ends]]) for column in (weight[rows], yes, no, yes * outcome, no * outcome))
    people, of_yes, of_no, by_yes, by_no = sums
    return people, by_yes - by_no * np.divide(of_yes, of_no, out=np.zeros_like(of_no), where=of_no > 0), of_yes


def _at(people: np.ndarray, gain: np.ndarray, treated: np.ndarray, share: float) -> float:
    """What the treatment changes for each of the first share of the people."""
    end = min(int(np.searchsorted(people, share * people[-1] - 1e-9)), len(people) - 1)
    return float(gain[end] / treated[end]) if treated[end] > 0 else 0.0


def decide(data: Trial, scores: dict[str, np.ndarray], seed: int = 0) -> Verdict:
    """Is there a learner that is surely ahead of sending by response? The interval of the paired difference is widened for how many learners were tried."""
    rng = np.random.default_rng(seed)
    size, orders, best = len(data.treated), [_ordered(score) for score in scores.values()], _best(data)
    whole = dict(zip(scores, _figures(data, orders, best, np.ones(size)), strict=True))
    samples = [_figures(data, orders, best, _resample(size, rng)) for _ in range(SAMPLES)]
    drawn = dict(zip(scores, np.stack(samples, 1), strict=True))  # (SAMPLES, figures) of each
    learners = [name for name in scores if name != RESPONSE]
    tail = 0.025 / len(learners)

    def ranked(name: str) -> Ranked:
        told = [(float(f), _quantiles(drawn[name][:, place], 0.025)) for place, f in enumerate(whole[name])]
        ahead = None if name == RESPONSE else _quantiles(drawn[name][:, 0] - drawn[RESPONSE][:, 0], tail)
        return Ranked(name, *told[0], ahead, *told[1], [Top(share, *one) for share, one in zip(TOPS, told[2:], strict=True)])

    qinis, everybody = {name: float(found[0]) for name, found in whole.items()}, [ranked(name) for name in scores]
    first = max(learners, key=qinis.get)
    low, high = next(r.beside_response for r in everybody if r.name == first)
    ahead = f"{first} has a Qini of {qinis[first]:.4f}, sending by response {qinis[RESPONSE]:.4f}; the difference lies between {low:+.4f} and {high:+.4f}"
    if low > 0:
        return Verdict(everybody, first, True, f"send by uplift: {ahead}")
    return Verdict(
        everybody, first, False, f"an uplift model does not pay here, send by response: {ahead}, which does not exclude 0"
    )


def money(data: Trial, chosen: np.ndarray, value: float, cost: float, seed: int = 0) -> tuple[float, float, float]:
    """Extra money of sending to the chosen (N,) bool alone, of all these people, and its interval: what treating changed among them x value - cost, each."""
    if not chosen.any():
        return 0.0, 0.0, 0.0
    part, rng = data.rows(np.flatnonzero(chosen)), np.random.default_rng(seed)
    size = len(part.treated)
    each = [_difference(part, _resample(size, rng)) for _ in range(SAMPLES)]
    return tuple(
        size * (change * value - cost) for change in (_difference(part, np.ones(size)), *_quantiles(np.array(each), 0.025))
    )


def rule(
    data: Trial, scores: dict[str, np.ndarray], by: str, sends: np.ndarray, money: np.ndarray, cost: np.ndarray, seed: int = 0
) -> dict:
    """What sending by a rule would have brought these people, told from the trial before anybody is disturbed, beside sending to all and to nobody.

    scores: of models that did not see the person (out_of_fold), of which RESPONSE and `by` say what to expect. sends: (N,) bool, whom the rule sends to. money: (N,) what an outcome brings.
    cost: (N,) of sending. Values are a person, with 95 % intervals; see off_policy.values.

    Raises:
        off_policy.NoValue: the trial does not tell.
    """
    treated, without = scores[RESPONSE], scores[RESPONSE] - scores[by]
    reward = data.outcome * money - data.treated * cost
    expected = np.where(data.treated, treated * money - cost, without * money)
    found = {"sent": float(sends.mean()), "overlap": asdict(off_policy.overlap((data.treated == sends) * data.inverse))}
    for name, target in (("by the rule", sends), ("to all", np.ones_like(sends)), ("to nobody", np.zeros_like(sends))):
        weight = (data.treated == target) * data.inverse
        log = off_policy.Log(reward, weight, expected, np.where(target, treated * money - cost, without * money))
        found[name] = [asdict(value) for value in off_policy.values(log, seed)]
    return found


def _resample(size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of so many people is drawn, with replacement: (size,)."""
    return rng.multinomial(size, np.full(size, 1 / size)).astype(float)


def _quantiles(drawn: np.ndarray, tail: float) -> tuple[float, float]:
    """Between which the draws lie but for their tails."""
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _difference(data: Trial, weight: np.ndarray) -> float:
    """Mean outcome of the treated less that of the others, by inverse propensities; 0 where one of them is missing."""
    each = weight * data.inverse
    yes, no = each * data.treated, each * ~data.treated
    if not yes.sum() or not no.sum():
        return 0.0
    return float(yes @ data.outcome / yes.sum() - no @ data.outcome / no.sum())


def _ordered(score: np.ndarray) -> Order:
    """Rows in falling order of the score, and where each group of equal scores ends."""
    rows = np.argsort(-score, kind="stable")
    return rows, np.flatnonzero(np.append(np.diff(score[rows]) != 0, True))


def _folds(treated: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to be told, FOLDS times; each with its share of the treated."""
    rng, part = np.random.default_rng(seed), np.empty(len(treated), np.int64)
    for group in (np.flatnonzero(treated), np.flatnonzero(~treated)):
        part[rng.permutation(group)] = np.arange(len(group)) % FOLDS
    return [(np.flatnonzero(part != fold), np.flatnonzero(part == fold)) for fold in range(FOLDS)]


def _regressor(seed: int):
    from lightgbm import LGBMRegressor

    return LGBMRegressor(**TREES, random_state=seed)


def _classifier(seed: int):
    from lightgbm import LGBMClassifier

    return LGBMClassifier(**TREES, random_state=seed)


def fit(name: str, data: Trial, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A learner that has learnt from these people, or RESPONSE or MEAN, as a function of features."""
    if name == MEAN:
        learners = [fit(learner, data, seed) for learner in LEARNERS]
        return lambda features: np.mean([learner(features) for learner in learners], 0)
    treated, constant = data.treated.astype(int), bool(np.ptp(data.propensity) == 0)
    if name == RESPONSE:
        model = _regressor(seed).fit(data.features[data.treated], data.outcome[data.treated])
        return model.predict
    from econml.dr import DRLearner
    from econml.metalearners import SLearner, TLearner, XLearner
    from sklearn.dummy import DummyClassifier

    chance = DummyClassifier(strategy="prior") if constant else _classifier(seed)
    made = {
        "S": lambda: SLearner(overall_model=_regressor(seed), allow_missing=True),
        "T": lambda: TLearner(models=_regressor(seed), allow_missing=True),
        "X": lambda: XLearner(models=_regressor(seed), cate_models=_regressor(seed), propensity_model=chance, allow_missing=True),
        "DR": lambda: DRLearner(
            model_propensity=chance,
            model_regression=_regressor(seed),
            model_final=_regressor(seed),
            cv=3,
            random_state=seed,
            allow_missing=True,
        ),
    }[name]()
    made.fit(data.outcome, treated, X=data.features)
    return lambda features: np.asarray(made.effect(features)).ravel()
