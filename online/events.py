"""What comes in: rows of events and changes of items, each checked by itself. What is wrong with one is said, the rest is taken.

Out: lines as the log keeps them: the canonical columns, `at` (when it happened) and `received`, both in seconds.
"""

import math
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from online.state import UNLINK
from privacy.people import FORGOTTEN, People, ids_of

SHOWN = 2000  # letters of a refused row that are kept
AHEAD = 300.0  # seconds by which a sender's clock may be ahead of ours

Id = Annotated[str, Field(min_length=1, max_length=512)]
Name = Annotated[str, Field(max_length=64)]
Hash = Annotated[str, Field(pattern=r"^[0-9A-Za-z+/=_-]{16,128}$")]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt field is an error, not a surprise


class Event(Row):
    event_id: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="of the sender: sent again, it counts once")
    user_id: Id | None = None
    visitor_id: Id | None = Field(None, description="who is not signed in; an event with both says that they are one")
    event: Literal[
        "view",
        "click",
        "favourite",
        "cart",
        "purchase",
        "return",
        "search",
        "impression",
        "holdout",
        "question",
        "sign_in",
        "unlink",
        "look",
    ]
    item_id: Id | None = None
    timestamp: AwareDatetime | None = Field(None, description="now if left out")
    ago: Amount | None = Field(
        None, description="instead of timestamp: seconds since it happened, of senders whose clock may be wrong"
    )
    of: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="of a look: the event_id of the view whose duration it tells"
    )
    platform: Name | None = None
    session_id: Annotated[str, Field(max_length=512)] | None = None
    query: Annotated[str, Field(max_length=2000)] | None = None
    request_id: Annotated[str, Field(max_length=512)] | None = Field(None, description="that it answers")
    order_id: Annotated[str, Field(max_length=512)] | None = None
    email_hash: Hash | None = Field(None, description="of an address, by which the same person is known on another platform")
    phone_hash: Hash | None = None
    device_hash: Hash | None = None
    address_hash: Hash | None = Field(None, description="of the network")
    price: Amount | None = None
    quantity: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    duration: Amount | None = Field(None, description="seconds")
    currency: Name | None = None
    slot: Annotated[str, Field(max_length=512)] | None = Field(None, description="where on a page")
    position: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(None, description="in a list, from 1")
    channel: Name | None = None
    campaign_id: Annotated[str, Field(max_length=512)] | None = None
    propensity: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="the chance that what happened had")
    expected: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="money that it was to bring")

    @model_validator(mode="after")
    def _is_whole(self) -> "Event":
        if self.user_id is None and self.visitor_id is None:
            raise ValueError("user_id is missing, and visitor_id too")
        if self.event in ("sign_in", UNLINK):
            if self.user_id is None or self.visitor_id is None:
                raise ValueError(f"a {self.event} names user_id and visitor_id")
        elif self.event == "look":
            if self.of is None or self.duration is None:
                raise ValueError("a look names `of`, the view, and its duration")
        elif self.item_id is None and self.event != "search":
            raise ValueError("item_id is missing")
        return self


class ItemChange(Row):
    item_id: Id
    timestamp: AwareDatetime | None = Field(None, description="when it changed; now if left out")
    title: Annotated[str, Field(max_length=2000)] | None = None
    category: Annotated[str, Field(max_length=512)] | None = Field(None, description="a path, written `kitchen > kettles`")
    brand: Annotated[str, Field(max_length=512)] | None = None
    price: Amount | None = None
    in_stock: bool | None = None
    stock: Amount | None = Field(None, description="pieces; none left is out of stock, some in stock, where in_stock is left out")
    blocked: bool | None = Field(None, description="never to be answered")


class Sorted(NamedTuple):
    """Attributes: lines: of good rows. refused: row (from 0) and reason of the others."""

    lines: list[dict]
    refused: list[dict]


def sort_out(rows: list, kind: type[Row], now: float, lateness: float = math.inf, people: People | None = None) -> Sorted:
    """Checks rows of Event or ItemChange that come in at a moment (seconds). What happened more than `lateness` seconds before is marked as late. people: who of them was forgotten."""
    lines, refused = {}, []
    for number, row in enumerate(rows):
        try:
            found = kind.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            what, said = ".".join(map(str, first["loc"])) or "the row", first["msg"].removeprefix("Value error, ")
            refused.append({"row": number, "reason": f"{what}: {said}"})
            continue
        at = now - (getattr(found, "ago", None) or 0.0) if found.timestamp is None else found.timestamp.timestamp()
        if at > now + AHEAD:
            refused.append({"row": number, "reason": "timestamp: it is in the future"})
            continue
        line = found.model_dump(exclude_none=True, exclude={"ago"})
        if "stock" in line:
            line.setdefault("in_stock", line["stock"] > 0)
        line |= {"timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "at": at, "received": now}
        lines[number] = line | ({"late": True} if at < now - lateness else {})
    if people is not None and (gone := people.forgotten(i for line in lines.values() for i in ids_of(line))):
        for number in [n for n, line in lines.items() if gone.intersection(ids_of(line))]:
            del lines[number]
            refused.append({"row": number, "reason": FORGOTTEN})
    return Sorted(list(lines.values()), refused)


def line_of(row: object, now: float, lateness: float) -> dict:
    """The log's line of an event that nobody waits to hear about: where it is none, the row with the reason."""
    lines, refused = sort_out([row], Event, now, lateness)
    return lines[0] if lines else unreadable(row, refused[0]["reason"], now)


def unreadable(row: object, reason: str, now: float) -> dict:
    """The log's line of what is no event."""
    return {"refused": reason, "row": str(row)[:SHOWN], "received": now}
