"""Clones of this checkout in which the simulated shop was run from end to end."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.quality import ROOT
from pipelines.settings import Yaml

SMALL = {"model": "sasrec", "width": 32, "layers": 1, "epochs": 2, "max_len": 20}  # of `train`


def ran(checkout: Path, *stages: str, **changed: dict) -> Path:
    """A clone in which some stages ran, and what they need. changed: sections of params.yaml, and what is new in them."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    file = checkout / "params.yaml"
    params = yaml.load(file.read_text(encoding="utf-8"), Yaml)
    for section, values in changed.items():
        params[section] |= values
    file.write_text(yaml.safe_dump(params), encoding="utf-8")
    for words in (["add", "-A"], ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "small"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    repro(checkout, *stages)
    return checkout


def shop(shoppers: int, items: int, days: int) -> dict:
    """`source` of a simulated shop of another size."""
    shipped = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"), Yaml)["source"]["shop"]
    return {"shop": shipped | {"shoppers": shoppers, "items": items, "days": days}}


def repro(checkout: Path, *stages: str) -> None:
    """Raises: RuntimeError: a stage failed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", "-q", *stages]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=os.environ | {"PATH": path})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
