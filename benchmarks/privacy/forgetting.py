"""A shopper is forgotten by a checkout that ran, promoted, took events and planned messages: what still names them, and who comes back with the next import."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.checkouts import SMALL, ran, repro, shop
from benchmarks.privacy.traces import LONG, traces
from benchmarks.serving import over_http
from deploy.platform import forgetting
from deploy.promotion.environments import Environment
from online.intake import Intake
from pipelines.artefact.catalogue import ids
from pipelines.artefact.without import BY_OFFSETS
from pipelines.rights import erasing
from pipelines.rights.erasing import Names
from privacy.people import People


def forget_one(scratch: Path, tiny: bool) -> list[float]:
    """Traces of one who was forgotten, in everything but the vault; rows that came back with another import; seconds of the forgetting."""
    checkout = ran(
        scratch / "checkout",
        "bundle",
        "plan",
        source=shop(*((300, 120, 30) if tiny else (3000, 600, 60))),
        train=SMALL,
        compress={"steps": {"table": ["int8"]}},
        privacy={"pseudonyms": True, "master_key": str(scratch / "master.key")},
    )
    vault = forgetting.vault_of(checkout)
    Environment(checkout, "production").promote(checkout / "bento", who="bench", why="bench", force=True)
    histories = pl.read_parquet(checkout / "data/prepared/histories.parquet", columns=["user_id", "items"])
    known, items = histories.filter(pl.col("items").list.len() >= LONG).row(0)
    own = vault.names([known])[known]
    door = Intake(checkout / ".events", people=People(vault, pseudonyms=True))
    clicks = [{"event_id": f"{n}", "user_id": own, "visitor_id": "their telephone", "item_id": "sku00001", "event": "click", "timestamp": "2026-03-01T00:00:00+00:00", "at": 1772323200.0, "received": time.time()} for n in range(3)]  # fmt: skip
    door.take(clicks)
    subprocess.run([sys.executable, "-m", "pipelines.delivery", "fill", "spring"], cwd=checkout, check=True, capture_output=True)
    (checkout / "reports" / "note.json").write_text(json.dumps({"somebody": known}))
    names = [own, known, "their telephone", *vault.pseudonyms(["visitor:their telephone"]).values()]
    left_out = [checkout / ".vault"]
    before = traces(checkout, names, items, left_out)
    if len(before) < 10:
        raise RuntimeError(f"the search is blind: before anything is forgotten it finds {before}")
    started = time.perf_counter()
    forgetting.forget(checkout, vault, known)
    seconds = time.perf_counter() - started
    door.close()
    after = traces(checkout, names, items, left_out)
    for one in after:
        print(f"  still there: {one}")
    repro(checkout, "collect")
    back = traces(checkout, [own, known], left_out=left_out)
    return [len(after), len(back), seconds]


def among_many(scratch: Path, tiny: bool) -> list[float]:
    """Seconds in which one of 10^6 shoppers leaves what a shop of that size has: tables of 20 events each, a log of 10^6 lines, and an artefact. Made by this, as simulating so many takes longer."""
    shoppers, events, items = 10_000 if tiny else 1_000_000, 20, 10_000
    users = pl.Series("user_id", [f"p_{number:024d}" for number in range(shoppers)])
    rng, raw, log = np.random.default_rng(0), scratch / "data/raw", scratch / ".events/log"
    for folder in (raw, log):
        folder.mkdir(parents=True)
    everybody = pl.DataFrame({"user_id": users}).select(pl.col("user_id").repeat_by(events).explode())
    table = everybody.with_columns(
        item_id=pl.Series(rng.integers(0, items, len(everybody))).cast(pl.String), price=pl.Series(rng.random(len(everybody)))
    )
    for name in ("raw/events", "checked", "segments"):
        file = scratch / "data" / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        table.write_parquet(file)
    line = '{{"event_id":"{}","user_id":"{}","event":"view","item_id":"1","timestamp":"2026-03-01T00:00:00+00:00","at":1772323200.0,"received":1772323200.0}}\n'
    with (log / f"http.1.{0:020d}.open").open("w") as file:
        file.writelines(line.format(number, user) for number, user in enumerate(users))
    offsets = np.arange(shoppers + 1) * events
    arrays = (
        {f"{name}_offsets": offsets for name in BY_OFFSETS}
        | ids("user_ids", users)
        | {"user_zones": np.zeros(shoppers, np.uint16)}
    )
    artefact = over_http.large_catalogue(scratch / "shop", 500) / "artefact"
    whole = {
        f"{name}_{column}": np.load(artefact / f"{name}_{column}.npy")
        for name, columns in BY_OFFSETS.items()
        for column in columns
    }
    arrays |= {name: np.resize(array, (offsets[-1], *array.shape[1:])) for name, array in whole.items()}
    for name, array in arrays.items():
        np.save(artefact / f"{name}.npy", array)
    names, started = Names([users[shoppers // 2]]), time.perf_counter()
    done = [
        *erasing.erase(scratch / "data", names),
        *erasing.erase(scratch / ".events", names),
        *erasing.erase(artefact.parent, names),
    ]
    seconds = time.perf_counter() - started
    if len(done) < 5:
        raise RuntimeError(f"not everything was looked at: {done}")
    return [seconds]
