"""Runs in the peer's virtualenv: milliseconds of RecTools' `recommend` for one user, on one core.

    python rectools_latency.py SEQUENCES WIDTH LAYERS HEADS MAX_LEN

A SASRec of the given shape is trained on one step's worth of shoppers, which is all that its speed needs, over the whole catalogue.
Prints one line of JSON: {"ms": [...]}.
"""

import json
import sys
import time
import warnings

import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
with open(sys.argv[1]) as lines:
    sequences = [line.split() for line in lines]
width, layers, heads, max_len = map(int, sys.argv[2:])
rows = [(user, item, at) for user, *items in sequences for at, item in enumerate(items)]
frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Datetime])
frame[Columns.Weight] = 1
frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="D")
dataset = Dataset.construct(frame)
model = SASRecModel(
    n_factors=width,
    n_blocks=layers,
    n_heads=heads,
    session_max_len=max_len,
    loss="sampled_softmax",
    n_negatives=1,
    batch_size=1024,
    epochs=1,
    verbose=0,
)
model.fit(dataset)
took = []
for user, *_ in sequences[:60]:
    started = time.perf_counter()
    model.recommend(users=[user], dataset=dataset, k=10, filter_viewed=True)
    took.append(1000 * (time.perf_counter() - started))
print(json.dumps({"ms": took[10:]}))
