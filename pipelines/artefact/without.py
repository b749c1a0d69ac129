"""An artefact, and the bento around it, without somebody: the same model, the same answers to everybody else, another version.

In: a folder (deploy/serving/artefact.py, histories.py, decisions.py) and by which ids they are known. Out: the folder, whose files no longer hold what they did; they count the shoppers that are left.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from pipelines.artefact.catalogue import hash_of, ids
from pipelines.artefact.manifest import seal
from pipelines.stage import output, read_json

BY_OFFSETS = {
    "history": ("items", "times", "actions"),
    "bought": ("items", "last", "due_from", "due_until", "rhythm"),
    "offer": ("items", "channels", "chances"),
}
MADE = ("version", "schema", "model_bytes", "files")  # what of a manifest `seal` says itself
HASHES = ("user_ids_hashes.npy", "linked_ids_hashes.npy")  # say whose an artefact is
TITLED = ("README.md", "src/bentofile.yaml", "bento.yaml")  # files of a bento that name its version; the last says which it is


def named(hashes: Path, names: list[str]) -> bool:
    """Whether an artefact knows one of these. hashes: one of its HASHES, whatever it is called."""
    wanted = np.array([hash_of(name.encode()) for name in names], dtype=np.uint64)
    return bool(np.isin(wanted, np.load(hashes, allow_pickle=False)).any())


def in_base(file: Path, names: list[str]) -> int:
    """How many rows of the table of shoppers are theirs."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as base:
        if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'shoppers'").fetchone():
            return 0
        asked = f"SELECT count(*) FROM shoppers WHERE user_id IN ({', '.join('?' * len(names))})"
        return base.execute(asked, names).fetchone()[0]


def rewrite(artefact: Path, names: list[str]) -> bool:
    """Makes an artefact again without somebody; of one inside a bento the bento too. Whether they were in it."""
    if artefact.parent.name == "src" and (artefact.parents[1] / TITLED[-1]).exists():
        found = _rewritten(artefact, names)
        _retitle(artefact.parents[1], read_json(artefact / "manifest.json")["version"])
        return found
    return _rewritten(artefact, names)


def _rewritten(artefact: Path, names: list[str]) -> bool:
    users = _texts(artefact, "user_ids")
    kept = ~users.is_in(names).to_numpy()
    if kept.all() and not _texts(artefact, "linked_ids").is_in(names).any() and not in_base(artefact / "shoppers.sqlite", names):
        return False
    manifest = read_json(artefact / "manifest.json")
    with output(artefact) as folder:
        shutil.copytree(artefact, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        _keep(folder, kept, users.filter(kept))
        _links_without(folder, names)
        _shoppers_without(folder / "shoppers.sqlite", names)
        facts = {key: value for key, value in manifest.items() if key not in MADE}
        seal(folder, facts | {"shoppers": int(kept.sum())})
    return True


def _retitle(bento: Path, version: str) -> None:
    """Gives a bento the version of its artefact."""
    before = yaml.safe_load((bento / TITLED[-1]).read_text(encoding="utf-8"))["version"]
    for name in TITLED if before != version else ():
        text = (bento / name).read_text(encoding="utf-8")
        (bento / name).write_text(text.replace(before, version), encoding="utf-8")


def _texts(folder: Path, name: str) -> pl.Series:
    text, ends = (np.load(folder / f"{name}_{part}.npy", allow_pickle=False) for part in ("text", "ends"))
    content = text.tobytes()
    found = [content[a:b].decode() for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return pl.Series(found, dtype=pl.String)


def _keep(folder: Path, kept: np.ndarray, users: pl.Series) -> None:
    """Keeps of all arrays the rows of these shoppers."""
    arrays = ids("user_ids", users) | {"user_zones": np.load(folder / "user_zones.npy")[kept]}
    gone: list[set[int]] = []
    for name, columns in BY_OFFSETS.items():
        offsets = np.load(folder / f"{name}_offsets.npy")
        lengths = np.diff(offsets)
        rows = np.repeat(kept, lengths)
        arrays[f"{name}_offsets"] = np.append(0, lengths[kept].cumsum())
        for column in columns:
            values = np.load(folder / f"{name}_{column}.npy")
            arrays[f"{name}_{column}"] = values[rows]
            if (name, column) == ("history", "items"):
                gone = [set(values[a:b].tolist()) for a, b in zip(offsets[:-1][~kept], offsets[1:][~kept], strict=True)]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    probe = read_json(folder / "probe.json")
    cases = [case for case in probe["cases"] if not any(set(np.ravel(case["inputs"]["history"]).tolist()) <= one for one in gone)]
    (folder / "probe.json").write_text(json.dumps({"cases": cases}, separators=(",", ":")), encoding="utf-8")


def _links_without(folder: Path, names: list[str]) -> None:
    """Keeps of linked ids those of others; a person who has one left has no links."""
    offsets = np.load(folder / "linked_offsets.npy")
    person = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    rows = pl.DataFrame({"user_id": _texts(folder, "linked_ids"), "person_id": person}).filter(~pl.col("user_id").is_in(names))
    rows = rows.filter(pl.len().over("person_id") > 1)
    counts = rows.group_by("person_id", maintain_order=True).len()["len"].to_numpy()
    arrays = ids("linked_ids", rows["user_id"]) | {"linked_offsets": np.append(0, counts.cumsum())}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _shoppers_without(file: Path, names: list[str]) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as base:
        base.execute("PRAGMA secure_delete = ON")
        base.executemany("DELETE FROM shoppers WHERE user_id = ?", [(name,) for name in names])
        base.execute("VACUUM")
