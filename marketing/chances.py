"""How likely is it? Chances of what may happen to a row, learnt from rows of the past, chosen between two kinds of model on what came later, and calibrated.

In: features, what happened, which rows are the later ones, groups (such as channels) that are calibrated apart. Out: a function from features to chances; how well each kind told the later rows. Knows no
campaigns and no shoppers.

Calibration is isotonic, of scores by models that did not see the row (Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability estimates", 2002).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FOLDS = 5
FEWEST = 50  # of what happened, and of what did not, from which chances are learnt
FEWEST_OF_GROUP = 200  # from which a group has a line of its own
BINS = 10  # of the calibration error
EDGE = 1e-4  # no chance is nearer to 0 or 1 than this
TREES = {
    "n_estimators": 150, "learning_rate": 0.04, "num_leaves": 8, "min_child_samples": 100, "subsample": 0.8, "subsample_freq": 1, "colsample_bytree": 0.8,
    "reg_lambda": 10.0, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
USUAL = "the same for all"

Model = Callable[[np.ndarray], np.ndarray]
Line = tuple[np.ndarray, np.ndarray]  # scores, rising, and the chance at each


@dataclass(frozen=True)
class Told:
    """How well a kind of model told the later rows."""

    kind: str
    log_loss: float
    error: float  # calibration error
    uncalibrated: float  # ... before scores were calibrated


@dataclass(frozen=True)
class Chances:
    """What has been learnt."""

    kind: str
    told: list[Told]
    model: Model
    lines: dict[int, Line]  # by group; -1: of all

    def of(self, features: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
        """(N,) chances. features: (N, F); group: (N,) ints."""
        return along(self.lines, self.model(features), group)


def learnt(
    happened: np.ndarray, features: np.ndarray, later: np.ndarray, group: np.ndarray | None = None, seed: int = 0
) -> Chances:
    """Chances by the kind of model that tells the later rows best, after learning from the others; then by that kind from all rows.

    happened: (N,) bool. features: (N, F) float64, NaN = not known. later: (N,) bool. group: (N,) ints from 0.
    Where there are fewer than FEWEST of either outcome among the earlier rows, everybody has the share of all.
    """
    told, earlier = [], ~later
    usual = float(happened[earlier].mean()) if earlier.any() else 0.0
    if later.any():
        told.append(_told(USUAL, happened[later], *[np.full(int(later.sum()), usual)] * 2))
    if min(happened[earlier].sum(), (~happened[earlier]).sum()) < FEWEST:
        share = float(happened.mean()) if len(happened) else 0.0
        return Chances(USUAL, told, lambda rows: np.full(len(rows), share), {-1: (np.array([0.0]), np.array([share]))})
    some = None if group is None else group[earlier], None if group is None else group[later]
    for kind in KINDS:
        model, lines = _calibrated(kind, features[earlier], happened[earlier], some[0], seed)
        score = model(features[later])
        told.append(_told(kind, happened[later], along(lines, score, some[1]), score))
    best = min(told[1:], key=lambda t: t.log_loss).kind
    model, lines = _calibrated(best, features, happened, group, seed)
    return Chances(best, told, model, lines)


def along(lines: dict[int, Line], score: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """(N,) the chances of scores, by the lines of their groups."""
    found = np.interp(score, *lines[-1])
    for number, line in lines.items():
        if number >= 0 and group is not None:
            rows = group == number
            found[rows] = np.interp(score[rows], *line)
    return found.clip(EDGE, 1 - EDGE)


def calibration_error(chance: np.ndarray, happened: np.ndarray) -> float:
    """Expected calibration error: in BINS groups of as many rows by their chance, the mean distance between chance and share. happened: (N,) bool, or true chances."""
    parts = np.array_split(np.argsort(chance, kind="stable"), BINS)
    return float(sum(abs(chance[p].mean() - happened[p].mean()) * len(p) for p in parts if len(p)) / max(len(chance), 1))


def _told(kind: str, happened: np.ndarray, chance: np.ndarray, score: np.ndarray) -> Told:
    sure = chance.clip(EDGE, 1 - EDGE)
    loss = -np.where(happened, np.log(sure), np.log1p(-sure)).mean()
    return Told(kind, float(loss), calibration_error(chance, happened), calibration_error(score, happened))


def _calibrated(
    kind: str, features: np.ndarray, happened: np.ndarray, group: np.ndarray | None, seed: int
) -> tuple[Model, dict[int, Line]]:
    """A model of all rows, and lines from scores to chances by models that did not see the row."""
    fold = np.random.default_rng(seed).permutation(len(happened)) % FOLDS
    score = np.empty(len(happened))
    for number in range(FOLDS):
        held = fold == number
        score[held] = KINDS[kind](features[~held], happened[~held], seed)(features[held])
    lines = {-1: _line(score, happened)}
    for number in np.unique(group) if group is not None else []:
        rows = group == number
        if min(happened[rows].sum(), (~happened[rows]).sum()) >= FEWEST_OF_GROUP:
            lines[int(number)] = _line(score[rows], happened[rows])
    return KINDS[kind](features, happened, seed), lines


def _line(score: np.ndarray, happened: np.ndarray) -> Line:
    from sklearn.isotonic import IsotonicRegression

    found = IsotonicRegression(out_of_bounds="clip").fit(score, happened.astype(float))
    return found.X_thresholds_, found.y_thresholds_


def _trees(features: np.ndarray, happened: np.ndarray, seed: int) -> Model:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(**TREES, random_state=seed).fit(features, happened)
    return lambda rows: model.predict_proba(rows)[:, 1]


def _logistic(features: np.ndarray, happened: np.ndarray, seed: int) -> Model:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=500, random_state=seed)
    ).fit(features, happened)
    return lambda rows: model.predict_proba(rows)[:, 1]


KINDS: dict[str, Callable[[np.ndarray, np.ndarray, int], Model]] = {"trees": _trees, "logistic regression": _logistic}
