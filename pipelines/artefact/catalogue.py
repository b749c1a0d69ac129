"""Columns of the artefact: ids, what pages show and filters read, what shoppers did, what is like what.

They are written as deploy/serving/catalogue.py and histories.py map them.
"""

from hashlib import blake2b

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch

from models.retrieval.blend import Blend
from models.retrieval.item_to_item import as_matrix
from models.retrieval.network import NextItemNetwork
from models.retrieval.sparse_item_model import SparseItemModel, from_rows
from models.sequences import Sequences
from online import search
from privacy import encrypted

EXACT = 20_000  # items up to which the most similar are found by comparing all pairs
NEVER = 1 << 62  # seconds, when what is not bought again is due
PROBES, PER_LIST = 16, 64  # lists looked through of an inverted file, and items a list, for larger catalogues


def catalogue(items: pl.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """What a page shows and a filter reads, in order of item number, as deploy/serving/recommender.py maps it; and the names of codes."""
    arrays, names = ids("item_ids", items["item_id"]) | {"listed": items["listed"].to_numpy()}, {}
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


def ids(name: str, values: pl.Series) -> dict[str, np.ndarray]:
    """The columns of deploy/serving/catalogue.py's Ids."""
    texts = [v.encode() for v in values]
    hashes = np.array([hash_of(t) for t in texts], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    return {
        f"{name}_text": np.frombuffer(b"".join(texts), dtype=np.uint8),
        f"{name}_ends": np.cumsum([0, *map(len, texts)]),
        f"{name}_hashes": hashes[order],
        f"{name}_order": order.astype(np.int32 if len(order) < 1 << 31 else np.int64),
    }


def codes(items: pl.DataFrame) -> np.ndarray:
    """What is written of items as privacy/encrypted.py codes it: (WIDTH, V) int8, in order of item number."""
    texts = items.select(pl.concat_str([c for c in ("title", "category", "brand") if c in items.columns], separator=" ", ignore_nulls=True)).to_series()  # fmt: skip
    return np.array([encrypted.features(search.words(text or "")) for text in texts], dtype=np.int8).T.copy()


def hash_of(text: bytes) -> int:
    """The 64 bits by which an id is looked up (BLAKE2b, little-endian); the same in deploy/serving/catalogue.py."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def stored_histories(users: pl.Series, full: Sequences, origin: int) -> dict[str, np.ndarray]:
    """Ids of shoppers, and what each met; the history of the i-th is [offsets[i], offsets[i + 1]). origin: of times, in seconds since 1970."""
    return ids("user_ids", users) | {
        "history_offsets": np.append(0, full.lengths.cumsum()),
        "history_items": full.items.flat().astype(np.int32),
        "history_times": full.times.flat() + origin,
        "history_actions": full.actions.flat().astype(np.uint8),
    }


def stored_purchases(users: pl.Series, repeats: pl.DataFrame, items: pl.DataFrame) -> dict[str, np.ndarray]:
    """What each shopper bought and when it is due again, as deploy/serving/histories.py maps it. repeats: of marketing/segments/repeats.py. items: item, item_id."""
    shoppers = pl.DataFrame({"user_id": users}).with_row_index("row")
    rows = repeats.join(shoppers, on="user_id").join(items.select("item", "item_id"), on="item_id").sort("row", "item")
    counts = np.bincount(rows["row"].to_numpy(), minlength=len(users))
    seconds = {c: rows[c].dt.epoch("s").fill_null(NEVER).to_numpy() for c in ("due_from", "due_until")}
    rhythm = rows.select(pl.col("cycle_days").log(), "spread", "returning").fill_null(np.nan)
    return {
        "bought_offsets": np.append(0, counts.cumsum()),
        "bought_items": rows["item"].cast(pl.Int32).to_numpy(),
        "bought_last": rows["last_bought"].dt.epoch("s").to_numpy(),
        "bought_due_from": seconds["due_from"],
        "bought_due_until": seconds["due_until"],
        "bought_rhythm": rhythm.cast(pl.Float32).to_numpy(),
    }


def similar(network: NextItemNetwork | SparseItemModel | Blend, k: int, listed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item's k nearest among the listed ones: numbers (V, k) int32, padded with 0, and cosines (or neighbours' weights) (V, k) float16.
    Of a blend its parts say what is near, and its network where it has no others.

    Over EXACT items they are found by an inverted file (FAISS), which looks at a share of the catalogue that shrinks as it grows.

    listed: (V,) bool, false of padding and of items that may not be answered.
    """
    if isinstance(network, Blend):
        network = neighbours_of_a_blend(network, 2 * k) if network.parts or not network.network else network.network
    if isinstance(network, SparseItemModel):
        shown = network.weights.masked_fill(~torch.from_numpy(listed)[network.items.long()], 0.0)
        weights, order = (part[:, :k] for part in shown.sort(1, descending=True))
        numbers = network.items.gather(1, order).masked_fill(weights <= 0, 0)
        return numbers.numpy().astype(np.int32), weights.numpy().astype(np.float16)
    listed = torch.from_numpy(listed)
    vectors = torch.nn.functional.normalize(network.embeddings().detach(), dim=1)
    if len(vectors) > EXACT:
        return _similar_by_lists(vectors.numpy(), k, listed.numpy())
    numbers, cosines = [], []
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024] @ vectors.T
        block[:, ~listed] = -torch.inf
        rows = torch.arange(len(block))
        block[rows, rows + start] = -torch.inf
        top = block.topk(k)
        found = top.values > -torch.inf
        numbers.append(top.indices.where(found, 0).numpy().astype(np.int32))
        cosines.append(top.values.where(found, 0.0).numpy().astype(np.float16))
    return np.concatenate(numbers), np.concatenate(cosines)


def neighbours_of_a_blend(blend: Blend, k: int) -> SparseItemModel:
    """What the parts of a blend say of a history of one item."""
    total = None
    for part in blend.parts.values():
        said = as_matrix(part.counts)
        group = blend.groups[np.repeat(np.arange(said.shape[0]), np.diff(said.indptr))].long()
        said.data = part.worth(torch.from_numpy(said.data), group).numpy()
        total = said if total is None else total + said
    total = sp.csr_matrix((len(blend.groups), len(blend.groups)), dtype=np.float32) if total is None else total
    return from_rows([total.tocsr()], total.shape[0], k)


def _similar_by_lists(vectors: np.ndarray, k: int, listed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See similar: vectors (V, D) float32 of length 1."""
    import faiss

    chosen = np.flatnonzero(listed)
    lists = max(1, len(chosen) // PER_LIST)
    index = faiss.index_factory(vectors.shape[1], f"IVF{min(lists, 65536)},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = PER_LIST
    index.train(vectors[chosen])
    index.add_with_ids(vectors[chosen], chosen)
    index.nprobe = PROBES
    cosines, numbers = index.search(vectors, k + 1)
    cosines[(numbers == np.arange(len(vectors))[:, None]) | (numbers < 0)] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    cosines, numbers = np.take_along_axis(cosines, order, 1), np.take_along_axis(numbers, order, 1)
    found = np.isfinite(cosines)
    return np.where(found, numbers, 0).astype(np.int32), np.where(found, cosines, 0).astype(np.float16)
