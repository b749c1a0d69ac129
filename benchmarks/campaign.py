"""A campaign of the simulated shop from its data to what it brought, beside what other ways would have brought and what was true.

    python -m benchmarks.campaign                  # make campaign: `dvc repro`, send to a webhook of this machine, answers by the shop's truth, one table
    python -m benchmarks.campaign --campaign NAME  # another file of campaigns/

Other ways choose with the same money among the same people: popularity to all, the recommender's ranking, the chance of a purchase x its margin (response), chance; and the oracle, which knows the truth of every
item. Writes reports/campaign.json.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.quality import ROOT, STAGES, link_code, shipped
from deploy.serving.bidding import Budget, bid
from marketing import experiments, messages, outbox, plan, sending
from marketing.campaigns import Campaign
from marketing.chances import calibration_error
from marketing.channels import webhook
from marketing.clock import local_hour, zones_of
from pipelines import settings
from pipelines.data.sources.persuasion import Chances, Truth
from pipelines.stage import write_json

SECRET = b"of this run alone"
PLACES = 20_000  # that are bid for
SAMPLES = 300  # of the bootstrap
NOT_NEEDED = ("evaluate", "export", "compress", "replay", "bundle", "report")  # of the stages, for a plan
BEST_OF_TRUTH = 40  # offers of each shopper that the oracle looks at: the best by truth


@dataclass(frozen=True)
class World:
    """A finished workspace of the simulated shop, with its truth."""

    folder: Path
    name: str = "spring"
    budget: float | None = None  # instead of the campaign's

    def table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / f"data/{name}.parquet")

    @cached_property
    def settings(self) -> settings.Settings:
        return settings.load(self.folder / "params.yaml")

    @cached_property
    def campaign(self) -> Campaign:
        document = yaml.safe_load((self.folder / f"campaigns/{self.name}.yaml").read_text(encoding="utf-8"))
        return Campaign(**document | ({"budget": self.budget} if self.budget is not None else {}))

    @cached_property
    def channels(self) -> list[str]:
        return [channel["name"] for channel in self.words["channels"]]

    @cached_property
    def words(self) -> dict:
        return yaml.safe_load((ROOT / "pipelines/data/sources/shop.yaml").read_text(encoding="utf-8"))

    @cached_property
    def truth(self) -> Truth:
        return Truth.read(self.folder / "data/truth", self.words["channels"])

    @cached_property
    def people(self) -> pl.Series:
        return self.table("truth/tastes")["user_id"]

    @cached_property
    def goods(self) -> pl.DataFrame:
        """What can be offered, as plans know it, and `item`, its number."""
        offered, _ = plan.priced(self.table("checked/items"), "margin")
        return offered.join(
            self.table("truth/goods").select("item_id").with_row_index("item"), on="item_id", maintain_order="left"
        )

    @cached_property
    def tired(self) -> np.ndarray:
        """(n,) how tired people are when the campaign starts."""
        sent = self.table("truth/uplift").filter("exposed").select("user_id", day=pl.col("campaign").str.head(10).str.to_date())
        days = (self.campaign.starts - sent["day"]).dt.total_days().to_numpy()
        shopper, tired = self.number(sent["user_id"]), np.zeros(len(self.people))
        np.add.at(tired, shopper, np.exp(-days / self.truth.recovery[shopper]))
        return tired

    def number(self, user_ids: pl.Series) -> np.ndarray:
        """(N,) places of people in the truth."""
        return user_ids.replace_strict(self.people, range(len(self.people)), return_dtype=pl.Int64).to_numpy()

    def chances(self, rows: pl.DataFrame) -> Chances:
        """What may come of pushes: user_id, item, channel, hour of the shopper's day."""
        shopper = self.number(rows["user_id"])
        channel = rows["channel"].replace_strict(self.channels, range(len(self.channels)), return_dtype=pl.Int64).to_numpy()
        return self.truth.chances(
            shopper, rows["item"].to_numpy(), channel, rows["hour"].cast(pl.Float64).to_numpy(), self.tired[shopper]
        )

    @cached_property
    def costs(self) -> pl.Expr:
        return pl.col("channel").replace_strict(self.settings.plan.channels, return_dtype=pl.Float64)

    def priced(self, offers: pl.DataFrame) -> pl.DataFrame:
        """Offers of the campaign's audience and channels that can be made, with their cost and what they are truly worth."""
        offers = offers.join(self.audience, on="user_id", how="semi", maintain_order="left").filter(
            pl.col("channel").is_in(self.campaign.channels)
        )
        offers = offers.join(self.goods, on="item_id", how="inner", maintain_order="left").with_columns(cost=self.costs)
        return offers.with_columns(true=pl.Series(self.chances(offers).gains) * pl.col("money") - pl.col("cost"))

    @cached_property
    def audience(self) -> pl.DataFrame:
        return self.table(f"plans/{self.name}").select("user_id").unique(maintain_order=True)

    @cached_property
    def offers(self) -> pl.DataFrame:
        """What the plan chose among."""
        return self.priced(self.table("uplift/offers")).sort("user_id", "rank", "channel")

    @cached_property
    def popular(self) -> pl.DataFrame:
        """The most popular items to everybody, by every channel that reaches them."""
        ways = self.offers.select("user_id", "channel", "hour").unique(maintain_order=True)
        return self.priced(ways.join(self.table("candidates/popular"), how="cross")).sort("user_id", "rank", "channel")

    @cached_property
    def best(self) -> pl.DataFrame:
        """What is truly best for each: of all items, by every channel that reaches them."""
        ways, parts = self.offers.select("user_id", "channel", "hour").unique(maintain_order=True), []
        for part in ways.iter_slices(1000):
            every = part.join(self.goods.select("item_id"), how="cross")
            parts.append(
                self.priced(every)
                .group_by("user_id", maintain_order=True)
                .agg(pl.all().top_k_by("true", BEST_OF_TRUTH))
                .explode(pl.all().exclude("user_id"))
            )
        return pl.concat(parts).sort("user_id", "item_id", "channel")

    def chosen(self, offers: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
        """The offers that are worth most by this value, within the campaign's limits."""
        offers = offers.with_columns(value=value).filter(pl.col("value") > 0)
        past = self.table("truth/uplift").filter("exposed")["bought"].mean()
        rules = plan.Rules(self.settings.plan.channels, self.settings.plan.leaving_cost, None, (), past)
        return offers[plan.assigned(offers, self.campaign, rules).rows]

    @property
    def expected(self) -> pl.Expr:
        """Extra money of an offer, as the plan takes it."""
        return pl.col("extra") * pl.col("money") - pl.col("cost") - self.settings.plan.leaving_cost

    def ways(self) -> dict[str, pl.DataFrame]:
        """What each way would have chosen."""
        rng = np.random.default_rng(0)
        return {
            "plan": self.chosen(self.offers, self.expected),
            "response": self.chosen(self.offers, pl.col("response") * pl.col("money") - pl.col("cost")),
            "ranking": self.chosen(self.offers, 1 / (1 + pl.col("rank")).log(2)),
            "popularity": self.chosen(self.popular, 1 / (1 + pl.col("rank")).log(2)),
            "chance": self.chosen(self.offers, pl.Series(rng.random(len(self.offers)))),
            "oracle": self.chosen(self.best, pl.col("true")),
        }

    def calibration(self, name: str) -> tuple[float, list[float]]:
        """How far the chances (click, response) of what the plan chose are from the true ones, and the interval of that by offers drawn again."""
        chosen = self.chosen(self.offers, self.expected)
        true, told, rng = self.chances(chosen), chosen[name].to_numpy(), np.random.default_rng(0)
        came = true.clicks if name == "click" else true.buys + true.gains
        draws = (rng.integers(len(told), size=len(told)) for _ in range(SAMPLES))
        found = [calibration_error(told[d], came[d]) for d in draws]
        return calibration_error(told, came), [float(q) for q in np.quantile(found, [0.025, 0.975])]

    def bought_and_not_due(self) -> int:
        """Offers of what a shopper bought and is not due to buy again."""
        held = self.table("segments/repeats").filter(~pl.col("due")).select("user_id", "item_id")
        return len(self.table("uplift/offers").select("user_id", "item_id").unique().join(held, on=["user_id", "item_id"]))

    def same_top(self, count: int) -> float:
        """The share of the shoppers whose first candidates are those of most others."""
        first = self.table("candidates/candidates").filter(pl.col("rank") <= count).sort("user_id", "rank")
        lists = first.group_by("user_id").agg(pl.col("item_id").str.join(" "))["item_id"].value_counts()["count"]
        return float(lists.max() / lists.sum())

    def bids(self) -> float:
        """Second-price auctions of PLACES banners in a day, a budget for a part of them: what our bids win, by the truth, as a share of what bids that know the truth win."""
        rng = np.random.default_rng(0)
        told = self.table("uplift/offers").filter(channel="banner").join(self.goods, on="item_id", maintain_order="left")
        told = told.with_columns(
            value=pl.col("extra") * pl.col("money") - self.settings.plan.leaving_cost,
            free=pl.Series(self.chances(told).gains) * pl.col("money"),
        )
        best = told.group_by("user_id", maintain_order=True).agg(
            pl.col("value").max(), shown=pl.col("free").get(pl.col("value").arg_max()), known=pl.col("free").max()
        )[rng.integers(told["user_id"].n_unique(), size=PLACES)]  # fmt: skip
        value, shown, known = (best[c].to_numpy() for c in ("value", "shown", "known"))
        others = np.median(known) * rng.lognormal(0, 1, PLACES)
        whole, left, won = 0.2 * float(others[known > others].sum()), 0.0, 0.0
        left = whole
        for place in range(PLACES):
            offer = bid(float(value[place]), Budget(left, whole, PLACES - place, PLACES), False, None, 0.0)
            if offer is not None and offer > others[place]:
                left, won = left - others[place], won + shown[place]
        wins = (known / (1 + price) > others for price in np.linspace(0, 20, 401))
        return float(won / max(known[w].sum() for w in wins if others[w].sum() <= whole))

    def qini(self) -> tuple[float, list[float]]:
        """Qini of what offers are made by over that of response, out of fold, and the interval of the ratio by the report's own intervals: of the nearer ends."""
        ranked = {r["name"]: r for r in json.loads((self.folder / "reports/uplift.json").read_text(encoding="utf-8"))["learners"]}
        best = max((r for r in ranked.values() if r["name"] != "response"), key=lambda r: r["qini"])
        return best["qini"] / ranked["response"]["qini"], best["beside_response"]


def workspace(folder: Path, shop: dict) -> Path:
    """Where stages run on a simulated shop of this size; a blend without a network."""
    link_code(folder)
    params = shipped()
    params["source"]["shop"] |= shop
    params["train"]["blend"]["parts"] = [part for part in params["train"]["blend"]["parts"] if part != "sasrec"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    return folder


def ran(folder: Path, stage: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"pipelines.{stage}"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{stage}: {done.stderr[-2000:]}")


def made(folder: Path, shop: dict, budget: float) -> World:
    """A workspace of a simulated shop of this size in which everything up to the plan has run."""
    workspace(folder, shop)
    world = World(folder, budget=budget)
    file = folder / f"campaigns/{world.name}.yaml"
    campaigns = {f.name: f.read_text(encoding="utf-8") for f in file.parent.iterdir() if f.suffix == ".yaml"}
    document = yaml.safe_load(campaigns[file.name]) | {"budget": budget}
    (folder / "campaigns").unlink()
    (folder / "campaigns").mkdir()
    for name, text in (campaigns | {file.name: yaml.safe_dump(document)}).items():
        (folder / "campaigns" / name).write_text(text, encoding="utf-8")
    for stage in STAGES:
        if stage not in NOT_NEEDED:
            ran(folder, stage)
    return world


def by_shopper(chosen: pl.DataFrame, audience: pl.DataFrame) -> np.ndarray:
    """(N,) what was chosen is truly worth, a shopper of the audience."""
    worth = chosen.group_by("user_id").agg(pl.col("true").sum())
    return audience.join(worth, on="user_id", how="left", maintain_order="left")["true"].fill_null(0.0).to_numpy()


def ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, list[float]]:
    """How many times as much one way is worth as another, and its 95 % interval by shoppers drawn again. (N,) each."""
    rng, size = np.random.default_rng(0), len(above)
    draws = [rng.integers(size, size=size) for _ in range(SAMPLES)]
    found = [above[d].sum() / max(below[d].sum(), 1e-9) for d in draws]
    return float(above.sum() / max(below.sum(), 1e-9)), [float(q) for q in np.quantile(found, [0.025, 0.975])]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--campaign", default="spring")
    cli.add_argument("--no-repro", action="store_true", help="data/, reports/ of the working directory are finished")
    chosen = cli.parse_args()
    if not chosen.no_repro:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
        }
        if code := subprocess.run([sys.executable, "-m", "dvc", "repro", "plan", "report"], env=environment).returncode:
            sys.exit(code)
    world = World(Path.cwd(), chosen.campaign)
    if world.settings.source.name != "shop":
        sys.exit(
            "error: make campaign shows a campaign of the simulated shop, whose truth is known; source.name in params.yaml is another"
        )
    told = carried_out(world)
    write_json("reports/campaign.json", told)
    show(told)


def carried_out(world: World) -> dict:
    """The campaign: planned, sent to a webhook, answered by the truth, and told."""
    described = json.loads((world.folder / "reports/plans.json").read_text(encoding="utf-8"))[world.name]
    if "refused" in described:
        sys.exit(f"error: {described['refused']}")
    table = world.table(f"plans/{world.name}")
    received = sent_to_webhook(world, table)
    offers = world.table("uplift/offers").select(*plan.KEY, "hour")
    rows = table.filter(pl.col("item_id").is_not_null()).join(
        world.goods.select("item_id", "item"), on="item_id", how="left", maintain_order="left"
    )
    rows = rows.join(offers, on=plan.KEY, how="left", maintain_order="left").with_columns(hour=at_home(world, rows))
    chances, sent = world.chances(rows), rows["outcome"].to_numpy() == plan.SEND
    answers = world.truth.answers(chances, sent, np.random.default_rng(world.settings.source.shop.seed))
    money = rows["money"].to_numpy()
    arms = (experiments.Arm.of((answers.bought * money)[arm]) for arm in (sent, ~sent))
    found = experiments.difference(*arms, share=1 - world.campaign.holdout)
    people, cost = int(sent.sum()), float(rows.filter(outcome=plan.SEND)["cost"].sum())
    ways, audience = world.ways(), world.audience
    return {
        "campaign": world.name,
        "waterfall": described["waterfall"],
        "messages": people,
        "delivered": len(received),
        "cost": cost,
        "expected": {"margin": described["worth"], "interval": described["interval"]},
        "true": float((chances.gains * money)[sent].sum()) - cost,
        "measured": {"margin": found.value * people - cost, "interval": [end * people - cost for end in found.interval]},
        "bought": {"sent": int(answers.bought[sent].sum()), "held_out": int(answers.bought[~sent].sum()), "people_held_out": int((~sent).sum())},
        "opted_out": int(answers.left.sum()),
        "gap": described["gap"],
        "ways": {
            name: {"messages": len(chosen), "cost": float(chosen["cost"].sum()), "true": float(by_shopper(chosen, audience).sum())}
            for name, chosen in ways.items()
        },
    }  # fmt: skip


def at_home(world: World, rows: pl.DataFrame) -> pl.Series:
    """The hour of each shopper's day at which their message comes."""
    return local_hour(rows["send_at"], zones_of(rows["user_id"], world.table("checked/users"))).floor()


def sent_to_webhook(world: World, table: pl.DataFrame) -> set[str]:
    """Sends the plan to a webhook of this machine; the keys that it got, which are those of the plan or this fails."""
    got: set[str] = set()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body, key = self.rfile.read(int(self.headers["content-length"])), self.headers["webhook-id"]
            signed = webhook.signature(SECRET, key, self.headers["webhook-timestamp"], body) == self.headers["webhook-signature"]
            if signed:
                got.add(key)
            self.send_response(200 if signed else 401)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = messages.outgoing(table, world.campaign, world.name, world.table("checked/items"), world.table("checked/users"))
    with TemporaryDirectory() as scratch:
        box = outbox.Outbox(f"sqlite:///{scratch}/outbox.sqlite")
        box.open(world.name)
        box.put(made)
        way = webhook.Webhook(f"http://127.0.0.1:{server.server_port}/", SECRET, None)
        sending.send(
            box,
            dict.fromkeys(world.campaign.channels, way),
            sending.Leaping(),
            watch=progress,
        )
    server.shutdown()
    if got != {message.key for message in made}:
        sys.exit(f"error: {len(made):,} messages were to be sent, {len(got):,} came through")
    return got


def progress(sent: int) -> None:
    if sys.stderr.isatty():
        print(f"\rsent {sent:,}", end="", file=sys.stderr, flush=True)


def show(told: dict) -> None:
    """One table."""
    table = Table(show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")

    def head(*words: str) -> None:
        table.add_section()
        table.add_row(*words, *[""] * (3 - len(words)), style="bold", end_section=True)

    def money(value: float | None, interval: list | None = None) -> str:
        if value is None:
            return "not known"
        return f"{value:,.0f}" + (f" ({interval[0]:,.0f} to {interval[1]:,.0f})" if interval and interval[0] is not None else "")

    head(f"campaign {told['campaign']}", "shoppers")
    for outcome, count in told["waterfall"].items():
        table.add_row(outcome, f"{count:,}")
    table.add_row("the audience", f"{sum(told['waterfall'].values()):,}", style="bold")
    head("extra margin, its cost of " + f"{told['cost']:,.0f} taken off", "95 % interval")
    table.add_row("expected before it was sent", money(told["expected"]["margin"], told["expected"]["interval"]))
    table.add_row("measured against who was held out", money(told["measured"]["margin"], told["measured"]["interval"]))
    table.add_row("true", money(told["true"]))
    head("with the same money, had all been sent", "true extra margin", "messages")
    for name, way in told["ways"].items():
        table.add_row(name, money(way["true"]), f"{way['messages']:,}")
    console = Console(width=max(Console().width, 100))
    console.print(table)
    console.print(
        f"{told['delivered']:,} messages came through to the webhook, each once; {told['opted_out']:,} shoppers opted out after them",
        highlight=False,
    )
    console.print(
        f"no plan within its limits is worth {told['gap']:.2%} more by what was known; reports/campaign.json", highlight=False
    )


if __name__ == "__main__":
    main()
