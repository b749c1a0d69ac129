"""What a shopper did, asked for by id. The artefact's histories are those of the day it was made."""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from deploy.serving.catalogue import Ids, mapped


class History(NamedTuple):
    """Events, oldest first, of one length: int64 each."""

    items: np.ndarray  # item numbers from 1
    times: np.ndarray  # seconds
    actions: np.ndarray  # strongest thing done: 1 = seen ... 4 = bought


class Histories(Protocol):
    """Where a shopper's events are asked for."""

    def of(self, user_id: str, items: Ids) -> History:
        """The events of a shopper, empty for an unknown one.

        items: the ids of the catalogue, by which a store that keeps item ids finds their numbers.
        """


class StoredHistories:
    """The histories that the artefact holds.

    Args:
        folder: the artefact.
    """

    def __init__(self, folder: Path):
        self.users = Ids(folder, "user_ids")
        parts = ("offsets", "items", "times", "actions")
        self._offsets, *self._columns = (mapped(folder / f"history_{p}.npy") for p in parts)

    def of(self, user_id: str, items: Ids) -> History:
        at = self.users.places([user_id])[0]
        span = slice(self._offsets[at], self._offsets[at + 1]) if at >= 0 else slice(0)
        return History(*(column[span].astype(np.int64) for column in self._columns))
