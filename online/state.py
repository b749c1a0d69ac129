"""What the newest events say of a shopper and of items: one interface, an engine by URL. All of it can be made again from the log.

In: events as the log keeps them (online/events.py), each once whatever is sent again. Out: a shopper's acts, what is popular now, which items changed.
"""

import time
from collections.abc import Callable, Iterator
from functools import wraps
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Protocol

from online import log
from online.features import STRENGTH, WINDOW, Link, owner, sole, standing

KEPT = 30 * 86_400.0  # seconds that shoppers who do nothing are remembered
REMEMBERED = 2 * 86_400.0  # seconds, at least, in which an event that is sent again is known by its id
LONGEST = 200  # acts kept of a shopper, newest to arrive
KINDS = ("view", "click", "favourite", "cart", "purchase", "return", "question")  # of acts; engines keep their places here
UNLINK = "unlink"  # the event that undoes a visitor's sign-in
VISITOR = "visitor:"  # before the id of somebody who never signed in, as user_id

Act = tuple[str, float, str]  # item id, seconds, event


class Gone(Exception):
    """The engine cannot be reached."""


def gone(*errors: type[Exception]) -> Callable:
    """Makes of what an engine's library raises Gone."""

    def decorate(method: Callable) -> Callable:
        @wraps(method)
        def asked(*arguments: object) -> object:
            try:
                return method(*arguments)
            except errors as error:
                raise Gone(f"{type(error).__name__}: {error}") from error

        return asked

    return decorate


class Now(NamedTuple):
    """What is known of a shopper.

    Attributes:
        acts: on items, oldest first, also those of visitors who signed in as them. platform: of the newest event that names one. query: the newest search. query_at: when (seconds). visitors: the ids of those
            visitors, each with its sign-ins (features.standing).
    """

    acts: list[Act]
    platform: str | None = None
    query: str | None = None
    query_at: float = 0.0
    visitors: tuple[tuple[str, tuple[tuple[float, str], ...]], ...] = ()


class State(Protocol):
    """Safe to call from several threads and processes. Every method raises Gone."""

    def seen(self, events: list[dict]) -> int:
        """Takes events; how many are new. The same events in the same order give the same state. Late ones are known by their ids alone: the next run reads them."""

    def known(self, event_ids: list[str]) -> set[str]:
        """Those of the events that were taken before."""

    def now(self, user_id: str, since: float) -> Now:
        """What a shopper did after a moment, with what they did as visitors who had not signed in."""

    def popular(self, minute: int, platform: str | None = None) -> list[tuple[str, float]]:
        """Items by what was done to them within WINDOW minutes before a minute (since 1970) that ended, faded, weighed by its strength; most popular first, ties by id."""

    def forget(self, user_id: str) -> None:
        """Removes what is known of a shopper, and of the visitors they were."""

    def change(self, changes: list[dict]) -> None:
        """Takes changes of items (item_id, at, and what is new); of each item and column the newest counts."""

    def changed(self, after: int) -> tuple[int, dict[str, dict]]:
        """Items that changed after a number, each with all its changes, and the number to ask with the next time."""

    def place(self, file: str) -> int:
        """Up to which byte a file of the log was taken."""

    def reached(self, file: str, byte: int) -> None:
        """Notes it."""

    def prune(self) -> None:
        """Removes what is too old."""


def open_state(url: str | None, folder: Path, shop: str = "shop") -> State:
    """The engine that a URL names: redis://HOST:PORT/BASE, rediss:// or unix://SOCKET (a password as redis-py takes it), in which each shop has keys of its own; without one, SQLite beside the folder of events."""
    if url:
        from online.redis_state import RedisState

        return RedisState(url, shop)
    from online.sqlite_state import SqliteState

    return SqliteState(beside(folder) / "state.sqlite")


def beside(folder: Path) -> Path:
    """Where what is made of a folder of events stands; all of it can be made again."""
    return folder.with_name(f"{folder.name}.state")


def replay(state: State, folder: Path) -> int:
    """Takes what of a log is not in the state yet, as after a crash; how many events were new. Events are in log/, changes of items in items/."""
    new, oldest = 0, time.time() - KEPT
    for name, take in (("log", state.seen), ("items", state.change)):
        for path in log.files(folder / name):
            key = f"{name}/{path.stem}"
            start = until = state.place(key)
            part: list[dict] = []
            for row, end in log.read(path, start):
                until = end
                if "refused" not in row and (name == "items" or row["received"] > oldest):
                    part.append(row)
                if len(part) == 10_000:
                    new += take(part) or 0
                    part = []
            if until > start:
                new += take(part) or 0
                state.reached(key, until)
    return new


def mark(event_id: str) -> int:
    """The signed 64 bits by which an event is known (BLAKE2b)."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little", signed=True)


def period(event: dict) -> int:
    """In which of the periods of REMEMBERED an event came in."""
    return int(event["received"] // REMEMBERED)


def shopper(event: dict) -> str:
    """Under whom an event is kept."""
    return event.get("user_id") or VISITOR + event["visitor_id"]


def counted(event: dict) -> Iterator[tuple[str, int, int]]:
    """What an event adds to what is popular: platform (empty: all), minute, strength. What came in long after it happened adds nothing."""
    strength, minute = STRENGTH.get(event["event"]), int(event["at"] // 60)
    if strength and event.get("item_id") and minute >= int(event["received"] // 60) - WINDOW:
        for platform in {"", event.get("platform") or ""}:
            yield platform, minute, strength


def linked(event: dict) -> tuple[str, float, bool] | None:
    """User, moment and whether a visitor signed in, of an event that names both."""
    if event.get("user_id") and event.get("visitor_id"):
        return event["user_id"], event["at"], event["event"] != UNLINK
    return None


def newest(told: dict, change: dict) -> dict:
    """What is told of an item after one more change: of each column [value, when], the newest."""
    at = change["at"]
    columns = change.keys() - {"item_id", "at", "timestamp", "received"}
    return told | {name: [change[name], at] for name in columns if at >= told.get(name, [None, at])[1]}


def merged(own: list[Act], visits: list[tuple[str, list[Link], list[Act]]], user_id: str, since: float) -> Now:
    """A shopper's own acts after a moment and those of visitors that are theirs.

    own: in the order in which they came. visits: of each visitor the id, the links and the acts.
    """
    acts, visitors = [act for act in own if act[1] > since], []
    for visitor, links, done in visits:
        if sign_ins := standing(links):
            visitors.append((visitor, tuple(sign_ins)))
        alone = sole(sign_ins)
        acts += [act for act in done if act[1] > since and owner(sign_ins, act[1], alone) == user_id]
    return Now(sorted(acts, key=lambda act: act[1]), visitors=tuple(visitors))
