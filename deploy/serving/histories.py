"""What a shopper did and bought, asked for by id. The artefact's histories are those of the day it was made."""

import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from deploy.serving.catalogue import Ids, mapped

NEVER = 1 << 62  # seconds
AHEAD = 7.0  # days


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


def _normal(z: np.ndarray) -> np.ndarray:
    """The normal distribution function of a few numbers."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z.tolist()])
