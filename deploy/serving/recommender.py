"""Answers from an artefact folder, with onnxruntime and numpy alone: who gets what, what is like what.

Knows the artefact (artefact.py), nothing of training and nothing of HTTP. Whatever grows with the catalogue or the shoppers is mapped into
memory and read where it is asked for, so all worker processes share one copy, and nothing of it is touched by Python an item at a time.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.serving.artefact import ArtefactError, cores, large, verified
from deploy.serving.audience import Audience
from deploy.serving.catalogue import Column, Ids, mapped
from deploy.serving.decisions import Decision, Decisions
from deploy.serving.graphs import Index, session
from deploy.serving.histories import Bought, Histories, LiveHistories, StoredHistories
from online.state import State

SEEN = 1  # the action of an event of which only the item is given
SHOWN = ("title", "category", "brand", "price", "in_stock")  # of an item, null where it is not known
PROBE_SAME = 0.8  # share of the probe's first ten answers that this machine must give as well
PROBE_ERROR = 0.05  # of the spread of the probe's scores, by which scores may differ


class UnknownItem(Exception):
    """An item that the catalogue does not have."""


class BadFilter(Exception):
    """A filter that this catalogue cannot apply; the message says why."""


@dataclass
class Recommendation:
    """Items best first, with what is known of them; and how they were found."""

    items: list[dict]
    fallback: str | None  # None: the model; "popular": the most popular items
    scope: str | None  # of the fallback: "all", or "platform:NAME" where the shopper's platform has a list of its own
    unknown_items: list[str]  # of the given history
    repeats: list[dict]  # what the shopper bought and is due to buy again, likeliest first; score: the chance within a week


class Recommender:
    """A loaded artefact. Safe to call from several threads: nothing of a request is kept.

    Args:
        folder: the artefact. histories: where the events of shoppers are asked for; None: the artefact's own. state: of events since, which the artefact's own histories go on with.

    Raises:
        ArtefactError: a file is missing or damaged, the schema is another, or this machine answers the stored probe otherwise than the one
            that made the artefact.
    """

    def __init__(self, folder: Path, histories: Histories | None = None, state: State | None = None):
        self.manifest = verified(folder)
        self.version: str = self.manifest["version"]
        self.max_k: int = self.manifest["max_k"]
        self.max_len: int = self.manifest["max_len"]
        self.items = Ids(folder, "item_ids")
        self.columns = {name: Column(folder, name) for name in SHOWN if (folder / f"{name}.npy").is_file()}
        popular = json.loads((folder / "popular.json").read_text(encoding="utf-8"))
        self._popular = {name: np.array(numbers, dtype=np.int64) for name, numbers in popular.items()}
        self._similar, self._similarity = mapped(folder / "similar_items.npy"), mapped(folder / "similar_scores.npy")
        self.histories = histories or StoredHistories(folder)
        if histories is None and state is not None:
            self.histories = LiveHistories(self.histories, state, self.manifest["cutoff"])
        self.audience = Audience(folder)
        outbox = os.environ.get("PUSHCART_OUTBOX")
        self.decisions = Decisions(folder, Ids(folder, "user_ids"), Path(outbox) if outbox else None)
        self._session = session(folder / "model.onnx", cores() if large(self.manifest) else 1)
        self._index = Index(folder, self.manifest["index"]) if self.manifest.get("index") else None
        self._read = [i.name for i in self._session.get_inputs()]  # most families read no times, actions and platform
        self._carriers: list[str] = self.manifest["model"].get("carriers", [])
        self._platforms = {name: i for i, name in enumerate(self.manifest["platforms"], 1)}
        self._exclude: str = self.manifest["exclude"]
        self._all = np.concatenate([[False], mapped(folder / "listed.npy")])[None]  # what left the catalogue is never answered
        self._check_probe(json.loads((folder / "probe.json").read_text(encoding="utf-8")))

    def recommend(
        self,
        user_id: str | None = None,
        history: list[str] | None = None,
        k: int = 10,
        exclude: str | None = None,
        filters: dict | None = None,
        context: dict | None = None,
    ) -> Recommendation:
        """The k best items that the filters let through; fewer only if fewer are left.

        Args:
            user_id: a shopper; their stored history is used where no history is given.
            history: item ids, oldest first; unknown ones are passed over and named in the answer.
            k: 1 to max_k.
            exclude: `seen` (what the history holds), `bought`, `bought_and_not_due` (bought, but for what may be bought again by now) or `nothing` is left out;
                None: as the artefact says (serve.exclude). Of a given history nobody knows what was bought: but for `nothing`, all of it is left out.
            filters: category (a path or its beginning, or a list), brand (or a list), price_min, price_max, in_stock,
                exclude (item ids).
            context: item_id (looked at just now: the newest of the history), platform (where the shopper is: rankers read it, and it
                says whose popular items to fall back to), at (a datetime: the moment asked about, now where there is none).

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        filters, context = filters or {}, context or {}
        given = list(history or []) + ([context["item_id"]] if context.get("item_id") else [])
        places = self.items.places(given)
        unknown = [i for i, place in zip(given, places, strict=True) if place < 0]
        numbers = told = places[places >= 0] + 1
        times, actions = np.zeros_like(numbers), np.full_like(numbers, SEEN)
        now = context["at"].timestamp() if context.get("at") else time.time()
        allowed = self._allowed(filters)
        blocked = self.items.places(filters.get("exclude") or []) + 1  # unknown ones become 0, which is padding
        way, owned, repeats = exclude or self._exclude, numbers[:0], []
        if history is None and user_id is not None:
            stored, when, done = self.histories.of(user_id, self.items)
            times = np.concatenate([when, np.full_like(numbers, when[-1] if len(when) else 0)])
            actions = np.concatenate([done, actions])
            numbers = np.concatenate([stored, numbers])
            bought = self.histories.bought(user_id, self.items)
            repeats = self._due(bought, now, allowed, blocked, k)
            owned = bought.items if way == "bought" else bought.items[~bought.due(now)]
        if not len(numbers):
            items, scope = self._most_popular(k, allowed, blocked, context.get("platform"))
            return Recommendation(items, "popular", scope, unknown, repeats)
        leave_out = {"seen": [numbers], "nothing": []}.get(way, [told, owned])
        blocked = np.concatenate([blocked, *leave_out])
        inputs = {
            "history": numbers[None, -self.max_len :],
            "times": times[None, -self.max_len :],
            "actions": actions[None, -self.max_len :],
            "platform": np.array([self._platforms.get(context.get("platform"), 0)]),
            "exclude": blocked[None] if len(blocked) else np.zeros((1, 1), np.int64),
            "allowed": allowed,
        }
        if self._index and (found := self._index.nearest(inputs, k)):
            return Recommendation(self._shown(*found), None, None, unknown, repeats)
        items, scores, *carried = self._session.run(None, {name: inputs[name] for name in self._read})
        found = np.isfinite(scores[0])[:k]
        shown = self._shown(items[0][:k][found], scores[0][:k][found])
        for item, part in zip(shown, carried[0][0][:k][found].tolist() if carried else [], strict=bool(carried)):
            item["part"] = self._carriers[part]
        return Recommendation(shown, None, None, unknown, repeats)

    def decide(
        self,
        user_id: str,
        filters: dict | None = None,
        context: dict | None = None,
        channels: list[str] | None = None,
        topic: str | None = None,
        present: bool = False,
    ) -> tuple[Decision, dict | None]:
        """What to send a shopper now (deploy/serving/decisions.py), and what is known of the item.

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        filters = filters or {}
        allowed = self._allowed(filters)[0].copy()
        allowed[self.items.places(filters.get("exclude") or []) + 1] = False
        at = (context or {}).get("at")
        bought = self.histories.bought(user_id, self.items)
        allowed[bought.items[~bought.due(at.timestamp() if at else time.time())]] = False
        found = self.decisions.decide(user_id, allowed, at, channels, topic, present)
        if found.item is None:
            return found, None
        [item] = self._shown(np.array([found.item]), np.array([found.worth]))
        return found, item

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

    def _due(self, bought: Bought, now: float, allowed: np.ndarray, blocked: np.ndarray, k: int) -> list[dict]:
        """What may be bought again by now, likeliest first."""
        due = np.flatnonzero(bought.due(now))
        due = due[allowed[0, bought.items[due]] & ~np.isin(bought.items[due], blocked)]
        if not len(due):
            return []
        chances = bought.chances(now)[due]
        best = np.argsort(-chances, kind="stable")[:k]
        return self._shown(bought.items[due][best], chances[best])

    def _most_popular(self, k: int, allowed: np.ndarray, exclude: np.ndarray, platform: str | None) -> tuple[list[dict], str]:
        name = platform if platform in self._popular else "all"
        order = self._popular[name]
        order = order[allowed[0, order] & ~np.isin(order, exclude)][:k]
        scores = 1.0 / np.arange(1, len(order) + 1)  # a rank's reciprocal: ordered, and plainly no model score
        return self._shown(order, scores), "all" if name == "all" else f"platform:{name}"

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
        return self._all & np.concatenate([[False], np.logical_and.reduce(fits)])[None]

    def _column(self, name: str) -> "Column":
        if name not in self.columns:
            raise BadFilter(f"this catalogue has no {name}, so it cannot be filtered by")
        return self.columns[name]

    def _shown(self, numbers: np.ndarray, scores: np.ndarray) -> list[dict]:
        ids = self.items[numbers - 1]
        shown = [{"item_id": i, "score": round(score, 6)} for i, score in zip(ids, scores.tolist(), strict=True)]
        for name in SHOWN:
            values = self.columns[name][numbers - 1] if name in self.columns else [None] * len(shown)
            for item, value in zip(shown, values, strict=True):
                item[name] = value
        return shown

    def _check_probe(self, probe: dict) -> None:
        """Raises ArtefactError where this machine answers otherwise than the one that made the artefact: integer products overflow on CPUs
        that lack the instructions of another.
        """
        allowed = np.arange(len(self.items) + 1)[None] > 0
        for case in probe["cases"]:
            inputs = {k: np.array(v, dtype=np.int64) for k, v in case["inputs"].items()} | {"allowed": allowed}
            items, scores, *_ = self._session.run(None, {name: inputs[name] for name in self._read})
            expected, count = np.array(case["scores"]), len(case["items"])
            same = np.isin(items[0][:count], case["items"]).mean()
            spread = max(expected[0] - expected[-1], 1e-3)
            error = np.abs(scores[0][:count] - expected).max() / spread
            if not (same >= PROBE_SAME and error <= PROBE_ERROR):
                raise ArtefactError(
                    f"this machine answers the artefact's probe otherwise than the one that made it ({same:.0%} of the items, scores off by "
                    f"{error:.0%} of their spread); compress it for this machine, or without {self.manifest['compression']['chosen']!r}"
                )


if __name__ == "__main__":
    Recommender(Path(sys.argv[1]))  # can this code answer from this artefact?
