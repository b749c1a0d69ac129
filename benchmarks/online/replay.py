"""What knowing the newest events is worth: the simulated shop's last days replayed event by event, each next item ranked three ways before it is told: by the model alone with the histories of the day it was made
(frozen), with what happened since (online), and with what was learnt since too (updated).

NDCG@10 over all items that a shopper had not met; intervals by the bootstrap over shoppers.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from benchmarks.quality import STAGES, link_code, run, shipped
from deploy.serving.between import Acts, learn
from deploy.serving.recommender import Recommender
from online.events import Event, sort_out
from online.log import EventLog
from online.state import open_state

DAYS = 7.0  # replayed
RELEARN = 6 * 3600.0  # seconds of the replay between two times of learning; a server learns every minute
SAMPLES = 1000  # of the bootstrap
NEEDED = STAGES[: STAGES.index("bundle") + 1]


def replay(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """NDCG@10 of the three; the gain of online over frozen in per cent, and where its interval begins; the same of updated over online."""
    lines, cutoff = world(folder, tiny)
    artefact, state, told = folder / "artefact", open_state(None, folder / "since"), folder / "told"
    frozen, online, updated = (Recommender(artefact, state=s) for s in (None, state, state))
    book, acts = EventLog(told / "log"), Acts(told, cutoff)
    met: dict[str, set[str]] = {}
    gains, who, learnt_at = [], [], cutoff
    after = [line for line in lines if line["at"] > cutoff]
    for number, line in enumerate(after):
        user, item, at = line["user_id"], line.get("item_id"), line["at"]
        if item and line["event"] in ("view", "click", "favourite", "cart", "purchase"):
            if user not in met:
                history = online.histories.stored.of(user, online.items).history.items
                met[user] = set(online.items[history - 1])
            if item not in met[user]:
                met[user].add(item)
                asked = {"user_id": user, "k": 10, "exclude": "seen", "context": {"at": datetime.fromtimestamp(at, UTC)}}
                gains.append([ndcg(one.recommend(**asked).items, item) for one in (frozen, online, updated)])
                who.append(user)
        state.seen([line])
        book.append([line])
        if at - learnt_at > RELEARN:
            acts.look()
            updated.between, learnt_at = learn(acts, frozen, at), at
            print(f"\r{number + 1:,} of {len(after):,} events, weight {updated.between.weight}", end="", flush=True)
    print()
    return figures(np.array(gains), np.unique(who, return_inverse=True)[1])


def world(folder: Path, tiny: bool) -> tuple[list[dict], float]:
    """A workspace whose artefact was made of the simulated shop's log up to DAYS before its end; the log's lines in order of time, and the artefact's last moment."""
    params = shipped()
    params["source"]["shop"] |= {"shoppers": 400, "items": 120, "days": 40} if tiny else {}
    if tiny:
        params["train"] |= {"epochs": 2}
    folder.mkdir(parents=True, exist_ok=True)
    link_code(folder)
    with (folder / "params.yaml").open("w") as file:
        yaml.safe_dump(params, file)
    run(folder, "collect")
    raw = pl.read_parquet(folder / "data/raw/events.parquet").drop("source_row").sort("timestamp", nulls_last=True)
    end = datetime.now(UTC)
    lines = [
        found[0]
        for row in raw.iter_rows(named=True)
        if row["timestamp"] is not None
        for found in [
            sort_out(
                [{k: v.isoformat() if k == "timestamp" else v for k, v in row.items() if v is not None}], Event, end.timestamp()
            ).lines
        ]
        if found
    ]
    shop = folder / "shop"
    EventLog(shop / "log").append([line | {"received": line["at"]} for line in lines])
    for name in ("items", "users"):
        pl.read_parquet(folder / f"data/raw/{name}.parquet").drop("source_row").write_parquet(shop / f"{name}.parquet")
    until = datetime.fromtimestamp(lines[-1]["at"], UTC) - timedelta(days=DAYS)
    params["source"] |= {"name": "log", "data": "shop", "until": until.isoformat()}
    with (folder / "params.yaml").open("w") as file:
        yaml.safe_dump(params, file)
    run(folder, *NEEDED)
    return [line | {"received": line["at"]} for line in lines], until.timestamp()


def ndcg(shown: list[dict], item: str) -> float:
    """Of one relevant item among ten."""
    place = next((n for n, one in enumerate(shown) if one["item_id"] == item), None)
    return 0.0 if place is None else float(1 / np.log2(place + 2))


def figures(gains: np.ndarray, who: np.ndarray) -> list[float]:
    """See replay. gains: (N, 3). who: (N,) shoppers from 0."""
    sums = np.stack([np.bincount(who, gains[:, way]) for way in range(gains.shape[1])], 1)
    draws = np.random.default_rng(0).integers(0, len(sums), (SAMPLES, len(sums)))
    means = gains.mean(0)
    found = means.tolist()
    for better, base in ((1, 0), (2, 1)):
        ratios = [sums[rows, better].sum() / max(sums[rows, base].sum(), 1e-12) for rows in draws]
        found += [100 * (means[better] / means[base] - 1), 100 * (float(np.quantile(ratios, 0.025)) - 1)]
    print(f"{len(gains):,} next items of {len(sums):,} shoppers")
    return found
