"""A shopper is forgotten by a checkout that ran, promoted, took events and planned messages: what still names them, and who comes back with the next import."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import yaml

from benchmarks.privacy.traces import LONG, traces
from benchmarks.quality import ROOT
from deploy.platform import forgetting
from deploy.promotion.environments import Environment
from online.intake import Intake
from pipelines.settings import Yaml
from privacy.people import People

SMALL = {"model": "sasrec", "width": 32, "layers": 1, "epochs": 2, "max_len": 20}


def forget_one(scratch: Path, tiny: bool) -> list[float]:
    """Traces of one who was forgotten, in everything but the vault; rows that came back with another import; seconds of the forgetting."""
    checkout = ran(scratch / "checkout", 300 if tiny else 3000)
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
    _dvc(checkout, "repro", "-q", "collect")
    back = traces(checkout, [own, known], left_out=left_out)
    return [len(after), len(back), seconds]


def ran(checkout: Path, shoppers: int) -> Path:
    """A clone of this checkout in which the simulated shop was run from end to end, with pseudonyms."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    file = checkout / "params.yaml"
    params = yaml.load(file.read_text(encoding="utf-8"), Yaml)
    params["source"]["shop"] |= {"shoppers": shoppers, "items": 150, "days": 40}
    params["train"] |= SMALL
    params["compress"]["steps"] = {"table": ["int8"]}
    params["privacy"] |= {"pseudonyms": True, "master_key": str(checkout.parent / "master.key")}
    file.write_text(yaml.safe_dump(params), encoding="utf-8")
    for words in (["add", "-A"], ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "small"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    _dvc(checkout, "repro", "-q")
    return checkout


def _dvc(checkout: Path, *words: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=checkout, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
