"""What pushes do to the people of the simulated shop: the truth, of which a shop's log only shows what came of it.

In: what is hidden in people and goods (data/truth/tastes.parquet, goods.parquet), the channels (shop.yaml). Out: of a push of an item to a shopper, by a channel, at an hour
of their day, after others: the chances that they buy without it, that it makes them buy, that they click, that they leave the channel; and pushes answered by
these chances. Knows no tables of events.

Who likes an item somewhat is persuaded best: those who love it buy anyway. Some are open to pushes, some only annoyed; each has hours and channels; a push soon after
others does less and drives more people away, and with time that heals.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

LIFT = 0.3  # what a push adds at most to the chance of a purchase
LOVE = 0.3  # the chance that who loves an item buys it within days, unasked
CLOSED = 0.12  # openness below which a push annoys: it costs a purchase that would have been
ANNOYED = 0.3  # ... so much of its chance
TIRING = 0.35  # how fast what pushes do falls with those of the last days


@dataclass(frozen=True)
class Chances:
    """What may come of pushes, (N,) each."""

    buys: np.ndarray  # without the push, within days
    gains: np.ndarray  # what the push adds to that
    clicks: np.ndarray
    leaves: np.ndarray  # the channel, for good


@dataclass(frozen=True)
class Answers:
    """What came of pushes, (N,) bool each."""

    bought: np.ndarray
    clicked: np.ndarray
    left: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is hidden in n people, I goods and C channels."""

    early: np.ndarray  # (n, categories), interest on the first day
    late: np.ndarray  # ... and on the last
    style: np.ndarray  # (n, 6)
    budget: np.ndarray  # (n,)
    sensitivity: np.ndarray  # (n,) to prices
    openness: np.ndarray  # (n,) to pushes, 0 to 1
    peak: np.ndarray  # (n,) hour of their day at which they look
    recovery: np.ndarray  # (n,) days after which a push tires by a third of what it did
    irritability: np.ndarray  # (n,)
    liking: np.ndarray  # (n, C) of channels
    reach: np.ndarray  # (n, C) bool: a channel that comes to them
    category: np.ndarray  # (I,)
    looks: np.ndarray  # (I, 6)
    appeal: np.ndarray  # (I,)
    dearness: np.ndarray  # (I,) log price above its category's
    effect: np.ndarray  # (C,) of channels, beside an app's push

    @classmethod
    def read(cls, folder: Path, channels: list[dict]) -> "Truth":
        """As it stands in data/truth; channels: of shop.yaml."""
        people, goods = (pl.read_parquet(folder / f"{name}.parquet") for name in ("tastes", "goods"))
        return cls.of(people, goods, channels)

    @classmethod
    def of(cls, people: pl.DataFrame, goods: pl.DataFrame, channels: list[dict]) -> "Truth":
        """Of the tables of people and goods."""
        names = {"early": "early_taste", "late": "late_taste", "sensitivity": "price_sensitivity"}
        own = (
            "early",
            "late",
            "style",
            "budget",
            "sensitivity",
            "openness",
            "peak",
            "recovery",
            "irritability",
            "liking",
            "reach",
        )
        return cls(
            **{name: people[names.get(name, name)].to_numpy() for name in own},
            **{name: goods[name].to_numpy() for name in ("category", "looks", "appeal", "dearness")},
            effect=np.array([c["effect"] for c in channels]),
        )

    def affinity(self, shopper: np.ndarray, item: np.ndarray, drift: float) -> np.ndarray:
        """(N,) how much shoppers (N,) like items (N,), 0 to 1; drift: how far tastes have come from the first day's to the last's."""
        liked = (self.looks[item] * self.style[shopper]).sum(-1) * 0.2 + 0.3 * self.appeal[item]
        dear = self.sensitivity[shopper] * np.abs(self.dearness[item] - self.budget[shopper])
        place = shopper, self.category[item]
        interest = np.log(0.01 + (1 - drift) * self.early[place] + drift * self.late[place])
        return 1 / (1 + np.exp(-(1.5 + 0.9 * interest + liked - dear)))

    def chances(
        self, shopper: np.ndarray, item: np.ndarray, channel: np.ndarray, hour: np.ndarray, tired: np.ndarray, drift: float = 1.0
    ) -> Chances:
        """See Chances. shopper, item, channel: (N,) numbers; hour: (N,) of their day; tired: (N,) by tire(); drift: see affinity()."""
        affinity, open_ = self.affinity(shopper, item, drift), self.openness[shopper]
        buys = LOVE * affinity**3
        away = np.abs((hour - self.peak[shopper] + 12) % 24 - 12)
        heard = self.effect[channel] * self.liking[shopper, channel] * (0.35 + 0.65 * np.exp(-((away / 5) ** 2)))
        heard = np.minimum(heard * np.exp(-TIRING * tired), 1.5)
        persuaded = LIFT * np.maximum(open_ - CLOSED, 0) * heard * 4 * affinity * (1 - affinity)
        gains = np.where(open_ < CLOSED, -ANNOYED * buys, persuaded)
        clicks = np.clip(0.02 + 0.5 * heard * affinity * open_ + gains, 0, 0.9)
        leaves = np.clip(0.003 * self.irritability[shopper] * (1 + tired) ** 2 * (1.5 - affinity), 0, 0.5)
        return Chances(buys, np.minimum(gains, 1 - buys), clicks, leaves)

    def answers(self, chances: Chances, sent: np.ndarray, rng: np.random.Generator) -> Answers:
        """What came of pushes of which some were sent, (N,) bool."""
        draws = rng.random((3, len(sent)))
        bought = draws[0] < chances.buys + np.where(sent, chances.gains, 0)
        return Answers(bought, sent & (draws[1] < chances.clicks), sent & (draws[2] < chances.leaves))

    def tire(self, tired: np.ndarray, days: np.ndarray | float) -> np.ndarray:
        """How tired people (n,) of pushes are so many days later: each push counts 1 and heals with exp(-days / recovery)."""
        return tired * np.exp(-days / self.recovery)


def people(
    count: int,
    home: np.ndarray,
    city_tier: np.ndarray,
    tastes: dict,
    channels: list[dict],
    hours: np.ndarray,
    rng: np.random.Generator,
) -> dict:
    """What of people is hidden beside their tastes: columns of data/truth/tastes.parquet. home: (n,) platform they use most; hours: (24,) when shoppers come."""
    open_ = -0.9 + 1.2 * (tastes["sensitivity"] - 1) + 1.2 * np.isin(city_tier, ["3", "4"]) - 0.9 * (tastes["activity"] - 1)
    reach = np.stack([rng.random(count) < np.where(home == c.get("home"), c["reach_at_home"], c["reach"]) for c in channels], 1)
    return {
        "openness": 1 / (1 + np.exp(-(open_ + rng.normal(0, 0.3, count)))),
        "peak": rng.choice(24, count, p=hours / hours.sum()),
        "recovery": 1 + rng.gamma(3.0, 1.2, count),
        "irritability": rng.lognormal(0, 0.6, count),
        "liking": np.exp(rng.normal(0, 0.2, (count, len(channels)))),
        "reach": reach,
    }


@dataclass(frozen=True)
class Pushes:
    """One campaign: what was ready for whom, (N,) each, and what came of it."""

    shopper: np.ndarray
    item: np.ndarray
    channel: int
    hour: np.ndarray  # of the shopper's day
    sent: np.ndarray  # bool; the others are held out
    propensity: np.ndarray  # the chance of what happened
    chances: Chances
    answers: Answers


def campaigns(truth: Truth, in_stock: np.ndarray, days: list[float], rng: np.random.Generator) -> list[Pushes]:
    """A campaign on each of the days, by one channel after the other, to all whom it reaches: an item of a category that they may like, or of any, and for half of them,
    by chance, nothing. truth.reach is of the first day; those who left a channel are not reached again.
    """
    made, reach, last = [], truth.reach.copy(), max(days, default=1.0)
    tired, before = np.zeros(len(truth.openness)), 0.0
    stocked = [np.flatnonzero((truth.category == c) & in_stock) for c in range(truth.late.shape[1])]
    sizes = np.array([len(s) for s in stocked])
    places, shelf = np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.concatenate(stocked)
    for number, day in enumerate(days):
        channel = number % len(truth.effect)
        tired, before = truth.tire(tired, day - before), day
        shopper = np.flatnonzero(reach[:, channel])
        drift = day / last
        interest = (1 - drift) * truth.early[shopper] + drift * truth.late[shopper]
        wanted = (0.4 / len(sizes) + 0.6 * interest) * (sizes > 0)
        wanted /= wanted.sum(1, keepdims=True)
        drawn = (wanted.cumsum(1) < rng.random((len(shopper), 1))).sum(1).clip(max=len(sizes) - 1)
        item = shelf[places[drawn] + (rng.random(len(shopper)) * sizes[drawn]).astype(int)]
        hour, sent = rng.integers(9, 21, len(shopper)), rng.random(len(shopper)) < 0.5
        chances = truth.chances(shopper, item, np.full(len(shopper), channel), hour, tired[shopper], drift)
        answers = truth.answers(chances, sent, rng)
        tired[shopper[sent]] += 1
        reach[shopper[answers.left], channel] = False
        propensity = 0.5 * wanted[np.arange(len(shopper)), drawn] / sizes[drawn]
        made.append(Pushes(shopper, item, channel, hour, sent, propensity, chances, answers))
    return made
