"""A shopper is forgotten by a checkout that ran, promoted, took events and planned messages: what still names them, and who comes back with the next import."""

import json
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

from benchmarks.checkouts import SMALL, ran, repro, shop
from benchmarks.privacy.traces import LONG, traces
from deploy.platform import forgetting
from deploy.promotion.environments import Environment
from online.intake import Intake
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
