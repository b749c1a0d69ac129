"""A plan's rows as messages: templates filled in, by channel and language.

In: a plan, its campaign, items, users. Out: messages for the outbox. A template's {name} stands for a column of items or users, or for user_id, item_id, campaign, price written with two digits;
nothing else in braces means anything. Values cannot break out of where they stand: line breaks become blanks, in links everything is quoted.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote

import polars as pl

from marketing.campaigns import Campaign, Message
from marketing.outbox import Message as Outgoing

PLACE = re.compile(r"\{(\w+)\}")
DEFAULT = "default"


class TemplateError(ValueError):
    """A message cannot be written; the message names campaign, channel and place."""


def outgoing(
    table: pl.DataFrame, campaign: Campaign, name: str, items: pl.DataFrame, users: pl.DataFrame | None
) -> list[Outgoing]:
    """The messages of a plan's rows that are to be sent (marketing/plan.py), in its order.

    Raises:
        TemplateError: a channel has no template, or one names what there is not.
    """
    goods = {row["item_id"]: row for row in items.unique("item_id", keep="first").iter_rows(named=True)}
    people = (
        {row["user_id"]: row for row in users.unique("user_id", keep="first").iter_rows(named=True)} if users is not None else {}
    )
    steps: dict[str, int] = {}
    made = []
    for row in table.filter(outcome="send").iter_rows(named=True):
        user, step = row["user_id"], steps.get(row["user_id"], 0)
        steps[user] = step + 1
        values = (
            people.get(user, {}) | goods.get(row["item_id"], {}) | {"user_id": user, "item_id": row["item_id"], "campaign": name}
        )
        body = written(campaign, name, row["channel"], values)
        at = row["send_at"].timestamp()
        made.append(
            Outgoing(name, user, step, row["item_id"], row["channel"], campaign.topic, body, at, campaign.ends.timestamp(), row["propensity"],
                     None if row["extra"] is None else row["extra"] * row["money"])
        )  # fmt: skip
    return made


def written(campaign: Campaign, name: str, channel: str, values: Mapping[str, object]) -> dict[str, str]:
    """Subject, text and link of one message, in the shopper's language (users.language) where the campaign has it.

    Raises:
        TemplateError: see outgoing.
    """
    languages = campaign.messages.get(channel)
    if not languages:
        raise TemplateError(f"campaign {name} says nothing under messages for its channel {channel}")
    language = str(values.get("language") or DEFAULT)
    chosen: Message | None = languages.get(language) or languages.get(language.split("-")[0]) or languages.get(DEFAULT)
    if chosen is None:
        raise TemplateError(f"campaign {name} has no message by {channel} in {language}, and no {DEFAULT}")

    def filled(template: str, where: str, link: bool = False) -> str:
        def value(place: re.Match) -> str:
            key = place.group(1)
            if key not in values:
                raise TemplateError(
                    f"campaign {name}, {channel}, {where}: there is no {{{key}}}; there are {', '.join(sorted(values))}"
                )
            told = values[key]
            text = f"{told:.2f}" if isinstance(told, float) else "" if told is None else str(told)
            return quote(text, safe="") if link else " ".join(text.split())

        return PLACE.sub(value, template)

    return {
        "subject": " ".join(filled(chosen.subject, "subject").split()),
        "text": filled(chosen.text, "text"),
        "link": filled(chosen.link, "link", link=True),
    }
