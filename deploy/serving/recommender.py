"""Answers from an artefact folder, with onnxruntime and numpy alone: who gets what, what is like what.

Knows the artefact (artefact.py), nothing of training and nothing of HTTP. Whatever grows with the catalogue or the shoppers is mapped into
memory and read where it is asked for, so all worker processes share one copy, and nothing of it is touched by Python an item at a time.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deploy.serving.artefact import ArtefactError, cores, large, verified
from deploy.serving.audience import Audience
from deploy.serving.between import PRIOR, Learnt, newest, read
from deploy.serving.catalogue import Column, Ids, mapped
from deploy.serving.changes import Catalogue, Newcomer
from deploy.serving.decisions import Decision, Decisions
from deploy.serving.graphs import Asked, Index, session
from deploy.serving.histories import NOTHING, Bought, Histories, Known, Linked, LiveHistories, StoredHistories
from deploy.serving.reasons import Explainer, Reason
from online.state import VISITOR, Gone, State
from privacy import encrypted

WAYS = ("look", "text", "sound", "behaviour")  # by which items may be asked to be similar
SEEN = 1  # the action of an event of which only the item is given
SHOWN = ("title", "category", "brand", "price", "in_stock")  # of an item, null where it is not known
PROBE_SAME = 0.8  # share of the probe's first ten answers that this machine must give as well
PROBE_ERROR = 0.05  # of the spread of the probe's scores, by which scores may differ
SESSION = 1800.0  # seconds for which a search says what is wanted now
BUSY = 50.0  # what was done within the hour, faded and weighed, from which its items are what strangers are answered first
RELEVANT = 0.5  # of the best match, from which an item is what a search meant
LOOK = 2.0  # seconds between two looks at what was learnt
FUSED = 60  # ranks added before they are inverted (reciprocal rank fusion, Cormack et al. 2009)


class UnknownItem(Exception):
    """An item that the catalogue does not have."""


class UnknownWay(Exception):
    """A way to be similar that this artefact does not know; the message names those that it does."""


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
    query: str | None = None  # the shopper's search just now, which weighed in
    unchecked: list[str] = field(default_factory=list)  # what could not be asked for


class Recommender:
    """A loaded artefact. Safe to call from several threads: nothing of a request is kept.

    Args:
        folder: the artefact. histories: where the events of shoppers are asked for; None: the artefact's own. state: of events since, which the artefact's own histories go on with. outbox: a SQLite file that says what was sent. between: a folder of what is learnt since (between.py).

    Raises:
        ArtefactError: a file is missing or damaged, the schema is another, or this machine answers the stored probe otherwise than the one
            that made the artefact.
    """

    def __init__(
        self,
        folder: Path,
        histories: Histories | None = None,
        state: State | None = None,
        outbox: Path | None = None,
        between: Path | None = None,
    ):
        self.manifest, self.folder = verified(folder), folder
        self.version: str = self.manifest["version"]
        self.max_k: int = self.manifest["max_k"]
        self.max_len: int = self.manifest["max_len"]
        self.items = Ids(folder, "item_ids")
        columns = {name: Column(folder, name) for name in SHOWN if (folder / f"{name}.npy").is_file()}
        listed = mapped(folder / "listed.npy")  # what left the catalogue is never answered
        self.catalogue = Catalogue(folder, self.items, columns, listed, state, self.manifest["cutoff"])
        self._state, self._trends = state, {}
        self._between, self._looked, self._changed = between, -LOOK, None
        self.between: Learnt | None = None
        popular = json.loads((folder / "popular.json").read_text(encoding="utf-8"))
        self._popular = {name: np.array(numbers, dtype=np.int64) for name, numbers in popular.items()}
        ways = {way: f"_{way}" for way in WAYS if (folder / f"similar_{way}_items.npy").is_file()} | {None: ""}
        self._similar = {
            way: (mapped(folder / f"similar{name}_items.npy"), mapped(folder / f"similar{name}_scores.npy"))
            for way, name in ways.items()
        }
        same = folder / "looks_the_same.npy"
        self._looks_the_same = mapped(same) if same.is_file() else None
        self.linked = Linked(folder)
        self.histories = histories or StoredHistories(folder)
        if histories is None and state is not None:
            self.histories = LiveHistories(self.histories, state, self.manifest["cutoff"])
        self.audience = Audience(folder)
        self._codes = mapped(folder / "item_codes.npy") if (folder / "item_codes.npy").is_file() else None
        self.decisions = Decisions(folder, Ids(folder, "user_ids"), self.linked, outbox)
        self._session = session(folder / "model.onnx", cores() if large(self.manifest) else 1)
        self._index = Index(folder, self.manifest["index"]) if self.manifest.get("index") else None
        self._read = [i.name for i in self._session.get_inputs()]  # most families read no times, actions and platform
        self._carriers: list[str] = self.manifest["model"].get("carriers", [])
        self._platforms = {name: i for i, name in enumerate(self.manifest["platforms"], 1)}
        self._exclude: str = self.manifest["exclude"]
        self._explainer = Explainer(
            self.items, self.catalogue, self._answer, self._popular["all"], self._platforms, self.max_len, self.max_k
        )
        self._explainer.leave_unnamed(self.manifest["params"].get("serve", {}).get("sensitive", []))
        self._check_probe(json.loads((folder / "probe.json").read_text(encoding="utf-8")))

    def recommend(
        self,
        user_id: str | None = None,
        history: list[str] | None = None,
        k: int = 10,
        exclude: str | None = None,
        filters: dict | None = None,
        context: dict | None = None,
        visitor_id: str | None = None,
        explain: bool = False,
    ) -> Recommendation:
        """The k best items that the filters let through; fewer only if fewer are left.

        Args:
            user_id: a shopper; what is known of them is used where no history is given. visitor_id: the same of one who is not signed in.
            history: item ids, oldest first; unknown ones are passed over and named in the answer.
            k: 1 to max_k.
            exclude: `seen` (what the history holds), `bought`, `bought_and_not_due` (bought, but for what may be bought again by now) or `nothing` is left out;
                None: as the artefact says (serve.exclude). Of a given history nobody knows what was bought: but for `nothing`, all of it is left out.
            filters: category (a path or its beginning, or a list), brand (or a list), price_min, price_max, in_stock,
                exclude (item ids).
            context: item_id (looked at just now: the newest of the history), platform (where the shopper is, where they were last if left out: rankers read it, and it
                says whose popular items to fall back to), at (a datetime: the moment asked about, now where there is none).
            explain: whether each item says why it is there (reasons.py): `reasons` and `because`.

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        self.catalogue.look()
        filters, context = filters or {}, context or {}
        known = self._known(user_id, visitor_id) if history is None else NOTHING
        given = list(history or []) + ([context["item_id"]] if context.get("item_id") else [])
        places = self.items.places(given)
        unknown = [i for i, place in zip(given, places, strict=True) if place < 0]
        told, now = places[places >= 0] + 1, _moment(context)
        stored, when, done = known.history
        numbers = np.concatenate([stored, told])
        times = np.concatenate([when, np.full_like(told, when[-1] if len(when) else 0)])
        actions = np.concatenate([done, np.full_like(told, SEEN)])
        platform = context.get("platform") or known.platform
        allowed, blocked = self._filtered(filters)
        way = exclude or self._exclude
        repeats = self._due(known.bought, now, allowed, blocked, k)
        owned = known.bought.items if way == "bought" else known.bought.items[~known.bought.due(now)]
        left_out = np.concatenate([blocked, *{"seen": [numbers], "nothing": []}.get(way, [told, owned])])
        searched = now - known.query_at < SESSION and (not len(when) or known.query_at >= when[-1])
        query = known.query if searched else None
        newcomers = self._newcomers(filters, known.others, way) if len(numbers) else {}
        most = self.max_k if query or newcomers or self._looks_the_same is not None else k
        asked = Asked(numbers, times, actions, platform, left_out, allowed)
        if len(numbers):
            shown, scope = self._by_model(asked, most), None
        else:
            shown, scope = self._most_popular(most, allowed, left_out, platform, now)
        if newcomers:
            shown = self._with_newcomers(shown, newcomers)
        if query:
            matching = self._matching(query, filters, allowed, left_out)
            matching = [item for item in matching if item["score"] >= RELEVANT * matching[0]["score"]]
            shown = fused(shown, matching)
        shown = self._one_of_each(shown)
        if explain:
            found = {item["item_id"] for item in matching} if query else set()
            shown = self._explainer.explained(shown[:k], asked, {item: Reason("query", text=query) for item in found})
            repeats = self._explainer.explained(repeats, asked, self._explainer.cycles(known.bought))
        fallback = None if len(numbers) else "popular"
        return Recommendation(shown[:k], fallback, scope, unknown, repeats, query, list(known.unchecked))

    def search(
        self,
        query: str,
        k: int = 10,
        user_id: str | None = None,
        visitor_id: str | None = None,
        filters: dict | None = None,
        context: dict | None = None,
    ) -> list[dict]:
        """The k items that a text asks for, those first that suit the shopper too: the order by words and the model's, fused.

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        self.catalogue.look()
        filters, context, known = filters or {}, context or {}, self._known(user_id, visitor_id)
        allowed, blocked = self._filtered(filters)
        by_words = self._matching(query, filters, allowed, blocked)
        if not len(known.history.items):
            return by_words[:k]
        matching = np.zeros_like(allowed)
        matching[0, self.items.places([item["item_id"] for item in by_words]) + 1] = True
        matching[0, 0] = False
        platform = context.get("platform") or known.platform
        return fused(by_words, self._by_model(Asked(*known.history, platform, blocked, matching), self.max_k))[:k]

    def trending(self, k: int = 10, filters: dict | None = None, context: dict | None = None) -> tuple[list[dict], str]:
        """The k items of which most was done within the last hour, faded and weighed by strength; and of whom: `all`, or `platform:NAME`.

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        self.catalogue.look()
        filters, context = filters or {}, context or {}
        allowed, blocked = self._filtered(filters)
        numbers, weights, scope = self._trend(context.get("platform"), _moment(context))
        open_ = allowed[0, numbers] & ~np.isin(numbers, blocked)
        return self.shown(numbers[open_][:k], weights[open_][:k]), scope

    def decide(
        self,
        user_id: str,
        filters: dict | None = None,
        context: dict | None = None,
        channels: list[str] | None = None,
        topic: str | None = None,
        present: bool = False,
        explain: bool = False,
    ) -> tuple[Decision, dict | None]:
        """What to send a shopper now (deploy/serving/decisions.py), and what is known of the item; explain: also why it is likely to be liked.

        Raises:
            BadFilter: the catalogue lacks the filter's column.
        """
        self.catalogue.look()
        filters = filters or {}
        allowed, blocked = self._filtered(filters)
        allowed = allowed[0].copy()
        allowed[blocked] = False
        at = (context or {}).get("at")
        known = self.histories.of(user_id, self.items)
        allowed[known.bought.items[~known.bought.due(_moment(context or {}))]] = False
        found = self.decisions.decide(user_id, allowed, at, channels, topic, present)
        found.unchecked.extend(known.unchecked)
        if found.item is None:
            return found, None
        shown = self.shown(np.array([found.item]), np.array([found.worth]))
        if explain:
            asked = Asked(*known.history, known.platform, np.zeros(0, np.int64), self.catalogue.open)
            shown = self._explainer.explained(shown, asked, self._explainer.cycles(known.bought))
        return found, shown[0]

    def similar(self, item_id: str, k: int = 10, by: str | None = None) -> list[dict]:
        """The k items most like this one: by what they look, sound or read like (the cosine of vectors), by what shoppers did, or by all that the model knows.

        by: one of WAYS, or None.

        Raises:
            UnknownItem: the catalogue does not have it.
            UnknownWay: the artefact does not know the way.
        """
        number = self.items.places([item_id])[0] + 1
        if not number:
            raise UnknownItem(item_id)
        if by not in self._similar:
            known = [way for way in self._similar if way] or ["none"]
            raise UnknownWay(f"nothing is known of what items {by} like; of these it is: {', '.join(known)}")
        numbers, scores = (array[number] for array in self._similar[by])
        found = numbers > 0
        return self._one_of_each(self.shown(numbers[found], scores[found]))[:k]

    def score_encrypted(self, context: bytes, query: list[bytes]) -> list[bytes] | None:
        """Ciphertexts of all items' scores, of features that nobody here may know (privacy/encrypted.py); None: this artefact has no codes.

        Raises:
            ValueError: what was sent is no query.
        """
        return None if self._codes is None else encrypted.score(context, query, self._codes.tolist())

    def _due(self, bought: Bought, now: float, allowed: np.ndarray, blocked: np.ndarray, k: int) -> list[dict]:
        """What may be bought again by now, likeliest first."""
        due = np.flatnonzero(bought.due(now))
        due = due[allowed[0, bought.items[due]] & ~np.isin(bought.items[due], blocked)]
        if not len(due):
            return []
        chances = bought.chances(now)[due]
        best = np.argsort(-chances, kind="stable")[:k]
        return self.shown(bought.items[due][best], chances[best])

    def _known(self, user_id: str | None, visitor_id: str | None) -> Known:
        shopper = user_id or (visitor_id and VISITOR + visitor_id)
        return self.histories.of(shopper, self.items) if shopper else NOTHING

    def _one_of_each(self, shown: list[dict]) -> list[dict]:
        """Items without those that look and read the same as one before them."""
        if self._looks_the_same is None or not shown:
            return shown
        groups = self._looks_the_same[self.items.places([item["item_id"] for item in shown]) + 1].tolist()  # 0 of newcomers
        first = {group: i for i, group in reversed(list(enumerate(groups)))}
        return [item for i, (item, group) in enumerate(zip(shown, groups, strict=True)) if not group or first[group] == i]

    def _by_model(self, asked: Asked, k: int) -> list[dict]:
        """What the model answers to a history, mixed with what was learnt since."""
        learnt = self._learnt()
        mixing = learnt is not None and learnt.weight > 0
        found, scores, parts = self._rank(asked, self.max_k if mixing else k)
        carriers = dict(zip(found.tolist(), parts, strict=False))
        if mixing:
            open_ = asked.allowed[0].copy()
            open_[asked.exclude] = False
            found, scores = (part[:k] for part in learnt.mixed(asked.numbers, found, scores, open_))
        shown = self.shown(found, scores)
        for item, number in zip(shown, found.tolist(), strict=True):
            if number in carriers:
                item["part"] = self._carriers[carriers[number]]
        return shown

    def _rank(self, asked: Asked, k: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Numbers and scores of the model's k best, and of a blend which part says most for each."""
        inputs = {
            "history": asked.numbers[None, -self.max_len :],
            "times": asked.times[None, -self.max_len :],
            "actions": asked.actions[None, -self.max_len :],
            "platform": np.array([self._platforms.get(asked.platform, 0)]),
            "exclude": asked.exclude[None] if len(asked.exclude) else np.zeros((1, 1), np.int64),
            "allowed": asked.allowed,
        }
        if self._index and (found := self._index.nearest(inputs, k)):
            return *found, []
        items, scores, *carried = self._answer(inputs)
        real = np.isfinite(scores[0])[:k]
        return items[0][:k][real], scores[0][:k][real], carried[0][0][:k][real].tolist() if carried else []

    def _answer(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """What the graph says to those of the inputs that it reads."""
        return self._session.run(None, {name: inputs[name] for name in self._read})

    def rank(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers and scores of the model's answer to item numbers (L,), oldest first, and (V + 1,) what might be answered: nothing of the history."""
        open_ = self.catalogue.open[0].copy()
        open_[history] = False
        none = np.zeros_like(history)
        found, scores, _ = self._rank(Asked(history, none, none + SEEN, None, history, self.catalogue.open), self.max_k)
        return found, scores, open_

    def _learnt(self) -> Learnt | None:
        """What was learnt since the model was made, where somebody learns."""
        if self._between is not None and time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            changed = newest(self._between, self.version)
            if changed != self._changed:
                self._changed, self.between = changed, read(self._between, self.version)
        return self.between

    def _most_popular(
        self, k: int, allowed: np.ndarray, exclude: np.ndarray, platform: str | None, now: float
    ) -> tuple[list[dict], str]:
        """What is popular within the hour where enough happens, then what was popular when the model was made."""
        name = platform if platform in self._popular else "all"
        order, scope = self._popular[name], "all" if name == "all" else f"platform:{name}"
        trend, weights, whose = self._trend(platform, now)
        if weights.sum() >= BUSY:
            order, scope = np.concatenate([trend, order[~np.isin(order, trend)]]), f"trending:{whose}"
        order = order[allowed[0, order] & ~np.isin(order, exclude)][:k]
        scores = 1.0 / np.arange(1, len(order) + 1)  # a rank's reciprocal: ordered, and plainly no model score
        return self.shown(order, scores), scope

    def _trend(self, platform: str | None, now: float) -> tuple[np.ndarray, np.ndarray, str]:
        """Numbers of items, what was done to them within the hour, most first, and of whom; looked up once a minute."""
        minute = int(now // 60)
        if (platform, minute) not in self._trends:
            self._trends = {asked: found for asked, found in self._trends.items() if asked[1] == minute}
            try:
                found = self._state.popular(minute, platform) if self._state else []
            except Gone:
                return np.zeros(0, int), np.zeros(0), "all"
            places = self.items.places([item for item, _ in found])
            weights = np.array([weight for _, weight in found])
            self._trends[platform, minute] = places[places >= 0] + 1, weights[places >= 0]
        numbers, weights = self._trends[platform, minute]
        if platform is not None and weights.sum() < BUSY:
            return self._trend(None, now)
        return numbers, weights, f"platform:{platform}" if platform else "all"

    def _newcomers(self, filters: dict, met: dict[str, bool], way: str) -> dict[str, Newcomer]:
        """Newcomers that the filters let through. met: those that the shopper met, and whether they bought them."""
        kept = {}
        for item, newcomer in self.catalogue.newcomers.items():
            left_out = item in met and (way == "seen" or (way != "nothing" and met[item]))
            if newcomer.open and not left_out and fits(item, newcomer.told, filters):
                kept[item] = newcomer
        return kept

    def _with_newcomers(self, shown: list[dict], newcomers: dict[str, Newcomer]) -> list[dict]:
        """Among items the newcomers, each with the mean of the scores of those that it is like; what the model did not name has the lowest that it named."""
        if not shown:
            return shown
        scores = dict(
            zip(self.items.places([item["item_id"] for item in shown]) + 1, (item["score"] for item in shown), strict=True)
        )
        lowest, learnt = shown[-1]["score"], self._learnt()
        more = []
        for item, newcomer in newcomers.items():
            alike, weights = newcomer.alike, newcomer.weights
            if learnt is not None and item in learnt.company:
                alike, weights = beside(alike, weights, *learnt.company[item])
            if any(number in scores for number in alike.tolist()):
                worth = np.dot(weights, [scores.get(number, lowest) for number in alike.tolist()])
                more.append(described(item, newcomer.told, float(worth)))
        return sorted(shown + more, key=lambda item: -item["score"])

    def _matching(self, query: str, filters: dict, allowed: np.ndarray, blocked: np.ndarray) -> list[dict]:
        """Items that share words with a text, best first, with their BM25."""
        newcomers, out = self._newcomers(filters, {}, "nothing"), set(blocked.tolist())
        found = self.catalogue.find(query, 2 * self.max_k)
        numbers = np.array([number for number, _ in found if isinstance(number, int)], dtype=np.int64)
        open_ = set(numbers[allowed[0, numbers]].tolist()) - out
        shown = iter(self.shown(np.array([n for n in numbers.tolist() if n in open_], dtype=np.int64), np.zeros(len(open_))))
        listed = []
        for key, score in found:
            if isinstance(key, int):
                if key in open_:
                    listed.append(next(shown) | {"score": round(score, 6)})
            elif key in newcomers:
                listed.append(described(key, newcomers[key].told, score))
        return listed[: self.max_k]

    def _filtered(self, filters: dict) -> tuple[np.ndarray, np.ndarray]:
        """Which items the filters on columns let through, and the numbers of those that are excluded by id: unknown ones become 0, which is padding."""
        return self._allowed(filters), self.items.places(filters.get("exclude") or []) + 1

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
            return self.catalogue.open
        return self.catalogue.open & np.concatenate([[False], np.logical_and.reduce(fits)])[None]

    def _column(self, name: str) -> "Column":
        if name not in self.catalogue.columns:
            raise BadFilter(f"this catalogue has no {name}, so it cannot be filtered by")
        return self.catalogue.columns[name]

    def shown(self, numbers: np.ndarray, scores: np.ndarray) -> list[dict]:
        """Items by number as answers show them."""
        ids = self.items[numbers - 1]
        shown = [{"item_id": i, "score": round(score, 6)} for i, score in zip(ids, scores.tolist(), strict=True)]
        for name in SHOWN:
            values = self.catalogue.columns[name][numbers - 1] if name in self.catalogue.columns else [None] * len(shown)
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
            items, scores, *_ = self._answer(inputs)
            expected, count = np.array(case["scores"]), len(case["items"])
            same = np.isin(items[0][:count], case["items"]).mean()
            spread = max(expected[0] - expected[-1], 1e-3)
            error = np.abs(scores[0][:count] - expected).max() / spread
            if not (same >= PROBE_SAME and error <= PROBE_ERROR):
                raise ArtefactError(
                    f"this machine answers the artefact's probe otherwise than the one that made it ({same:.0%} of the items, scores off by "
                    f"{error:.0%} of their spread); compress it for this machine, or without {self.manifest['compression']['chosen']!r}"
                )


def fused(*rankings: list[dict]) -> list[dict]:
    """Several rankings of items as one (reciprocal rank fusion): the best of all first, then what one of them has."""
    scores: dict[str, float] = {}
    shown: dict[str, dict] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item["item_id"]] = scores.get(item["item_id"], 0.0) + 1 / (FUSED + rank)
            shown.setdefault(item["item_id"], item)
    return [shown[i] | {"score": round(scores[i], 6)} for i in sorted(scores, key=lambda i: -scores[i])]


def beside(alike: np.ndarray, weights: np.ndarray, company: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What an item is like by its features, and more and more by what it is met with."""
    share = times.sum() / (times.sum() + PRIOR)
    return np.concatenate([alike, company]), np.concatenate([(1 - share) * weights, share * times / times.sum()])


def fits(item: str, told: dict, filters: dict) -> bool:
    """Whether filters let an item through of which only this is known; what is not known does not fit."""
    category, brand = told.get("category"), told.get("brand")
    for wanted, name, value in ((filters.get("category"), "category", category), (filters.get("brand"), "brand", brand)):
        if wanted is not None:
            names = [wanted] if isinstance(wanted, str) else wanted
            if value is None or not any(value == n or (name == "category" and value.startswith(n + " > ")) for n in names):
                return False
    price = told.get("price", float("nan"))
    if filters.get("price_min") is not None and not price >= filters["price_min"]:
        return False
    if filters.get("price_max") is not None and not price <= filters["price_max"]:
        return False
    if filters.get("in_stock") is not None and told.get("in_stock") is not filters["in_stock"]:
        return False
    return item not in (filters.get("exclude") or [])


def described(item: str, told: dict, score: float) -> dict:
    """A newcomer as answers show it."""
    return {"item_id": item, "score": round(score, 6)} | {name: told.get(name) for name in SHOWN}


def _moment(context: dict) -> float:
    """The moment asked about, in seconds."""
    return context["at"].timestamp() if context.get("at") else time.time()


if __name__ == "__main__":
    Recommender(Path(sys.argv[1]))  # can this code answer from this artefact?
