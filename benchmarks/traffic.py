"""What shoppers do of an hour, over HTTP against a running server: they ask for recommendations, look at some, put some in the cart, buy, search, and now and then are new here.

In: a server's URL and the shop's tables. Out: how many events came in, what was refused, and how long answers took.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import polars as pl

from benchmarks.online.client import Client

HOUR = 3600.0  # seconds
LOOKED, CARTED, BOUGHT, SEARCHED, STRANGERS = 3, 0.25, 0.4, 0.15, 0.1  # items a visit, shares of views, carts, visits, visits


@dataclass
class Taken:
    """Attributes: events: that came in. refused: by reason. seconds: of each answer to /recommend. accepted: seconds of each answer to /events."""

    events: int = 0
    repeated: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)


def send(client: Client, rows: list[dict], taken: Taken) -> None:
    """Sends rows of events, up to a thousand a request."""
    for start in range(0, len(rows), 1000):
        begun = time.perf_counter()
        status, answer = client.post("/events", {"events": rows[start : start + 1000]})
        if status != 202:
            raise RuntimeError(f"/events answered {status}: {answer}")
        taken.accepted.append(time.perf_counter() - begun)
        taken.events += answer["accepted"]
        taken.repeated += answer["repeated"]
        for refusal in answer["refused"]:
            taken.refused[refusal["reason"]] = taken.refused.get(refusal["reason"], 0) + 1


def rows_of(events: pl.DataFrame, until: datetime) -> list[dict]:
    """Events of a table as /events takes them, all of them moved by whole days, so that the newest is on the last day before a moment."""
    days = (until - events["timestamp"].max()).days
    moved = events.with_columns(pl.col("timestamp") + timedelta(days=days)).drop("source_row", strict=False)
    return [
        {name: value.isoformat() if name == "timestamp" else value for name, value in row.items() if value is not None}
        for row in moved.sort("timestamp", nulls_last=True).iter_rows(named=True)
    ]


def an_hour(client: Client, users: list[str], visits: int, seed: int, told: Callable[[float], None]) -> Taken:
    """Visits of an hour that ends now, as fast as the server answers. told: the share that is over."""
    chance, taken, end = random.Random(seed), Taken(), time.time()
    for number in range(visits):
        at = end - HOUR * (1 - number / visits)
        user = f"visitor {seed}-{number}" if chance.random() < STRANGERS else chance.choice(users)
        begun = time.perf_counter()
        _, answer = client.post("/recommend", {"user_id": user, "k": 10})
        taken.seconds.append(time.perf_counter() - begun)
        shown = answer["items"]
        rows = []

        def act(event: str, more: dict, rows: list[dict] = rows, user: str = user, at: float = at) -> None:
            moment = datetime.fromtimestamp(at + len(rows), UTC).isoformat()
            rows.append(
                {"event_id": uuid.uuid4().hex, "user_id": user, "event": event, "timestamp": moment, "platform": "web"} | more
            )

        if chance.random() < SEARCHED and shown[0]["title"]:
            act("search", {"query": shown[0]["title"].split()[-1]})
        for _ in range(chance.randrange(1, LOOKED + 1)):
            item = shown[min(int(chance.expovariate(0.5)), len(shown) - 1)]["item_id"]
            act("click", {"item_id": item, "request_id": answer["request_id"]})
            act("view", {"item_id": item})
            if chance.random() < CARTED:
                act("cart", {"item_id": item})
                if chance.random() < BOUGHT:
                    act("purchase", {"item_id": item, "quantity": 1})
        send(client, rows, taken)
        if number % 20 == 0:
            told(number / visits)
    return taken
