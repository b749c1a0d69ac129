"""Arms, alarms and intervals, against simulated tests whose truth is known."""

import numpy as np
import pytest

from marketing.experiments import Arm, SampleRatio, adjusted, difference, sample_ratio


def test_arms_that_are_not_as_many_as_planned_raise_an_alarm_before_any_result():
    with pytest.raises(SampleRatio, match="44,700 and 45,489"):
        difference(Arm(44_700, 0.44, 0.25), Arm(45_489, 0.45, 0.25))
    assert sample_ratio((44_900, 45_289)) > 0.01
    assert sample_ratio((3000, 7000), 0.3) == pytest.approx(1)
    assert difference(Arm(10, 1.0, 1.0), Arm(90, 1.0, 1.0), share=None).value == 0


def looked_at(effect: float, seed: int, looks: int = 40, step: int = 200) -> list:
    rng = np.random.default_rng(seed)
    yes, no = rng.normal(effect, 1, looks * step), rng.normal(0, 1, looks * step)
    return [difference(Arm.of(yes[:n]), Arm.of(no[:n]), planned=2 * looks * step) for n in range(step, looks * step + 1, step)]


def test_looked_at_on_any_day_five_in_a_hundred_stay_five():
    called = sum(any(d.sure for d in looked_at(0.0, seed)) for seed in range(200))
    assert called <= 0.05 * 200 + 3 * (200 * 0.05 * 0.95) ** 0.5
    daily = sum(any(abs(d.value) > 1.96 * d.error for d in looked_at(0.0, seed)) for seed in range(100))
    assert daily > 20  # what an interval for one look calls


def test_a_difference_is_found_and_its_interval_holds_it():
    ends = [looked_at(0.06, seed)[-1] for seed in range(60)]
    assert np.mean([d.sure for d in ends]) > 0.6
    assert np.mean([d.interval[0] <= 0.06 <= d.interval[1] for d in ends]) > 0.95


def test_what_was_known_before_is_taken_out():
    rng = np.random.default_rng(0)
    before, treated = rng.normal(0, 1, 4000), rng.random(4000) < 0.5
    outcome = 2 * before + 0.3 * treated + rng.normal(0, 1, 4000)
    plain = difference(Arm.of(outcome[treated]), Arm.of(outcome[~treated]))
    less = adjusted(outcome, before)
    found = difference(Arm.of(less[treated]), Arm.of(less[~treated]))
    assert found.error < 0.55 * plain.error
    assert found.interval[0] < 0.3 < found.interval[1]
    assert np.array_equal(adjusted(outcome, np.ones(4000)), outcome)


def test_outcomes_that_never_vary_have_no_width():
    assert difference(Arm(50, 1.0, 0.0), Arm(50, 0.0, 0.0)).interval == (1.0, 1.0)
