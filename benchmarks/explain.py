"""Are reasons true, and soon enough? Rows on a trained shop and on the bento that serves it.

    python -m benchmarks.explain                    # all rows (make bench-explain), a quarter of an hour
    python -m benchmarks.explain --row planted      # one of them
    python -m benchmarks.explain --tiny             # small sizes: does it run?

Prints a line a row and writes reports/explain.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.
"""

import itertools
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from benchmarks.checkouts import SMALL, ran, shop
from benchmarks.figures import take_rows
from deploy.platform import processes, server
from deploy.serving.recommender import Recommender
from models.explaining.attributions import Question, both_ends, deletion, shuffled
from models.families import build
from models.sequences import Sequences

EVENTS = 50  # of a history whose reasons are asked for


def faithful(scratch: Path, tiny: bool) -> list[float]:
    """How much further the first answer falls without the five events that are named than without five random ones, and than without the five newest; the same of the five that a search finds; and whether leaving
    out, gradients and attention come in the order that the page says.
    """
    report = json.loads((_shop(scratch, tiny, "explain") / "reports/explanation.json").read_text(encoding="utf-8"))
    falls = {name: way["deletion"][-1] for name, way in report["faithfulness"].items()}
    ways = ("leave-one-out", "integrated gradients", "attention")
    in_order = all(falls[a] >= falls[b] for a, b in itertools.pairwise(ways))
    named = falls["both ends"]
    return [named / falls["random"], named / falls["recency"], named / falls["searched"], float(in_order)]


def planted(scratch: Path, tiny: bool) -> list[float]:
    """A shop in which one item alone leads to another, wherever in the history it stands: how often a trained network's answer is said to come of it. And of how many models of
    shuffled weights the reasons are exposed: the event that they name first makes the answer fall, in the mean, by under half of what leaving out names.
    """
    rng, items, length = np.random.default_rng(1), 60, 12
    causes = np.arange(1, 11)  # item c leads to item 50 + c - 1

    def history() -> list[int]:
        row = rng.choice(np.arange(11, 50), length, replace=False)
        row[rng.integers(0, length)] = cause = rng.choice(causes)
        return [*row.tolist(), 49 + int(cause)]

    rows = [history() for _ in range(1500 if tiny else 4000)]
    train, test = (
        Sequences([np.array(r) for r in part], [100 * np.arange(len(r)) for r in part]) for part in (rows[200:], rows[:200])
    )
    network = _trained(train, items, epochs=20 if tiny else 30)
    wrong = [shuffled(deepcopy(network), seed) for seed in range(10)]
    named, fallen, right = [], [], 0
    reference = torch.arange(50, 60)
    for row in range(100):
        *before, target = (int(i) for i in test.items[row])
        asked = torch.tensor(before), 100 * torch.arange(len(before)), target, reference
        question = Question(network, *asked)
        with torch.no_grad():
            right += int(question.scores(torch.ones(1, len(before), dtype=torch.bool))[0, 50:].argmax()) == target - 50
        falls = both_ends(question)
        named.append(before[int(falls.argmax())] == target - 49)
        fallen.append([float(deletion(question, way, 1)[0]) for way in (falls, *(both_ends(Question(w, *asked)) for w in wrong))])
    if right < 95:
        raise RuntimeError(f"the network did not learn the planted rule: {right} % right, so its reasons say nothing")
    by_true, *by_wrong = np.mean(fallen, 0)
    return [float(np.mean(named)), float(np.mean(np.array(by_wrong) < by_true / 2))]


def soon(scratch: Path, tiny: bool) -> list[float]:
    """Milliseconds of a request with reasons for a history of 50 events, the slowest of a hundred, each another history; and how many answers without reasons come in a second after them, over before."""
    bento = _shop(scratch, tiny, "bundle") / "bento"
    items = Recommender(bento / "src/artefact").items
    rng, count = np.random.default_rng(2), 100 if tiny else 500
    histories = [items[rng.choice(len(items), EVENTS, replace=False)] for _ in range(count)]
    with (
        server.server_folder(scratch, port := processes.free_port()) as folder,
        server.serving([str(bento)], port, folder, {}) as (url, _),
    ):

        def ask(history: list[str], explain: bool) -> float:
            started = time.perf_counter()
            processes.ask(f"{url}/recommend", {"history": history, "exclude": "nothing", "explain": explain})
            return 1000 * (time.perf_counter() - started)

        for history in histories[:20]:
            ask(history, True)
        before = [ask(history, False) for history in histories]
        with_reasons = [ask(history, True) for history in histories[20:]]
        after = [ask(history, False) for history in histories]
    return [
        float(np.quantile(with_reasons, 0.5)),
        float(np.quantile(with_reasons, 0.99)),
        float(np.median(before) / np.median(after)),
    ]


def _trained(train: Sequences, items: int, epochs: int) -> torch.nn.Module:
    """A small network that learnt the last item of each history alone, which is what the rule decides."""
    import pytorch_lightning as lightning

    shape = {
        "width": 32,
        "layers": 2,
        "heads": 2,
        "dropout": 0.0,
        "max_len": 20,
        "gated": False,
        "id_dropout": 0.0,
        "event_dropout": 0.0,
    }
    lightning.seed_everything(3, verbose=False)
    network = build("sasrec", items, shape, None)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.003)
    rows = torch.tensor(np.array([train.items[row] for row in range(len(train))]), dtype=torch.long)
    for _ in range(epochs):
        for part in torch.randperm(len(rows)).split(64):
            history, target = rows[part, :-1], rows[part, -1]
            query = network(history, 100 * torch.arange(history.shape[1]).expand_as(history))[:, -1]
            scores = network.head.scores(query, network.head.vectors(network.embeddings()), network.head.bias)
            loss = torch.nn.functional.cross_entropy(scores, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def _shop(scratch: Path, tiny: bool, stage: str) -> Path:
    """The shop of the demo, trained, as far as a stage."""
    changed = {"source": shop(300, 120, 30), "train": SMALL, "compress": {"steps": {"table": ["int8"]}}} if tiny else {}
    return ran(scratch / "checkout", stage, **changed)


# By name: how it is taken, and of each figure its name, what is asked for at least, the aim, and whether less is better.
ROWS: dict[str, tuple[Callable[[Path, bool], list[float]], list[tuple[str, float, float, bool]]]] = {
    "deletion": (faithful, [
        ("the five named events deleted: fall of the first answer's score, over that of five random ones", 3, 5, False),
        ("... over that of the five newest", 1.5, 2, False),
        ("... over that of five that a search finds, which is about the most that five can", 0.8, 0.9, False),
        ("... leave-one-out before integrated gradients before attention", 1, 1, False),
    ]),
    "planted": (planted, [
        ("a planted rule: share of answers whose first reason it is", 0.95, 1, False),
        ("... share of models of shuffled weights whose reasons are exposed as unfaithful", 1, 1, False),
    ]),
    "soon": (soon, [
        ("an answer with reasons, 50 events: p50, ms", 20, 10, True),
        ("... p99, ms", 20, 10, True),
        ("answers without reasons after them: speed over that before", 0.95, 1, False),
    ]),
}  # fmt: skip


if __name__ == "__main__":
    take_rows(__doc__, ROWS, "explain.json")
