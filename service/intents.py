"""What a customer wants: a linear head over words, letters and meaning.

In: messages in any language. Out: a chance of each intent, calibrated, and how near the message is to anything that the head has learnt from. Lost: the order of words beyond pairs. Trained by pipelines/assist.py.
"""

import itertools
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service import meaning

HASHED = 1 << 16  # columns of words and letters
LONGEST = 2000  # letters of a message that are read
LETTERS = (2, 5)  # in a row
WORD = re.compile(r"\w+")
SHARES = (1.0, 1.0, 3.0)  # what words, letters and meaning count
ARRAYS = ("words", "means", "bias", "learnt")
NONE = "none"  # the intent of messages that want nothing of a shop, where there are examples of such
NEAREST = 3  # learnt messages by which it is told how near one is


def features(messages: list[str]) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Of each message the columns (n,) int64 and values (n,) float32 of its words and letters; and what they mean: (N, meaning.WIDTH) float32."""
    messages = [message[:LONGEST].lower() for message in messages]
    return [_grams(message) for message in messages], SHARES[2] * meaning.encode(messages)


def _grams(message: str) -> tuple[np.ndarray, np.ndarray]:
    words = WORD.findall(message)
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    letters = [
        padded[i : i + n]
        for word in words
        for padded in [f"_{word}_"]
        for n in range(LETTERS[0], LETTERS[1] + 1)
        for i in range(len(padded) - n + 1)
    ]
    columns, values = [], []
    for kind, (share, said) in enumerate(zip(SHARES, (words + pairs, letters), strict=False)):
        if said:
            hashed = [zlib.crc32(f"{kind} {gram}".encode()) % HASHED for gram in said]
            own, counts = np.unique(hashed, return_counts=True)
            weights = 1 + np.log(counts)
            columns.append(own)
            values.append(share * weights / np.linalg.norm(weights))
    return (
        (np.concatenate(columns), np.concatenate(values).astype(np.float32))
        if columns
        else (np.zeros(0, np.int64), np.zeros(0, np.float32))
    )


@dataclass
class Intents:
    """A trained head.

    Args:
        names: of the intents, C. words: (HASHED, C) float16, weights of words and letters; means: (meaning.WIDTH, C) float16; bias: (C,) float32. temperature: logits are divided by.
        learnt: (M, meaning.WIDTH) float16, meanings of messages learnt from, of length 1. far, near: of the cosine with the nearest of those, at which a message is as likely none of the intents as it can be, and one of them.
    """

    names: list[str]
    words: np.ndarray
    means: np.ndarray
    bias: np.ndarray
    temperature: float
    learnt: np.ndarray
    far: float
    near: float

    def chances(self, messages: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of each message the chance of each intent (N, C), which sum to 1, and how sure it is to be one of them at all (N,), 0 to 1."""
        grams, meant = features(messages)
        logits = meant @ self.means.astype(np.float32) + self.bias
        for row, (columns, values) in enumerate(grams):
            logits[row] += values @ self.words[columns].astype(np.float32)
        logits /= self.temperature
        odds = np.exp(logits - logits.max(1, keepdims=True))
        chances = odds / odds.sum(1, keepdims=True)
        return chances, self._known(meant / SHARES[2], chances)

    def _known(self, meant: np.ndarray, chances: np.ndarray) -> np.ndarray:
        cosines = meant @ self.learnt.T.astype(np.float32)
        count = min(NEAREST, cosines.shape[1])
        nearest = -np.partition(-cosines, count - 1, axis=1)[:, :count].mean(1)
        close = np.clip((nearest - self.far) / max(self.near - self.far, 1e-6), 0, 1)
        other = chances[:, self.names.index(NONE)] if NONE in self.names else 0.0
        return close * chances.max(1) ** 0.5 * (1 - other)

    def write(self, folder: Path, name: str) -> None:
        """Arrays, and what else there is, as files that `read` finds by the name."""
        for part in ARRAYS:
            np.save(folder / f"{name}_{part}.npy", getattr(self, part), allow_pickle=False)
        told = {"names": self.names, "temperature": self.temperature, "far": self.far, "near": self.near}
        (folder / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, name: str) -> "Intents":
        arrays = {part: np.load(folder / f"{name}_{part}.npy", mmap_mode="r", allow_pickle=False) for part in ARRAYS}
        return cls(**json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), **arrays)
