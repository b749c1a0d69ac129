"""Who gets what, where money, stock and channels are short: the offers that together are worth most.

In: offers (a shopper, an item, a channel, what sending it is worth), limits. Out: the offers to make, what they are worth, and a bound that no choice within the limits can
exceed. Knows no campaigns and no time.

Method: prices for the budget, each item and each channel (Lagrange multipliers), moved towards where what is asked for meets what there is (dual ascent by
subgradients; Fisher, "The Lagrangian relaxation method for solving integer programming problems", 1981). Under any prices each shopper takes the offers
that are worth most beyond them; the most that shoppers can gain and what the limits cost together is a bound. Taking one by one is exact where limits nest: a shopper's gain is
bounded by the lesser of what it would be without the limit on channels and without those on items and categories. In the end offers are taken in falling order of what they are worth beyond
the prices, as long as the limits hold, and what is left of the limits is filled. The same offers give the same plan on any number of cores.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

CHUNKS = 64  # parts of the shoppers that are counted apart, whatever the number of cores
SHORT = 12  # offers of each shopper that prices are moved on, at least; between these passes all offers are looked at
MANY, MOST = 10_000_000, 50_000_000  # ... of all shoppers together: about so many to begin with, and at most
WIDER = 4  # times as many where these are too few: where nothing of what is short stands in anybody's, its price would fall
ROUNDS, PASSES = 8, 40  # how often the short lists are made, and passes on each
FIRST_STEP = 0.1  # of prices, as a share of what offers of the item or by the channel are worth on average
ENOUGH = 1e-5  # a bound that falls by a smaller share than this is as low as it gets
FASTER, SLOWER = 1.3, 0.6  # how steps change while a price goes on in the same direction, and when it turns


@dataclass(frozen=True)
class Offers:
    """N offers to S shoppers, those of a shopper one after the other."""

    starts: np.ndarray  # (S + 1,) int64, where each shopper's begin
    value: np.ndarray  # (N,) float32, what sending is worth, cost taken off; what is not above 0 is never sent
    item: np.ndarray  # (N,) int32
    channel: np.ndarray  # (N,) int8


@dataclass(frozen=True)
class Limits:
    """What plans must keep to, of I items and C channels."""

    stock: np.ndarray  # (I,) int64, sends of an item
    category: np.ndarray  # (I,) int32
    brand: np.ndarray  # (I,) int32
    capacity: np.ndarray  # (C,) int64, sends by a channel
    cost: np.ndarray  # (C,) float64, of a send
    budget: float
    per_shopper: int  # sends, of which an item is never two
    per_category: int  # ... of a category to a shopper
    per_brand: int  # ... of a brand to a shopper; the bound does not know of it, and holds all the same
    per_channel: int  # ... by a channel to a shopper


@dataclass(frozen=True)
class Assignment:
    """The offers to make."""

    rows: np.ndarray  # (M,) int64, of the offers, rising
    value: float  # of all of them
    bound: float  # no choice within the limits is worth more

    @property
    def gap(self) -> float:
        """By which share of the bound the plan may be short of the best there is, at most."""
        return max(1 - self.value / self.bound, 0.0) if self.bound > 0 else 0.0


def assign(offers: Offers, limits: Limits, watch: Callable[[int, float], None] = lambda done, bound: None) -> Assignment:
    """The offers to make. watch: told passes over all offers that are done, and the best bound so far."""
    if not len(offers.value) or offers.value.max() <= 0:
        return Assignment(np.empty(0, np.int64), 0.0, 0.0)
    there, scale = _there(limits), _scale(offers, limits)
    prices, best, bound = np.zeros(len(scale)), np.zeros(len(scale)), np.inf
    step, before = FIRST_STEP * scale, np.zeros(len(scale))
    shoppers = len(offers.starts) - 1
    widest = min(int(np.diff(offers.starts).max()), max(SHORT, MOST // shoppers))
    width = min(max(SHORT, MANY // shoppers), widest)
    for done in range(ROUNDS):
        short, tail = _shortened(offers, limits, prices, width), []
        for tried in range(PASSES):
            _, asked = _respond(short, limits, prices)
            off = np.clip((asked - there) / np.maximum(there, 1e-9), -1.0, 1.0)
            along = off * before
            step = np.clip(step * np.where(along > 0, FASTER, np.where(along < 0, SLOWER, 1.0)), 1e-5 * scale, 10 * scale)
            prices, before = np.maximum(prices + step * off, 0.0), off
            if tried >= PASSES // 2:
                tail.append(prices)
        prices = np.mean(tail, 0)
        gain, _ = _respond(offers, limits, prices)
        missed = gain - _respond(short, limits, prices)[0]  # what shoppers would gain by offers that are in no short list
        found, last = float(gain + prices @ there), bound
        if found < bound:
            best, bound = prices, found
        watch(done + 1, bound)
        if found > last * (1 - ENOUGH):
            if width == widest or missed <= ENOUGH * found:
                break
            width, prices = min(WIDER * width, widest), best
    rows = _taken(offers, limits, best, width)
    return Assignment(rows, float(offers.value[rows].sum(dtype=np.float64)), bound)


# Prices and what they are of stand in one array of I + C + 1: a send of each item, a send by each channel, a unit of money.


def _there(limits: Limits) -> np.ndarray:
    """How much there is."""
    return np.concatenate([limits.stock, limits.capacity, [limits.budget]]).astype(np.float64)


def _scale(offers: Offers, limits: Limits) -> np.ndarray:
    """By what prices are moved: what offers of each item, and all, are worth on average."""
    worth, counts = np.zeros(len(limits.stock)), np.zeros(len(limits.stock))
    _add_up(offers.value, offers.item, worth, counts)
    mean = worth.sum() / max(counts.sum(), 1)
    dear = float(limits.cost[limits.cost > 0].mean()) if (limits.cost > 0).any() else 1.0
    return np.concatenate([np.maximum(worth / np.maximum(counts, 1), mean), np.full(len(limits.capacity), mean), [mean / dear]])


@numba.njit
def _add_up(value, item, worth, counts):
    """Adds what is worth sending up, an item."""
    for row in range(len(value)):
        if value[row] > 0:
            worth[item[row]] += value[row]
            counts[item[row]] += 1


def _of_sends(prices: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """What naming each item (I,) and sending by each channel (C,), its cost included, is priced at: float32."""
    items = len(limits.stock)
    return prices[:items].astype(np.float32), (prices[items:-1] + prices[-1] * limits.cost).astype(np.float32)


def _respond(offers: Offers, limits: Limits, prices: np.ndarray) -> tuple[float, np.ndarray]:
    """The most that shoppers can gain beyond prices, and how much of everything they take."""
    size = len(limits.stock), len(limits.capacity)
    items, channels, gain = np.zeros((CHUNKS, size[0]), np.int64), np.zeros((CHUNKS, size[1]), np.int64), np.zeros(CHUNKS)
    _demand(
        offers.starts, offers.value, offers.item, offers.channel, *_of_sends(prices, limits), limits.category, limits.per_shopper,
        limits.per_category, limits.per_channel, items, channels, gain,
    )  # fmt: skip
    by_channel = channels.sum(0)
    return float(gain.sum()), np.concatenate([items.sum(0), by_channel, [by_channel @ limits.cost]])


@numba.njit
def _choose(first, last, value, item, channel, of_item, of_send, category, per_category, per_channel, chosen):
    """The offers of a shopper that are worth most beyond prices, taken one by one while they go together: their rows into `chosen`, how many, what they are worth.

    per_category: above the length of `chosen`, an item may come twice too.
    """
    count, gain = 0, 0.0
    while count < len(chosen):
        best, most = -1, np.float32(0.0)
        for row in range(first, last):
            if value[row] <= most:  # prices only take away
                continue
            worth = value[row] - of_item[item[row]] - of_send[channel[row]]
            if worth > most:
                alike, same_way, fits = 0, 0, True
                for place in range(count):
                    other = chosen[place]
                    fits &= other != row and (item[other] != item[row] or per_category > len(chosen))
                    alike += category[item[other]] == category[item[row]]
                    same_way += channel[other] == channel[row]
                if fits and alike < per_category and same_way < per_channel:
                    best, most = row, worth
        if best < 0:
            break
        chosen[count] = best
        count += 1
        gain += most
    return count, gain


@numba.njit(parallel=True)
def _demand(
    starts, value, item, channel, of_item, of_send, category, per_shopper, per_category, per_channel, items, channels, gain
):
    """What shoppers take, and bounds of what they can gain, counted by chunks of them."""
    shoppers, free = len(starts) - 1, per_shopper + 1
    for chunk in numba.prange(CHUNKS):
        chosen, other = np.empty(per_shopper, np.int64), np.empty(per_shopper, np.int64)
        for shopper in range(chunk * shoppers // CHUNKS, (chunk + 1) * shoppers // CHUNKS):
            first, last = starts[shopper], starts[shopper + 1]
            count, most = _choose(
                first, last, value, item, channel, of_item, of_send, category, per_category, per_channel, chosen
            )
            for place in range(count):
                items[chunk, item[chosen[place]]] += 1
                channels[chunk, channel[chosen[place]]] += 1
            if per_channel < per_shopper and per_shopper > 1:
                _, without = _choose(first, last, value, item, channel, of_item, of_send, category, per_category, free, other)
                _, beside = _choose(first, last, value, item, channel, of_item, of_send, category, free, per_channel, other)
                most = max(most, min(without, beside))
            gain[chunk] += most


def _shortened(offers: Offers, limits: Limits, prices: np.ndarray, width: int) -> Offers:
    """The offers that are worth most to each shopper beyond prices, or nearly."""
    rows = _worthiest(offers, limits, prices, width)
    counts = (rows >= 0).sum(1)
    kept = rows[rows >= 0]
    return Offers(np.concatenate([[0], np.cumsum(counts)]), offers.value[kept], offers.item[kept], offers.channel[kept])


def _worthiest(offers: Offers, limits: Limits, prices: np.ndarray, width: int) -> np.ndarray:
    """(S, width) rows of the offers, in falling order of what they are worth beyond prices; -1 where there are no more."""
    rows = np.full((len(offers.starts) - 1, width), -1, np.int64)
    _shortlist(offers.starts, offers.value, offers.item, offers.channel, *_of_sends(prices, limits), rows)
    return rows


@numba.njit(parallel=True)
def _shortlist(starts, value, item, channel, of_item, of_send, rows):
    most = rows.shape[1]
    for shopper in numba.prange(len(starts) - 1):
        worths = np.full(most, -np.inf, np.float32)
        for row in range(starts[shopper], starts[shopper + 1]):
            if value[row] <= 0:
                continue
            worth = value[row] - of_item[item[row]] - of_send[channel[row]]
            place = most
            while place > 0 and worth > worths[place - 1]:
                place -= 1
            if place < most:
                for later in range(most - 1, place, -1):
                    worths[later] = worths[later - 1]
                    rows[shopper, later] = rows[shopper, later - 1]
                worths[place] = worth
                rows[shopper, place] = row


def _taken(offers: Offers, limits: Limits, prices: np.ndarray, width: int) -> np.ndarray:
    """Offers that keep to every limit: those worth most beyond prices first, and what then is left of the limits filled with those worth most."""
    short = _worthiest(offers, limits, prices, width)
    shopper, _ = np.nonzero(short >= 0)
    rows = short[short >= 0]
    of_item, of_send = _of_sends(prices, limits)
    beyond = offers.value[rows] - of_item[offers.item[rows]] - of_send[offers.channel[rows]]
    order = np.lexsort((rows, -beyond))
    taken = np.zeros(len(rows), np.bool_)
    _take(
        order, shopper, offers.item[rows], offers.channel[rows], limits.stock.copy(), limits.capacity.copy(), limits.cost, limits.budget, limits.category,
        limits.brand, limits.per_shopper, limits.per_category, limits.per_brand, limits.per_channel, len(offers.starts) - 1, taken,
    )  # fmt: skip
    return np.sort(rows[taken])


@numba.njit
def _take(
    order,
    shopper,
    item,
    channel,
    stock,
    capacity,
    cost,
    budget,
    category,
    brand,
    per_shopper,
    per_category,
    per_brand,
    per_channel,
    shoppers,
    taken,
):
    """Marks the offers that are taken, in this order, while the limits hold."""
    mine = np.full((shoppers, per_shopper), -1, np.int64)
    counts = np.zeros(shoppers, np.int64)
    for row in order:
        who, what, how = shopper[row], item[row], channel[row]
        if counts[who] >= per_shopper or stock[what] < 1 or capacity[how] < 1 or cost[how] > budget:
            continue
        alike, same_brand, same_way, fits = 0, 0, 0, True
        for place in range(counts[who]):
            other = mine[who, place]
            if item[other] == what:
                fits = False
            alike += category[item[other]] == category[what]
            same_brand += brand[item[other]] == brand[what]
            same_way += channel[other] == how
        if fits and alike < per_category and same_brand < per_brand and same_way < per_channel:
            mine[who, counts[who]] = row
            counts[who] += 1
            stock[what] -= 1
            capacity[how] -= 1
            budget -= cost[how]
            taken[row] = True
