"""The artefact, the contract between training and serving: a folder with graphs, vocabulary, catalogue columns, fallbacks, histories and a
manifest. Here it is checked: the manifest against artefact.schema.json, every file against its sha256, the version against both.
"""

import hashlib
import json
import os
from functools import cache
from pathlib import Path

CODE = ("deploy/serving", "online", "privacy", "service")  # that serves
SCHEMA_FILE = Path(__file__).with_name("artefact.schema.json")
LARGE = 64 << 20  # bytes of a model that one process with all cores as its threads serves: each process packs a table of its own


class ArtefactError(Exception):
    """The artefact is damaged, or made for another server; the message says what is wrong."""


def verified(folder: Path) -> dict:
    """The manifest, after every file that it lists was found whole.

    Raises:
        ArtefactError: a file is missing, differs from its sha256, or the manifest is none.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ArtefactError(f"{file} is missing")
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected:
            raise ArtefactError(f"{file} is not the file that was exported: its sha256 differs from the manifest's")
    return manifest


def read_manifest(folder: Path) -> dict:
    """The manifest of an artefact.

    Raises:
        ArtefactError: there is none, it is of another schema, or its version is not the hash of what it says.
    """
    from jsonschema import Draft202012Validator

    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: no readable manifest ({error})") from error
    schema = _schema()
    expected = schema["properties"]["schema"]["const"]
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found != expected:
        raise ArtefactError(f"{path}: schema {found}, this server reads {expected}; bundle the model again with this checkout")
    wrong = next(Draft202012Validator(schema).iter_errors(manifest), None)
    if wrong is not None:
        raise ArtefactError(f"{path}: {'.'.join(map(str, wrong.absolute_path)) or 'the manifest'}: {wrong.message[:200]}")
    if manifest["version"] != version_of(manifest):
        raise ArtefactError(f"{path}: the version {manifest['version']} is not the hash of this manifest")
    return manifest


def version_of(manifest: dict) -> str:
    """The version that follows from all that a manifest says: files, figures, parameters, and the code that serves."""
    said = {k: v for k, v in manifest.items() if k != "version"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def code_digest(root: Path) -> str:
    """One hash of the code that serves: the modules of a copy of them."""
    digest = hashlib.sha256()
    for path in sorted(p for part in CODE for p in (root / part).iterdir() if p.suffix in (".py", ".json", ".js", ".html")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def large(manifest: dict) -> bool:
    """Is the model one of which a copy a core is too much?"""
    return manifest["model_bytes"] > LARGE


def cores() -> int:
    """Cores that this process may use by its affinity; the quota of a container is BentoML's to read."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _schema() -> dict:
    return json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
