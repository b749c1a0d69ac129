"""What a shopper did and bought, asked for by id. The artefact's histories are those of the day it was made."""

import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from deploy.serving.catalogue import Ids, mapped
from online.features import met, owner, sole
from online.state import VISITOR, Gone, Now, State

NEVER = 1 << 62  # seconds
AHEAD = 7.0  # days
DUE = 0.8, 2.0  # cycles after a purchase from which it is due again, and until when


class History(NamedTuple):
    """Events, oldest first, of one length: int64 each."""

    items: np.ndarray  # item numbers from 1
    times: np.ndarray  # seconds
    actions: np.ndarray  # strongest thing done: 1 = seen ... 4 = bought


class Bought(NamedTuple):
    """Items that a shopper bought, those that were sent back among them, of one length."""

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

    def sent_back(self, item: int, at: int) -> "Bought":
        """The same after the item was sent back: it is not due any more, whatever its cycle."""
        found = self.again(item, at)
        place = np.flatnonzero(found.items == item)
        found.due_from[place] = found.due_until[place] = NEVER
        return found

    def chances(self, now: float) -> np.ndarray:
        """(N,) of a purchase within AHEAD days of a moment: r (F(t + AHEAD) - F(t)) / (1 - r F(t)) of the share r that has one and the
        lognormal F, as in marketing/segments/repeats.py.
        """
        days = np.maximum((now - self.last) / 86_400, 1e-6)
        centre, spread, share = self.rhythm.T
        before, then = (_normal((np.log(d) - centre) / spread) for d in (days, days + AHEAD))
        return share * (then - before) / np.maximum(1 - share * before, 1e-9)


class Known(NamedTuple):
    """What is known of a shopper.

    Attributes:
        others: items that the catalogue does not have and that they met, and whether they bought them.
        platform: where they were last. query, query_at: the newest search and when (seconds). unchecked: what could not be asked for.
    """

    history: History
    bought: Bought
    others: dict[str, bool]
    platform: str | None = None
    query: str | None = None
    query_at: float = 0.0
    unchecked: tuple[str, ...] = ()


NOTHING = Known(
    History(*(np.zeros(0, dtype=np.int64) for _ in range(3))),
    Bought(*(np.zeros(0, dtype=np.int64) for _ in range(4)), np.zeros((0, 3))),
    {},
)  # of nobody


class Histories(Protocol):
    """Where a shopper's events are asked for.

    Attributes:
        users: whose histories the artefact holds.
    """

    users: Ids

    def of(self, user_id: str, items: Ids) -> Known:
        """What is known of a shopper, nothing of an unknown one.

        items: the ids of the catalogue, by which a store that keeps item ids finds their numbers.
        """

    def names(self, user_id: str) -> list[str]:
        """All ids of whoever has this one."""


class Linked:
    """Ids that are one person's.

    Args:
        folder: the artefact.
    """

    def __init__(self, folder: Path):
        self._ids, self._offsets = Ids(folder, "linked_ids"), mapped(folder / "linked_offsets.npy")

    def ids(self, user_id: str) -> list[str]:
        """All ids of whoever has this one, first the one by which the artefact knows them."""
        [place] = self._ids.places([user_id])
        if place < 0:
            return [user_id]
        group = int(np.searchsorted(self._offsets, place, side="right"))
        return self._ids[np.arange(self._offsets[group - 1], self._offsets[group])]


class StoredHistories:
    """The histories that the artefact holds, by any id of a person.

    Args:
        folder: the artefact.
    """

    def __init__(self, folder: Path):
        self.users, self.linked = Ids(folder, "user_ids"), Linked(folder)
        parts = ("offsets", "items", "times", "actions")
        self._offsets, *self._columns = (mapped(folder / f"history_{p}.npy") for p in parts)
        parts = ("offsets", "items", "last", "due_from", "due_until", "rhythm")
        self._bought_offsets, *self._bought = (mapped(folder / f"bought_{p}.npy") for p in parts)

    def of(self, user_id: str, items: Ids) -> Known:
        at = self.users.places(self.linked.ids(user_id)[:1])[0]
        seen, owned = (slice(o[at], o[at + 1]) if at >= 0 else slice(0) for o in (self._offsets, self._bought_offsets))
        *numbers, rhythm = (column[owned] for column in self._bought)
        return Known(
            History(*(column[seen].astype(np.int64) for column in self._columns)),
            Bought(*(n.astype(np.int64) for n in numbers), rhythm.astype(np.float64)),
            {},
        )

    def names(self, user_id: str) -> list[str]:
        return self.linked.ids(user_id)


class LiveHistories:
    """The histories that the artefact holds, and what happened since.

    Args:
        stored: of the artefact. state: of the events since. cutoff: seconds, up to which the artefact knows.
    """

    def __init__(self, stored: StoredHistories, state: State, cutoff: float):
        self.stored, self._state, self._cutoff = stored, state, cutoff
        self.users = stored.users

    def of(self, user_id: str, items: Ids) -> Known:
        """What was bought since is not due before its cycle, where it has one. What was done since under another id of theirs is theirs too, and what a visitor did who signed in since."""
        history, bought, *_ = self.stored.of(user_id, items)
        ids = self.stored.linked.ids(user_id)
        try:
            now = together([self._state.now(one, self._cutoff) for one in ids])
        except Gone:
            return Known(history, bought, {}, unchecked=("events since the model was made",))
        for visitor, sign_ins in now.visitors:
            before = self.stored.of(VISITOR + visitor, items).history
            alone = sole(sign_ins)
            theirs = np.array([owner(sign_ins, at, alone) in ids for at in before.times.tolist()], dtype=bool)
            history = joined(history, History(*(column[theirs] for column in before)))
        places = items.places([item for item, _, _ in now.acts])
        acts = [(int(place) + 1, at, event) for place, (_, at, event) in zip(places, now.acts, strict=True) if place >= 0]
        if acts:
            rows = met(list(zip(*(column.tolist() for column in history), strict=True)), acts)
            history = History(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))
        for item, at, event in acts:
            if event == "purchase":
                bought = bought.again(item, int(at))
            elif event == "return":
                bought = bought.sent_back(item, int(at))
        others: dict[str, bool] = {}
        for place, (item, _, event) in zip(places, now.acts, strict=True):
            if place < 0:
                others[item] = others.get(item, False) or event == "purchase"
        return Known(history, bought, others, now.platform, now.query, now.query_at)

    def names(self, user_id: str) -> list[str]:
        """As of what is stored, and visitors as which nobody but them ever signed in; those of the log alone while it can be asked."""
        ids = self.stored.names(user_id)
        try:
            visitors = [visit for one in ids for visit in self._state.now(one, self._cutoff).visitors]
        except Gone:
            return ids
        return [*ids, *(VISITOR + visitor for visitor, signed_in in visitors if {user for _, user in signed_in} <= set(ids))]


def together(told: list[Now]) -> Now:
    """What is known of a person by several ids: each act once, though it may be known by two of them, and the newest platform and query."""
    if len(told) == 1:
        return told[0]
    acts = sorted({act for now in told for act in now.acts}, key=lambda act: act[1])
    platform = max(told, key=lambda now: max((at for _, at, _ in now.acts), default=0.0) if now.platform else -1.0).platform
    query, query_at = max(((now.query, now.query_at) for now in told), key=lambda one: one[1])
    return Now(acts, platform, query, query_at, tuple(visitor for now in told for visitor in now.visitors))


def joined(one: History, other: History) -> History:
    """What both met, in order of time, each item the first time."""
    if not len(other.items):
        return one
    items, times, actions = (np.concatenate(both) for both in zip(one, other, strict=True))
    order = np.argsort(times, kind="stable")
    first = np.sort(np.unique(items[order], return_index=True)[1])
    kept = order[first]
    return History(items[kept], times[kept], actions[kept])


def _normal(z: np.ndarray) -> np.ndarray:
    """The normal distribution function of a few numbers."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z.tolist()])
