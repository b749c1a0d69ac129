"""What a shopper did and bought, asked for by id. The artefact's histories are those of the day it was made."""

import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from deploy.serving.catalogue import Ids, mapped
from online.features import met
from online.state import State

NEVER = 1 << 62  # seconds
AHEAD = 7.0  # days
DUE = 0.8, 2.0  # cycles after a purchase from which it is due again, and until when


class History(NamedTuple):
    """Events, oldest first, of one length: int64 each."""

    items: np.ndarray  # item numbers from 1
    times: np.ndarray  # seconds
    actions: np.ndarray  # strongest thing done: 1 = seen ... 4 = bought


class Bought(NamedTuple):
    """Items that a shopper bought, of one length."""

    items: np.ndarray  # int64, item numbers from 1
    last: np.ndarray  # int64, seconds, of the newest purchase
    due_from: np.ndarray  # int64, seconds from which it may be bought again, NEVER where it is not
    due_until: np.ndarray  # int64
    rhythm: (
        np.ndarray
    )  # (N, 3) float64: mean and spread of the logarithm of the days to the next purchase, and the share that has one

    def due(self, now: float) -> np.ndarray:
        """(N,) bool: what may be bought again at a moment."""
        return (self.due_from <= now) & (now < self.due_until)

    def again(self, item: int, at: int) -> "Bought":
        """The same after one more purchase. What was never bought before has no cycle of its own yet."""
        place = np.flatnonzero(self.items == item)
        if not len(place):
            new = Bought(*(np.array([n]) for n in (item, at, NEVER, NEVER)), np.full((1, 3), np.nan))
            return Bought(*(np.concatenate(both) for both in zip(self, new, strict=True)))
        found = Bought(*(column.copy() for column in self))
        found.last[place] = at
        for column, cycles in ((found.due_from, DUE[0]), (found.due_until, DUE[1])):
            if column[place[0]] < NEVER:
                column[place] = at + int(cycles * 86_400 * math.exp(self.rhythm[place[0], 0]))
        return found

    def chances(self, now: float) -> np.ndarray:
        """(N,) of a purchase within AHEAD days of a moment: r (F(t + AHEAD) - F(t)) / (1 - r F(t)) of the share r that has one and the
        lognormal F, as in marketing/segments/repeats.py.
        """
        days = np.maximum((now - self.last) / 86_400, 1e-6)
        centre, spread, share = self.rhythm.T
        before, then = (_normal((np.log(d) - centre) / spread) for d in (days, days + AHEAD))
        return share * (then - before) / np.maximum(1 - share * before, 1e-9)


class Histories(Protocol):
    """Where a shopper's events are asked for."""

    def of(self, user_id: str, items: Ids) -> History:
        """The events of a shopper, empty for an unknown one.

        items: the ids of the catalogue, by which a store that keeps item ids finds their numbers.
        """

    def bought(self, user_id: str, items: Ids) -> Bought:
        """What a shopper bought, nothing for an unknown one."""


class StoredHistories:
    """The histories that the artefact holds.

    Args:
        folder: the artefact.
    """

    def __init__(self, folder: Path):
        self.users = Ids(folder, "user_ids")
        parts = ("offsets", "items", "times", "actions")
        self._offsets, *self._columns = (mapped(folder / f"history_{p}.npy") for p in parts)
        parts = ("offsets", "items", "last", "due_from", "due_until", "rhythm")
        self._bought_offsets, *self._bought = (mapped(folder / f"bought_{p}.npy") for p in parts)

    def of(self, user_id: str, items: Ids) -> History:
        span = self._span(user_id, self._offsets)
        return History(*(column[span].astype(np.int64) for column in self._columns))

    def bought(self, user_id: str, items: Ids) -> Bought:
        span = self._span(user_id, self._bought_offsets)
        *numbers, rhythm = (column[span] for column in self._bought)
        return Bought(*(n.astype(np.int64) for n in numbers), rhythm.astype(np.float64))

    def _span(self, user_id: str, offsets: np.ndarray) -> slice:
        at = self.users.places([user_id])[0]
        return slice(offsets[at], offsets[at + 1]) if at >= 0 else slice(0)


class LiveHistories:
    """The histories that the artefact holds, and what happened since.

    Args:
        stored: of the artefact. state: of the events since. cutoff: seconds, up to which the artefact knows.
    """

    def __init__(self, stored: StoredHistories, state: State, cutoff: float):
        self.stored, self._state, self._cutoff = stored, state, cutoff
        self.users = stored.users

    def of(self, user_id: str, items: Ids) -> History:
        before, acts = self.stored.of(user_id, items), self._acts(user_id, items)
        if not acts:
            return before
        rows = met(list(zip(*(column.tolist() for column in before), strict=True)), acts)
        return History(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))

    def bought(self, user_id: str, items: Ids) -> Bought:
        """What was bought since is not due before its cycle, where it has one."""
        before = self.stored.bought(user_id, items)
        for item, at, event in self._acts(user_id, items):
            if event == "purchase":
                before = before.again(item, int(at))
        return before

    def _acts(self, user_id: str, items: Ids) -> list[tuple[int, float, str]]:
        """Number of the item, seconds and event of what was done since to items of the catalogue."""
        acts = self._state.history(user_id, self._cutoff)
        places = items.places([item for item, _, _ in acts])
        return [(int(place) + 1, at, event) for place, (_, at, event) in zip(places, acts, strict=True) if place >= 0]


def _normal(z: np.ndarray) -> np.ndarray:
    """The normal distribution function of a few numbers."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z.tolist()])
