"""Chances are those of what happens, by the kind of model that tells later rows best, and calibrated by group."""

import numpy as np
import pytest

from marketing import chances


def world(size: int = 8000, seed: int = 0, shape: str = "line") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, true chances, what happened, which rows are later."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(size, 3))
    told = 0.8 * features[:, 0] if shape == "line" else 1.5 * np.where(features[:, 0] * features[:, 1] > 0, 1, -1)
    true = 1 / (1 + np.exp(2 - told))
    return features, true, rng.random(size) < true, np.arange(size) > 0.7 * size


@pytest.mark.parametrize(("shape", "kind"), [("line", "logistic regression"), ("corners", "trees")])
def test_the_kind_that_tells_later_rows_best_is_taken(shape: str, kind: str):
    features, true, happened, later = world(shape=shape)
    learnt = chances.learnt(happened, features, later)
    assert learnt.kind == kind
    assert [t.kind for t in learnt.told] == [chances.USUAL, *chances.KINDS]
    found = learnt.of(features)
    assert np.corrcoef(found, true)[0, 1] > 0.9
    assert chances.calibration_error(found, true) < 0.015


def test_groups_are_calibrated_apart_where_there_is_enough_of_each():
    features, true, _, later = world(20_000)
    group = np.arange(len(true)) % 2
    true = np.where(group == 1, true / 3, true)
    happened = np.random.default_rng(1).random(len(true)) < true
    apart, together = chances.learnt(happened, features, later, group), chances.learnt(happened, features, later)
    for number in (0, 1):
        rows = group == number
        assert chances.calibration_error(apart.of(features, group)[rows], true[rows]) < 0.02
    assert chances.calibration_error(together.of(features)[group == 1], true[group == 1]) > 0.03
    assert set(chances.learnt(happened[:500], features[:500], later[-500:], group[:500]).lines) == {-1}


@pytest.mark.parametrize("happens", [0.0, 0.002, 1.0])
def test_of_what_hardly_happens_everybody_has_the_share_of_all(happens: float):
    rng = np.random.default_rng(0)
    happened = rng.random(2000) < happens
    learnt = chances.learnt(happened, rng.normal(size=(2000, 2)), np.arange(2000) > 1500)
    assert learnt.kind == chances.USUAL
    found = learnt.of(np.zeros((3, 2)))
    assert found == pytest.approx(np.clip(happened.mean(), chances.EDGE, 1 - chances.EDGE))


def test_features_that_are_not_known_stand_in_no_way():
    features, _, happened, later = world(3000)
    features[::3, 0], features[:, 2] = np.nan, np.nan
    found = chances.learnt(happened, features, later).of(features)
    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()
