"""Scores of features that the server does not know: are they those of integers, how long do they take, how much goes up."""

import time
from pathlib import Path

import numpy as np

from privacy.encrypted import LARGEST, SLOTS, WIDTH, Client, score


def encrypted(scratch: Path, tiny: bool) -> list[float]:
    """Share of 4,096 scores that are equal to those of integers; milliseconds of the server, median; megabytes of a question."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-LARGEST, LARGEST + 1, (WIDTH, SLOTS))
    rows, client, equal, seconds = codes.tolist(), Client(), [], []
    for _ in range(2 if tiny else 10):
        own = rng.integers(-LARGEST, LARGEST + 1, WIDTH)
        context, query = client.ask(own.tolist())
        started = time.perf_counter()
        answer = score(context, query, rows)
        seconds.append(time.perf_counter() - started)
        equal.append(float(np.mean(np.array(client.read(answer, SLOTS)) == own @ codes)))
    return [min(equal), 1000 * float(np.median(seconds)), sum(map(len, (context, *query))) / 1e6]
