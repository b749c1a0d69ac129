"""The offers that together are worth most: every limit holds, the bound is one, and it is near what an exact solver finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketing import assignment
from marketing.assignment import Limits, Offers, assign


def instance(shoppers: int, candidates: int, items: int, seed: int, scarce: float = 1.0, **limits) -> tuple[Offers, Limits]:
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(items)[:candidates] for _ in range(shoppers)]).astype(np.int32)
    value = (rng.lognormal(0, 1, len(item)) * (1 + item % 7) - 1).astype(np.float32)
    offers = Offers(
        np.arange(shoppers + 1, dtype=np.int64) * candidates, value, item, rng.integers(0, 3, len(item), dtype=np.int8)
    )
    given = {
        "stock": rng.poisson(scarce * shoppers / items, items).astype(np.int64),
        "category": (np.arange(items) % 4).astype(np.int32),
        "brand": (np.arange(items) % 3).astype(np.int32),
        "capacity": (scarce * shoppers * np.array([0.4, 0.3, 0.5])).astype(np.int64),
        "cost": np.array([0.1, 0.05, 0.6]),
        "budget": scarce * shoppers * 0.15,
        "per_shopper": 2,
        "per_category": 1,
        "per_brand": 20,
        "per_channel": 1,
    }
    return offers, Limits(**given | limits)


def check_limits(offers: Offers, limits: Limits, rows: np.ndarray) -> None:
    shopper = np.searchsorted(offers.starts, rows, side="right") - 1
    item, channel = offers.item[rows], offers.channel[rows]
    assert (offers.value[rows] > 0).all()
    assert (np.bincount(item, minlength=len(limits.stock)) <= limits.stock).all()
    assert (np.bincount(channel, minlength=len(limits.capacity)) <= limits.capacity).all()
    assert limits.cost[channel].sum() <= limits.budget + 1e-9
    for keys, most in (
        ((shopper,), limits.per_shopper),
        ((shopper, item), 1),
        ((shopper, limits.category[item]), limits.per_category),
        ((shopper, limits.brand[item]), limits.per_brand),
        ((shopper, channel), limits.per_channel),
    ):
        assert np.unique(np.stack(keys), axis=1, return_counts=True)[1].max(initial=0) <= most


@settings(deadline=None)  # the first call compiles
@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(6, 12), st.integers(0, 10**6), st.floats(0.0, 3.0),
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.floats(0, 20),
)  # fmt: skip
def test_limits_hold_for_any_offers(
    shoppers, candidates, items, seed, scarce, per_shopper, per_category, per_brand, per_channel, budget
):
    offers, limits = instance(
        shoppers, candidates, items, seed, scarce, per_shopper=per_shopper, per_category=per_category, per_brand=per_brand, per_channel=per_channel, budget=budget
    )  # fmt: skip
    found = assign(offers, limits)
    check_limits(offers, limits, found.rows)
    assert found.value == pytest.approx(float(offers.value[found.rows].sum(dtype=float)), abs=1e-4)
    assert found.value <= found.bound * (1 + 1e-5) + 1e-4


@pytest.mark.parametrize(("seed", "per_shopper"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_the_bound_holds_and_the_plan_is_near_what_highs_finds(seed: int, per_shopper: int):
    offers, limits = instance(300, 12, 40, seed, per_shopper=per_shopper)
    found, exact = assign(offers, limits), by_highs(offers, limits)
    assert exact <= found.bound * (1 + 1e-5)
    assert found.value >= 0.99 * exact
    assert found.gap < 0.015


def by_highs(offers: Offers, limits: Limits) -> float:
    """The best that the linear relaxation allows, by HiGHS: no plan is worth more."""
    import scipy.sparse as sp
    from scipy.optimize import linprog

    size = len(offers.value)
    shopper = np.repeat(np.arange(len(offers.starts) - 1), np.diff(offers.starts))
    groups = [
        (shopper, limits.per_shopper), (shopper * 100 + limits.category[offers.item], limits.per_category),
        (shopper * 100 + offers.channel, limits.per_channel), (offers.item, limits.stock), (offers.channel, limits.capacity),
    ]  # fmt: skip
    rows, right = [sp.csr_matrix(limits.cost[offers.channel])], [np.array([limits.budget])]
    for key, most in groups:
        names, place = np.unique(key, return_inverse=True)
        rows.append(sp.csr_matrix((np.ones(size), (place, np.arange(size)))))
        right.append(np.full(len(names), most) if np.isscalar(most) else most[names])
    answer = linprog(-offers.value.astype(float), sp.vstack(rows), np.concatenate(right), bounds=(0, 1), method="highs")
    return -answer.fun


def test_scarce_money_goes_to_what_brings_most_for_it():
    value = np.array([5.0, 4.0, 3.0], np.float32)
    offers = Offers(np.arange(4), value, np.arange(3, dtype=np.int32), np.array([2, 0, 0], np.int8))
    _, limits = instance(3, 1, 6, 0, stock=np.full(6, 9), capacity=np.full(3, 9), budget=0.25)
    assert assign(offers, limits).rows.tolist() == [1, 2]  # two for 0.1 each; the dearest one costs 0.6


def test_nothing_worth_sending_is_nothing_sent():
    offers, limits = instance(5, 3, 6, 0)
    found = assign(Offers(offers.starts, -np.abs(offers.value), offers.item, offers.channel), limits)
    assert found.rows.tolist() == []
    assert (found.value, found.bound, found.gap) == (0.0, 0.0, 0.0)
    nobody = assign(Offers(np.zeros(1, np.int64), np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.int8)), limits)
    assert not len(nobody.rows)


def test_the_same_offers_give_the_same_plan():
    offers, limits = instance(500, 10, 30, 7)
    assert assign(offers, limits).rows.tolist() == assign(offers, limits).rows.tolist()


@pytest.mark.parametrize("many", [10_000_000, 1])
def test_the_bound_is_near_where_stock_is_tight_and_each_item_goes_by_every_channel(monkeypatch: pytest.MonkeyPatch, many: int):
    """A short list of such offers holds few items; prices of what stands in nobody's must not fall for it."""
    monkeypatch.setattr(assignment, "MANY", many)  # 1: short lists to begin with
    rng, shoppers, items, candidates = np.random.default_rng(3), 3000, 200, 40
    item = np.stack([rng.permutation(items)[:candidates] for _ in range(shoppers)])
    item, channel = np.repeat(item, 3, 1).ravel().astype(np.int32), np.tile(np.arange(3, dtype=np.int8), shoppers * candidates)
    price, purse = np.exp(rng.normal(0, 1.5, items)), np.repeat(rng.lognormal(0, 0.5, shoppers), candidates * 3)
    value = price[item] * purse * rng.lognormal(0, 0.3, len(item)) * np.array([1.0, 0.6, 1.2])[channel]
    offers = Offers(np.arange(0, len(item) + 1, candidates * 3), value.astype(np.float32), item, channel)
    _, limits = instance(shoppers, candidates, items, 0, stock=np.maximum(1, rng.lognormal(2.5, 1.5, items)).astype(np.int64),
                         capacity=np.array([shoppers, shoppers, shoppers // 10]), budget=1e9, per_shopper=1)  # fmt: skip
    found = assign(offers, limits)
    check_limits(offers, limits, found.rows)
    assert found.gap < 0.003
