"""plan: for each campaign that is not over, whom to send what, by which channel, when, or nothing and why.

In:  campaigns/*.yaml, data/checked, data/segments, data/uplift, reports/uplift.json, data/prepared and data/embedded (what items are like), settings `plan`, `uplift`.
Out: data/plans/CAMPAIGN.parquet (marketing/plan.py: PLAN), reports/plans.json (a campaign each: how its audience comes apart, what it costs, what it is to bring and how sure that
     is, how far the plan may be from the best there is; or why it is refused).

The moment of planning is that of the newest event, so that the same data give the same plan.
"""

import re
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from marketing import plan, pushes
from marketing.campaigns import NAME, Campaign, ContactLimit
from marketing.segments import named
from marketing.uplift import Calibration
from pipelines import settings as typed
from pipelines.data.tables import checked
from pipelines.stage import StageError, log, output, params, read_json, run, write_json

CAMPAIGNS = Path("campaigns")
SEGMENTS = CAMPAIGNS / "segments.yaml"
REPORT = Path("reports/plans.json")
EMBEDDED = Path("data/embedded")


def main() -> None:
    settings, uplift = params("plan", "uplift")
    events = checked("events")
    at, found = events["timestamp"].max(), {}
    with output("data/plans") as folder:
        for file in files():
            name = file.stem
            try:
                campaign = read(file)
                if campaign.ends <= at:
                    log.info("plan: %s was over on %s", name, f"{campaign.ends:%Y-%m-%d}")
                    continue
                made = one(name, campaign, at, events, settings, uplift["answer_days"])
            except StageError as error:  # one that cannot be stands in the way of no other, nor of a retrain
                found[name] = {"refused": str(error)}
                log.error("plan: %s is not planned: %s", name, error)
                continue
            made.table.write_parquet(folder / f"{name}.parquet")
            found[name] = described(campaign, at, made)
            log.info(
                "plan: %s: %s of %s get a message; it is to bring %s",
                name,
                f"{found[name]['send']:,}",
                f"{found[name]['audience']:,}",
                in_words(found[name]),
            )
    if not found:
        log.info("plan: no campaign in %s/ is open on %s", CAMPAIGNS, f"{at:%Y-%m-%d}")
    write_json(REPORT, found)


def files() -> list[Path]:
    """Those of the campaigns, in order."""
    return sorted(file for file in CAMPAIGNS.glob("*.yaml") if file != SEGMENTS)


def read(file: Path) -> Campaign:
    """A campaign's file.

    Raises:
        StageError: it cannot be used; the message names each key.
    """
    if not re.fullmatch(NAME, file.stem):
        raise StageError(f"{file}: a campaign is named by its file: small letters, digits, - and _ alone, a letter first")
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
        return typed.validated(document, file.as_posix(), Campaign)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StageError(f"{file} cannot be read as YAML: {error}") from error
    except typed.SettingsError as error:
        raise StageError(str(error)) from error


def one(name: str, campaign: Campaign, at: datetime, events: pl.DataFrame, settings: dict, answer_days: float) -> plan.Plan:
    """The plan of one campaign."""
    items, users = checked("items"), checked("users")
    items = pl.DataFrame(schema={"item_id": pl.String}) if items is None else items
    past = pushes.logged(events, items, answer_days)
    quiet = settings["quiet_hours"]
    rules = plan.Rules(
        cost=settings["channels"],
        leaving=settings["leaving_cost"],
        quiet=quiet and tuple(quiet),
        contacts=tuple(ContactLimit(**limit) for limit in settings["contact_limits"]),
        purchases=past.filter("sent")["bought"].mean(),
    )
    if unknown := [c for c in campaign.channels if c not in rules.cost]:
        raise StageError(
            f"{CAMPAIGNS / name}.yaml: what a message by {unknown[0]} costs is not said; add it to plan.channels in params.yaml ({', '.join(rules.cost)})"
        )
    offers = pl.read_parquet("data/uplift/offers.parquet")
    return plan.planned(campaign, name, at, audience(name, campaign), offers, offered(name, campaign, items), users, past, rules)


def audience(name: str, campaign: Campaign) -> pl.DataFrame:
    """Who is meant: shoppers as `segment` knows them."""
    shoppers = pl.read_parquet("data/segments/shoppers.parquet")
    if campaign.audience == "everyone":
        return shoppers
    segments = named.read(SEGMENTS.read_text(encoding="utf-8-sig"), SEGMENTS.as_posix())
    condition = segments.get(campaign.audience, campaign.audience)
    try:
        return shoppers.filter(named.members(shoppers, {"in": condition})["in"])
    except named.SegmentError as error:
        raise StageError(
            f"{CAMPAIGNS / name}.yaml: audience is neither everyone nor a segment ({', '.join(segments)}), and as a condition: {error}"
        ) from error


def offered(name: str, campaign: Campaign, items: pl.DataFrame) -> pl.DataFrame:
    """What the campaign may offer, and what it is like where the campaign asks for it."""
    items = plan.banded(items)
    if campaign.items is not None:
        try:
            items = items.filter(named.parsed(campaign.items, items.schema))
        except named.SegmentError as error:
            raise StageError(f"{CAMPAIGNS / name}.yaml: items: {error}") from error
    return _with_vectors(items) if campaign.diversity else items


def _with_vectors(items: pl.DataFrame) -> pl.DataFrame:
    """Items with what they read, look and sound like as one vector of length 1, where `embed` knows it."""
    known = sorted(EMBEDDED.glob("*.npy"))
    if not known:
        return items
    whole = np.concatenate([np.load(file).astype(np.float32) for file in known], 1)[1:]
    whole /= np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-9)
    names = pl.read_parquet("data/prepared/items.parquet", columns=["item", "item_id"]).sort("item")
    return items.join(names.select("item_id", vector=whole), on="item_id", how="left", maintain_order="left")


def described(campaign: Campaign, at: datetime, made: plan.Plan) -> dict:
    """What is told of a plan."""
    sent, report = made.table.filter(outcome=plan.SEND), read_json("reports/uplift.json")
    low = high = worth = None
    if made.known:
        worth = float(sent["worth"].sum())
        line = Calibration(**report["calibration"])
        offers = pl.read_parquet("data/uplift/offers.parquet", columns=[*plan.KEY, "score"])
        scored = sent.join(offers, on=plan.KEY, how="left", maintain_order="left")
        share = scored.select((pl.col("extra") * pl.col("money")).sum()).item() / max(
            float(line.of(scored["score"].to_numpy()).sum()), 1e-9
        )
        error = line.error(scored["score"].to_numpy()) * share  # of prices that a purchase brings
        low, high = worth - 1.96 * error, worth + 1.96 * error
    ends = made.waterfall()
    return {
        "at": at.isoformat(), "topic": campaign.topic, "goal": campaign.goal, "orders": float(sent["extra"].sum()) if made.known else None, "audience": sum(ends.values()), "send": ends[plan.SEND], "messages": len(sent), "waterfall": ends,
        "cost": float(sent["cost"].sum()), "budget": campaign.budget, "currency": made.currency, "worth": worth, "interval": [low, high],
        "gap": made.gap, "by_channel": dict(sent["channel"].value_counts().sort("channel").iter_rows()),
        "approve_above": campaign.approve_above,
    }  # fmt: skip


def in_words(found: dict) -> str:
    """What a plan is to bring."""
    if found["worth"] is None:
        return f"nobody knows what for {found['cost']:,.2f}: no push of the past tells (reports/uplift.json)"
    low, high = found["interval"]
    return f"{found['worth']:,.0f} of {found['currency']} ({low:,.0f} to {high:,.0f}) for {found['cost']:,.2f}; no plan within its limits is worth {found['gap']:.2%} more"


if __name__ == "__main__":
    run(main)
