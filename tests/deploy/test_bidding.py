"""Bids are those that pay most, by trying all of them; budgets last as long as they are for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.serving.bidding import Budget, Market, bid

positive = st.floats(0.01, 100)


@given(positive, positive, st.floats(0.05, 2))
def test_a_first_price_bid_pays_as_much_as_any(value: float, median: float, spread: float):
    market = Market(median, spread)
    found = bid(value, None, True, market, 0.0)
    tried = np.linspace(0, value, 400)
    best = max((value - b) * market.wins(b) for b in tried)
    assert 0 <= (found or 0.0) <= value
    assert (value - (found or 0.0)) * market.wins(found or 0.0) >= best * 0.999 - 1e-9


@given(positive)
def test_the_second_price_is_paid_so_the_value_is_bid_and_floors_hold(value: float):
    assert bid(value, None, False, None, 0.0) == value
    assert bid(value, None, False, None, value * 1.01) is None
    assert bid(-value, None, False, None, 0.0) is None
    assert bid(value, None, True, None, 0.0) == value / 2


@pytest.mark.parametrize(("left", "time_left", "price"), [(50, 50, 0), (80, 50, 0), (50, 80, 1.6**4 - 1), (0, 50, math.inf)])
def test_the_budget_has_a_price_where_it_goes_faster_than_time(left: float, time_left: float, price: float):
    assert Budget(left, 100, time_left, 100).price == pytest.approx(price)


@pytest.mark.parametrize("first_price", [False, True])
def test_a_budget_lasts_its_time_and_brings_nearly_what_the_best_constant_price_would(first_price: bool):
    """5,000 places in a day; the others' highest bids are lognormal; a budget for a part of them."""
    rng = np.random.default_rng(0)
    values, others, whole = rng.lognormal(0, 1, 5_000), rng.lognormal(0.3, 0.6, 5_000), 375.0
    market, left, won, spent_at = Market(math.exp(0.3), 0.6), whole, 0.0, []
    for place, (value, other) in enumerate(zip(values, others, strict=True)):
        offer = bid(value, Budget(left, whole, 5_000 - place, 5_000), first_price, market, 0.0)
        if offer is not None and offer > other:
            left -= offer if first_price else other
            won += value
            spent_at.append(place)
    assert left >= 0
    assert left < 0.05 * whole
    assert spent_at[-1] > 4_700

    def constant(price: float) -> tuple[float, float]:
        offers = np.array([bid(v / (1 + price), None, first_price, market, 0.0) or 0.0 for v in values])
        wins = offers > others
        return float((offers if first_price else others)[wins].sum()), float(values[wins].sum())

    best = max(gain for spent, gain in map(constant, np.linspace(0, 6, 31)) if spent <= whole * 1.02)
    assert won > 0.9 * best
