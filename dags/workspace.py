"""A run's own place: a git clone of the checkout over the shared DVC cache, opened before the stages and closed after.

What the run did is saved there as a DVC experiment named after the run and pushed to the checkout, so that `dvc exp show`
lists it and `dvc exp apply` brings it back. Two runs never meet. Calls git and dvc; imports neither, and no Airflow.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from pipelines import settings

LONGEST = 120  # letters of a run's id that its name keeps
WHOLE_RUNS = 20  # closed runs whose artefact and bento are kept
HEAVY = ("artefact", "bento")
# What a person reads of a run; kept when its clone goes.
KEPT = ("reports", "bento", "artefact", "params.yaml", "dvc.lock")


class RunError(Exception):
    """A run cannot be opened or saved; the message says what to do."""


def run_name(run_id: str) -> str:
    """The experiment's name: the Airflow run's, with what git or a file system does not allow in a name replaced. Where anything was
    replaced a few letters are added, so that no two runs share a name.
    """
    plain = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]|\.(?=\.|$)|(?<![^/])\.", "-", run_id[:LONGEST])).strip("-.")
    plain = re.sub(r"\.lock$", "-lock", plain)
    if plain == run_id:
        return plain
    return f"{plain or 'run'}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def folder(checkout: Path, run_id: str) -> Path:
    return checkout / ".airflow" / "runs" / run_name(run_id)


def open_run(checkout: Path, run_id: str, form: dict, environment: str) -> Path:
    """Clones the checkout's HEAD, fills the form into its params.yaml, and returns the clone.

    Args:
        form: values by dotted name of params.yaml ("train.epochs"); None leaves what stands there.
        environment: what new runs are held against (the `baseline` section).

    Raises:
        RunError: the name, the data or a setting cannot be used, or git refuses.
    """
    named = ["git", "check-ref-format", f"refs/exps/run/{run_name(run_id)}"]
    if subprocess.run(named, cwd=checkout, capture_output=True).returncode:
        raise RunError(f"git cannot name an experiment {run_name(run_id)!r}; start the run under another id")
    clone = folder(checkout, run_id)
    shutil.rmtree(clone, ignore_errors=True)
    _clone(checkout, clone)
    from ruamel.yaml import YAML  # keeps the comments, which PyYAML drops

    editor = YAML()
    editor.width = 200
    editor.preserve_quotes = True  # a plain 2:4 is a number of YAML 1.1, which the stages read
    editor.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    params = editor.load((clone / "params.yaml").read_text(encoding="utf-8"))
    for name, value in form.items():
        if value is not None:
            _set(params, name, value)
    data = Path(params["source"]["data"]).expanduser()
    if not (clone / data).exists():  # not a file of the repository: a path as seen from the checkout
        data = (checkout / data).resolve()
        if not data.exists():
            raise RunError(f"source.data: {data} is not there")
        params["source"]["data"] = str(data)
    if params["source"]["name"] == "log" and params["source"]["until"] is None:
        params["source"]["until"] = datetime.now(UTC).isoformat()  # events go on coming in while the run reads them
    if isinstance(params["source"]["mapping"], str):
        try:
            params["source"]["mapping"] = settings.mapping_of(checkout / params["source"]["mapping"])
        except settings.SettingsError as error:
            raise RunError(f"source.mapping: {error}") from error
    with (clone / "params.yaml").open("w", encoding="utf-8") as file:
        editor.dump(params, file)
    try:
        shop = settings.load(clone / "params.yaml").shop()
    except settings.SettingsError as error:
        raise RunError(str(error)) from error
    params["baseline"].update(baseline(checkout, environment, shop))
    with (clone / "params.yaml").open("w", encoding="utf-8") as file:
        editor.dump(params, file)
    return clone


def ready(clone: Path) -> None:
    """Makes a run's folder fit for a stage: locks of processes that ended go, and a clone that was closed is opened again.

    Raises:
        RunError: there is no such run.
    """
    if not (clone / ".git").exists():
        _reopen(clone)
    lock = clone / ".dvc" / "tmp" / "rwlock"
    try:
        held = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:  # cut off while it was written
        lock.unlink(missing_ok=True)
        return
    read = {path: [h for h in holders if _lives(h["pid"])] for path, holders in held.get("read", {}).items()}
    write = {path: holder for path, holder in held.get("write", {}).items() if holder and _lives(holder["pid"])}
    living = {"read": {path: holders for path, holders in read.items() if holders}, "write": write}
    if living != held:
        partial = lock.with_name("rwlock.partial")
        partial.write_text(json.dumps(living), encoding="utf-8")
        os.replace(partial, lock)


def _reopen(clone: Path) -> None:
    """A task that is cleared in a finished run finds its clone as it was left: params.yaml, dvc.lock, and all outputs from DVC's cache."""
    checkout, kept = clone.parents[2], {}
    for name in ("params.yaml", "dvc.lock"):
        if not (clone / name).exists():
            raise RunError(f"the run {clone.name} has no {name} any more; clear its first task, `open`, to run it anew")
        kept[name] = (clone / name).read_bytes()
    shutil.rmtree(clone)
    _clone(checkout, clone)
    for name, content in kept.items():
        (clone / name).write_bytes(content)
    subprocess.run(
        [*_DVC, "checkout", "--quiet", "--force"], cwd=clone, capture_output=True
    )  # what the cache lacks is made again


def _lives(pid: int) -> bool:
    """Is there such a process, and no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def committed(checkout: Path, name: str) -> str:
    """The text of a file as it was last committed; as it stands, where git does not know it."""
    shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=checkout, capture_output=True, text=True, encoding="utf-8")
    return shown.stdout if not shown.returncode else (checkout / name).read_text(encoding="utf-8")


def listed(checkout: Path, below: str) -> list[str]:
    """The files below a folder that are committed; those that stand there, where git does not know the checkout."""
    shown = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD", f"{below}/"], cwd=checkout, capture_output=True, text=True, encoding="utf-8"
    )
    return (
        shown.stdout.splitlines() if not shown.returncode else [f"{below}/{file.name}" for file in (checkout / below).iterdir()]
    )


def baseline(checkout: Path, environment: str, shop: str) -> dict:
    """What a run of the same shop is held against: the manifest of what the environment serves, where it serves any."""
    from deploy.promotion.environments import Environment, EnvironmentProblem
    from deploy.serving.artefact import ArtefactError, read_manifest

    try:
        target = Environment(checkout, environment)
        current = target.entries()["current"]
        manifest = read_manifest(target.bento(current["version"]) / "src" / "artefact") if current else None
    except (EnvironmentProblem, ArtefactError):
        manifest = None
    if manifest is None or manifest["shop"] != shop:
        return {"shop": None, "rows": None, "ndcg": None}
    return {"shop": shop, "rows": manifest["data"]["events"], "ndcg": manifest["metrics"]["test"]["ndcg@10"]}


def save_run(checkout: Path, run_id: str) -> str:
    """Saves the clone's state as an experiment of the checkout; returns its name. Saving again replaces it."""
    clone, name = folder(checkout, run_id), run_name(run_id)
    _dvc(clone, "exp", "save", "--quiet", "--force", "--name", name, "--include-untracked", "dvc.lock")
    _dvc(clone, "exp", "push", "--quiet", "--force", "--no-cache", "origin", name)
    return name


def close_run(checkout: Path, run_id: str) -> Path:
    """Removes the clone, save what people read of a run; returns the folder."""
    clone = folder(checkout, run_id)
    for entry in clone.iterdir():
        if entry.name not in KEPT:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    _prune(clone.parent)
    return clone


def _prune(runs: Path) -> None:
    """Removes the artefact and the bento of closed runs but for the newest WHOLE_RUNS; `dvc exp apply RUN` brings them back."""
    closed = [run for run in runs.iterdir() if (run / "params.yaml").exists() and not (run / ".git").exists()]
    for run in sorted(closed, key=lambda r: (r / "params.yaml").stat().st_mtime, reverse=True)[WHOLE_RUNS:]:
        for name in HEAVY:
            shutil.rmtree(run / name, ignore_errors=True)


def _clone(checkout: Path, clone: Path) -> None:
    """A clone of the checkout's HEAD over its DVC cache."""
    clone.parent.mkdir(parents=True, exist_ok=True)
    try:
        _git(checkout, "clone", "--quiet", "--local", str(checkout), str(clone))
    except subprocess.CalledProcessError as error:
        raise RunError(f"cannot clone {checkout}: {error.stderr.strip()}; a run works on what is committed") from error
    for key in ("user.name", "user.email"):
        _git(clone, "config", key, _setting(checkout, key))
    cache = subprocess.run([*_DVC, "cache", "dir"], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()
    shared = checkout / cache
    if shared.is_relative_to(checkout):  # DVC's configuration is ASCII, a checkout's path need not be
        shared = Path(os.path.relpath(shared, clone))
    _dvc(clone, "cache", "dir", "--local", str(shared))


_DVC = (sys.executable, "-m", "dvc")


def _dvc(cwd: Path, *arguments: str) -> None:
    done = subprocess.run([*_DVC, *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"dvc {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")


def _git(cwd: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


def _setting(checkout: Path, key: str) -> str:
    """The checkout's git identity, or a plain one: a run needs no one's name to be saved."""
    found = subprocess.run(["git", "config", key], cwd=checkout, capture_output=True, text=True).stdout.strip()
    return found or {"user.name": "pushcart", "user.email": "pushcart@localhost"}[key]


def _set(params: dict, name: str, value: object) -> None:
    *sections, key = name.split(".")
    for section in sections:
        params = params[section]
    if key not in params:
        raise RunError(f"params.yaml has no {name}")
    params[key] = value
