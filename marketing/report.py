"""What campaigns brought: those who got something beside those whom chance held out.

In: pushes of the past (marketing/pushes.py), what people brought before. Out: of each campaign, and by channel, what it added in purchases and money, with intervals that hold on any day; or why nothing
can be told.
"""

from collections.abc import Mapping

import polars as pl

from marketing import experiments

MONEY = ("orders", "revenue", "margin")
FEWEST = 30  # people in either arm


def brought(pushes: pl.DataFrame, before: pl.DataFrame, holdouts: Mapping[str, float]) -> list[dict]:
    """A row a campaign, oldest first, then one of all together: people in both arms, and of purchases, revenue and margin of what was pushed what it added to all who were sent something, with a
    95 % interval, and a row a channel where there are several; and, where it was logged, the money that the messages were to bring when they were planned, and whether the interval of the margin holds it.

    before: user_id, campaign_id, revenue: what each brought before the campaign, by which noise is taken away (CUPED). holdouts: the share that was to be held out, of campaigns of which it
    is known; arms that do not agree with it are an alarm, and nothing is told.
    """
    people = pushes.group_by("campaign_id", "user_id", "channel").agg(
        pl.col("sent").first(),
        orders=pl.col("bought").sum().cast(pl.Float64),
        revenue=pl.col("revenue").sum(),
        margin=pl.col("margin").sum(),
        expected=pl.when(pl.col("expected").count() > 0).then(pl.col("expected").sort().sum()),
        at=pl.col("timestamp").min(),
    ).join(before, on=["campaign_id", "user_id"], how="left", suffix="_before")  # fmt: skip
    people = people.with_columns(pl.col("revenue_before").fill_null(0.0)).sort("at", "user_id", "channel")
    told = []
    for (name,), campaign in people.group_by("campaign_id", maintain_order=True):
        row = {"campaign": name, "at": campaign["at"].min().isoformat()} | _difference(campaign, holdouts.get(name))
        if campaign["channel"].n_unique() > 1:
            row["channels"] = [
                {"channel": channel} | _difference(part, None)
                for (channel,), part in campaign.group_by("channel", maintain_order=True)
            ]
        told.append(row)
    if len(told) > 1:
        told.append({"campaign": "all", "at": None} | _difference(people, None))
    return told


def _difference(people: pl.DataFrame, holdout: float | None) -> dict:
    """What was added, or why it cannot be told."""
    sent = people["sent"].to_numpy()
    row = {"sent": int(sent.sum()), "held_out": int((~sent).sum())}
    if min(row["sent"], row["held_out"]) < FEWEST:
        return row | {"reason": f"both arms need {FEWEST} people"}
    for name in MONEY:
        outcome = experiments.adjusted(people[name].to_numpy(), people["revenue_before"].to_numpy())
        arms = experiments.Arm.of(outcome[sent]), experiments.Arm.of(outcome[~sent])
        try:
            found = experiments.difference(*arms, share=None if holdout is None else 1 - holdout)
        except experiments.SampleRatio as error:
            return row | {"reason": str(error)}
        row[name] = {
            "added": found.value * row["sent"],
            "interval": [end * row["sent"] for end in found.interval],
            "sure": found.sure,
        }
    expected = people.filter("sent")["expected"]
    if expected.count() == row["sent"]:
        low, high = row["margin"]["interval"]
        row["expected"] = {"margin": float(expected.sort().sum()), "as_measured": low <= expected.sum() <= high}
    return row
