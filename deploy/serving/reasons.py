"""Why an item is answered: the events of the shopper that add most to its score, and the same in words, in English and Chinese.

In: what the graph that answered says to the history with each event left out, and to each event alone. Out: a few reasons an item, strongest first. What is sensitive (serve.sensitive) counts, but is never named.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deploy.serving.catalogue import Ids
from deploy.serving.changes import Catalogue
from deploy.serving.graphs import Asked
from deploy.serving.histories import Bought

ACTIONS = ("view", "favourite", "cart", "purchase")  # by their numbers in a history, from 1
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


class Explainer:
    """Why an artefact answers what it answers.

    Args:
        items: ids. catalogue: what is known of items. answer: what the graph says to inputs: items, scores, ... popular: numbers, most popular first. platforms: by name. max_len: events that the graph reads. max_k: items that it answers.
    """

    def __init__(
        self,
        items: Ids,
        catalogue: Catalogue,
        answer: Callable[[dict[str, np.ndarray]], list[np.ndarray]],
        popular: np.ndarray,
        platforms: dict[str, int],
        max_len: int,
        max_k: int,
    ):
        self._items, self._catalogue, self._answer, self._popular = items, catalogue, answer, popular
        self._platforms, self._max_len, self._most = platforms, max_len, min(max_k, len(items))
        self._unnamed = np.zeros(len(items) + 1, dtype=bool)
        self._remembered = Remembered()

    def leave_unnamed(self, categories: list[str]) -> None:
        """Categories, by path or its beginning, of which no reason names an item."""
        if categories and "category" in self._catalogue.columns:
            column = self._catalogue.columns["category"]
            codes = [code for name in categories for code in column.codes.get(name, [])]
            self._unnamed[1:] = np.isin(column.values, codes)

    def explained(self, shown: list[dict], asked: Asked, told: dict[str, Reason]) -> list[dict]:
        """Items with why they are there: `reasons` and `because`. told: what is known to be a reason for some of them."""
        numbers = self._items.places([item["item_id"] for item in shown]) + 1
        places = np.flatnonzero(numbers > 0)
        by_events: dict[int, list[Reason]] = {}
        if len(places) and len(asked.numbers):
            adds = self.added(asked, numbers[places])
            history, actions = asked.numbers[-self._max_len :], asked.actions[-self._max_len :]
            for column, place in enumerate(places.tolist()):
                by_events[place] = of_events(adds[:, column], history, actions, self._unnamed[history])
        explained = []
        for place, item in enumerate(shown):
            reasons = [told[item["item_id"]]] if item["item_id"] in told else []
            newcomer = self._catalogue.newcomers.get(item["item_id"]) if numbers[place] == 0 else None
            if newcomer is not None and len(newcomer.alike) and not self._unnamed[newcomer.alike[0]]:
                reasons.append(Reason("company", int(newcomer.alike[0])))
            reasons = reasons + by_events.get(place, []) or [Reason("popular")]
            explained.append(item | {"reasons": [self._shown(one) for one in reasons], "because": in_words(reasons, self._name)})
        return explained

    def added(self, asked: Asked, items: np.ndarray) -> np.ndarray:
        """(L, K): what each event adds to items by the graph; of the newest events that it reads."""
        history, times, actions = (column[-self._max_len :] for column in (asked.numbers, asked.times, asked.actions))
        reference = np.setdiff1d(self._popular[: min(REFERENCE, self._most // 2)], items)
        platform, step = self._platforms.get(asked.platform, 0), self._most - len(reference)

        def scores(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            allowed = np.zeros((1, len(self._items) + 1), dtype=bool)
            allowed[0, wanted] = True
            columns = {"history": history, "times": times, "actions": actions}
            inputs = {name: np.where(rows >= 0, column[rows], 0) for name, column in columns.items()} | {
                "platform": np.full(len(rows), platform),
                "exclude": np.zeros((len(rows), 1), np.int64),
                "allowed": np.repeat(allowed, len(rows), 0),
            }
            found, said, *_ = self._answer(inputs)
            order = np.argsort(wanted)
            at = np.minimum(np.searchsorted(wanted, found, sorter=order), len(wanted) - 1)
            answered = np.full((len(rows), len(wanted) + 1), np.nan)
            np.put_along_axis(answered, np.where(np.isfinite(said), order[at], len(wanted)), said, 1)
            return answered[:, :-1]

        def of_all() -> np.ndarray:
            parts = [items[start : start + step] for start in range(0, len(items), step)]
            return np.hstack([contributions(scores, len(history), part, reference) for part in parts])

        key = history.tobytes(), times.tobytes(), actions.tobytes(), platform, items.tobytes()
        return self._remembered.get(key, of_all)

    def cycles(self, bought: Bought) -> dict[str, Reason]:
        """Of items that are bought again how often."""
        known = np.flatnonzero(np.isfinite(bought.rhythm[:, 0]))
        names, days = self._items[bought.items[known] - 1], np.exp(bought.rhythm[known, 0])
        return {name: Reason("cycle", text=f"{day:.0f}") for name, day in zip(names, days.tolist(), strict=True)}

    def _shown(self, reason: Reason) -> dict:
        """A reason as answers show it."""
        named = None if reason.item is None else self._items[np.array([reason.item - 1])][0]
        action = ACTIONS[reason.action - 1] if reason.kind == "event" and reason.action > 0 else None
        return {"kind": reason.kind, "item_id": named, "action": action, "share": reason.share}

    def _name(self, number: int) -> str:
        """An item's title, its id where it has none."""
        at = np.array([number - 1])
        titles = self._catalogue.columns["title"][at] if "title" in self._catalogue.columns else [None]
        return titles[0] or self._items[at][0]


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
