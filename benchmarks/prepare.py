"""Is preparation linear in events, and does it stay under 4 GB for 10 million?

    python -m benchmarks.prepare            # 1, 3 and 10 million events of the simulated shop
    python -m benchmarks.prepare --millions 1

Each size is collected, its rows without user, item, time, known event or possible price left out (as the check would), and prepared in a
process of its own, whose seconds and peak memory are measured. Prints a table, writes reports/bench_prepare.json.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import yaml

from benchmarks.quality import ROOT, link_code
from pipelines.stage import write_json

EVENTS_A_SHOPPER = 209


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--millions", type=float, nargs="+", default=[1, 3, 10])
    rows = [measure(m) for m in cli.parse_args().millions]
    first = rows[0]
    for row in rows:
        row["seconds_beside_linear"] = round((row["seconds"] / first["seconds"]) / (row["events"] / first["events"]), 2)
        print("{events:>12,} events  {seconds:7.1f} s  {peak_mb:7,.0f} MB  {seconds_beside_linear:.2f} x linear".format(**row))
    write_json(ROOT / "reports" / "bench_prepare.json", {"cores": os.cpu_count(), "rows": rows})


def measure(millions: float) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        link_code(folder)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["source"]["shop"] |= {"shoppers": int(millions * 1e6 / EVENTS_A_SHOPPER), "items": 20_000}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        stage(folder, "collect")
        (folder / "data/checked").mkdir()
        whole = (
            pl.scan_parquet(folder / "data/raw/events.parquet")
            .drop_nulls(["user_id", "timestamp"])
            .filter(pl.col("event") != "hover", pl.col("price").fill_null(0) >= 0)
        )
        whole.sink_parquet(folder / "data/checked/events.parquet")
        shutil.copy(folder / "data/raw/items.parquet", folder / "data/checked/items.parquet")
        events = whole.select(pl.len()).collect().item()
        seconds, peak = stage(folder, "prepare")
        return {"events": events, "seconds": round(seconds, 2), "peak_mb": round(peak)}


def stage(folder: Path, name: str) -> tuple[float, float]:
    """Runs a stage in a process of its own; returns its seconds and its peak memory in MB."""
    code = (
        f"import resource; from pipelines.{name} import main; main(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024


if __name__ == "__main__":
    main()
