"""Values of a target that nobody tried, against a world whose truth is known."""

import numpy as np
import pytest

from marketing import off_policy
from marketing.off_policy import Log, NoValue

RATES = np.array([0.05, 0.10, 0.20, 0.40])
LOGGING, TARGET = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.1, 0.2, 0.6])
TRUTH = float(TARGET @ RATES)


def logged(
    count: int, seed: int, model: np.ndarray | None = None, target: np.ndarray = TARGET, logging: np.ndarray = LOGGING
) -> Log:
    rng = np.random.default_rng(seed)
    choice = rng.choice(4, count, p=logging)
    reward = (rng.random(count) < RATES[choice]).astype(float)
    if model is None:
        return Log(reward, target[choice] / logging[choice])
    return Log(reward, target[choice] / logging[choice], model[choice], np.full(count, float(target @ model)))


def test_every_estimator_finds_the_truth_and_its_interval_holds_it():
    found = off_policy.values(logged(20_000, 0, np.full(4, 0.2)))
    assert [v.estimator for v in found] == list(off_policy.ESTIMATORS)
    for value in found:
        assert value.value == pytest.approx(TRUTH, rel=0.05), value.estimator
        assert value.interval[0] < TRUTH < value.interval[1], value.estimator


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    off = 0
    for seed in range(60):
        [ips, _] = off_policy.values(logged(800, seed))
        off += not ips.interval[0] <= TRUTH <= ips.interval[1]
    assert off <= 9  # of 60, 3 expected


def test_of_a_perfect_model_doubly_robust_has_less_error_than_weights_alone():
    errors = [[abs(v.value - TRUTH) for v in off_policy.values(logged(500, seed, RATES))] for seed in range(30)]
    ips, _, dr, switch, shrunk = np.mean(errors, axis=0)
    assert dr < 0.75 * ips
    assert max(switch, shrunk) < 0.75 * ips


def test_heavy_weights_are_shrunk():
    rare = np.array([0.60, 0.30, 0.095, 0.005])
    errors = []
    for seed in range(30):
        log = logged(1500, seed, RATES * 0.8, logging=rare)
        errors.append([abs(off_policy.ESTIMATORS[name](log).values(np.ones((1, 1500)))[0] - TRUTH) for name in ("IPS", "DRos")])
    ips, shrunk = np.mean(errors, axis=0)
    assert shrunk < 0.7 * ips


def test_without_a_model_only_weights_speak():
    assert [v.estimator for v in off_policy.values(logged(2000, 0))] == ["IPS", "SNIPS"]


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (np.full(500, 1.9), "the mean weight is 1.900"),
        (np.r_[np.zeros(450), np.full(50, 2.0)], "the mean weight is 0.200"),
        (np.array([1.0, np.nan]), "a chance above 0"),
        (np.array([1.0, np.inf]), "a chance above 0"),
        (np.array([]), "a chance above 0"),
    ],
)
def test_wrong_chances_have_no_value(weight: np.ndarray, said: str):
    with pytest.raises(NoValue, match=said):
        off_policy.values(Log(np.zeros(len(weight)), weight))


def test_what_the_target_would_say_by_itself():
    found = off_policy.overlap(np.ones(100))
    assert (found.effective, found.mean_weight, found.heaviest) == (100, 1, 1)
    assert off_policy.overlap(np.r_[np.zeros(50), np.full(50, 2.0)]).effective == pytest.approx(50)
