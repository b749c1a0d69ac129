"""Why an item is answered: the events of the shopper that add most to its score, and the same in words, in English and Chinese.

In: what the graph that answered says to the history with each event left out, and to each event alone. Out: a few reasons an item, strongest first. What is sensitive (serve.sensitive) counts, but is never named.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

NAMED = 3  # events an item
LEAST = 0.15  # of what all events add to an item, from which one is named
REFERENCE = 50  # popular items, beside whose mean an item's score is looked at: what raises all of them is no reason for one
LEFT_OUT, NEWEST = 20, 5  # events of a history that are left out, one at a time; and of them the newest
KEPT = 1000  # answers whose reasons are remembered
DID = {1: ("looked at", "看过"), 2: ("favourited", "收藏过"), 3: ("put in your cart", "加购过"), 4: ("bought", "买过")}


class Reason(NamedTuple):
    """kind: event | query | popular | cycle | company. item: number of the item that the event was on, None where it is not to be named. action: of an event, 1 = seen ... 4 = bought. share: of what all events add to the item's score, in (0, 1]. text: of a query or a cycle."""

    kind: str
    item: int | None = None
    action: int = 0
    share: float | None = None
    text: str = ""


def contributions(
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray], length: int, items: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """(L, K): what each of L events adds to each item, beside a reference: the mean of what the item loses where the event is left out of the history and of what it gains where the event is all there is. These are the first and the last of the marginal contributions that Shapley's value is the mean of (Shapley 1953): of two events that say the same, leaving one out says nothing.

    Left out are the NEWEST events and those that gain most alone, LEFT_OUT together: of an event that is neither, leaving it out costs time and says little.

    scores: of rows of places (B, up to L; -1 is no event) and items, (B, K + R).
    """

    def ahead(rows: np.ndarray) -> np.ndarray:
        said = scores(rows, np.concatenate([items, reference]))
        return said[:, : len(items)] - said[:, len(items) :].mean(1, keepdims=True)

    alone = ahead(np.arange(-1, length)[:, None])
    gained = alone[1:] - alone[0]
    telling = np.argsort(-gained.max(1), kind="stable")[: LEFT_OUT - NEWEST]
    chosen = np.union1d(telling, np.arange(max(0, length - NEWEST), length))
    rows = np.full((len(chosen) + 1, length), -1)
    rows[0] = np.arange(length)
    for row, place in enumerate(chosen, 1):
        rows[row, : length - 1] = np.delete(np.arange(length), place)
    without, lost = ahead(rows), np.zeros_like(gained)
    lost[chosen] = without[0] - without[1:]
    return (lost + gained) / 2


def of_events(adds: np.ndarray, numbers: np.ndarray, actions: np.ndarray, sensitive: np.ndarray) -> list[Reason]:
    """The events that carry one item: those that add most to it. adds: (L,). sensitive: (L,) bool, not to be named."""
    gains = np.maximum(adds, 0.0)
    if not gains.sum() > 0:
        return []
    shares = gains / gains.sum()
    best = [place for place in np.argsort(-shares, kind="stable")[:NAMED] if shares[place] >= LEAST] or [int(np.argmax(shares))]
    return [
        Reason("event", None if sensitive[place] else int(numbers[place]), int(actions[place]), round(float(shares[place]), 4))
        for place in best
    ]


def in_words(reasons: list[Reason], name: Callable[[int], str]) -> dict[str, str]:
    """Reasons as a sentence. name: of an item."""
    english, chinese = [], []
    for reason in reasons:
        if reason.kind == "event" and reason.item is not None:
            did, has = DID[max(1, min(reason.action, 4))]
            english.append(f"you {did} {name(reason.item)}")
            chinese.append(f"您{has}{name(reason.item)}")
        elif reason.kind == "query":
            english.append(f"you searched for {reason.text}")
            chinese.append(f"您搜索过{reason.text}")
        elif reason.kind == "cycle":
            english.append(f"you buy it about every {reason.text} days")
            chinese.append(f"您大约每{reason.text}天购买一次")
        elif reason.kind == "company":
            english.append(f"it is new and like {name(reason.item)}")
            chinese.append(f"新品，与{name(reason.item)}相似")
        elif reason.kind == "popular":
            english.append("many shoppers choose it")
            chinese.append("很多顾客喜欢")
        else:
            english.append("it fits what you did here")
            chinese.append("与您的浏览记录相符")
    english, chinese = list(dict.fromkeys(english)), list(dict.fromkeys(chinese))
    joined = ", ".join(english[:-1]) + (" and " if len(english) > 1 else "") + english[-1]
    return {"en": f"Because {joined}.", "zh": f"因为{'，'.join(chinese)}。"}


class Remembered:
    """What was computed for the newest questions."""

    def __init__(self, most: int = KEPT):
        self._most, self._found = most, OrderedDict()

    def get(self, key: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What belongs to a key; it is made where it is not there."""
        found = self._found.pop(key, None)
        found = make() if found is None else found
        self._found[key] = found
        if len(self._found) > self._most:
            self._found.popitem(last=False)
        return found
