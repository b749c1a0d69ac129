"""Does marketing decide well? Rows against published figures and against the truth of the simulated shop.

    python -m benchmarks.marketing                 # all rows (make bench-marketing)
    python -m benchmarks.marketing --row cdnow     # one of them
    python -m benchmarks.marketing --tiny          # small sizes: does it run?

Prints a line a row and writes reports/marketing.html, a page with a picture, and reports/marketing.json: {"rows": [{"name", "value", "interval", "at_least", "aim", "met", "less", "device"}]}; a value that could not be taken is null,
with the reason. Public data are looked for in --data (../shared/data).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks import campaign as benchmarks_campaign
from benchmarks import ope, page, uplift
from benchmarks import sending as benchmarks_sending
from benchmarks.figures import cpu, row
from benchmarks.quality import ROOT
from marketing import experiments, plan
from marketing.segments import lifetime_value, named, shoppers
from pipelines.stage import write_json

PUBLISHED = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426, "p": 6.25, "q": 3.74, "v": 15.44}  # of CDNOW's sample, in weeks


Taken = tuple[float, list[float] | None]  # a value and its interval


@dataclass(frozen=True)
class Goal:
    """What a row is to reach."""

    name: str
    at_least: float
    aim: float
    less: bool = False  # it should be at most `at_least`

    def row(self, taken: Taken | None, reason: str | None = None) -> dict:
        """The row of a value that was taken; None: of one that could not be, for this reason."""
        value, interval = taken or (None, None)
        return row(self.name, value, self.at_least, self.aim, cpu(), self.less, reason) | {
            "interval": interval,
            "less": self.less,
        }


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--row", choices=ROWS, help="one row alone")
    cli.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where public data sets stand")
    cli.add_argument("--tiny", action="store_true")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen = cli.parse_args()
    rows = []
    for name, (needed, take, goals) in ROWS.items():
        if chosen.row not in (None, name):
            continue
        folder = chosen.data / (needed or "")
        if needed and not folder.exists():
            rows += [goal.row(None, f"{needed} is not in --data") for goal in goals]
        else:
            rows += [goal.row(taken) for goal, taken in zip(goals, take(folder, chosen.tiny), strict=True)]
        write_json(chosen.out / "marketing.json", {"rows": rows})
        page.write(chosen.out / "marketing.html", "Marketing: figures beside what was asked for", rows)


def cdnow(folder: Path, tiny: bool) -> list[Taken]:
    """BG/NBD and Gamma-Gamma fitted to the sample that the literature fits, beside what it publishes; and weeks 40 to 78 predicted."""
    summary = pl.read_csv(folder / "cdnow_customers_summary_with_transactions.csv")
    x, last, age, spent = (summary[c].cast(pl.Float64).to_numpy() for c in ("x", "t_x", "T", "zbar"))
    found, money = lifetime_value.fit_purchasing(x, last, age), lifetime_value.fit_spending(x, spent)
    fitted = {n: getattr(found, n, None) or getattr(money, n) for n in PUBLISHED}
    digit = {n: 0.001 if n in ("r", "alpha", "a", "b") else 0.01 for n in PUBLISHED}
    off = max(abs(fitted[n] - PUBLISHED[n]) / digit[n] for n in PUBLISHED)
    error = np.abs(found.orders(x, last, age, 39.0) - later_orders(folder / "CDNOW_sample.txt"))
    mean, spread = float(error.mean()), 1.96 * float(error.std()) / len(error) ** 0.5
    return [(off, None), (mean, [mean - spread, mean + spread])]


def later_orders(file: Path) -> np.ndarray:
    """Days with an order from October 1997 to June 1998 of each customer of the sample, by their numbers."""
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    days = {(int(own), date(int(day[:4]), int(day[4:6]), int(day[6:]))) for _, own, day, *_ in lines}
    counts = dict.fromkeys(sorted({own for own, _ in days}), 0)
    for own, day in days:
        counts[own] += date(1997, 9, 30) < day <= date(1998, 6, 30)
    return np.array(list(counts.values()))


def segments(folder: Path, tiny: bool) -> list[Taken]:
    """Seconds that the shipped segments of many shoppers take: sizes, change since an earlier table, overlaps."""
    file = ROOT / "campaigns" / "segments.yaml"
    conditions = named.read(file.read_text(encoding="utf-8"), file.name)
    now, before = (people(1000 if tiny else 1_000_000, seed) for seed in (0, 1))
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        inside = named.members(now, conditions)
        named.overlaps(inside)
        named.members(before, conditions).sum()
        taken.append(time.perf_counter() - started)
    return [(float(np.median(taken)), [min(taken), max(taken)])]


def people(count: int, seed: int) -> pl.DataFrame:
    """A table of random shoppers."""
    rng, now = np.random.default_rng(seed), datetime(2026, 1, 1, tzinfo=UTC)
    words = {"user_id": [f"u{n}" for n in range(count)], "lifecycle": rng.choice(["new", "active", "cooling", "lost"], count)}
    columns = {}
    for name, kind in shoppers.SHOPPERS.items():
        if name in words:
            columns[name] = pl.Series(words[name], dtype=pl.String)
        elif kind == pl.String:
            columns[name] = pl.Series(rng.choice(["kitchen", "home", "toys"], count), dtype=pl.String)
        elif isinstance(kind, pl.Datetime):
            columns[name] = pl.Series([now - timedelta(days=1)] * count, dtype=kind)
        elif kind == pl.Float64:
            columns[name] = pl.Series(rng.random(count) * 2)
        else:
            columns[name] = pl.Series(rng.integers(0, 6, count), dtype=kind)
    return pl.DataFrame(columns)


def hillstrom(folder: Path, tiny: bool) -> list[Taken]:
    """Does uplift pay for the women's e-mail, and does the tool say that it does not for the men's?"""
    [file] = sorted(folder.glob("*.csv*"))
    table = pl.read_csv(file, infer_schema_length=None, n_rows=6000 if tiny else None)
    found = []
    with TemporaryDirectory() as scratch, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        table.write_csv(Path(scratch) / "hillstrom.csv")
        fixed = ["--data", f"{scratch}/hillstrom.csv", "--treatment", "segment", "--outcome", "visit", "--control", "No E-Mail"]
        for arm in ("Womens E-Mail", "Mens E-Mail"):
            found.append(uplift.measured(uplift.arguments([*fixed, "--arm", arm])))
    women, men = found
    by_name = {ranked["name"]: ranked for ranked in women["ranked"]}
    best, response = by_name[women["best"]], by_name["response"]
    return [
        (best["qini"], list(best["interval"])),
        (best["qini"] / response["qini"], None),
        (best["beside_response"][0], list(best["beside_response"])),
        (float(not men["pays"]), None),
    ]


def open_bandit(folder: Path, tiny: bool) -> list[Taken]:
    """Thompson sampling's value told from the random log (DRos), and what biased propensities are answered."""
    with redirect_stdout(StringIO()):
        told = [ope.told(folder, path.name.removesuffix("_random.csv.gz")) for path in sorted(folder.glob("*_random.csv.gz"))]
    errors = [next(e["relative_error"] for e in c["estimates"] if e["estimator"] == "DRos") for c in told]
    return [(float(np.mean(errors)), [min(errors), max(errors)]), (float(all(c["biased_refused"] for c in told)), None)]


def asos(folder: Path, tiny: bool) -> list[Taken]:
    """Real tests of a shop, looked at as often as they were: what is called, beside a test at the end alone; and on the same looks without any effect."""
    looks = pl.read_parquet(folder / "asos_digital_experiments_dataset.parquet")
    looks = looks.filter(pl.col("metric_id") == 1, pl.col("count_t") > 1, pl.col("count_c") > 1)
    looks = looks.sort("experiment_id", "variant_id", "time_since_start")
    rng, false, called, at_end, strays = np.random.default_rng(0), [], 0, 0, 0
    for _, variant in looks.group_by("experiment_id", "variant_id", maintain_order=True):
        columns = [variant[c].to_numpy() for c in ("count_t", "mean_t", "variance_t", "count_c", "mean_c", "variance_c")]
        found = peeked(*columns)
        fixed = abs(found[-1].value) > 1.96 * found[-1].error
        sure = any(d.sure for d in found)
        called, at_end, strays = called + sure, at_end + fixed, strays + (sure and not fixed)
        for _ in range(2 if tiny else 20):
            without = (walk(columns[0], columns[2], rng), walk(columns[3], columns[5], rng))
            false.append(any(d.sure for d in peeked(columns[0], without[0], columns[2], columns[3], without[1], columns[5])))
    share = float(np.mean(false))
    spread = 1.96 * (share * (1 - share) / len(false)) ** 0.5
    print(f"ASOS: {called} variants called at any look, {at_end} by a fixed test at the end")
    return [(share, [float(share - spread), float(share + spread)]), (called / at_end, None), (float(strays), None)]


def peeked(count_t, mean_t, variance_t, count_c, mean_c, variance_c) -> list[experiments.Difference]:
    """The difference at each look."""
    planned = int(count_t[-1] + count_c[-1])
    return [
        experiments.difference(experiments.Arm(nt, mt, vt), experiments.Arm(nc, mc, vc), None, planned)
        for nt, mt, vt, nc, mc, vc in zip(count_t, mean_t, variance_t, count_c, mean_c, variance_c, strict=True)
    ]


def walk(count: np.ndarray, variance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means at each look of people whose outcomes are 0 on average and vary as the real ones did."""
    steps = np.maximum(np.diff(count, prepend=0.0), 0.0)
    return np.cumsum(rng.normal(0.0, 1.0, len(count)) * np.sqrt(steps * variance)) / count


def cookie_cats(folder: Path, tiny: bool) -> list[Taken]:
    """A real test whose arms are not as many as planned."""
    [file] = sorted(folder.glob("*.csv*"))
    table = pl.read_csv(file)
    kept, version = table["retention_7"].cast(pl.Float64).to_numpy(), table["version"].to_numpy()
    try:
        experiments.difference(*(experiments.Arm.of(kept[version == arm]) for arm in ("gate_30", "gate_40")))
    except experiments.SampleRatio as error:
        print(f"Cookie Cats: {error}")
        return [(1.0, None)]
    return [(0.0, None)]


def campaign(folder: Path, tiny: bool) -> list[Taken]:
    """A campaign of a larger simulated shop beside other ways of choosing with the same money, by the truth; one model to propose candidates for all of them."""
    with TemporaryDirectory() as scratch:
        shop = {"shoppers": 800, "items": 120, "days": 45} if tiny else {"shoppers": 20_000}
        world = benchmarks_campaign.made(Path(scratch), shop, budget=40.0 if tiny else 1000.0)
        people, worth = (
            world.audience,
            {name: benchmarks_campaign.by_shopper(c, world.audience) for name, c in world.ways().items()},
        )
        trial, told = world.table(f"plans/{world.name}"), benchmarks_campaign.ratio
        beside = [told(worth["plan"], worth[name]) for name in ("popularity", "ranking", "response", "chance", "oracle")]
        alone = trial.filter(pl.col("outcome").is_in([plan.NOT_WORTH, plan.SHORT])).select("user_id")
        left = people.select(alone=pl.col("user_id").is_in(alone["user_id"].implode()))["alone"].to_numpy()
        right = float((worth["oracle"][left] == 0).mean()) if left.any() else 1.0
        qini, clicked, bought = world.qini(), world.calibration("click"), world.calibration("response")
        bids = world.bids()
        early, alike = world.bought_and_not_due(), world.same_top(10)
    return [*beside, (right, None), qini, clicked, bought, (float(early), None), (alike, None), (bids, None)]


def repeats(folder: Path, tiny: bool) -> list[Taken]:
    """What shoppers of a simulated shop of 240 days buy again within a week, told before it."""
    with TemporaryDirectory() as scratch:
        space = benchmarks_campaign.workspace(
            Path(scratch), {"shoppers": 500, "days": 60} if tiny else {"shoppers": 2000, "days": 240}
        )
        for stage in ("collect", "freshness", "link", "check", "segment"):
            benchmarks_campaign.ran(space, stage)
        told = json.loads((space / "reports/segments.json").read_text(encoding="utf-8"))["repeats"]
    return [(told["ndcg@10"] / told["by_frequency"], None), (told["ndcg@10"], None)]


def planning(folder: Path, tiny: bool) -> list[Taken]:
    """The assignment of a large plan: seconds, memory, and how far it may be from the best there is."""
    size = (2000, 50, 200) if tiny else (1_000_000, 200, 10_000)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.planning", *map(str, size)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(done.stdout)
    return [(found["seconds"], None), (found["peak_gb"], None), (found["gap"], None)]


def sending(folder: Path, tiny: bool) -> list[Taken]:
    """Senders that are killed while a receiver fails, hangs, answers twice and lies."""
    found = benchmarks_sending.killed(6 if tiny else 200)
    return [(float(found["double"]), None), (float(found["lost"]), None), (float(found["in_spite_of_opt_out"]), None)]


# By name: the folder of public data that a row needs, how it is taken, what is to be reached.
ROWS: dict[str, tuple[str | None, Callable[[Path, bool], list[Taken]], list[Goal]]] = {
    "cdnow": ("cdnow", cdnow, [
        Goal("CDNOW: largest difference from the published parameters, of the last digit", 1.0, 0.6, less=True),
        Goal("CDNOW, weeks 40 to 78: mean absolute error, orders a shopper", 0.7855, 0.7855, less=True),
    ]),
    "segments": (None, segments, [Goal("the shipped segments of 10^6 shoppers: size, change, overlap; seconds", 0.2, 0.1, less=True)]),
    "hillstrom": ("hillstrom", hillstrom, [
        Goal("Hillstrom, women's e-mail, visits: Qini of the best learner", 0.059, 0.062),
        Goal("... over that of response", 1.5, 1.5),
        Goal("... low end of the paired difference's interval", 0.0, 0.0),
        Goal("Hillstrom, men's e-mail, visits: declines uplift (1 = yes)", 1.0, 1.0),
    ]),
    "open-bandit": ("open-bandit", open_bandit, [
        Goal("open-bandit, random to Thompson: relative error, mean of its campaigns", 0.26, 0.16, less=True),
        Goal("open-bandit: biased propensities are refused (1 = all)", 1.0, 1.0),
    ]),
    "asos": ("asos-experiments", asos, [
        Goal("ASOS, no effect, looked at as often as the real ones: share ever called", 0.05, 0.05, less=True),
        Goal("ASOS, first metric: variants called at any look, for each that a fixed test calls at the end", 1.0, 1.0, less=True),
        Goal("ASOS, first metric: variants called at any look that a fixed test does not call at the end", 0.0, 0.0, less=True),
    ]),
    "campaign": (None, campaign, [
        Goal("simulated shop, extra margin at equal budget: times popularity to all", 2.0, 2.0),
        Goal("... times pure ranking score", 1.25, 1.25),
        Goal("... times the response model (chance of a purchase x margin)", 1.15, 1.15),
        Goal("... times random", 4.0, 4.0),
        Goal("... as a share of an oracle that knows the truth of every item", 0.85, 0.92),
        Goal("... people left alone whom the oracle leaves alone too", 0.9, 0.95),
        Goal("simulated shop, purchases: Qini of what offers are made by, over that of response", 1.3, 1.5),
        Goal("simulated shop, among what was chosen: calibration error of chances of a click", 0.01, 0.005, less=True),
        Goal("... of a purchase", 0.01, 0.005, less=True),
        Goal("simulated shop: what was bought and is not due, among what is offered", 0, 0, less=True),
        Goal("... shoppers whose first ten offers are those of most others, as a share", 0.01, 0.01, less=True),
        Goal("simulated shop, 20,000 banners bid for with a budget: what is won, as a share of what bids that know the truth win", 0.5, 0.85),
    ]),
    "repeats": (None, repeats, [
        Goal("simulated shop, repeat purchases within a week: NDCG@10, times that of bought before, by frequency", 2.0, 2.0),
        Goal("... NDCG@10 itself", 0.7, 0.8),
    ]),
    "plan": (None, planning, [
        Goal("plan, 10^6 shoppers x 200 candidates, 10^4 items with stock: seconds", 180, 120, less=True),
        Goal("... peak memory, GB", 4.0, 4.0, less=True),
        Goal("... share that a better plan may be worth more, by its bound", 0.005, 0.002, less=True),
    ]),
    "sending": (None, sending, [
        Goal("sending, 200 kills, pauses, two senders, a receiver that fails, hangs, answers twice, lies; yesterday's outbox: double", 0, 0, less=True),
        Goal("... lost", 0, 0, less=True),
        Goal("... received 100 ms after an opt-out or later", 0, 0, less=True),
    ]),
    "cookie-cats": ("cookie-cats", cookie_cats, [Goal("Cookie Cats: alarm before any result (1 = yes)", 1.0, 1.0)]),
}  # fmt: skip


if __name__ == "__main__":
    main()
