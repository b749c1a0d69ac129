"""How fast is a shop's file read, beside Polars' own scan of it?

    python -m benchmarks.read                      # 10^7 rows of CSV, plain and gzipped; three minutes
    python -m benchmarks.read --rows 1e6

Writes a log of so many rows, reads it as the stage collect does (every line held against its form, what columns hold counted, the tables written) and
as Polars alone would (scanned and written), each in a process of its own. Prints seconds, their ratio and peak memory; writes reports/read.json.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.quality import ROOT, link_code, shipped
from pipelines.stage import write_json

LIMITS = {"seconds": 60, "peak_mb": 2000}  # of 10^7 rows on two cores
COLLECT = "from pipelines.collect import main; main()"
SCAN = "import polars as pl; pl.scan_csv({path!r}, infer_schema=False).sink_parquet('plain.parquet')"
MEASURED = "\nimport resource; print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
BLOCK = 100_000


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--rows", type=float, default=1e7)
    cli.add_argument("--out", type=Path, default=ROOT / "reports" / "read.json")
    chosen = cli.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "data" if (ROOT / "data").exists() else None) as folder:
        report = {"cores": os.cpu_count(), "rows": int(chosen.rows), "files": measured(Path(folder), int(chosen.rows))}
    write_json(chosen.out, report)
    print(json.dumps(report))


def measured(folder: Path, rows: int) -> list[dict]:
    """A row a file: seconds and peak memory of collect, and of Polars' scan."""
    write(folder / "shop.csv", rows)
    with (folder / "shop.csv").open("rb") as plain, gzip.open(folder / "shop.csv.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
    found = []
    for name in ("shop.csv", "shop.csv.gz"):
        workspace = folder / f"workspace-{name}"
        workspace.mkdir()
        link_code(workspace)
        params = shipped()
        params["source"] |= {"name": "files", "data": str(folder / name)}
        (workspace / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
        seconds, peak = timed(COLLECT, workspace)
        plain, plain_peak = timed(SCAN.format(path=str(folder / name)), workspace)
        row = {
            "file": name,
            "seconds": seconds,
            "peak_mb": peak,
            "polars_seconds": plain,
            "polars_peak_mb": plain_peak,
            "ratio": round(seconds / plain, 2),
        }
        found.append(row)
        over = "" if rows < 1e7 or (seconds <= LIMITS["seconds"] and peak <= LIMITS["peak_mb"]) else "  OVER"
        print(
            "{file}: {seconds} s, {peak_mb:,} MB; Polars' scan {polars_seconds} s, {polars_peak_mb:,} MB; ratio {ratio}".format(
                **row
            )
            + over,
            flush=True,
        )
    return found


def write(path: Path, rows: int) -> None:
    """A log of `rows` events, in no special order."""
    kinds = ("view", "view", "view", "cart", "purchase")
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id,item_id,event,timestamp,price,title\n")
        for start in range(0, rows, BLOCK):
            lines = (
                f"u{i * 7919 % 200_003},p{i * 104_729 % 10_007},{kinds[i % 5]},{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(1_700_000_000 + i // 4))},"
                f"{i * 104_729 % 10_007 / 10 + 1:.2f},Mug {i * 104_729 % 10_007}\n"
                for i in range(start, min(start + BLOCK, rows))
            )
            file.writelines(lines)


def timed(code: str, folder: Path) -> tuple[float, int]:
    """Seconds and peak MB of the code in a process of its own."""
    started = time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", code + MEASURED], cwd=folder, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{code} ended with code {ran.returncode}:\n{ran.stderr[-3000:]}")
    return round(time.perf_counter() - started, 2), int(ran.stdout.split()[-1]) // 1024


if __name__ == "__main__":
    main()
