"""What a shop told of its items since the artefact was made: prices, stock, what is not to be shown, and items that the catalogue does not have yet.

In: changes of the state (online/state.py), looked for before an answer. Out: a mask of items, the columns that answers show and filters read, and newcomers, each with the items of the catalogue that are most like
it: a newcomer is worth what those are worth to a shopper (attribute-to-item kNN of Gantner et al. 2010, with BM25 as the similarity).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.serving.catalogue import Column, Ids
from online.search import WEIGHTS, Search, words
from online.state import Gone, State

LOOK = 0.1  # seconds between two looks
NEIGHBOURS = 10  # items of the catalogue by which a newcomer is judged
MOST = 1000  # newcomers, newest first to come
NUMERIC = ("price", "in_stock")


@dataclass
class Newcomer:
    """An item that the catalogue does not have.

    Attributes:
        told: its columns. words: of its title, brand and category. alike: (N,) numbers of items of the catalogue. weights: (N,) how much they share with it, of sum 1.
    """

    told: dict
    words: set[str]
    alike: np.ndarray
    weights: np.ndarray

    @property
    def open(self) -> bool:
        return is_open(self.told)


def is_open(told: dict) -> bool:
    """Whether an item may be answered, by what was told of it: neither blocked nor without stock."""
    return not told.get("blocked") and told.get("in_stock") is not False


class Catalogue:
    """The items that may be answered now, and what is known of them. For one event loop.

    Attributes:
        open: (1, V + 1) bool: what may be answered; item 0 is no one's. columns: by name. newcomers: by item id. search: of the catalogue.

    Args:
        folder: the artefact. columns: of the artefact by name. listed: (V,) bool. state: that tells of changes; None: nobody does. since: seconds; prices told before are in the artefact.
    """

    def __init__(
        self, folder: Path, items: Ids, columns: dict[str, Column], listed: np.ndarray, state: State | None, since: float
    ):
        self.items, self.columns, self._state, self._since = items, columns, state, since
        self.search = Search(folder / "search.sqlite")
        self.open = np.concatenate([[False], listed])[None]
        self._listed = self.open
        self.newcomers: dict[str, Newcomer] = {}
        self._number, self._looked = 0, -LOOK

    def look(self) -> None:
        """Takes what changed since the last look. Where nobody can tell, what was told last holds."""
        if self._state is None or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        try:
            self._number, changed = self._state.changed(self._number)
        except Gone:
            return
        if changed:
            self._take(changed)

    def find(self, query: str, count: int) -> list[tuple[int | str, float]]:
        """Numbers of items, and ids of newcomers, that share words with a query, best first, and how much."""
        found: list[tuple[int | str, float]] = list(self.search.find(query, count))
        asked, best = set(words(query)), found[0][1] if found else 1.0
        for item, newcomer in self.newcomers.items():
            if shared := len(asked & newcomer.words):
                found.append((item, best * shared / len(asked)))  # of the best, the share of the words
        return sorted(found, key=lambda one: -one[1])[:count]

    def _take(self, changed: dict[str, dict]) -> None:
        places, may = self.items.places(list(changed)), self.open.copy()
        for place, (item, dated) in zip(places.tolist(), changed.items(), strict=True):
            told = {name: value for name, (value, _) in dated.items()}
            if place < 0:
                self._put(item, told)
                continue
            # until the shop tells otherwise, whatever a newer artefact's catalogue says
            may[0, place + 1] = self._listed[0, place + 1] and is_open(told)
            for name in NUMERIC:
                if name in dated and dated[name][1] > self._since and name in self.columns:
                    self.columns[name].put(place, told[name])
        self.open = may

    def _put(self, item: str, told: dict) -> None:
        text = " ".join(str(told[name]) for name in WEIGHTS if told.get(name))
        found = self.search.find(text, NEIGHBOURS)
        numbers, scores = (np.array(part) for part in zip(*found, strict=True)) if found else (np.zeros(0, int), np.zeros(0))
        if item not in self.newcomers and len(self.newcomers) == MOST:
            del self.newcomers[next(iter(self.newcomers))]
        self.newcomers[item] = Newcomer(told, set(words(text)), numbers.astype(np.int64), scores / max(scores.sum(), 1e-9))
