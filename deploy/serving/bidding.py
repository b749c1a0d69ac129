"""What to bid for a place before a shopper: what showing them an item there is to bring, less what the budget is worth elsewhere.

In: a value, how far budget and time have been used, how the auction charges, what others bid. Out: a bid. Nothing is kept from one bid to the next: any worker answers any request.

Who pays the second price bids the value (Vickrey 1961); with a budget, the value over 1 + its price (Balseiro & Gur, "Learning in repeated auctions with budgets", 2019). Who pays their own
bid shades it: the b that makes (value - b) x chance of winning largest. The budget's price is above 0 while it is used up faster than time is.
"""

import math
from dataclasses import dataclass

SPEED = 4.0  # how sharply bids fall where the budget goes faster than time
ROUNDS = 60  # of the search for a shaded bid


@dataclass(frozen=True)
class Budget:
    """How far a budget and its time have been used."""

    left: float  # money
    whole: float
    time_left: float  # in any unit
    time: float

    @property
    def price(self) -> float:
        """What a unit of money is worth beyond itself: 0 where as much or more of the money is left as of the time."""
        money, time = self.left / self.whole if self.whole > 0 else 0.0, self.time_left / self.time if self.time > 0 else 0.0
        return math.inf if money <= 0 else max((time / money) ** SPEED - 1.0, 0.0)


@dataclass(frozen=True)
class Market:
    """The highest bid of the others: its logarithm is normal."""

    median: float
    spread: float

    def wins(self, bid: float) -> float:
        """The chance that a bid is above it."""
        return 0.5 * math.erfc(-(math.log(bid / self.median)) / (self.spread * math.sqrt(2))) if bid > 0 else 0.0


def bid(value: float, budget: Budget | None, first_price: bool, market: Market | None, floor: float) -> float | None:
    """The bid; None: none above the floor pays.

    market: of others, by which a first-price bid is shaded; None: they bid anything up to the value alike, and half of it is best.
    """
    worth = value / (1.0 + budget.price) if budget else value
    if first_price:
        worth = _shaded(worth, market) if market else worth / 2
    if budget:
        worth = min(worth, budget.left)
    return worth if worth > 0 and worth >= floor else None


def _shaded(value: float, market: Market) -> float:
    """The b that makes (value - b) x wins(b) largest, by golden sections: it rises to one top, and then falls."""
    low, high, ratio = 0.0, max(value, 0.0), (math.sqrt(5) - 1) / 2
    for _ in range(ROUNDS):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if (value - a) * market.wins(a) < (value - b) * market.wins(b):
            low = a
        else:
            high = b
    return (low + high) / 2
