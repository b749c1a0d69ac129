"""uplift: what a push changes, learnt from pushes that chance decided, and told of each push that might be made now.

In:  data/checked, data/segments, data/candidates, settings `uplift`, `plan.channels`, `prepare` (what a bot is), `source`.
Out: data/uplift/offers.parquet (a row a shopper, candidate and channel that reaches them: user_id, item_id, channel, hour of their day, rank, due: to be bought again; score: what the model says x the price, extra: purchases that the push is
     to add within `uplift.answer_days`, click and response: the chances of a click and of a purchase after it), reports/uplift.json (Qini of each learner, the decision in words, by which line scores
     became purchases, how well clicks and purchases are told).

Learnt from impressions and holdouts that name a campaign (docs/marketer.md). Where there are none, or too few, nothing can be told of pushes, as of a channel that was never tried: `score` and
`extra`, `click` and `response` are empty, and the report says so.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl

from marketing import chances, off_policy, pushes, uplift
from pipelines.data.cleaning import clean
from pipelines.data.sources import source
from pipelines.data.tables import checked
from pipelines.stage import log, output, params, run, write_json

REPORT = Path("reports/uplift.json")
FEWEST = 500  # pushes, sent and held out together, of which anything is learnt
FEWEST_BOUGHT = 20  # purchases in either arm
AT_ONCE = 1_000_000  # offers that are scored together
LATER = 0.25  # share of the pushes, the newest, on which models of clicks and purchases are chosen
MOST = 200_000  # the newest pushes that are learnt from
OFFERS = {
    "user_id": pl.String,
    "item_id": pl.String,
    "channel": pl.String,
    "hour": pl.UInt8,
    "rank": pl.UInt16,
    "due": pl.Boolean,
    "score": pl.Float64,
    "extra": pl.Float64,
    "click": pl.Float64,
    "response": pl.Float64,
}


def main() -> None:
    settings, planning, cleaning, chosen = params("uplift", "plan", "prepare", "source")
    if source(chosen["name"]).ordered_only(chosen):
        save(pl.DataFrame(schema=OFFERS))
        return nothing(f"source {chosen['name']!r} tells the order of events, not their time: nothing can be told of pushes")
    raw = checked("events")
    items, users = checked("items"), checked("users")
    made = pushes.logged(raw, items, settings["answer_days"]).tail(MOST)
    offers = asked(list(planning["channels"]), users)
    if reason := too_few(made):
        save(offers)
        return nothing(reason)
    events = clean(raw.lazy(), cleaning | {"history_events": list(pushes.STRENGTH)}, ("price", "quantity"))[0].collect()
    seed = settings["seed"]
    seen = pushes.past(made, events, items, users)
    try:
        trial, auc = uplift.trial(seen.to_numpy(), made["sent"].to_numpy(), made["bought"].cast(pl.Float64).to_numpy(), seed)
    except uplift.NotRandom as error:
        save(offers)
        return nothing(str(error))
    scores = uplift.out_of_fold(
        trial, seed, lambda name: log.info("uplift: learning by %s from %s pushes", name, f"{len(made):,}")
    )
    verdict = uplift.decide(trial, scores, seed)
    by = verdict.best if verdict.pays else uplift.RESPONSE
    price = prices(made, items)
    told_before = before_it_is_sent(trial, scores, by, made, items, planning, seed)
    line = uplift.calibrated(replace(trial, outcome=trial.outcome * price), scores[by] * price)
    at = raw["timestamp"].max()
    answers = answered(made, seen, seed)
    model, parts = uplift.fit(by, trial, seed), []
    for part in offers.iter_slices(AT_ONCE):
        told = pushes.known(part, at, events, made, items, users).select(seen.columns)
        parts.append([model(told.to_numpy()), *(a.of(told.to_numpy(), channels(told)) for a in answers.values())])
    score, *told = np.concatenate(parts, 1) if parts else np.zeros((1 + len(answers), 0))
    price = prices(offers, items)
    score = score * price
    tried = pl.col("channel").is_in(made.filter("sent")["channel"].unique().implode())
    columns = {"extra": line.of(score) / price} | dict(zip(answers, told, strict=True))
    save(offers.with_columns(score=pl.Series(score), **{n: pl.when(tried).then(pl.Series(c)) for n, c in columns.items()}))
    write_json(REPORT, {
        "pushes": len(made), "sent": int(made["sent"].sum()), "campaigns": made["campaign_id"].n_unique(), "told_apart": auc, "by": by, "pays": verdict.pays,
        "reason": verdict.reason, "learners": [asdict(r) for r in verdict.ranked], "calibration": asdict(line), "features": seen.columns,
        "rule": told_before,
        "answers": {name: {"by": a.kind, "told": [asdict(t) for t in a.told]} for name, a in answers.items()},
    })  # fmt: skip
    log.info("uplift: %s", verdict.reason)


def before_it_is_sent(
    trial: uplift.Trial,
    scores: dict[str, np.ndarray],
    by: str,
    made: pl.DataFrame,
    items: pl.DataFrame | None,
    planning: dict,
    seed: int,
) -> dict:
    """What sending only where it pays would have brought of the pushes of the past, a push, beside sending all and none; or why that cannot be told."""
    money = pushes.brings(made, items)
    cost = (
        made["channel"].replace_strict(planning["channels"], default=0.0, return_dtype=pl.Float64).to_numpy()
        + planning["leaving_cost"]
    )
    line = uplift.calibrated(replace(trial, outcome=trial.outcome * money), scores[by] * money)
    try:
        return uplift.rule(trial, scores, by, line.of(scores[by] * money) > cost, money, cost, seed)
    except off_policy.NoValue as error:
        return {"reason": str(error)}


def answered(made: pl.DataFrame, seen: pl.DataFrame, seed: int) -> dict[str, chances.Chances]:
    """The chances of a click and of a purchase after a push that was sent: click, response. seen: what was known of each of the pushes."""
    sent = made["sent"].to_numpy()
    at = made["timestamp"].filter(pl.Series(sent)).to_numpy()
    later = at > np.sort(at)[int((1 - LATER) * (len(at) - 1))]
    rows = seen.filter(pl.Series(sent))
    happened = {"click": made["clicked"].to_numpy()[sent], "response": made["bought"].to_numpy()[sent]}
    return {name: chances.learnt(found, rows.to_numpy(), later, channels(rows), seed) for name, found in happened.items()}


def channels(seen: pl.DataFrame) -> np.ndarray:
    """(N,) codes of the channels; -1 of one that was never tried."""
    return seen["channel"].fill_null(-1).cast(pl.Int64).to_numpy()


def prices(rows: pl.DataFrame, items: pl.DataFrame | None) -> np.ndarray:
    """(N,) of the item of each row; 1 where it is not known. Scores are weighed by it where they become purchases, for a plan goes by money: chance lifts what looks dear and wanted most."""
    if items is None or "price" not in items.columns:
        return np.ones(len(rows))
    known = items.unique("item_id", keep="first").select("item_id", "price")
    found = rows.select("item_id").join(known, on="item_id", how="left", maintain_order="left")["price"]
    return found.fill_null(1.0).clip(lower_bound=0.01).to_numpy()


def too_few(made: pl.DataFrame) -> str | None:
    """Why nothing can be learnt of these pushes; None: it can."""
    bought = made.group_by("sent").agg(pl.col("bought").sum())
    if len(made) < FEWEST or len(bought) < 2:
        return (
            f"{len(made):,} pushes of the past are logged with what was sent and what chance held out, {FEWEST:,} are needed: nothing can be told of what a push changes yet; "
            "a campaign with a hold-out brings them"
        )
    if bought["bought"].min() < FEWEST_BOUGHT:
        return f"pushes of the past led to {bought['bought'].min()} purchases in one arm, {FEWEST_BOUGHT} are needed: nothing can be told of what a push changes yet"
    return None


def asked(channels: list[str], users: pl.DataFrame | None) -> pl.DataFrame:
    """The pushes that might be made: candidates by each channel that reaches the shopper, at the shopper's best hour. Where the shop does not tell whom its channels reach, they reach
    all.
    """
    candidates = pl.read_parquet("data/candidates/candidates.parquet")
    people = pl.read_parquet("data/segments/shoppers.parquet", columns=["user_id", "best_hour"]).drop_nulls()
    offers = candidates.join(people.select("user_id", hour="best_hour"), on="user_id", how="inner", maintain_order="left").join(
        pl.DataFrame({"channel": channels}), how="cross", maintain_order="left_right"
    )
    if users is not None and "channels" in users.columns:
        reached = users.select("user_id", channel=pl.col("channels").str.split(" ")).explode("channel").unique()
        offers = offers.join(reached, on=["user_id", "channel"], how="semi", maintain_order="left")
    return offers


def nothing(reason: str) -> None:
    write_json(REPORT, {"pushes": 0, "pays": False, "by": None, "reason": reason})
    log.info("uplift: %s", reason)


def save(offers: pl.DataFrame) -> None:
    there = [pl.col(n) if n in offers.columns else pl.lit(None).alias(n) for n in OFFERS]
    with output("data/uplift") as folder:
        offers.select(there).cast(OFFERS).write_parquet(folder / "offers.parquet")


if __name__ == "__main__":
    run(main)
