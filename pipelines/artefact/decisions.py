"""What `/decide` and `/score` answer from, as deploy/serving/decisions.py maps it: of each shopper the offers that are worth most by each channel, and the rules that hold at the moment of asking."""

import numpy as np
import polars as pl

from marketing import clock, plan

KEPT = 10  # offers a shopper and channel, those that are worth most


def decisions(
    users: pl.Series,
    items: pl.DataFrame,
    offers: pl.DataFrame,
    goods: pl.DataFrame | None,
    people: pl.DataFrame | None,
    settings: dict,
    zone: str,
) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays, and rules.

    users, items (item, item_id): those of the artefact, by whose order shoppers and items are numbered. offers: of pipelines/uplift.py. goods: items with prices and costs. people: users with time
    zones. settings: `plan`. zone: of whom no other is known.
    """
    rules, names = settings, list(settings["channels"])
    money, currency = plan.priced(pl.DataFrame(schema={"item_id": pl.String}) if goods is None else goods, "margin")
    cost = pl.col("channel").replace_strict(rules["channels"], return_dtype=pl.Float64)
    rows = (
        offers.drop_nulls("extra")
        .join(money.select("item_id", "money"), on="item_id")
        .join(items.select("item", "item_id"), on="item_id")
        .join(pl.DataFrame({"user_id": users}).with_row_index("row"), on="user_id")
        .with_columns(worth=pl.col("extra") * pl.col("money") - cost - rules["leaving_cost"], way=pl.col("channel").replace_strict(names, range(len(names)), return_dtype=pl.UInt8))
        .sort("row", "way", "worth", "item", descending=[False, False, True, False])
        .filter(pl.int_range(pl.len()).over("row", "way") < KEPT)
    )  # fmt: skip
    counts = np.bincount(rows["row"].to_numpy(), minlength=len(users))
    zones = clock.zones_of(users, people, zone)
    known = zones.unique().sort()
    arrays = {
        "offer_offsets": np.append(0, counts.cumsum()),
        "offer_items": rows["item"].cast(pl.Int32).to_numpy(),
        "offer_channels": rows["way"].to_numpy(),
        "offer_chances": rows.select(pl.col("worth", "extra", "click", "response").cast(pl.Float32)).to_numpy(),
        "user_zones": zones.replace_strict(known, range(len(known)), return_dtype=pl.UInt16).to_numpy().astype(np.uint16),
    }
    return arrays, {
        "channels": rules["channels"], "leaving_cost": rules["leaving_cost"], "quiet_hours": rules["quiet_hours"], "contact_limits": rules["contact_limits"], "currency": currency, "zones": known.to_list(),
        "reasons": {"unreached": plan.UNREACHED, "nothing": plan.NOTHING, "contacted": plan.CONTACTED, "not_worth": plan.NOT_WORTH,
                    "quiet": "it is an hour of their day in which nothing is sent", "opted_out": "they opted out", "unknown": "nothing is known of what a push changes for them"},
    }  # fmt: skip
