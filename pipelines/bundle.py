"""bundle: everything that serving needs, as one artefact with a manifest, and the bento around it.

In:  data/compressed, data/prepared, data/checked, data/model, reports, deploy (the service), settings `serve`.
Out: artefact (see deploy/recommender.py), bento (a folder that `bentoml serve` runs).

The version is a hash of the artefact's files: the same inputs give the same version.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import torch
import yaml

from models.baselines import Neighbours
from models.sequence import NextItemNetwork
from models.two_stage import first_stage
from pipelines import histories, index
from pipelines.histories import Prepared
from pipelines.ranking import Model
from pipelines.stage import StageError, log, output, read_json, run, write_json
from pipelines.train import load

ALIGNED = 64  # bytes, of where a tensor begins in model.data
MAPPED = 1024  # bytes of a tensor from which it stands in model.data, which onnxruntime maps into memory
POPULAR, SIMILAR = 1000, 100  # entries kept
CODE = ("pipelines", "models", "deploy", "expectations")
BENTO_TIME = "1970-01-01T00:00:00+00:00"  # the bento is named by content, so the hour it was built says nothing


def main() -> None:
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    data, network = histories.load(), load("data/model")
    with output("artefact") as folder:
        graphs, found = [Path("data/compressed/model.onnx")], None
        if settings["serve"]["index_recall"] is not None:
            found = index.build(network, data, settings["serve"], folder)
            graphs += [index.GRAPHS / name for name in ("query.onnx", "among.onnx")]
        write(folder, data, network, graphs, popular(data.items))
        seal(folder, manifest(settings, network, data) | {"index": found})
    version = read_json("artefact/manifest.json")["version"]
    build_bento(version, *(["faiss-cpu"] if found else []))
    size = sum(f.stat().st_size for f in Path("artefact").iterdir())
    log.info("bundle: bento pushcart:%s, artefact %s bytes", version, f"{size:,}")


def write(folder: Path, data: Prepared, network: Model, graphs: list[Path], most_popular: dict[str, list[int]]) -> None:
    """All of the artefact but its manifest and an index, as deploy/recommender.py reads it."""
    write_graphs(folder, graphs)
    arrays, names = catalogue(data.items)
    neighbours, similarity = similar(first_stage(network), min(SIMILAR, len(data.items) - 1))
    arrays |= known_shoppers(data) | {"similar_items": neighbours, "similar_scores": similarity}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    for name, document in (names | {"popular": most_popular}).items():
        write_compact(folder / f"{name}.json", document)


def write_graphs(folder: Path, graphs: list[Path]) -> None:
    """Copies graphs, their large tensors into one file, model.data: what two of them hold stands there once."""
    at: dict[bytes, int] = {}
    with (folder / "model.data").open("wb") as file:
        for path in graphs:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                content = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
                if len(content) < MAPPED:
                    continue
                digest = hashlib.sha256(content).digest()
                if digest not in at:
                    file.write(b"\0" * (-file.tell() % ALIGNED))
                    at[digest] = file.tell()
                    file.write(content)
                tensor.raw_data = content
                onnx.external_data_helper.set_external_data(tensor, "model.data", at[digest], len(content))
                for field in ("raw_data", "float_data", "int32_data", "int64_data"):
                    tensor.ClearField(field)
            onnx.save(model, folder / path.name)


def seal(folder: Path, facts: dict) -> None:
    """Writes the manifest: facts, the sha256 of every file, and the version that follows from them."""
    files = {f.name: sha256(f) for f in sorted(folder.iterdir()) if not f.name.startswith(".")}
    version = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    size = sum((folder / name).stat().st_size for name in ("model.onnx", "model.data"))
    write_json(folder / "manifest.json", {"schema": 3, "version": version, "model_bytes": size} | facts | {"files": files})


def catalogue(items: pl.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """What a page shows and a filter reads, in order of item number, as deploy/recommender.py maps it; and the names of codes."""
    ids = encoded(items["item_id"])
    arrays, names = {"item_ids": ids, "item_order": np.argsort(ids)}, {}
    if "title" in items.columns:
        text = items["title"].fill_null("")
        arrays["title"] = np.cumsum([0, *text.str.len_bytes()])
        arrays["title_text"] = np.frombuffer("".join(text).encode(), dtype=np.uint8)
    for name in ("category", "brand"):
        if name in items.columns:
            names[name] = items[name].drop_nulls().unique().sort().to_list()
            codes = items[name].replace_strict(names[name], range(len(names[name])), default=-1, return_dtype=pl.Int32)
            arrays[name] = codes.fill_null(-1).to_numpy()
    if "price" in items.columns:
        arrays["price"] = items["price"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    if "in_stock" in items.columns:
        arrays["in_stock"] = items["in_stock"].cast(pl.Int8).fill_null(-1).to_numpy()
    return arrays, names


def known_shoppers(data: Prepared) -> dict[str, np.ndarray]:
    """Ids of shoppers in order, and what each met; the history of the i-th is [offsets[i], offsets[i + 1])."""
    ids = encoded(data.user_ids)
    order = np.argsort(ids)
    full = data.full.rows(order.tolist())
    return {
        "user_ids": ids[order],
        "history_offsets": np.cumsum([0, *map(len, full.items)]),
        "history_items": np.concatenate(full.items).astype(np.int32),
        "history_times": np.concatenate(full.times),
        "history_actions": np.concatenate(full.actions).astype(np.uint8),
    }


def encoded(ids: Iterable[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of one width."""
    return np.array([i.encode() for i in ids])


def popular(items: pl.DataFrame) -> dict[str, list[int]]:
    """Item numbers, most popular first, recent events weighing more: over all, and by platform where events name one."""
    events = pl.scan_parquet("data/checked/events.parquet")
    lists = {"all": items.sort("recency", "item", descending=[True, False])["item"].head(POPULAR).to_list()}
    if "platform" in events.collect_schema():
        numbered = events.join(items.lazy().select("item_id", "item"), on="item_id").drop_nulls("platform")
        counts = numbered.group_by("platform", "item").len().sort("platform", "len", "item", descending=[False, True, False])
        for (platform,), rows in counts.collect().group_by("platform", maintain_order=True):
            lists[platform] = rows["item"].head(POPULAR).to_list()
    return lists


def similar(network: NextItemNetwork | Neighbours, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Each item's k nearest: numbers (V, k) int32, padded with 0, and cosines (or neighbours' weights) (V, k) float16."""
    if isinstance(network, Neighbours):
        weights, order = network.weights.all().sort(1, descending=True)
        weights, order = weights[:, :k], order[:, :k]
        numbers = network.items.gather(1, order).masked_fill(weights <= 0, 0)
        return numbers.numpy().astype(np.int32), weights.numpy().astype(np.float16)
    vectors = torch.nn.functional.normalize(network.embeddings().detach(), dim=1)
    numbers, cosines = [], []
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024] @ vectors.T
        block[:, 0] = -torch.inf
        rows = torch.arange(len(block))
        block[rows, rows + start] = -torch.inf
        top = block.topk(k)
        numbers.append(top.indices.numpy().astype(np.int32))
        cosines.append(top.values.numpy().astype(np.float16))
    return np.concatenate(numbers), np.concatenate(cosines)


def manifest(settings: dict, network: Model, data: Prepared) -> dict:
    """What the artefact was made from and how good it is."""
    quality, compression = read_json("reports/quality.json"), read_json("reports/compression.json")
    metrics, parity = read_json("reports/metrics.json"), read_json("reports/parity.json")
    return {
        "max_k": settings["serve"]["max_k"],
        "max_len": network.max_len,
        "items": len(data.items),
        "shoppers": len(data.user_ids),
        "platforms": data.platforms,
        "data": {
            "source": f"{settings['source']['name']}:{settings['source']['data']}",
            "events": quality["tables"]["events"]["rows"] - quality["tables"]["events"]["broken"],
            "histories_sha256": sha256(histories.PREPARED / "histories.parquet"),
        },
        "code_sha256": code_digest(),
        "params": {s: settings[s] for s in ("prepare", "train", "compress", "serve")},
        "metrics": {name: {m: metrics[name][m] for m in ("ndcg@10", "recall@10")} for name in ("test", "popularity", "item_knn")},
        "quality": {"passed": quality["passed"], "verified": read_json("reports/verified.json")["passed"]},
        "parity": parity,
        "compression": {k: v for k, v in compression.items() if k != "candidates"},
        "inputs": {
            "history": "int64 (batch, length), item numbers from 1, padded with 0 on the right",
            "times": "int64 (batch, length), seconds of the events; all 0 where unknown",
            "actions": "int64 (batch, length), strongest thing done to the item: 1 seen, 2 favourite, 3 cart, 4 purchase; padded with 0",
            "platform": "int64 (batch,), from 1 as in `platforms`, 0 = not told",
            "exclude": "int64 (batch, excluded), item numbers, padded with 0",
            "allowed": "bool (batch, items + 1), false of item 0",
        },
        "outputs": {"items": "int64 (batch, max_k)", "scores": "float32 (batch, max_k), -inf where no item was left"},
    }


def build_bento(version: str, *more: str) -> None:
    """Builds ./bento from the artefact and deploy/'s service, which it holds a copy of; `more` packages than it needs always."""
    with tempfile.TemporaryDirectory() as scratch:
        context, store = Path(scratch, "context"), Path(scratch, "store")
        shutil.copytree("artefact", context / "artefact")
        (context / "deploy").mkdir()
        for name in ("__init__.py", "recommender.py", "service.py"):
            shutil.copy(Path("deploy", name), context / "deploy" / name)
        # The service pins what it imports and nothing else: no torch, no training code.
        recipe = {
            "service": "deploy.service:Pushcart",
            "name": "pushcart",
            "labels": {"version": version},
            "include": ["deploy/*.py", "artefact/*"],
            "python": {
                "packages": pinned("bentoml", "numpy", "onnxruntime-gpu", "prometheus-client", *more),
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


def sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def code_digest() -> str:
    """One hash of all the code that makes and serves the model."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in CODE for p in Path(folder).rglob("*") if p.suffix in (".py", ".json", ".yaml")):
        if "environments" not in path.parts:
            digest.update(path.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def write_compact(path: Path, document: dict | list) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    run(main)
