"""Takes somebody out of DVC's cache and remotes: versions of outputs that name them go whole, and tags that pointed to them say so.

In: a DVC repository. Out: which objects were removed from where. A version that goes cannot be rebuilt; what is left of a folder's files in versions that do not name them stays.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.rights.erasing import Done, Names, holds

ERASED = "cannot be rebuilt: erased"


def erase(root: Path, names: Names) -> Iterator[Done]:
    """Removes versions from the cache and from every remote, then marks tags."""
    from dvc.repo import Repo

    gone: set[str] = set()
    with Repo(str(root)) as repo:
        stores = {"the DVC cache": repo.cache.local}
        for name in repo.config["remote"]:
            stores[f"the DVC remote {name}"] = repo.cloud.get_remote_odb(name)
        for place, store in stores.items():
            removed = _from(store, names)
            gone |= removed
            yield Done(place, len(removed), "objects of versions that name them removed")
    yield from _mark(root, gone)


def _from(store, names: Names) -> set[str]:
    """Removes from a store (dvc_data.hashfile.db.HashFileDB) what names them; which objects."""
    known: dict[tuple[str, str], bool] = {}

    def theirs(oid: str, name: str) -> bool:
        key = oid, Path(name).suffix
        if key not in known:
            known[key] = store.exists(oid) and _content(store, oid, lambda path: holds(path, names, name))
        return known[key]

    there = sorted(store.all())
    folders = {
        oid: _content(store, oid, lambda path: json.loads(path.read_text(encoding="utf-8")))
        for oid in there
        if oid.endswith(".dir")
    }
    going = {oid for oid, files in folders.items() if any(theirs(file["md5"], file["relpath"]) for file in files)}
    staying = {file["md5"] for oid, files in folders.items() if oid not in going for file in files}
    listed = {file["md5"] for files in folders.values() for file in files}
    removed = going | {file["md5"] for oid in going for file in folders[oid]} - staying
    removed |= {oid for oid in there if oid not in listed and oid not in folders and theirs(oid, "")}
    removed = {oid for oid in removed if store.exists(oid)}
    for oid in sorted(removed):
        store.delete(oid)
    return removed


def _content(store, oid: str, look: Callable):
    """What is seen in an object; one of a remote is fetched first."""
    path = store.oid_to_path(oid)
    if store.fs.protocol == "local":
        return look(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "object")
        store.fs.get_file(path, str(here))
        return look(here)


def _mark(root: Path, gone: set[str]) -> Iterator[Done]:
    """Tags whose dvc.lock names an object that is gone get a message that says so."""
    for tag in _git(root, "tag", "--list").splitlines():
        lock = _git(root, "show", f"{tag}:dvc.lock")
        if any(oid in lock for oid in gone) and ERASED not in _git(root, "tag", "--list", "--format=%(contents)", tag):
            commit = _git(root, "rev-parse", f"{tag}^{{commit}}").strip()
            _git(root, "-c", "user.name=pushcart", "-c", "user.email=pushcart@localhost", "tag", "--force", "--annotate", "--message", ERASED, tag, commit)  # fmt: skip
            yield Done(f"the tag {tag}", 1, f"marked: {ERASED}")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, encoding="utf-8", errors="replace").stdout
