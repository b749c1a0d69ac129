"""What tests share: a workspace with small settings, and one small run of the whole chain that many tests look at."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from pipelines.machine import threads

for variable, value in threads().items():  # as stages do for themselves; libraries read these when they are imported
    if variable.endswith("_THREADS") and "PYTEST_XDIST_WORKER" in os.environ:
        os.environ[variable] = "1"  # a worker a core: more threads each would only wait for one another
    else:
        os.environ.setdefault(variable, value)

pytest_plugins = ["tests.engines"]
ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"
STAGES = (
    "collect",
    "freshness",
    "link",
    "check",
    "prepare",
    "segment",
    "check_prepared",
    "embed",
    "assist",
    "train",
    "evaluate",
    "export",
    "compress",
    "refit",
    "replay",
    "explain",
    "predict",
    "uplift",
    "bundle",
    "plan",
    "report",
)


def small_params() -> dict:
    """params.yaml, sized for tests."""
    from benchmarks.quality import shipped  # NumPy, which reads at once how many threads it may have

    params = shipped()
    params["source"]["data"] = str(ROOT / "pipelines/data/sources/shop.yaml")
    params["source"]["shop"] |= {"shoppers": 300, "items": 120, "days": 30}
    params["train"] |= {"model": "sasrec", "width": 32, "layers": 1, "heads": 2, "epochs": 3, "max_len": 20, "batch_users": 32}
    params["embed"]["cache"] = str(Path(tempfile.gettempdir()) / f"pushcart-test-vectors-{os.getuid()}.sqlite")
    params["evaluate"]["bootstrap"], params["explain"]["shoppers"] = 50, 10
    params["compress"]["steps"] = {"table": ["int8", "int4"], "layers": ["weight4"], "units": [0.5]}
    return params


def make_workspace(folder: Path, params: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (
        "expectations",
        "campaigns",
        "pipelines",
        "marketing",
        "models",
        "deploy",
        "online",
        "privacy",
        "service",
        "help",
    ):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    return folder


def eventually(true: Callable[[], bool], seconds: float = 30) -> bool:
    """Does it become true within so many seconds?"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


def run_stages(*names: str) -> None:
    """Runs stages in this process, in the working directory."""
    from importlib import import_module

    for name in names:
        import_module(f"pipelines.{name}").main()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a workspace with changed settings (dotted names) and enters it."""

    def make(**changes: object) -> Path:
        params = small_params()
        for name, value in changes.items():
            *sections, key = name.split("__")
            target = params
            for section in sections:
                target = target[section]
            target[key] = value
        folder = make_workspace(tmp_path / "workspace", params)
        monkeypatch.chdir(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage has run on a small shop; made once for all workers. Do not write to it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pushcart-finished"
    with FileLock(f"{shared}.lock"), pytest.MonkeyPatch.context() as patch:
        if not (shared / "bento").exists():
            shutil.rmtree(shared, ignore_errors=True)
            patch.chdir(make_workspace(shared, small_params()))
            run_stages(*STAGES)
    return shared


@pytest.fixture
def real_data():
    """A function from a dataset's name to its folder; skips where the real data is not there."""

    def find(name: str) -> Path:
        if not (REAL_DATA / name).exists():
            pytest.skip(f"real data {name} is not beside this checkout")
        return REAL_DATA / name

    return find


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished workspace that a test may change."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder
