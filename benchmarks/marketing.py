"""Does marketing decide well? Rows against published figures and against the truth of the simulated shop.

    python -m benchmarks.marketing                 # all rows (make bench-marketing)
    python -m benchmarks.marketing --row cdnow     # one of them
    python -m benchmarks.marketing --tiny          # small sizes: does it run?

Prints a line a row and writes reports/marketing.json: {"rows": [{"name", "value", "interval", "at_least", "aim", "met", "device"}]}; a value that could not be taken is null,
with the reason. Public data are looked for in --data (../shared/data).
"""

import argparse
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks import ope, uplift
from benchmarks.figures import cpu, row
from benchmarks.quality import ROOT
from marketing import experiments
from marketing.segments import lifetime_value, named, shoppers
from pipelines.stage import write_json

PUBLISHED = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426, "p": 6.25, "q": 3.74, "v": 15.44}  # of CDNOW's sample, in weeks


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--row", choices=ROWS, help="one row alone")
    cli.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where public data sets stand")
    cli.add_argument("--tiny", action="store_true")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen = cli.parse_args()
    rows = []
    for name, take in ROWS.items():
        if chosen.row in (None, name):
            rows += take(chosen.data, chosen.tiny)
            write_json(chosen.out / "marketing.json", {"rows": rows})


def cdnow(data: Path, tiny: bool) -> list[dict]:
    """BG/NBD and Gamma-Gamma fitted to the sample that the literature fits, beside what it publishes; and weeks 40 to 78 predicted."""
    names = (
        "CDNOW: largest difference from the published parameters, of the last digit",
        "CDNOW, weeks 40 to 78: mean absolute error, orders a shopper",
    )
    folder = data / "cdnow"
    if not folder.exists():
        return [
            row(name, None, 1.0, 1.0, cpu(), less=True, reason=f"{folder.name} is not in --data") | {"interval": None}
            for name in names
        ]
    summary = pl.read_csv(folder / "cdnow_customers_summary_with_transactions.csv")
    x, last, age, spent = (summary[c].cast(pl.Float64).to_numpy() for c in ("x", "t_x", "T", "zbar"))
    found, money = lifetime_value.fit_purchasing(x, last, age), lifetime_value.fit_spending(x, spent)
    fitted = {n: getattr(found, n, None) or getattr(money, n) for n in PUBLISHED}
    digit = {n: 0.001 if n in ("r", "alpha", "a", "b") else 0.01 for n in PUBLISHED}
    off = max(abs(fitted[n] - PUBLISHED[n]) / digit[n] for n in PUBLISHED)
    error = np.abs(found.orders(x, last, age, 39.0) - later_orders(folder / "CDNOW_sample.txt"))
    mean, spread = float(error.mean()), 1.96 * float(error.std()) / len(error) ** 0.5
    return [
        row(names[0], off, 1.0, 0.6, cpu(), less=True) | {"interval": None},
        row(names[1], mean, 0.7855, 0.7855, cpu(), less=True) | {"interval": [mean - spread, mean + spread]},
    ]


def later_orders(file: Path) -> np.ndarray:
    """Days with an order from October 1997 to June 1998 of each customer of the sample, by their numbers."""
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    days = {(int(own), date(int(day[:4]), int(day[4:6]), int(day[6:]))) for _, own, day, *_ in lines}
    counts = dict.fromkeys(sorted({own for own, _ in days}), 0)
    for own, day in days:
        counts[own] += date(1997, 9, 30) < day <= date(1998, 6, 30)
    return np.array(list(counts.values()))


def segments(data: Path, tiny: bool) -> list[dict]:
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
    title = f"segments of {len(now):,} shoppers, {len(conditions)} conditions: size, change, overlap; seconds"
    return [row(title, float(np.median(taken)), 0.2, 0.1, cpu(), less=True) | {"interval": [min(taken), max(taken)]}]


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


def hillstrom(data: Path, tiny: bool) -> list[dict]:
    """Does uplift pay for the women's e-mail, and does the tool say that it does not for the men's?"""
    names = [
        ("Hillstrom, women's e-mail, visits: Qini of the best learner", 0.059, 0.062),
        ("... over that of response", 1.5, 1.5),
        ("... low end of the paired difference's interval", 0.0, 0.0),
        ("Hillstrom, men's e-mail, visits: declines uplift (1 = yes)", 1.0, 1.0),
    ]
    files = sorted((data / "hillstrom").glob("*.csv*"))
    if not files:
        return [row(*taken(name, None), cpu(), reason="hillstrom is not in --data") | {"interval": None} for name in names]
    table = pl.read_csv(files[0], infer_schema_length=None, n_rows=6000 if tiny else None)
    found = []
    for arm in ("Womens E-Mail", "Mens E-Mail"):
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            table.write_csv(Path(folder) / "hillstrom.csv")
            chosen = uplift.arguments(
                [
                    "--data",
                    str(Path(folder) / "hillstrom.csv"),
                    "--treatment",
                    "segment",
                    "--outcome",
                    "visit",
                    "--arm",
                    arm,
                    "--control",
                    "No E-Mail",
                ]
            )
            found.append(uplift.measured(chosen))
    women, men = found
    by_name = {ranked["name"]: ranked for ranked in women["ranked"]}
    best, response = by_name[women["best"]], by_name["response"]
    values = [
        (best["qini"], list(best["interval"])),
        (best["qini"] / response["qini"], None),
        (best["beside_response"][0], list(best["beside_response"])),
        (float(not men["pays"]), None),
    ]
    return [
        row(*taken(name, value), cpu()) | {"interval": interval} for name, (value, interval) in zip(names, values, strict=True)
    ]


def open_bandit(data: Path, tiny: bool) -> list[dict]:
    """Thompson sampling's value told from the random log (DRos), and what biased propensities are answered."""
    names = [
        ("open-bandit, random to Thompson: relative error, mean of its campaigns", 0.26, 0.16),
        ("open-bandit: biased propensities are refused (1 = all)", 1.0, 1.0),
    ]
    folder = data / "open-bandit"
    if not folder.exists():
        reason = "open-bandit is not in --data"
        return [row(*taken(name, None), cpu(), less=not i, reason=reason) | {"interval": None} for i, name in enumerate(names)]
    with redirect_stdout(StringIO()):
        told = [ope.told(folder, path.name.removesuffix("_random.csv.gz")) for path in sorted(folder.glob("*_random.csv.gz"))]
    errors = [next(e["relative_error"] for e in c["estimates"] if e["estimator"] == "DRos") for c in told]
    refused = float(all(c["biased_refused"] for c in told))
    return [
        row(*taken(names[0], float(np.mean(errors))), cpu(), less=True) | {"interval": [min(errors), max(errors)]},
        row(*taken(names[1], refused), cpu()) | {"interval": None},
    ]


def asos(data: Path, tiny: bool) -> list[dict]:
    """Real tests of a shop, looked at as often as they were: what is called, beside a test at the end alone; and on the same looks without any effect."""
    names = [
        ("ASOS, no effect, looked at as often as the real ones: share ever called", 0.05, 0.05),
        ("ASOS, first metric: variants called at any look, for each that a fixed test calls at the end", 1.0, 1.0),
        ("ASOS, first metric: variants called at any look that a fixed test does not call at the end", 0.0, 0.0),
    ]
    file = data / "asos-experiments" / "asos_digital_experiments_dataset.parquet"
    if not file.exists():
        reason = "asos-experiments is not in --data"
        return [row(*taken(name, None), cpu(), less=True, reason=reason) | {"interval": None} for name in names]
    looks = pl.read_parquet(file).filter(pl.col("metric_id") == 1, pl.col("count_t") > 1, pl.col("count_c") > 1)
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
    return [
        row(*taken(names[0], share), cpu(), less=True) | {"interval": [float(share - spread), float(share + spread)]},
        row(*taken(names[1], called / at_end), cpu(), less=True) | {"interval": None},
        row(*taken(names[2], float(strays)), cpu(), less=True) | {"interval": None},
    ]


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


def cookie_cats(data: Path, tiny: bool) -> list[dict]:
    """A real test whose arms are not as many as planned."""
    name, files = ("Cookie Cats: alarm before any result (1 = yes)", 1.0, 1.0), sorted((data / "cookie-cats").glob("*.csv*"))
    if not files:
        return [row(*taken(name, None), cpu(), reason="cookie-cats is not in --data") | {"interval": None}]
    table = pl.read_csv(files[0])
    kept, version = table["retention_7"].cast(pl.Float64).to_numpy(), table["version"].to_numpy()
    try:
        experiments.difference(*(experiments.Arm.of(kept[version == arm]) for arm in ("gate_30", "gate_40")))
        alarm = 0.0
    except experiments.SampleRatio as error:
        print(f"Cookie Cats: {error}")
        alarm = 1.0
    return [row(*taken(name, alarm), cpu()) | {"interval": None}]


def taken(named_row: tuple[str, float, float], value: float | None) -> tuple[str, float | None, float, float]:
    """A row's name, value, at_least and aim."""
    name, at_least, aim = named_row
    return name, value, at_least, aim


ROWS: dict[str, Callable[[Path, bool], list[dict]]] = {
    "cdnow": cdnow,
    "segments": segments,
    "hillstrom": hillstrom,
    "open-bandit": open_bandit,
    "asos": asos,
    "cookie-cats": cookie_cats,
}


if __name__ == "__main__":
    main()
