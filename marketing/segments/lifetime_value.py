"""How often shoppers who may leave without a word will buy again, and for how much.

In: of each shopper how many orders followed the first, when the last of them was, how long ago the first was. Out: parameters of the whole shop,
and by them what is to be expected of each shopper. Knows nothing of what is bought.

Orders: BG/NBD (Fader, Hardie & Lee, "Counting Your Customers" the Easy Way, Marketing Science 2005): while they stay, shoppers order at random at a rate
of their own, and leave after an order with a chance of their own. Money: Gamma-Gamma (Fader & Hardie, "The Gamma-Gamma Model of Monetary Value", 2013).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln, hyp2f1

FEWEST = 30  # shoppers with an order after their first, from which anything is learnt of a shop
STARTS = (0.3, 1.0)  # all parameters, on the scale of the mean age of a shopper
BOUND = 5.0  # of logarithms of parameters: beyond, shoppers are as good as alike
MOST = 700.0  # of logarithms of odds, above which their exponentials are no numbers


class TooFew(ValueError):
    """Fewer shoppers bought again than say anything of the shop."""


@dataclass(frozen=True)
class Purchasing:
    """BG/NBD: rates of orders are Gamma(r, alpha) over shoppers, chances to leave after an order Beta(a, b)."""

    r: float
    alpha: float  # in the unit of time that it was fitted in
    a: float
    b: float
    log_likelihood: float

    def alive(self, repeats: np.ndarray, last: np.ndarray, age: np.ndarray) -> np.ndarray:
        """The chance that each shopper has not left: (N,)."""
        return 1 / (1 + self._left(repeats, last, age))

    def orders(self, repeats: np.ndarray, last: np.ndarray, age: np.ndarray, ahead: float) -> np.ndarray:
        """How many orders are to be expected of each shopper within the time ahead: (N,)."""
        a, b, x = self.a + (1e-6 if abs(self.a - 1) < 1e-6 else 0.0), self.b, repeats
        z = ahead / (self.alpha + age + ahead)
        # The paper's series after Euler's transformation, in which nothing overflows for shoppers of many orders.
        stays = 1 - (1 - z) ** (a - 1) * hyp2f1(a - 1, a + b - 1 - self.r, a + b + x - 1, z)
        return (a + b + x - 1) / (a - 1) * stays / (1 + self._left(repeats, last, age))

    def _left(self, repeats: np.ndarray, last: np.ndarray, age: np.ndarray) -> np.ndarray:
        """How much likelier it is that a shopper has left than not."""
        x = np.maximum(repeats, 1)
        odds = np.log(self.a / (self.b + x - 1)) + (self.r + x) * np.log((self.alpha + age) / (self.alpha + last))
        return np.where(repeats > 0, np.exp(np.minimum(odds, MOST)), 0.0)


@dataclass(frozen=True)
class Spending:
    """Gamma-Gamma: what an order brings varies about a mean of each shopper's own, with p; the means over shoppers with q and v."""

    p: float
    q: float
    v: float
    log_likelihood: float

    def mean(self, orders: np.ndarray, spent: np.ndarray) -> np.ndarray:
        """What a further order of each shopper is to bring: (N,). orders: on which `spent` (N,), the mean an order, is known; 0 of none."""
        return self.p * (self.v + orders * spent) / (self.p * orders + self.q - 1)


def fit_purchasing(repeats: np.ndarray, last: np.ndarray, age: np.ndarray) -> Purchasing:
    """BG/NBD by maximum likelihood.

    Args:
        repeats: (N,) orders after the first. last: when the last order was. age: now; both (N,), in any unit, since the first order.

    Raises:
        TooFew: under FEWEST shoppers ordered again.
    """
    _enough(repeats > 0)
    scale = max(float(age.mean()), 1e-9)
    rows, count = np.unique(np.stack([repeats, last / scale, age / scale]), axis=1, return_counts=True)
    x, recency, total = rows

    def lost(logs: np.ndarray) -> float:
        r, alpha, a, b = np.exp(logs)
        start = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        stays = gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x)
        here = -(r + x) * np.log(alpha + total)
        gone = np.log(a) - np.log(b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + recency)
        return -float(count @ (start + stays + np.where(x > 0, np.logaddexp(here, gone), here)))

    (r, alpha, a, b), least = _least(lost, 4)
    return Purchasing(float(r), float(alpha * scale), float(a), float(b), -least - float(repeats.sum() * np.log(scale)))


def fit_spending(orders: np.ndarray, spent: np.ndarray) -> Spending:
    """Gamma-Gamma by maximum likelihood, of the shoppers with at least one order on which something positive was spent.

    Args:
        orders: (N,). spent: (N,), the mean an order, in any currency.

    Raises:
        TooFew: under FEWEST such shoppers.
    """
    told = (orders > 0) & (spent > 0)
    _enough(told)
    x, m = orders[told].astype(float), spent[told]
    scale = float(m.mean())
    m = m / scale

    def lost(logs: np.ndarray) -> float:
        p, q, v = np.exp(logs)
        terms = gammaln(p * x + q) - gammaln(p * x) - gammaln(q) + q * np.log(v)
        terms += (p * x - 1) * np.log(m) + p * x * np.log(x) - (p * x + q) * np.log(x * m + v)
        return -float(terms.sum())

    (p, q, v), least = _least(lost, 3)
    return Spending(float(p), float(q), float(v * scale), -least - len(x) * float(np.log(scale)))


def _enough(told: np.ndarray) -> None:
    if told.sum() < FEWEST:
        raise TooFew(f"{int(told.sum())} shoppers bought again; {FEWEST} are needed")


def _least(lost: Callable[[np.ndarray], float], parameters: int) -> tuple[np.ndarray, float]:
    """The parameters of the least loss, of several starts, and that loss."""
    found = [
        minimize(lost, np.full(parameters, np.log(start)), method="L-BFGS-B", bounds=[(-BOUND, BOUND)] * parameters, tol=1e-12)
        for start in STARTS
    ]
    best = min(found, key=lambda result: result.fun)
    return np.exp(best.x), float(best.fun)
