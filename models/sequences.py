"""What shoppers met and what they were shown, as flat arrays. Knows no files, no tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass
class Ragged:
    """N rows of different lengths in one flat array, which may be mapped from a file: row i is values[start[i] : end[i]]."""

    values: np.ndarray  # (E,) integers
    start: np.ndarray  # (N,) int64
    end: np.ndarray  # (N,) int64

    @classmethod
    def of(cls, rows: "Ragged | Sequence[np.ndarray]") -> "Ragged":
        """Rows in one array."""
        if isinstance(rows, Ragged):
            return rows
        ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return cls(np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64, copy=False), ends[:-1], ends[1:])

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.start[row] : self.end[row]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.values[a:b] for a, b in zip(self.start.tolist(), self.end.tolist(), strict=True))

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64."""
        return self.end - self.start

    def flat(self) -> np.ndarray:
        """All rows, one after the other: int64."""
        return self.joined().astype(np.int64, copy=False)

    def joined(self) -> np.ndarray:
        """The same in the dtype of the values, which are not copied where the rows stand one after the other."""
        if len(self) and (self.start[1:] == self.end[:-1]).all():
            return self.values[self.start[0] : self.end[-1]]
        return self.values[places(self.start, self.lengths)]

    def last(self) -> np.ndarray:
        """(N,) int64, the last value of each row; 0 of empty ones."""
        found, filled = np.zeros(len(self), np.int64), self.lengths > 0
        found[filled] = self.values[self.end[filled] - 1]
        return found

    def owners(self) -> np.ndarray:
        """Of each value of flat() its row: int64."""
        return np.repeat(np.arange(len(self)), self.lengths)


def places(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """start[i], start[i] + 1, ..., so many of each row, one row after the other: int64."""
    return np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)


@dataclass
class Sequences:
    """What N shoppers met, oldest first; and, where something is to be predicted, what came next. The rows of all columns have the same bounds;
    lists of arrays become columns.
    """

    items: Ragged  # item numbers
    times: Ragged  # seconds, any origin
    targets: np.ndarray | None = None  # (N,) int64
    actions: Ragged | None = None  # None: all seen, no more
    platforms: Ragged | None = None  # of each event; None: not told
    platform: np.ndarray | None = None  # (N,) int64, where they are when they are asked; None: where they met their newest item

    def __post_init__(self) -> None:
        self.items, self.times = Ragged.of(self.items), Ragged.of(self.times)
        for name, value in (("actions", 1), ("platforms", 0)):
            column = getattr(self, name)
            if column is None:
                column = replace(self.items, values=np.full(len(self.items.values), value, np.uint8))
            setattr(self, name, Ragged.of(column))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64."""
        return self.items.lengths

    def asked_on(self) -> np.ndarray:
        """(N,) int64, the platform on which each is asked."""
        return self.platforms.last() if self.platform is None else self.platform

    def within(self, start: np.ndarray, end: np.ndarray, **changed: np.ndarray | None) -> "Sequences":
        """The same columns with other bounds (M,) of rows; changed: targets and platform, which are left out where they are not given."""
        columns = {
            name: replace(getattr(self, name), start=start, end=end) for name in ("items", "times", "actions", "platforms")
        }
        return Sequences(**columns, **changed)

    def asking(self, at: np.ndarray) -> "Sequences":
        """What each met before the event at a place (N,) of the columns, which is to be predicted."""
        targets, platform = (column.values[at].astype(np.int64) for column in (self.items, self.platforms))
        return self.within(self.items.start, at, targets=targets, platform=platform)

    def rows(self, chosen: Sequence[int] | np.ndarray) -> "Sequences":
        """Those of the chosen rows alone."""
        chosen = np.asarray(chosen, np.int64)
        asked = {name: value[chosen] for name in ("targets", "platform") if (value := getattr(self, name)) is not None}
        return self.within(self.items.start[chosen], self.items.end[chosen], **asked)

    def sample(self, about: int) -> "Sequences":
        """About so many rows, evenly spaced; all where there are fewer."""
        return self.rows(np.arange(0, len(self), max(1, len(self) // about)))

    def newest(self, most: int) -> "Sequences":
        """At most so many of the newest events of each."""
        start = np.maximum(self.items.start, self.items.end - most)
        return self.within(start, self.items.end, targets=self.targets, platform=self.platform)

    def only(self, kept: np.ndarray) -> "Sequences":
        """Without the items that are not kept, (V,) bool."""
        here = kept[self.items.joined()]
        if here.all():
            return self
        ends = np.concatenate([[0], np.bincount(self.items.owners()[here], minlength=len(self)).cumsum()])
        items, times, actions, platforms = (
            Ragged(column.joined()[here], ends[:-1], ends[1:])
            for column in (self.items, self.times, self.actions, self.platforms)
        )
        return Sequences(items, times, self.targets, actions, platforms, self.platform)


@dataclass
class Impressions:
    """What was shown to whom, ordered by shopper, and what came of it: arrays of one length."""

    user: np.ndarray  # int64, row of the shopper
    position: np.ndarray  # int64, how many items the shopper had met before
    item: np.ndarray  # int64
    platform: np.ndarray  # int64 from 1, 0 = not told
    labels: np.ndarray  # (N, 3) float32: clicked, carted, purchased

    def __len__(self) -> int:
        return len(self.user)

    def rows(self, chosen: np.ndarray) -> "Impressions":
        return Impressions(*(column[chosen] for column in (self.user, self.position, self.item, self.platform, self.labels)))
