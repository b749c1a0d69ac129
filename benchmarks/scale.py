"""Does the whole chain grow with its data and no faster, and does every stage keep within its memory?

    make bench-scale                                            # an hour: 10^5 to 10^7 events, and 10^3 to 10^5 items
    python -m benchmarks.scale --events 1e5 1e6 --items         # a part of it

Runs collect to bundle on the simulated shop (of trainings 300 steps), each stage in a process of its own, whose seconds and peak memory are
measured. Prints a row a stage, writes reports/scale.json and scale.png: `exponents` are slopes of log seconds in log events,
`item_exponents` in log items. Sizes that were measured before, with the same code, are read from data/scale.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.quality import ROOT, STAGES, link_code, shipped
from pipelines.artefact.manifest import code_digest
from pipelines.stage import chart, write_json

ROOT_OF_SIZES = ROOT / "data" / "scale"
EVENTS_A_SHOPPER = 225
STEPS = 300
LIMITS = {"peak_mb": 6000, "events": 1.15, "items": 1.3}
SIZES = {"events": ([1e5, 1e6, 1e7], 10**4), "items": ([1e3, 1e4, 1e5], 10**6)}
CODE = """
import functools, logging, resource, sys
import pytorch_lightning as lightning
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
lightning.Trainer = functools.partial(lightning.Trainer, limit_train_batches={steps})
from pipelines.{stage} import main
main()
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("peak", max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children))
"""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--events", type=float, nargs="*", default=SIZES["events"][0], help=f"with {SIZES['events'][1]:,} items")
    cli.add_argument("--items", type=float, nargs="*", default=SIZES["items"][0], help=f"with {SIZES['items'][1]:,} events")
    cli.add_argument("--out", type=Path, default=ROOT / "reports" / "scale.json")
    chosen = cli.parse_args()
    sizes = [(int(e), SIZES["events"][1]) for e in chosen.events] + [(SIZES["items"][1], int(i)) for i in chosen.items]
    rows = [row for size in dict.fromkeys(sizes) for row in measured(*size, ROOT_OF_SIZES)]
    by_events = [r for r in rows if r["items"] == SIZES["events"][1] and r["events"] in map(int, chosen.events)]
    by_items = [r for r in rows if r["events"] == SIZES["items"][1] and r["items"] in map(int, chosen.items)]
    report = {
        "cores": os.cpu_count(),
        "rows": rows,
        "exponents": exponents(by_events, "events"),
        "item_exponents": exponents(by_items, "items"),
    }
    write_json(chosen.out, report)
    show(report)
    plot(by_events or rows, chosen.out.with_suffix(".png"))


def measured(events: int, items: int, kept: Path) -> list[dict]:
    """A row a stage of the chain on so many simulated events and items."""
    shoppers = max(50, round(events / EVENTS_A_SHOPPER))
    folder, done = kept / f"{events}-{items}", kept / f"{events}-{items}-{code_digest()[:8]}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    link_code(folder)
    params = shipped()
    params["source"]["shop"] |= {"shoppers": shoppers, "items": items}
    params["train"] |= {"epochs": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    rows = []
    for stage in STAGES:
        code = CODE.format(stage=stage, steps=STEPS)
        started = time.perf_counter()
        ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if ran.returncode:
            sys.exit(f"{stage} on {events:,} events and {items:,} items ended with code {ran.returncode}:\n{ran.stderr[-3000:]}")
        peak = int(ran.stdout.split()[-1]) / 1024
        rows.append({"events": events, "items": items, "stage": stage, "seconds": round(seconds, 2), "peak_mb": round(peak)})
        print(
            "{events:>12,} events {items:>8,} items  {stage:<15} {seconds:8.1f} s {peak_mb:8,} MB".format(**rows[-1]), flush=True
        )
    shutil.rmtree(folder)
    done.write_text(json.dumps(rows), encoding="utf-8")
    return rows


def exponents(rows: list[dict], of: str) -> dict[str, float]:
    """The slope of log seconds in log `of`, a stage each, by least squares."""
    found = {}
    for stage in STAGES:
        own = [r for r in rows if r["stage"] == stage]
        if len({r[of] for r in own}) > 1:
            found[stage] = round(
                float(np.polyfit([math.log(r[of]) for r in own], [math.log(r["seconds"]) for r in own], 1)[0]), 3
            )
    return found


def show(report: dict) -> None:
    for name, of in (("exponents", "events"), ("item_exponents", "items")):
        for stage, slope in report[name].items():
            print(f"{stage:<15} seconds grow with {of}^{slope:.2f}" + ("" if slope <= LIMITS[of] else f"  OVER {LIMITS[of]}"))
    for row in report["rows"]:
        if row["peak_mb"] > LIMITS["peak_mb"]:
            print("{stage}: {peak_mb:,} MB at {events:,} events and {items:,} items  OVER".format(**row))


def plot(rows: list[dict], path: Path) -> None:
    with chart(path, 8, "events", "seconds", "Seconds of each stage", scale="log") as axes:
        axes.set_yscale("log")
        for stage in STAGES:
            own = sorted((r["events"], r["seconds"]) for r in rows if r["stage"] == stage)
            axes.plot(*zip(*own, strict=True), marker="o", label=stage)
        axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
