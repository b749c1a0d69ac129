"""What every stage shares: how it runs as a program, outputs that appear whole or not at all, JSON reports, charts.

A stage is a program: files in, files out, settings from params.yaml, progress on stderr. Its exit code says whether another try can
help: NEVER_RETRY says that it cannot. Knows nothing of events, models or Airflow.
"""

import argparse
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("pushcart")

NEVER_RETRY = 78  # exit code of a refusal: the data or a setting is wrong, and stays wrong (EX_CONFIG of sysexits.h)
REFUSAL = Path("reports/refusal.json")  # what the last stage that refused said


class StageError(Exception):
    """The input or a setting is wrong: the message says which, where and what to do. Shown without a traceback, never tried again."""


def params(*sections: str) -> dict | list[dict]:
    """The named sections of params.yaml in the working directory: one dict, or a list of them.

    Raises:
        StageError: the file cannot be used (pipelines/settings.py).
    """
    from pipelines import settings  # pydantic, which a machine that only trains may lack

    try:
        document = settings.load().model_dump()
    except settings.SettingsError as error:
        raise StageError(str(error)) from error
    found = [document[section] for section in sections]
    return found[0] if len(found) == 1 else found


def checkout() -> Path:
    """Where what outlives a run is kept: the checkout that a run's clone was made of, else the working directory."""
    return Path(os.environ.get("PUSHCART_CHECKOUT") or Path.cwd())


def shop_name() -> str:
    """The name under which runs of this shop are compared (settings.Settings.shop)."""
    from pipelines import settings

    return settings.load().shop()


@contextmanager
def scratch(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, for this process alone; it is removed when the block ends.

    A folder that a process left there when it was killed is removed and named in the log.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        if _abandoned(left):
            log.info("%s was left half-written by a process that ended; it is removed and made again", left)
            shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    partial.chmod(0o755)
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # held while this process lives
    try:
        yield partial
    finally:
        os.close(handle)
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def output(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `path`, on disk, only when the block ends without an error."""
    path = Path(path)
    with scratch(path) as partial:
        yield partial
        sync(partial)
        before = partial.with_suffix(".before")
        if path.exists():
            path.rename(before)
        partial.rename(path)
        _sync_one(path.parent)
        shutil.rmtree(before, ignore_errors=True)


def sync(folder: Path) -> None:
    """Waits until all files below the folder are on disk, so that a power cut after a rename finds them whole."""
    for found in [*folder.rglob("*"), folder]:
        _sync_one(found)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside and gives it this name: it appears, or takes the old one's place, whole and on disk."""
    beside = path.with_name(f".{path.name}.partial")
    write(beside)
    if path.exists():
        shutil.copymode(path, beside)
    _sync_one(beside)
    os.replace(beside, path)
    _sync_one(path.parent)


def write_json(path: str | Path, document: object) -> None:
    """Writes `document` as indented UTF-8 JSON; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def read_json(path: str | Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


@contextmanager
def chart(path: Path, width: float, x: str, y: str, title: str, scale: str = "log") -> Iterator:
    """Axes with a logarithmic x, or another scale; what is drawn on them is in the PNG file `path` afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, 5), layout="constrained")
    yield axes
    axes.set(xscale=scale, xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(stage: Callable[[], None]) -> None:
    """Runs a stage as a program: --help prints its module's first lines; a StageError is one clear line, exit code NEVER_RETRY."""
    module = sys.modules[stage.__module__]
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.__spec__.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Settings come from params.yaml in the working directory.",
    )
    parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' advice to their callers' authors; python -W shows it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is half-written is removed
    _end_with_dvc()
    REFUSAL.unlink(missing_ok=True)
    try:
        params()
        stage()
    except StageError as error:
        write_json(REFUSAL, {"stage": module.__spec__.name.rpartition(".")[2], "reason": str(error)})
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NEVER_RETRY)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _abandoned(folder: Path) -> bool:
    """Has the process that wrote into this folder ended?"""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_with_dvc() -> None:
    """Ends this process when the `dvc` that started it ends, however: else a killed `dvc repro` would leave its stage running beside the
    next try's.
    """
    ancestors, pid = [], os.getpid()
    while len(ancestors) < 4 and (parent := _parent(pid)) and parent > 1:
        ancestors.append((pid, parent))
        if "dvc" in _command(parent):
            break
        pid = parent
    else:
        return

    def watch() -> None:
        while all(_parent(pid) == parent for pid, parent in ancestors):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def _command(pid: int) -> list[str]:
    """The names of a process's program and arguments, without folders."""
    try:
        return [Path(os.fsdecode(a)).name for a in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []
