"""Columns of the artefact: ids, what pages show and filters read, what shoppers did, what is like what.

They are written as deploy/serving/catalogue.py and histories.py map them.
"""

from functools import reduce
from hashlib import blake2b
from operator import add

import numpy as np
import polars as pl
import torch

from models.retrieval.blend import Blend
from models.retrieval.content import telling
from models.retrieval.item_to_item import as_matrix
from models.retrieval.neighbours import nearest
from models.retrieval.network import NextItemNetwork
from models.retrieval.sparse_item_model import SparseItemModel, from_rows
from models.sequences import Sequences
from online import search
from pipelines.learning.blending import COMPARED
from privacy import encrypted

AT_ONCE = 2048  # items whose neighbours are added up together, as those of all together are larger than memory
NEVER = 1 << 62  # seconds, when what is not bought again is due


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


def linked(people: pl.DataFrame) -> dict[str, np.ndarray]:
    """Ids that are one person's side by side, as deploy/serving/histories.py maps them: the ids of the i-th are [offsets[i], offsets[i + 1]), by the first of which the artefact knows them. people: user_id, person_id."""
    own = pl.col("user_id") == pl.col("person_id")
    rows = people.sort("person_id", own, "user_id", descending=[False, True, False])
    return ids("linked_ids", rows["user_id"]) | {
        "linked_offsets": np.append(0, rows.group_by("person_id", maintain_order=True).len()["len"].cum_sum())
    }


def stored_purchases(
    users: pl.Series, repeats: pl.DataFrame, returns: pl.DataFrame, items: pl.DataFrame
) -> dict[str, np.ndarray]:
    """What each shopper bought and when it is due again, as deploy/serving/histories.py maps it; what was sent back is never due. repeats: of marketing/segments/repeats.py. returns: user_id, item_id, timestamp. items: item, item_id."""
    shoppers = pl.DataFrame({"user_id": users}).with_row_index("row")
    back = returns.group_by("user_id", "item_id").agg(last_bought=pl.col("timestamp").max())
    repeats = pl.concat([repeats.join(back, on=["user_id", "item_id"], how="anti"), back], how="diagonal_relaxed")
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

    listed: (V,) bool, false of padding and of items that may not be answered.
    """
    if isinstance(network, Blend):
        network = neighbours_of_a_blend(network, 2 * k) if network.parts or not network.network else network.network
    if isinstance(network, SparseItemModel):
        shown = network.weights.masked_fill(~torch.from_numpy(listed)[network.items.long()], 0.0)
        weights, order = (part[:, :k] for part in shown.sort(1, descending=True))
        numbers = network.items.gather(1, order).masked_fill(weights <= 0, 0)
        return numbers.numpy().astype(np.int32), weights.numpy().astype(np.float16)
    numbers, cosines = nearest(network.embeddings().detach().numpy(), k, listed)
    return numbers.astype(np.int32), cosines.astype(np.float16)


def similar_by(
    network: NextItemNetwork | SparseItemModel | Blend, vectors: dict[str, np.ndarray], k: int, listed: np.ndarray
) -> dict[str, np.ndarray]:
    """Each item's k nearest by what shoppers did alone, and by each kind of its vectors: see similar."""
    found = {kind: nearest(telling(one), k, listed & one.any(1)) for kind, one in vectors.items()}
    behaviour = Blend({n: p for n, p in network.parts.items() if n not in COMPARED}, network.bias, network.network, network.max_len, network.groups) if isinstance(network, Blend) else network  # fmt: skip
    found["behaviour"] = similar(behaviour, k, listed)
    return {
        f"similar_{kind}_{what}": array.astype(dtype)
        for kind, pair in found.items()
        for what, array, dtype in zip(("items", "scores"), pair, (np.int32, np.float16), strict=True)
    }


def looks_the_same(pairs: pl.DataFrame, items: int) -> np.ndarray:
    """The group of near-duplicates that each item belongs to, the smallest number in it; 0 of an item like no other. (V,) int32

    pairs: of items, columns item and other. items: in the vocabulary.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = pairs["item"].to_numpy(), pairs["other"].to_numpy()
    _, label = connected_components(coo_matrix((np.ones(len(pairs), bool), ends), shape=(items + 1, items + 1)), directed=False)
    sizes, first = np.bincount(label), np.unique(label, return_index=True)[1]
    return np.where(sizes[label] > 1, first[label], 0).astype(np.int32)


def neighbours_of_a_blend(blend: Blend, k: int) -> SparseItemModel:
    """What the parts of a blend say of a history of one item."""
    matrices = []
    for part in blend.parts.values():
        said = as_matrix(part.counts)
        group = blend.groups[np.repeat(np.arange(said.shape[0]), np.diff(said.indptr))].long()
        said.data = part.worth(torch.from_numpy(said.data), group).numpy()
        matrices.append(said)
    size = len(blend.groups)
    starts = range(0, size if matrices else 0, AT_ONCE)
    return from_rows((reduce(add, [said[at : at + AT_ONCE] for said in matrices]) for at in starts), size, k)
