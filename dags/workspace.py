"""A run's own place: a git clone of the checkout over the shared DVC cache, opened before the stages and closed after.

What the run did is saved there as a DVC experiment named after the run and pushed to the checkout, so that `dvc exp show`
lists it and `dvc exp apply` brings it back. Two runs never meet. Calls git and dvc; imports neither, and no Airflow.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

# What a person reads of a run; kept when its clone goes.
KEPT = ("reports", "bento", "artefact", "params.yaml", "dvc.lock")


class RunError(Exception):
    """A run cannot be opened or saved; the message says what to do."""


def run_name(run_id: str) -> str:
    """The experiment's name: the Airflow run's, with what git does not allow in a name replaced."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._]", "-", run_id)).strip("-.")


def folder(checkout: Path, run_id: str) -> Path:
    return checkout / ".airflow" / "runs" / run_name(run_id)


def open_run(checkout: Path, run_id: str, form: dict, production: Path) -> Path:
    """Clones the checkout's HEAD, fills the form into its params.yaml, and returns the clone.

    Args:
        form: values by dotted name of params.yaml ("train.epochs"); None leaves what stands there.
        production: deploy/environments/<name>.yaml of what new runs are held against (the `baseline` section).
    """
    clone = folder(checkout, run_id)
    shutil.rmtree(clone, ignore_errors=True)
    clone.parent.mkdir(parents=True, exist_ok=True)
    try:
        _git(checkout, "clone", "--quiet", "--local", str(checkout), str(clone))
    except subprocess.CalledProcessError as error:
        raise RunError(f"cannot clone {checkout}: {error.stderr.strip()}; a run works on what is committed") from error
    for key in ("user.name", "user.email"):
        _git(clone, "config", key, _setting(checkout, key))
    cache = subprocess.run([*_DVC, "cache", "dir"], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()
    _dvc(clone, "cache", "dir", "--local", str(checkout / cache))
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
    if isinstance(params["source"]["mapping"], str):
        params["source"]["mapping"] = _mapping(checkout / params["source"]["mapping"])
    params["baseline"].update(baseline(checkout, production, f"{params['source']['name']}:{params['source']['data']}"))
    with (clone / "params.yaml").open("w", encoding="utf-8") as file:
        editor.dump(params, file)
    return clone


def baseline(checkout: Path, production: Path, source: str) -> dict:
    """What a run of the same source is held against: the manifest of what the environment serves, where it serves any."""
    empty = {"source": None, "rows": None, "ndcg": None, "vocabulary": None}
    current = (yaml.safe_load(production.read_text(encoding="utf-8")) or {}).get("current") if production.exists() else None
    if not current:
        return empty
    artefact = checkout / ".environments" / production.stem / "bentos" / current["version"] / "src" / "artefact"
    if not (artefact / "manifest.json").exists():
        return empty
    manifest = json.loads((artefact / "manifest.json").read_text(encoding="utf-8"))
    if manifest["data"]["source"] != source:
        return empty
    return {
        "source": source,
        "rows": manifest["data"]["events"],
        "ndcg": manifest["metrics"]["test"]["ndcg@10"],
        "vocabulary": str(artefact / "item_ids.npy"),
    }


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
    return clone


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


def _mapping(path: Path) -> dict:
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"source.mapping: {path} cannot be read as YAML: {error}") from error
    if not isinstance(mapping, dict):
        raise RunError(f"source.mapping: {path} is not a mapping of tables (events:, items:, users:)")
    return mapping
