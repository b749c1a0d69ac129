"""Answers from an artefact folder, with onnxruntime and numpy alone: who gets what, what is like what.

Knows the artefact (manifest.json and the files it lists), nothing of training and nothing of HTTP.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

SCHEMA = 2  # of the artefact: what this code can read
SEEN = 1  # the action of an event of which only the item is told


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
        catalogue = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))
        self.ids: list[str] = catalogue["item_id"]
        self.number = {item_id: i for i, item_id in enumerate(self.ids, 1)}
        self.columns = {name: values for name, values in catalogue.items() if name != "item_id"}
        self._codes = {c: _codes(self.columns[c]) for c in ("category", "brand") if c in self.columns}
        self._arrays = {
            c: _padded(self.columns[c], kind) for c, kind in (("price", float), ("in_stock", bool)) if c in self.columns
        }
        popular = json.loads((folder / "popular.json").read_text(encoding="utf-8"))
        self._popular = {name: np.array(numbers) for name, numbers in popular.items()}
        with np.load(folder / "similar.npz", allow_pickle=False) as similar:
            self._similar, self._similarity = similar["items"], similar["scores"]
        with np.load(folder / "histories.npz", allow_pickle=False) as known:
            self._offsets, self._histories, self._times = known["offsets"], known["items"], known["times"]
            self._actions = known["actions"]
            self._users = {user: i for i, user in enumerate(known["user_ids"].tolist())}
        self._session = _session(folder / "model.onnx")
        self._read = [i.name for i in self._session.get_inputs()]  # most families read no times, actions and platform
        self._platforms = {name: i for i, name in enumerate(self.manifest["platforms"], 1)}

    def history(self, user_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a known shopper met, oldest first: item numbers, seconds and actions, int64; empty for an unknown one."""
        at = self._users.get(user_id)
        span = slice(self._offsets[at], self._offsets[at + 1]) if at is not None else slice(0)
        return self._histories[span].astype(np.int64), self._times[span], self._actions[span].astype(np.int64)

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
        unknown = [i for i in given if i not in self.number]
        numbers = np.array([self.number[i] for i in given if i in self.number], dtype=np.int64)
        times, actions = np.zeros_like(numbers), np.full_like(numbers, SEEN)
        if history is None and user_id is not None:
            stored, when, done = self.history(user_id)
            times = np.concatenate([when, np.full_like(numbers, when[-1] if len(when) else 0)])
            actions = np.concatenate([done, actions])
            numbers = np.concatenate([stored, numbers])
        allowed = self._allowed(filters)
        exclude = numbers if exclude_seen else numbers[:0]
        if not len(numbers):
            return Recommendation(*self._most_popular(k, allowed, context.get("platform")), unknown)
        inputs = {
            "history": numbers[None, -self.max_len :],
            "times": times[None, -self.max_len :],
            "actions": actions[None, -self.max_len :],
            "platform": np.array([self._platforms.get(context.get("platform"), 0)]),
            "exclude": exclude[None] if len(exclude) else np.zeros((1, 1), np.int64),
            "allowed": allowed[None],
        }
        items, scores = self._session.run(None, {name: inputs[name] for name in self._read})
        found = np.isfinite(scores[0])[:k]
        return Recommendation(self._shown(items[0][:k][found], scores[0][:k][found]), None, unknown)

    def similar(self, item_id: str, k: int = 10) -> list[dict]:
        """The k items most like this one, by the cosine of their vectors.

        Raises:
            UnknownItem: the catalogue does not have it.
        """
        if item_id not in self.number:
            raise UnknownItem(item_id)
        at = self.number[item_id]
        found = self._similar[at] > 0
        return self._shown(self._similar[at][found][:k], self._similarity[at][found][:k])

    def _most_popular(self, k: int, allowed: np.ndarray, platform: str | None) -> tuple[list[dict], str]:
        name = platform if platform in self._popular else "all"
        order = self._popular[name]
        order = order[allowed[order]][:k]
        scores = 1.0 / np.arange(1, len(order) + 1)  # a rank's reciprocal: ordered, and plainly no model score
        return self._shown(order, scores), "popular" if name == "all" else f"popular on {name}"

    def _allowed(self, filters: dict) -> np.ndarray:
        """(items + 1,) bool: which items the filters let through."""
        allowed = np.ones(len(self.ids) + 1, dtype=bool)
        allowed[0] = False
        for column in ("category", "brand"):
            if filters.get(column) is not None:
                names, codes = self._column(self._codes, column)
                wanted = [filters[column]] if isinstance(filters[column], str) else filters[column]
                if column == "category":
                    fits = [i for i, name in enumerate(names) if any(name == w or name.startswith(w + " > ") for w in wanted)]
                else:
                    fits = [i for i, name in enumerate(names) if name in wanted]
                allowed[1:] &= np.isin(codes, fits)
        if filters.get("price_min") is not None:
            allowed[1:] &= self._column(self._arrays, "price") >= filters["price_min"]
        if filters.get("price_max") is not None:
            allowed[1:] &= self._column(self._arrays, "price") <= filters["price_max"]
        if filters.get("in_stock") is not None:
            allowed[1:] &= self._column(self._arrays, "in_stock") == filters["in_stock"]
        allowed[[self.number[i] for i in filters.get("exclude") or [] if i in self.number]] = False
        return allowed

    @staticmethod
    def _column(columns: dict, name: str):
        if name not in columns:
            raise BadFilter(f"this catalogue has no {name}, so it cannot be filtered by")
        return columns[name]

    def _shown(self, numbers: np.ndarray, scores: np.ndarray) -> list[dict]:
        shown = []
        for number, score in zip(numbers.tolist(), scores.tolist(), strict=True):
            item = {"item_id": self.ids[number - 1], "score": round(score, 6)}
            item |= {name: values[number - 1] for name, values in self.columns.items()}
            shown.append(item)
        return shown


def verified(folder: Path) -> dict:
    """The manifest, after every file that it lists was found whole.

    Raises:
        ArtefactError: see Recommender.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: no readable manifest ({error})") from error
    if manifest.get("schema") != SCHEMA:
        raise ArtefactError(f"{path}: schema {manifest.get('schema')}, this server reads {SCHEMA}")
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ArtefactError(f"{file} is missing")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise ArtefactError(f"{file} is not the file that was exported: its sha256 differs from the manifest's")
    return manifest


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # one worker process a core; a second thread would only wait
    options.log_severity_level = 3
    gpu = ["CUDAExecutionProvider"] if Path("/proc/driver/nvidia/version").exists() else []
    return ort.InferenceSession(str(path), options, providers=[*gpu, "CPUExecutionProvider"])


def _codes(values: list[str | None]) -> tuple[list[str], np.ndarray]:
    """Distinct values, and each item's index among them; "" where there is none."""
    names, codes = np.unique([v or "" for v in values], return_inverse=True)
    return names.tolist(), codes


def _padded(values: list, kind: type) -> np.ndarray:
    missing = np.nan if kind is float else False
    return np.array([missing if v is None else v for v in values], dtype=kind)
