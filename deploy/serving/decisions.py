"""What to send a shopper now, by which channel, or nothing and why: of the offers that marketing found for them, the one that is worth most and that nothing hinders at this moment.

Reads the artefact's offers and rules, and, where there is one, the outbox: who opted out and what was sent. numpy, sqlite3 and the hours of time zones alone.
"""

import json
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from deploy.serving.catalogue import Ids, mapped
from deploy.serving.histories import Linked

ALL = "*"  # of channels or topics of an opt-out: every one
DAY = 86_400.0


@dataclass
class Decision:
    """An offer, or none."""

    item: int | None = None  # its number
    channel: str | None = None
    worth: float | None = None  # money that it is to bring, its cost taken off
    extra: float | None = None  # purchases that it is to add
    click: float | None = None  # chance of a click
    response: float | None = None  # ... of a purchase
    cost: float | None = None
    why: str | None = None  # nothing is sent
    unchecked: list[str] = field(default_factory=list)  # what could not be looked at


class SentAndRefused:
    """What an outbox (a SQLite file of marketing/outbox.py) says of a shopper."""

    def __init__(self, file: Path):
        self._file = file
        self._connection: sqlite3.Connection | None = None

    def of(self, ids: list[str], since: float, topic: str | None) -> tuple[list[tuple[str, float]], set[str]] | None:
        """Channels and times of what was sent to one of a person's ids after a moment, and the channels that the shopper opted out of; None: the outbox cannot be read."""
        theirs = ", ".join("?" * len(ids))
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    f"{self._file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.5, check_same_thread=False
                )
            sent = self._connection.execute(
                f"SELECT channel, sent_at FROM messages WHERE user_id IN ({theirs}) AND sent_at > ?", (*ids, since)
            ).fetchall()
            refused = self._connection.execute(
                f"SELECT channel FROM opt_outs WHERE user_id IN ({theirs}) AND topic IN (?, ?)", (*ids, ALL, topic or ALL)
            ).fetchall()
        except sqlite3.Error:
            self._connection = None  # it may be there, or whole, the next time
            return None
        return sent, {channel for (channel,) in refused}


class Decisions:
    """The offers of an artefact.

    Args:
        folder: the artefact. users: whose offers it holds. linked: by which other ids they are known. outbox: a SQLite file that says what was sent and who opted out; None: there is none.
    """

    def __init__(self, folder: Path, users: Ids, linked: Linked, outbox: Path | None = None):
        self.users, self._linked, self._outbox = users, linked, SentAndRefused(outbox) if outbox else None
        self._offsets, self._items, self._channels, self._chances, self._zones = (
            mapped(folder / f"{name}.npy")
            for name in ("offer_offsets", "offer_items", "offer_channels", "offer_chances", "user_zones")
        )
        rules = json.loads((folder / "decide.json").read_text(encoding="utf-8"))
        self.costs: dict[str, float] = rules["channels"]
        self.currency: str = rules["currency"]
        self._names, self._quiet, self._limits, self._why = (
            list(self.costs),
            rules["quiet_hours"],
            rules["contact_limits"],
            rules["reasons"],
        )
        self._leaving: float = rules.get("leaving_cost", 0.0)
        self._each = np.array(list(self.costs.values()))
        self._hours_of = [ZoneInfo(name) for name in rules["zones"]]

    def decide(
        self,
        user_id: str,
        allowed: np.ndarray,
        at: datetime | None = None,
        channels: list[str] | None = None,
        topic: str | None = None,
        present: bool = False,
    ) -> Decision:
        """The offer that is worth most now, of the items (V,) that are allowed, or why there is none.

        Limits on contacts and opt-outs hold as far as the outbox can be read; what could not be looked at is named. present: the shopper is looking at a place that is bid for: no hour is quiet, and the
        channel costs nothing by itself.
        """
        now = datetime.now(UTC) if at is None else at
        ids = self._linked.ids(user_id)
        row = self.users.places(ids[:1])[0]
        items, ways, chances = self._of(row)
        if not len(items):
            return Decision(why=self._why["unknown"])
        open_ = (
            np.ones(len(items), dtype=bool)
            if channels is None
            else np.isin(ways, [n for n, name in enumerate(self._names) if name in channels])
        )
        if not open_.any():
            return Decision(why=self._why["unreached"])
        if not present and self._is_quiet(row, now):
            return Decision(why=self._why["quiet"])
        unchecked = []
        sent = self._outbox and self._outbox.of(ids, now.timestamp() - self._longest(), topic)
        if sent is None:
            unchecked = ["messages sent before", "opt-outs"]
        else:
            full, refused = self._full(sent[0], now.timestamp()), sent[1]
            closed = np.array([name in refused or ALL in refused for name in self._names])
            if closed[ways[open_]].all():
                return Decision(why=self._why["opted_out"])
            full = np.array([name in full or ALL in full for name in self._names])
            open_ &= ~closed[ways]
            if full[ways[open_]].all():
                return Decision(why=self._why["contacted"])
            open_ &= ~full[ways]
        fits = open_ & allowed[items]
        if not fits.any():
            return Decision(why=self._why["nothing"], unchecked=unchecked)
        worths = chances[:, 0] + (self._each[ways] if present else 0.0)
        best = int(np.flatnonzero(fits)[np.argmax(worths[fits])])
        worth, extra, click, response = (round(float(v), 6) for v in (worths[best], *chances[best, 1:]))
        if worth <= 0:
            return Decision(why=self._why["not_worth"], unchecked=unchecked)
        name = self._names[ways[best]]
        return Decision(
            int(items[best]), name, worth, extra, click, response, 0.0 if present else self.costs[name], None, unchecked
        )

    def terms(self, found: Decision) -> dict | None:
        """The terms whose sum an offer is worth: purchases that it is to add, times what one brings, less what the message costs and what is lost by those who leave; None of no offer."""
        if found.item is None:
            return None
        leaving = self._leaving
        brought = found.worth + found.cost + leaving
        return {
            "extra": found.extra,
            "value": round(brought / found.extra, 4) if found.extra else 0.0,
            "cost": found.cost,
            "leaving_cost": leaving,
            "worth": found.worth,
        }

    def score(self, user_id: str, item: int, channel: str) -> dict | None:
        """What is known of one offer (worth, extra, click, response); None: it is none of those that were found for the shopper."""
        items, ways, chances = self._of(self.users.places(self._linked.ids(user_id)[:1])[0])
        found = np.flatnonzero((items == item) & (ways == self._names.index(channel))) if channel in self._names else []
        if not len(found):
            return None
        return dict(zip(("worth", "extra", "click", "response"), (round(float(v), 6) for v in chances[found[0]]), strict=True))

    def _of(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        span = slice(self._offsets[row], self._offsets[row + 1]) if row >= 0 else slice(0)
        return self._items[span], self._channels[span], self._chances[span]

    def _is_quiet(self, row: int, now: datetime) -> bool:
        if not self._quiet or self._quiet[0] == self._quiet[1]:
            return False
        (start, end), hour = self._quiet, now.astimezone(self._hours_of[self._zones[row]]).hour
        return start <= hour < end if start < end else hour >= start or hour < end

    def _longest(self) -> float:
        """Seconds that limits on contacts look back."""
        return max((limit["days"] for limit in self._limits), default=0.0) * DAY

    def _full(self, sent: list[tuple[str, float]], now: float) -> set[str]:
        """Channels by which nothing more may be sent now; ALL: by none."""
        full = set()
        for limit in self._limits:
            channel = limit.get("channel") or ALL
            near = sum(when > now - limit["days"] * DAY and channel in (ALL, by) for by, when in sent)
            if near >= limit["at_most"]:
                full.add(channel)
        return full
