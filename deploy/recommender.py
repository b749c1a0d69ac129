"""Answers from an artefact folder, with onnxruntime and numpy alone: who gets what, what is like what.

Knows the artefact (manifest.json and the files it lists), nothing of training and nothing of HTTP. Whatever grows with the
catalogue or the shoppers is mapped into memory and read where it is asked for, so all worker processes share one copy, and
nothing of it is touched by Python an item at a time.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SCHEMA = 3  # of the artefact: what this code can read
SEEN = 1  # the action of an event of which only the item is told
SHOWN = ("title", "category", "brand", "price", "in_stock")  # of an item, null where it is not known
LARGE = 64 << 20  # bytes of a model that one process with all cores as its threads serves: each process packs a table of its own


class ArtefactError(Exception):
    """The artefact is damaged or of another schema; the message names the file."""


class UnknownItem(Exception):
    """An item that the catalogue does not have."""


class BadFilter(Exception):
    """A filter that this catalogue cannot apply; the message says why."""


@dataclass
class Recommendation:
    """Items best first, with what is known of them; and how they were found."""

    items: list[dict]
    fallback: str | None  # None: the model; else which list of popular items answered
    unknown_items: list[str]  # of the given history


class Recommender:
    """A loaded artefact. Safe to call from several threads: nothing of a request is kept.

    Args:
        folder: the artefact.

    Raises:
        ArtefactError: a file is missing, differs from its sha256 in the manifest, or the schema is another.
    """

    def __init__(self, folder: Path):
        self.manifest = verified(folder)
        self.version: str = self.manifest["version"]
        self.max_k: int = self.manifest["max_k"]
        self.max_len: int = self.manifest["max_len"]
        self.items = Ids(_mapped(folder / "item_ids.npy"), _mapped(folder / "item_order.npy"))
        self.columns = {name: Column(folder, name) for name in SHOWN if (folder / f"{name}.npy").is_file()}
        popular = json.loads((folder / "popular.json").read_text(encoding="utf-8"))
        self._popular = {name: np.array(numbers, dtype=np.int64) for name, numbers in popular.items()}
        self._similar, self._similarity = _mapped(folder / "similar_items.npy"), _mapped(folder / "similar_scores.npy")
        self.users = Ids(_mapped(folder / "user_ids.npy"))
        parts = ("offsets", "items", "times", "actions")
        self._offsets, self._histories, self._times, self._actions = (_mapped(folder / f"history_{p}.npy") for p in parts)
        self._session = _session(folder / "model.onnx", cores() if large(self.manifest) else 1)
        self._index = Index(folder, self.manifest["index"]) if self.manifest.get("index") else None
        self._read = [i.name for i in self._session.get_inputs()]  # most families read no times, actions and platform
        self._platforms = {name: i for i, name in enumerate(self.manifest["platforms"], 1)}
        self._all = np.arange(len(self.items) + 1)[None] > 0

    def history(self, user_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a known shopper met, oldest first: item numbers, seconds and actions, int64; empty for an unknown one."""
        at = self.users.places([user_id])[0]
        span = slice(self._offsets[at], self._offsets[at + 1]) if at >= 0 else slice(0)
        return tuple(column[span].astype(np.int64) for column in (self._histories, self._times, self._actions))

    def recommend(
        self,
        user_id: str | None = None,
        history: list[str] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        filters: dict | None = None,
        context: dict | None = None,
    ) -> Recommendation:
        """The k best items that the filters let through; fewer only if fewer are left.

        Args:
            user_id: a shopper; their stored history is used where no history is given.
            history: item ids, oldest first; unknown ones are passed over and named in the answer.
            k: 1 to max_k. exclude_seen: leave out what the history holds.
            filters: category (a path or its beginning, or a list), brand (or a list), price_min, price_max, in_stock,
                exclude (item ids).
            context: item_id (looked at just now: the newest of the history), platform (where the shopper is: rankers read it, and it
                says whose popular items to fall back to).

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        filters, context = filters or {}, context or {}
        given = list(history or []) + ([context["item_id"]] if context.get("item_id") else [])
        places = self.items.places(given)
        unknown = [i for i, place in zip(given, places, strict=True) if place < 0]
        numbers = places[places >= 0] + 1
        times, actions = np.zeros_like(numbers), np.full_like(numbers, SEEN)
        if history is None and user_id is not None:
            stored, when, done = self.history(user_id)
            times = np.concatenate([when, np.full_like(numbers, when[-1] if len(when) else 0)])
            actions = np.concatenate([done, actions])
            numbers = np.concatenate([stored, numbers])
        allowed = self._allowed(filters)
        exclude = self.items.places(filters.get("exclude") or []) + 1  # unknown ones become 0, which is padding
        if not len(numbers):
            return Recommendation(*self._most_popular(k, allowed, exclude, context.get("platform")), unknown)
        if exclude_seen:
            exclude = np.concatenate([exclude, numbers])
        inputs = {
            "history": numbers[None, -self.max_len :],
            "times": times[None, -self.max_len :],
            "actions": actions[None, -self.max_len :],
            "platform": np.array([self._platforms.get(context.get("platform"), 0)]),
            "exclude": exclude[None] if len(exclude) else np.zeros((1, 1), np.int64),
            "allowed": allowed,
        }
        if self._index and (found := self._index.nearest(inputs, k)):
            return Recommendation(self._shown(*found), None, unknown)
        items, scores = self._session.run(None, {name: inputs[name] for name in self._read})
        found = np.isfinite(scores[0])[:k]
        return Recommendation(self._shown(items[0][:k][found], scores[0][:k][found]), None, unknown)

    def similar(self, item_id: str, k: int = 10) -> list[dict]:
        """The k items most like this one, by the cosine of their vectors.

        Raises:
            UnknownItem: the catalogue does not have it.
        """
        number = self.items.places([item_id])[0] + 1
        if not number:
            raise UnknownItem(item_id)
        found = self._similar[number] > 0
        return self._shown(self._similar[number][found][:k], self._similarity[number][found][:k])

    def _most_popular(self, k: int, allowed: np.ndarray, exclude: np.ndarray, platform: str | None) -> tuple[list[dict], str]:
        name = platform if platform in self._popular else "all"
        order = self._popular[name]
        order = order[allowed[0, order] & ~np.isin(order, exclude)][:k]
        scores = 1.0 / np.arange(1, len(order) + 1)  # a rank's reciprocal: ordered, and plainly no model score
        return self._shown(order, scores), "popular" if name == "all" else f"popular on {name}"

    def _allowed(self, filters: dict) -> np.ndarray:
        """(1, items + 1) bool: which items the filters on columns let through; item 0 is no one's."""
        fits = []
        for name in ("category", "brand"):
            if filters.get(name) is not None:
                column = self._column(name)
                wanted = [filters[name]] if isinstance(filters[name], str) else filters[name]
                chosen = np.zeros(len(column.names) + 1, dtype=bool)  # the last is of unknown ones, -1
                for value in wanted:
                    chosen[column.codes.get(value, [])] = True
                fits.append(chosen[column.values])
        if filters.get("price_min") is not None:
            fits.append(self._column("price").values >= filters["price_min"])
        if filters.get("price_max") is not None:
            fits.append(self._column("price").values <= filters["price_max"])
        if filters.get("in_stock") is not None:
            fits.append(self._column("in_stock").values == filters["in_stock"])
        if not fits:
            return self._all
        return np.concatenate([[False], np.logical_and.reduce(fits)])[None]

    def _column(self, name: str) -> "Column":
        if name not in self.columns:
            raise BadFilter(f"this catalogue has no {name}, so it cannot be filtered by")
        return self.columns[name]

    def _shown(self, numbers: np.ndarray, scores: np.ndarray) -> list[dict]:
        ids = self.items.ids[numbers - 1].tolist()
        shown = [{"item_id": i.decode(), "score": round(score, 6)} for i, score in zip(ids, scores.tolist(), strict=True)]
        for name in SHOWN:
            values = self.columns[name][numbers - 1] if name in self.columns else [None] * len(shown)
            for item, value in zip(shown, values, strict=True):
                item[name] = value
        return shown


class Ids:
    """Finds ids in a mapped column.

    Args:
        ids: (N,) UTF-8 bytes of one width. order: (N,) int64, the places of the ids in sorted order; None where they are sorted.
    """

    def __init__(self, ids: np.ndarray, order: np.ndarray | None = None):
        self.ids, self._order = ids, order

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, wanted: list[str]) -> np.ndarray:
        """(len(wanted),) int64, -1 where there is none."""
        if not wanted or not len(self.ids):
            return np.full(len(wanted), -1)
        texts = [w.encode() for w in wanted]
        sought = np.array(texts, dtype=self.ids.dtype)  # cuts longer ones, which the comparison below then finds to differ
        at = np.searchsorted(self.ids, sought, sorter=self._order).clip(max=len(self.ids) - 1)
        places = at if self._order is None else self._order[at]
        same = [found == text for found, text in zip(self.ids[places].tolist(), texts, strict=True)]
        return np.where(same, places, -1)


class Index:
    """Finds the best items without scoring all of them: candidates from inverted lists and from what the memory says, scored as the
    exact graph scores.

    Args:
        folder: the artefact, with query.onnx, items.faiss and among.onnx. facts: `index` of its manifest.
    """

    def __init__(self, folder: Path, facts: dict):
        import faiss

        self._faiss, self._probes, self._shortlist = faiss, facts["probes"], facts["shortlist"]
        faiss.omp_set_num_threads(1)
        self._lists = faiss.read_index(str(folder / "items.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self._query, self._among = (_session(folder / name, 1) for name in ("query.onnx", "among.onnx"))
        self._read = [i.name for i in self._query.get_inputs()]

    def nearest(self, inputs: dict[str, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The inputs of the exact graph, of one shopper -> items and scores (k,), best first; None where fewer than k were found."""
        allowed, exclude = inputs["allowed"][0].copy(), inputs["exclude"][0]
        allowed[exclude] = False
        query, told, weights = self._query.run(None, {name: inputs[name] for name in self._read})
        search = self._faiss.SearchParametersIVF(
            nprobe=self._probes, sel=self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        )
        near = self._lists.search(query, self._shortlist * k, params=search)[1][0]
        candidates, at = np.unique(np.concatenate([told[0], near[near > 0]]), return_inverse=True)
        evidence = np.bincount(at[: told.shape[1]], weights[0], len(candidates))
        kept = allowed[candidates]
        if kept.sum() < k:
            return None
        candidates, evidence = candidates[kept], evidence[kept].astype(np.float32)
        scores = self._among.run(None, {"query": query, "candidates": candidates[None], "evidence": evidence[None]})[0][0]
        best = np.argsort(-scores, kind="stable")[:k]
        return candidates[best], scores[best]


class Column:
    """A mapped column of the catalogue, in order of item number; column[places] is a list of its values, None where unknown.

    Attributes:
        values: (N,) of category and brand int32, an index among `names`, -1 = unknown; of price float64, NaN = unknown; of in_stock
            int8, 1 or 0, -1 = unknown; of title int64 (N + 1,), where each ends in the UTF-8 text of all, no text = unknown.
        names: of category and brand. codes: the indices of a name, and of all categories under the beginning of a path.
    """

    def __init__(self, folder: Path, name: str):
        self.values, names, text = _mapped(folder / f"{name}.npy"), folder / f"{name}.json", folder / f"{name}_text.npy"
        self.names: list[str] | None = json.loads(names.read_text(encoding="utf-8")) if names.is_file() else None
        self.codes: dict[str, list[int]] = {}
        for code, value in enumerate(self.names or []):
            parts = value.split(" > ") if name == "category" else [value]
            for end in range(1, len(parts) + 1):
                self.codes.setdefault(" > ".join(parts[:end]), []).append(code)
        self._text = _mapped(text) if text.is_file() else None

    def __getitem__(self, places: np.ndarray) -> list:
        values = self.values[places].tolist()
        if self._text is not None:
            ends = self.values[places + 1].tolist()
            return [self._text[a:b].tobytes().decode() or None for a, b in zip(values, ends, strict=True)]
        if self.names is not None:
            return [self.names[v] if v >= 0 else None for v in values]
        if self.values.dtype == np.int8:
            return [v > 0 if v >= 0 else None for v in values]
        return [v if v == v else None for v in values]


def large(manifest: dict) -> bool:
    """Is the model one of which a copy a core is too much?"""
    return manifest["model_bytes"] > LARGE


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verified(folder: Path) -> dict:
    """The manifest, after every file that it lists was found whole.

    Raises:
        ArtefactError: see Recommender.
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
    """Raises ArtefactError where there is none, or one of another schema."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: no readable manifest ({error})") from error
    if manifest.get("schema") != SCHEMA:
        raise ArtefactError(f"{path}: schema {manifest.get('schema')}, this server reads {SCHEMA}")
    return manifest


def _session(path: Path, threads: int):
    import onnxruntime as ort  # by the workers alone: the process that starts them only reads how many

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    gpu = ["CUDAExecutionProvider"] if Path("/proc/driver/nvidia/version").exists() else []
    return ort.InferenceSession(str(path), options, providers=[*gpu, "CPUExecutionProvider"])


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
