"""What was learnt since the model was made: which items follow which, what is popular, what new items are met with. A copy beside the artefact, made again every minute from the log; a new model drops it.

    python -m deploy.serving.between EVENTS CURRENT

EVENTS: the folder of events. CURRENT: an environment's `current` link. Out: EVENTS.state/between/VERSION.npz and, with its digest, VERSION.json.

An answer's chances are mixed, (1 - w) softmax(model) + w P(next | the newest items): P is counted, and smoothed towards what is popular (Dirichlet prior, MacKay & Peto 1995). w is the smallest of WEIGHTS that
would have ranked what shoppers met last as well as any; 0 leaves answers as they are.
"""

import hashlib
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from online import log
from online.features import met
from online.state import beside, shopper

if TYPE_CHECKING:
    from deploy.serving.recommender import Recommender

EVERY, SHARE = 60.0, 0.1  # seconds between two times, at least, and of them the share that learning may take
SINCE = 7 * 86_400.0  # seconds of which events are learnt from, at most
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
RECENT = (1.0, 0.5, 0.25)  # what the newest items of a history count, newest first
PRIOR = 5.0  # meetings that what is popular counts beside what followed an item
HALF_LIFE = 3 * 86_400.0  # seconds in which a meeting's share in what is popular is halved
HELD_OUT, MOST, LEAST = 0.2, 3000, 200  # share of the newest meetings that say which weight is best; how many, and from how many
FOLLOWERS = 50  # kept an item


class Learnt(NamedTuple):
    """Of V items, numbers from 1.

    Attributes:
        offsets: (V + 2,) int64: what followed item i is [offsets[i], offsets[i + 1]). items: (N,) int32. counts: (N,) float32. popular: (V + 1,) float32 of sum 1. weight: w.
        company: of items that the catalogue does not have, by id: what shoppers met just before them, numbers and how often.
    """

    offsets: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    popular: np.ndarray
    weight: float
    company: dict[str, tuple[np.ndarray, np.ndarray]]

    def chances(self, history: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """(N,) P of each of the numbers (N,), after a history (L,), oldest first."""
        found, whole, prior = np.zeros(len(numbers)), 0.0, self.popular[numbers]
        for item, share in zip(history[::-1], RECENT, strict=False):
            span = slice(self.offsets[item], self.offsets[item + 1])
            items, counts = self.items[span], self.counts[span]
            followed = np.zeros(len(numbers))
            if len(items):
                at = np.minimum(np.searchsorted(items, numbers), len(items) - 1)
                followed = np.where(items[at] == numbers, counts[at], 0.0)
            found += share * (followed + PRIOR * prior) / (counts.sum() + PRIOR)
            whole += share
        return found / whole if whole else prior.astype(float)

    def followers(self, history: np.ndarray) -> np.ndarray:
        """Numbers of what followed the newest items of a history."""
        spans = [self.items[self.offsets[i] : self.offsets[i + 1]] for i in history[::-1][: len(RECENT)]]
        return np.unique(np.concatenate(spans)).astype(np.int64) if spans else np.zeros(0, np.int64)

    def mixed(
        self, history: np.ndarray, numbers: np.ndarray, scores: np.ndarray, open_: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of an answer, best first, with what followed the history's newest items; scores are logarithms of chances.

        open_: (V + 1,) bool: what may be answered.
        """
        if not self.weight or not len(numbers):
            return numbers, scores
        more = self.followers(history)
        more = more[open_[more] & ~np.isin(more, numbers)]
        model = np.exp(scores - scores.max())
        model /= model.sum()
        both = np.concatenate([numbers, more])
        said = np.concatenate([model, np.full(len(more), model.min())])
        chance = (1 - self.weight) * said + self.weight * self.chances(history, both)
        order = np.argsort(-chance, kind="stable")
        return both[order], np.log(chance[order])


def read(folder: Path, version: str) -> Learnt | None:
    """What was learnt for a version of a model; None where nothing was, or what there is is damaged."""
    try:
        told = json.loads((folder / f"{version}.json").read_text(encoding="utf-8"))
        content = (folder / f"{version}.npz").read_bytes()
    except (OSError, ValueError):
        return None
    if hashlib.sha256(content).hexdigest() != told["sha256"]:
        return None
    with np.load(folder / f"{version}.npz", allow_pickle=False) as arrays:
        parts = {name: arrays[name] for name in ("offsets", "items", "counts", "popular")}
        edges, numbers, times = (arrays[f"company_{name}"] for name in ("offsets", "items", "counts"))
    company = {item: (numbers[a:b], times[a:b]) for item, a, b in zip(told["newcomers"], edges[:-1], edges[1:], strict=True)}
    return Learnt(**parts, weight=told["weight"], company=company)


def newest(folder: Path, version: str) -> int | None:
    """What tells that something new was learnt for a version; None: nothing was."""
    try:
        return (folder / f"{version}.json").stat().st_mtime_ns
    except OSError:
        return None


def write(folder: Path, version: str, learnt: Learnt, until: float) -> None:
    """Puts what was learnt where workers find it, whole; what belongs to other versions goes."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{version}.npz"
    lists = list(learnt.company.values())
    with beside.open("wb") as file:
        np.savez(
            file, offsets=learnt.offsets, items=learnt.items, counts=learnt.counts, popular=learnt.popular,
            company_offsets=np.cumsum([0, *(len(one) for one, _ in lists)]),
            company_items=np.concatenate([np.zeros(0, np.int32), *(one for one, _ in lists)]),
            company_counts=np.concatenate([np.zeros(0, np.float32), *(one for _, one in lists)]),
        )  # fmt: skip
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    told = {"sha256": digest, "until": until, "weight": learnt.weight, "newcomers": list(learnt.company)}
    described = folder / f".{version}.json"
    described.write_text(json.dumps(told), encoding="utf-8")
    beside.rename(folder / f"{version}.npz")
    described.rename(folder / f"{version}.json")
    for path in folder.iterdir():
        if path.stem != version and not path.name.startswith("."):
            path.unlink(missing_ok=True)


class Acts:
    """What a log holds since a moment, read on from where it was read to.

    Args:
        folder: of events. since: seconds.
    """

    def __init__(self, folder: Path, since: float):
        self._folder, self._since = folder / "log", since
        self._read: dict[str, int] = {}
        self._known: set[str] = set()
        self.of: defaultdict[str, list[tuple[str, float, str]]] = defaultdict(list)  # by shopper: item, seconds, event

    def look(self) -> int:
        """Reads what is new; how many events."""
        before = len(self._known)
        for path in log.files(self._folder):
            for row, end in log.read(path, self._read.get(path.stem, 0)):
                self._read[path.stem] = end
                if "refused" in row or row["at"] <= self._since or row["event_id"] in self._known or "item_id" not in row:
                    continue
                self._known.add(row["event_id"])
                self.of[shopper(row)].append((row["item_id"], row["at"], row["event"]))
        return len(self._known) - before


class Meeting(NamedTuple):
    """A shopper meets an item. before: numbers of what they met before, oldest first. item: its number, 0 where the catalogue does not have it."""

    at: float
    before: list[int]
    item: int
    name: str


def meetings(acts: Acts, recommender: "Recommender") -> Iterator[Meeting]:
    """What shoppers met since, shopper by shopper. recommender: with the artefact's own histories."""
    for user, done in acts.of.items():
        history = recommender.histories.of(user, recommender.items).history.items.tolist()
        seen = set(history)
        done = sorted(done, key=lambda act: act[1])
        found = met([], done)
        places = recommender.items.places([item for item, _, _ in found]).tolist()
        for (name, at, _), place in zip(found, places, strict=True):
            number = place + 1
            if number in seen:
                continue
            yield Meeting(at, list(history), number, name)
            if number:
                history.append(number)
                seen.add(number)


def count(found: list[Meeting], items: int, now: float) -> Learnt:
    """What meetings say of a catalogue of so many items; of weight 0."""
    following: Counter[tuple[int, int]] = Counter()
    popular = np.full(items + 1, 1e-9)
    company: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for meeting in found:
        if not meeting.item:
            company[meeting.name].update(meeting.before[-len(RECENT) :])
            continue
        popular[meeting.item] += 0.5 ** ((now - meeting.at) / HALF_LIFE)
        for before, share in zip(meeting.before[::-1], RECENT, strict=False):
            following[before, meeting.item] += share
    popular[0] = 0.0
    lists: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    for (before, after), times in following.items():
        lists[before].append((times, after))
    kept = {before: sorted(sorted(ones, reverse=True)[:FOLLOWERS], key=lambda one: one[1]) for before, ones in lists.items()}
    sizes = np.zeros(items + 2, dtype=np.int64)
    for before, ones in kept.items():
        sizes[before + 1] = len(ones)
    flat = [one for before in sorted(kept) for one in kept[before]]
    return Learnt(
        np.cumsum(sizes), np.array([after for _, after in flat], np.int32), np.array([times for times, _ in flat], np.float32),
        (popular / popular.sum()).astype(np.float32), 0.0,
        {name: (np.array(list(ones), np.int32), np.array(list(ones.values()), np.float32)) for name, ones in company.items()},
    )  # fmt: skip


def best_weight(found: list[Meeting], recommender: "Recommender") -> float:
    """The weight with which the newest of the meetings, at most MOST of them, would have stood best (NDCG@10), told by those before them; 0 where there are few.

    Of weights that are as good within a standard error it is the smallest (Breiman et al. 1984): where nothing changed, nothing is to be learnt.
    """
    ordered = sorted((meeting for meeting in found if meeting.item), key=lambda meeting: meeting.at)
    cut = int(len(ordered) * (1 - HELD_OUT))
    asked = [meeting for meeting in ordered[cut:] if meeting.before][-MOST:]
    if len(asked) < LEAST:
        return 0.0
    learnt = count(ordered[:cut], len(recommender.items), ordered[cut].at)
    gains = np.zeros((len(asked), len(WEIGHTS)))
    for row, meeting in enumerate(asked):
        history = np.array(meeting.before, dtype=np.int64)
        numbers, scores, open_ = recommender.rank(history)
        for place, weight in enumerate(WEIGHTS):
            order = learnt._replace(weight=weight).mixed(history, numbers, scores, open_)[0][:10]
            at = np.flatnonzero(order == meeting.item)
            gains[row, place] = 1 / np.log2(at[0] + 2) if len(at) else 0.0
    behind = gains[:, [gains.mean(0).argmax()]] - gains
    within = behind.mean(0) <= behind.std(0) / np.sqrt(len(asked))
    return WEIGHTS[int(within.argmax())]  # the first


def learn(acts: Acts, recommender: "Recommender", now: float) -> Learnt:
    """What a log says beside a model."""
    found = list(meetings(acts, recommender))
    return count(found, len(recommender.items), now)._replace(weight=best_weight(found, recommender))


def main() -> None:
    from deploy.serving.recommender import Recommender

    events, link = Path(sys.argv[1]), Path(sys.argv[2])
    folder = beside(events) / "between"
    recommender, acts = None, None
    while True:
        begun = time.monotonic()
        place = (link.parent / os.readlink(link) / "bento" / "src" / "artefact").resolve()
        version = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["version"]
        if recommender is None or recommender.version != version:
            recommender = Recommender(place)
            acts = Acts(events, max(recommender.manifest["cutoff"], time.time() - SINCE))
        if acts.look() or not (folder / f"{version}.json").exists():
            learnt = learn(acts, recommender, time.time())
            write(folder, version, learnt, time.time())
            print(f"{version}: {len(acts._known):,} events since, weight {learnt.weight}", flush=True)
        taken = time.monotonic() - begun
        time.sleep(max(EVERY, taken / SHARE) - taken)


if __name__ == "__main__":
    main()
