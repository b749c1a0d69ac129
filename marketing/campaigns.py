"""A campaign: a YAML file that says whom to reach, with what, by which channels, for how much money, and when.

In: the parsed file. Out: a Campaign, or what is wrong with it. Knows no shoppers.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME = "[a-z][a-z0-9_-]{0,60}"  # of campaigns, channels, topics
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class ContactLimit:
    """Messages to a shopper within so many days, of all campaigns together, at most; by one channel, or by all."""

    at_most: int
    days: float
    channel: str | None = None


class AtMost(_Part):
    """Messages of this campaign, at most."""

    shopper: int = Field(default=1, ge=1, le=20)
    category: int = Field(default=1, ge=1, description="of a category to a shopper")
    brand: int = Field(default=20, ge=1, description="of a brand to a shopper")
    channel: int = Field(default=1, ge=1, description="by a channel to a shopper")
    channels: dict[Name, Annotated[int, Field(ge=0)]] = {}  # by each channel in all


class Message(_Part):
    """Templates; {name} stands for a value (marketing/messages.py)."""

    subject: str = ""
    text: str = Field(min_length=1, max_length=4000)
    link: str = ""


class Campaign(_Part):
    audience: str = "everyone"  # the name of a segment, or a condition such as those of segments.yaml
    topic: Name = "offers"  # shoppers may opt out of a topic
    goal: Literal["margin", "revenue", "orders", "clicks"] = "margin"  # of orders and clicks the most that lose no money
    items: str | None = (
        None  # a condition over the columns of items, such as category = 'kitchen > tea' AND price < 100; null: all
    )
    candidates: Literal["all", "due", "new"] = "all"  # what is due to be bought again, what the shopper never met, or both
    price_bands: int | None = Field(
        default=None, ge=0, le=4
    )  # fifths of its category's prices that an item may be away from the shopper's own; null: any
    channels: Annotated[list[Name], Field(min_length=1)]
    budget: float = Field(ge=0)
    at_most: AtMost = AtMost()
    holdout: Share = (
        0.1  # of those who would get something, so many get nothing, by chance: what the campaign brought is told by them
    )
    explore: Share = 0.05  # of messages, so many name another item than the best, by chance
    novelty: Annotated[float, Field(ge=0, le=1)] = 0.0  # of messages, so many at least name an item that the shopper never met
    diversity: Annotated[float, Field(ge=0, le=1)] = (
        0.0  # of several messages to a shopper: 0 what is worth most, 1 what is least alike
    )
    starts: date
    days: int = Field(default=1, ge=1)
    not_on: list[date] = []  # days of the shopper's calendar on which nothing is sent
    approve_above: float | None = Field(default=None, ge=0)  # a plan that costs more waits for a person
    messages: dict[Name, dict[str, Message]] = {}  # by channel, and by language or `default`

    @model_validator(mode="after")
    def _channels_are_its_own(self) -> "Campaign":
        for name in (*self.at_most.channels, *self.messages):
            if name not in self.channels:
                raise ValueError(f"{name} is not among channels ({', '.join(self.channels)})")
        return self

    @property
    def begins(self) -> datetime:
        return datetime(self.starts.year, self.starts.month, self.starts.day, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        return self.begins + timedelta(days=self.days)


def chance(purpose: str, campaign: str, user_ids: pl.Series) -> np.ndarray:
    """(N,) numbers in [0, 1) that a campaign gives to each person: the same ones whenever it is asked, others for another purpose or campaign."""
    prefix = f"{purpose}\0{campaign}\0".encode()
    digests = (hashlib.blake2b(prefix + user.encode(), digest_size=8).digest() for user in user_ids)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.float64) / 2.0**64
