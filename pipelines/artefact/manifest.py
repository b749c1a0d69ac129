"""The manifest: what an artefact was made from, how good it is, and the sha256 of every file. Its schema is deploy/serving's."""

import hashlib
import json
import math
from pathlib import Path

from jsonschema import Draft202012Validator, ValidationError

from pipelines.learning.prepared import EMBEDDED, PREPARED, Prepared
from pipelines.learning.saved import Model
from pipelines.stage import StageError, read_json, write_json

SERVING, BESIDE = (
    Path("deploy/serving"),
    (Path("online"), Path("privacy"), Path("service")),
)  # read as files: what serves is part of the version
CODE = ("pipelines", "models", "deploy/serving", "online", "privacy", "service", "expectations")
PARAMS = ("prepare", "train", "compress", "serve")


SERVED = (".py", ".json", ".js", ".html")  # of files that serve


def seal(folder: Path, facts: dict) -> str:
    """Writes the manifest: facts, the sha256 of every file, and the version that follows from all of it; returns the version.

    Raises:
        StageError: the manifest is not what the server's schema asks for.
    """
    files = {f.name: sha256(f) for f in sorted(folder.iterdir()) if not f.name.startswith(".")}
    size = sum((folder / name).stat().st_size for name in ("model.onnx", "model.data"))
    schema = read_json(SERVING / "artefact.schema.json")
    manifest = {"schema": schema["properties"]["schema"]["const"], "model_bytes": size} | _finite(facts) | {"files": files}
    said = json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode()
    manifest = {"version": hashlib.sha256(said).hexdigest()[:12]} | manifest
    try:
        Draft202012Validator(schema).validate(manifest)
    except ValidationError as error:
        raise StageError(f"manifest.json: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}") from error
    write_json(folder / "manifest.json", manifest)
    return manifest["version"]


def facts(settings: dict, shop: str, network: Model, data: Prepared, platforms: list[str], shoppers: int) -> dict:
    """What the artefact was made from and how good it is."""
    quality, compression = read_json("reports/quality.json"), read_json("reports/compression.json")
    metrics, refit = read_json("reports/metrics.json"), read_json("reports/refit.json")
    figures = ("ndcg@10", "recall@10")
    return {
        "shop": shop,
        "max_k": settings["serve"]["max_k"],
        "cutoff": 0 if data.ordered_only else int(data.origin + data.full.times.flat().max(initial=0)),
        "exclude": left_out(settings["serve"]["exclude"], data.ordered_only),
        "max_len": network.max_len,
        "items": data.items,
        "shoppers": shoppers,
        "platforms": platforms,
        "data": {
            "source": settings["source"]["name"],
            "events": quality["tables"]["events"]["rows"] - quality["tables"]["events"]["broken"],
            "histories_sha256": sha256(PREPARED / "histories.parquet"),
        },
        "code_sha256": code_digest(),
        "serving_sha256": serving_digest(),
        "model": made_of(read_json("data/refit/model.json")),
        "params": {s: settings[s] for s in PARAMS},
        "metrics": {name: {m: metrics[name][m] for m in figures} for name in ("test", "popularity", "item_knn")},
        "quality": {"passed": quality["passed"], "verified": read_json("reports/verified.json")["passed"]},
        "parity": refit["parity"],
        "refit": {k: v for k, v in refit.items() if k != "parity"},
        "encoders": read_json(EMBEDDED / "encoders.json") if (EMBEDDED / "encoders.json").exists() else {},
        **_assist(),
        "compression": {k: v for k, v in compression.items() if k != "candidates"},
        "inputs": {
            "history": "int64 (batch, length), item numbers from 1, padded with 0 on the right",
            "times": "int64 (batch, length), seconds of the events; all 0 where unknown",
            "actions": "int64 (batch, length), strongest thing done to the item: 1 seen, 2 favourite, 3 cart, 4 purchase; padded with 0",
            "platform": "int64 (batch,), from 1 as in `platforms`, 0 = unknown",
            "exclude": "int64 (batch, excluded), item numbers, padded with 0",
            "allowed": "bool (batch, items + 1), false of item 0",
        },
        "outputs": {
            "items": "int64 (batch, max_k)",
            "scores": "float32 (batch, max_k), -inf where no item was left",
            "carried": "int64 (batch, max_k), of a blend: which of model.carriers says most for the item",
        },
    }


def _assist() -> dict:
    """How well customers are understood, where they are answered."""
    file = Path("reports/assist.json")
    told = read_json(file) if file.exists() else {"messages": 0}
    return {"assist": {"messages": told["messages"], "accuracy": told["accuracy"]}} if told["messages"] else {}


def left_out(chosen: str, ordered_only: bool) -> str:
    """What answers leave out: see serve.exclude."""
    return chosen if chosen != "auto" else "seen" if ordered_only else "bought_and_not_due"


def made_of(shape: dict) -> dict:
    """What the model is, and of a blend, which may propose to a ranker, the weights of each part, one for each group of shoppers."""
    first = shape.get("retriever", shape)
    parts = first["recipe"]["parts"] if first["model"] == "blend" else {}
    made = {"name": shape["model"], "parts": {name: [round(w, 4) for w in one["weight"]] for name, one in parts.items()}}
    if shape["model"] == "blend":  # what the graph's `carried` counts
        made["carriers"] = [*shape["parts"], "popularity", *([shape["network"]["model"]] if shape["network"] else [])]
    return made


def sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def serving_digest() -> str:
    """One hash of the code that serves; deploy/serving/artefact.py computes the same."""
    digest = hashlib.sha256()
    for path in sorted(p for part in (SERVING, *BESIDE) for p in part.iterdir() if p.suffix in SERVED):
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def code_digest() -> str:
    """One hash of all the code that makes and serves the model."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in CODE for p in Path(folder).rglob("*") if p.suffix in (".py", ".json", ".yaml")):
        digest.update(path.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _finite(value):
    """The same with null for what is no number: JSON has none, and the gate refuses what is absent."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
