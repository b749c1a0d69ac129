"""What the artefact knows of items and shoppers by id: mapped columns, read where they are asked for, shared by all worker processes."""

import json
from hashlib import blake2b
from pathlib import Path

import numpy as np


def mapped(path: Path) -> np.ndarray:
    """An array of the artefact, mapped into memory."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class Ids:
    """Finds ids of any length. Of N ids, numbered from 0, `name`_text.npy holds the UTF-8 text of all, `name`_ends.npy (N + 1,) int64 where
    each begins and the last ends, `name`_hashes.npy (N,) uint64 their hashes in order, `name`_order.npy (N,) the numbers in that order.

    Args:
        folder: the artefact. name: of the files.
    """

    def __init__(self, folder: Path, name: str):
        self._text, self._ends, self._hashes, self._order = (
            mapped(folder / f"{name}_{p}.npy") for p in ("text", "ends", "hashes", "order")
        )

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, numbers: np.ndarray) -> list[str]:
        starts, ends = self._ends[numbers].tolist(), self._ends[numbers + 1].tolist()
        return [self._text[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=True)]

    def places(self, wanted: list[str]) -> np.ndarray:
        """(len(wanted),) int64 numbers, -1 where there is none."""
        if not wanted or not len(self):
            return np.full(len(wanted), -1)
        texts = [w.encode() for w in wanted]
        hashes = np.array([hash_of(t) for t in texts], dtype=np.uint64)
        return np.array(
            [self._place(t, h, int(at)) for t, h, at in zip(texts, hashes, np.searchsorted(self._hashes, hashes), strict=True)]
        )

    def _place(self, text: bytes, hashed: np.uint64, at: int) -> int:
        while at < len(self) and self._hashes[at] == hashed:  # more than one turn where two ids share a hash
            number = int(self._order[at])
            if self._text[self._ends[number] : self._ends[number + 1]].tobytes() == text:
                return number
            at += 1
        return -1


def hash_of(text: bytes) -> int:
    """The 64 bits by which an id is looked up (BLAKE2b, little-endian); the same in pipelines/artefact/catalogue.py."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class Column:
    """A mapped column of the catalogue, in order of item number; column[places] is a list of its values, None where unknown.

    Attributes:
        values: (N,) of category and brand int32, an index among `names`, -1 = unknown; of price float64, NaN = unknown; of in_stock
            int8, 1 or 0, -1 = unknown; of title int64 (N + 1,), where each ends in the UTF-8 text of all, no text = unknown.
        names: of category and brand. codes: the indices of a name, and of all categories under the beginning of a path.
    """

    def __init__(self, folder: Path, name: str):
        self.values, names, text = mapped(folder / f"{name}.npy"), folder / f"{name}.json", folder / f"{name}_text.npy"
        self.names: list[str] | None = json.loads(names.read_text(encoding="utf-8")) if names.is_file() else None
        self.codes: dict[str, list[int]] = {}
        for code, value in enumerate(self.names or []):
            parts = value.split(" > ") if name == "category" else [value]
            for end in range(1, len(parts) + 1):
                self.codes.setdefault(" > ".join(parts[:end]), []).append(code)
        self._text = mapped(text) if text.is_file() else None

    def put(self, place: int, value: float) -> None:
        """Sets a value of price or in_stock; from then on this process holds a copy of the column."""
        if not self.values.flags.writeable:
            self.values = self.values.copy()
        self.values[place] = value

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
