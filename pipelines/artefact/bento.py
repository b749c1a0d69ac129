"""The bento around an artefact: a folder that `bentoml serve` runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import yaml

from pipelines.artefact.manifest import BESIDE, SERVING
from pipelines.stage import StageError, output

BENTO_TIME = "1970-01-01T00:00:00+00:00"  # the bento is named by content, so the hour it was built says nothing


def build_bento(version: str, *more: str) -> None:
    """Builds ./bento from the artefact and deploy/'s service, which it holds a copy of; `more` packages than it needs always."""
    with tempfile.TemporaryDirectory() as scratch:
        context, store = Path(scratch, "context"), Path(scratch, "store")
        shutil.copytree("artefact", context / "artefact")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SERVING, context / "deploy" / "serving", ignore=ignored)
        for package in BESIDE:
            shutil.copytree(package, context / package, ignore=ignored)
        shutil.copy("deploy/__init__.py", context / "deploy")
        # The service pins what it imports and nothing else: no torch, no training code.
        recipe = {
            "service": "deploy.serving.service:Pushcart",
            "name": "pushcart",
            "labels": {"version": version},
            "include": ["deploy/*.py", "deploy/serving/*", "online/*", "privacy/*", "service/*", "artefact/*"],
            "python": {
                "packages": pinned(
                    "bentoml",
                    "cryptography",
                    "jsonschema",
                    "numpy",
                    "onnxruntime-gpu",
                    "prometheus-client",
                    "redis",
                    "rjieba",
                    "tzdata",
                    *more,
                ),
                "lock_packages": False,
            },
        }
        (context / "bentofile.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "bentoml", "build", ".", "--version", version]
        environment = os.environ | {"BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True"}
        built = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True)
        if built.returncode:
            raise StageError(f"BentoML could not build the bento: {built.stderr.strip()[-2000:]}")
        with output("bento") as folder:
            shutil.copytree(store / "bentos" / "pushcart" / version, folder, dirs_exist_ok=True)
            described = yaml.safe_load((folder / "bento.yaml").read_text(encoding="utf-8"))
            described["creation_time"] = BENTO_TIME
            (folder / "bento.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def pinned(*packages: str) -> list[str]:
    """Requirements of the versions installed here."""
    return [f"{name}=={metadata.version(name)}" for name in packages]
