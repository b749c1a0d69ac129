"""What can be measured of a running service: requests a second, cold start, memory a worker, ten minutes of load. Needs wrk."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import torch

from benchmarks.quality import ROOT, link_code, shipped
from deploy.platform import processes, server
from deploy.serving.catalogue import Ids
from marketing.segments.repeats import REPEATS
from marketing.segments.shoppers import SHOPPERS
from models.families import build
from models.sequences import Sequences
from pipelines import bundle
from pipelines.artefact import graph
from pipelines.artefact.bento import build_bento
from pipelines.artefact.decisions import decisions
from pipelines.artefact.manifest import code_digest, seal, serving_digest
from pipelines.data.identity.people import PEOPLE
from pipelines.data.tables import EVENTS
from pipelines.learning.prepared import Prepared
from pipelines.stage import write_json

CONNECTIONS = (4, 8, 16)
# In which connections are opened: the worker that wakes first takes all that wait, so one burst may leave the others idle.
BURSTS = 4
P99_MS = 50.0
SHAPE = {
    "width": 128,
    "layers": 2,
    "heads": 2,
    "dropout": 0.0,
    "max_len": 50,
    "gated": False,
    "id_dropout": 0.0,
    "event_dropout": 0.0,
}
SCRIPT = """
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
local users, at, pause = {%s}, math.random(1000), %d
request = function()
  at = at %% #users + 1
  return wrk.format(nil, "/recommend", nil, '{"user_id":"' .. users[at] .. '","k":10}')
end
if pause > 0 then delay = function() return pause end end
done = function(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
  print(string.format('RESULT {"requests": %%d, "seconds": %%f, "errors": %%d, "p50_ms": %%f, "p99_ms": %%f}',
    summary.requests, summary.duration / 1e6, bad, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def install_wrk() -> bool:
    """Is wrk here, or can it be installed?"""
    if not shutil.which("wrk") and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return shutil.which("wrk") is not None


def load(url: str, users: list[str], connections: int, seconds: float, pause_ms: int = 0) -> dict:
    """Asks /recommend for the users in turn over so many connections, opened in BURSTS, each pausing between its requests.

    Requests a second, errors, and the highest p99 of any burst.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % (", ".join(json.dumps(u) for u in users), pause_ms))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections // BURSTS}", f"-d{seconds:.0f}s", "--timeout", "2s", "-s", script.name, url]
        running = []
        for _ in range(BURSTS):
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            time.sleep(0.05)
        parts = [json.loads(re.search(r"RESULT (.*)", process.communicate()[0])[1]) for process in running]
    return {
        "rate": sum(p["requests"] / p["seconds"] for p in parts),
        "errors": sum(p["errors"] for p in parts),
        "p50_ms": float(np.median([p["p50_ms"] for p in parts])),
        "p99_ms": max(p["p99_ms"] for p in parts),
    }


@contextmanager
def serving(target: list[str], settings: dict[str, str] | None = None) -> Iterator[tuple[str, list[psutil.Process], float]]:
    """A service while it runs: its URL, its workers, and the seconds from starting to ready."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with server.serving(target, processes.free_port(), Path(folder), settings or {}) as (url, running):
            ready = time.perf_counter() - started
            children = psutil.Process(running.pid).children(recursive=True)
            yield url, [p for p in children if "_bentoml_impl.worker.service" in p.cmdline()], ready


def own(service: str) -> list[str]:
    """What `bentoml serve` is to be told of a service in this folder."""
    return [f"benchmarks.serving.{service}", "--working-dir", str(ROOT)]


def users_of(bento: Path) -> list[str]:
    return Ids(bento / "src" / "artefact", "user_ids")[np.arange(1000)]


def peak(url: str, users: list[str], seconds: float = 5) -> float:
    """Most requests a second of any number of connections that keeps p99 under P99_MS; 0 where none does."""
    found = [load(url, users, connections, seconds) for connections in CONNECTIONS]
    return max((f["rate"] for f in found if f["p99_ms"] < P99_MS and not f["errors"]), default=0.0)


def throughput(bento: Path, rounds: int = 3) -> tuple[float, float]:
    """Median peak of the bento and of a service that answers a constant, measured in turn while both run."""
    users = users_of(bento)
    with serving([str(bento)]) as (ours, _, _), serving(own("constant:Constant")) as (theirs, _, _):
        for url in (ours, theirs):
            load(url, users, 4, 2)
        peaks = [(peak(ours, users), peak(theirs, users)) for _ in range(rounds)]
    return tuple(np.median(peaks, axis=0).tolist())


def sustained(bento: Path, rate: float, minutes: int) -> list[dict]:
    """So many minutes at this rate: of each p99, errors, the rate reached and the memory of all workers afterwards (MB)."""
    users, connections, found = users_of(bento), 32, []
    between = 1000 * connections / rate  # milliseconds from one request of a connection to its next
    with serving([str(bento)]) as (url, workers, _):
        pause = round(between)
        answering = 1000 * connections / load(url, users, connections, 10, pause)["rate"] - pause
        pause = max(1, round(between - answering))
        for minute in range(minutes):
            one = load(url, users, connections, 60, pause)
            found.append(one | {"mb": sum(w.memory_info().rss for w in workers) / 2**20})
            print(
                f"  minute {minute + 1}: {one['rate']:.0f} requests/s, p99 {one['p99_ms']:.1f} ms, {one['errors']} errors, {found[-1]['mb']:.0f} MB",
                flush=True,
            )
    return found


def large_catalogue(folder: Path, items: int, shoppers: int = 2000, length: int = 40) -> Path:
    """A bento and a torch model of one untrained network over a catalogue of this size, in `folder`."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    numbers = [rng.integers(1, items + 1, length) for _ in range(shoppers)]
    times = [np.arange(length) for _ in numbers]
    users = pl.Series([f"u{i:06d}" for i in range(shoppers)])
    catalogue = pl.DataFrame(
        {"item_id": [f"sku{i:07d}" for i in range(items)], "title": [f"Item number {i} of the large catalogue" for i in range(items)],
         "category": [f"shelf {i % 50} > row {i % 500}" for i in range(items)], "brand": [f"brand {i % 300}" for i in range(items)],
         "price": rng.uniform(1, 500, items).round(2), "in_stock": rng.random(items) < 0.95, "listed": True}
    ).with_row_index("item", 1)  # fmt: skip
    full, test = Sequences(numbers, times), Sequences(numbers, times, np.ones(shoppers, np.int64))
    counts = np.bincount(full.items.flat(), minlength=items + 1)
    data = Prepared(
        full, full, test, test, [], counts, counts.astype(float), None, np.zeros((items + 1, 0), np.float32), [], None, [], full
    )
    network = build("sasrec", items, SHAPE, None).eval()
    folder.mkdir(parents=True, exist_ok=True)
    link_code(folder)
    with chdir(folder):
        graph.export(network, items, 100, Path("model.onnx"), form="int8")
        shutil.rmtree("artefact", ignore_errors=True)
        Path("artefact").mkdir()
        bundle.write(
            Path("artefact"),
            data,
            network,
            [Path("model.onnx")],
            catalogue,
            users,
            pl.DataFrame(schema=PEOPLE),
            pl.DataFrame(schema=REPEATS),
            pl.DataFrame(schema={name: EVENTS[name] for name in ("user_id", "item_id", "timestamp")}),
            {"all": list(range(1, 101))},
        )
        offers = pl.DataFrame(
            schema={"user_id": pl.String, "item_id": pl.String, "channel": pl.String}
            | dict.fromkeys(("extra", "click", "response"), pl.Float64)
        )
        decided = decisions(users, catalogue, offers, catalogue, None, shipped()["plan"], "UTC")
        bundle.write_marketing(Path("artefact"), decided, pl.DataFrame(schema=SHOPPERS))
        build_bento(seal(Path("artefact"), unmeasured(items, shoppers)))
        torch.save(network.state_dict(), "model.pt")
        write_json("shape.json", SHAPE)
        write_json("catalogue.json", catalogue.to_dicts())
        write_json("histories.json", {u: h.tolist() for u, h in zip(users, numbers, strict=True)})
    return folder


def unmeasured(items: int, shoppers: int) -> dict:
    """What a manifest says of a model that was never trained."""
    none = {"ndcg@10": None, "recall@10": None}
    return {
        "shop": "large", "max_k": 100, "exclude": "seen", "cutoff": 0, "max_len": SHAPE["max_len"], "items": items, "shoppers": shoppers, "platforms": [],
        "data": {"source": "made", "events": 1, "histories_sha256": "0" * 64}, "code_sha256": code_digest(), "serving_sha256": serving_digest(),
        "model": {"name": "sasrec", "parts": {}}, "params": {}, "metrics": {"test": none, "popularity": none, "item_knn": none}, "quality": {"passed": False, "verified": False},
        "parity": {"max_score_error": None, "top_10_same": None, "shoppers": 0}, "refit": {"refit": False},
        "compression": {"chosen": "int8", "ndcg_kept": None, "bytes": 0, "fp32_bytes": 0}, "inputs": {}, "outputs": {}, "index": None,
    }  # fmt: skip


def footprint(
    target: list[str], users: list[str], settings: dict[str, str] | None = None, starts: int = 3
) -> tuple[float, float]:
    """Median seconds to ready, and MB of a worker after some hundred requests."""
    ready, memory = [], []
    for _ in range(starts):
        with serving(target, settings) as (url, workers, seconds):
            load(url, users, 4, 2)
            ready.append(seconds)
            memory += [w.memory_info().rss / 2**20 for w in workers]
    return float(np.median(ready)), float(np.median(memory))
