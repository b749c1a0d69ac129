"""Kills every stage with SIGKILL at random moments, runs it again, and holds its outputs against those of an undisturbed run, bit for bit.

    make kills                                   10 kills a stage, about an hour
    python -m benchmarks.kills --kills 1 --stages collect prepare

Works in data/kills on a small simulated shop. Prints a row a stage and writes reports/kills.json; ends with code 1 where any output differs.
What is left out of the comparison: reports/latency.json, which holds milliseconds.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.quality import ROOT, STAGES, link_code, shipped

TIMED = {"reports/latency.json"}
SMALL = {
    "source": {"shop": {"shoppers": 300, "items": 120, "days": 30}},
    "train": {"width": 32, "layers": 1, "heads": 2, "epochs": 4, "max_len": 20, "batch_users": 32},
    "compress": {"steps": {"table": ["int8"], "layers": ["weight4"], "units": [0.5]}},
}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--kills", type=int, default=10, help="of each stage")
    cli.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    cli.add_argument("--seed", type=int, default=0, help="of the moments")
    cli.add_argument("--folder", type=Path, default=ROOT / "data" / "kills")
    cli.add_argument("--out", type=Path, default=ROOT / "reports" / "kills.json")
    chosen = cli.parse_args()
    rows = walk(chosen.folder, chosen.stages, chosen.kills, random.Random(chosen.seed))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["different"] or row["left"] for row in rows))


def walk(folder: Path, stages: list[str], kills: int, moments: random.Random) -> list[dict]:
    """A row a stage: kills, how many hit a running process, the files that differed, what was left half-written."""
    shutil.rmtree(folder, ignore_errors=True)
    whole, broken = workspace(folder / "undisturbed"), folder / "killed"
    rows = []
    for stage in STAGES:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", f"pipelines.{stage}"], cwd=whole, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        if stage not in stages:
            continue
        expected, hits, different, left = contents(whole), 0, set(), set()
        for _ in range(kills):
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(whole, broken, symlinks=True)
            for name in outputs(stage):  # as DVC does before a stage runs
                path = broken / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            hits += killed(broken, stage, moments.uniform(0, seconds))
            subprocess.run([sys.executable, "-m", f"pipelines.{stage}"], cwd=broken, check=True, capture_output=True)
            found = contents(broken)
            different |= {n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)}
            left |= {str(p.relative_to(broken)) for p in broken.rglob("*.partial")} | {
                str(p) for p in broken.glob("data/.checkpoints/*")
            }
        row = {
            "stage": stage,
            "seconds": round(seconds, 1),
            "kills": kills,
            "hit": hits,
            "different": sorted(different),
            "left": sorted(left),
        }
        rows.append(row)
        print(f"{stage:<15} {kills} kills, {hits} of a running process: " + ("the same bits" if not different else f"DIFFERENT: {sorted(different)}")
              + (f"; left: {sorted(left)}" if left else ""), flush=True)  # fmt: skip
    return rows


def workspace(folder: Path) -> Path:
    folder.mkdir(parents=True)
    link_code(folder)
    (folder / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    params = shipped()
    params["source"]["data"] = str(ROOT / "pipelines" / "data" / "sources" / "shop.yaml")
    params["source"]["shop"] |= SMALL["source"]["shop"]
    for section in ("train", "compress"):
        params[section] |= SMALL[section]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    return folder


def outputs(stage: str) -> list[str]:
    spec = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    entries = [e for section in ("outs", "metrics", "plots") for e in spec.get(section) or []]
    return [e if isinstance(e, str) else next(iter(e)) for e in entries]


def killed(folder: Path, stage: str, after: float) -> bool:
    """Starts the stage and kills it after so many seconds; had it not ended before?"""
    running = subprocess.Popen([sys.executable, "-m", f"pipelines.{stage}"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    try:
        running.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        return True
    return False


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every output."""
    found = {}
    for part in ("data", "reports", "artefact", "bento"):
        for path in (folder / part).rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in TIMED and ".checkpoints" not in path.parts:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    main()
