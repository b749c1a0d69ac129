"""How fast do networks learn on this CPU, beside what they were (commit c3f5cf5) and beside the strongest open peer?

    python -m benchmarks.training                                        # ten minutes
    python -m benchmarks.training --data ../shared/data/amazon-beauty    # with the peer's 20 minutes of training
    python -m benchmarks.training --tiny                                 # does it run?

Each figure is taken in processes of its own, ours and the earlier one by turns; the ratio is of medians. Prints a row a figure and writes
reports/training.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}; a value that could not be taken is null, with the reason.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import cpu, row
from benchmarks.quality import ROOT
from pipelines.machine import cores, threads
from pipelines.stage import write_json

EARLIER = "c3f5cf5"
TURNS = 3

# Programs that run in today's tree and in the earlier one; the last line printed is the figure.
HEAD = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
from models.batches import Histories, HistoryData
try:
    from models.sequences import Sequences
    from models.training.learner import NextItem
    from pipelines.machine import multiplies_bf16
    more = [torch.bfloat16 if multiplies_bf16() else None]
except ImportError:
    from models.batches import Sequences
    from models.learner import NextItem
    more = []
shoppers, items, steps = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
lengths = rng.integers(5, 52, shoppers)
histories = [rng.integers(1, items + 1, n).astype(np.int64) for n in lengths]
times = [np.cumsum(rng.integers(1, 90000, n)) for n in lengths]
data = Histories(Sequences(histories, times), 50)
module = HistoryData(data, Sequences(histories[:9], times[:9], np.ones(9, np.int64)), 50, 64, 0)
"""
BATCHES = (
    HEAD
    + """
loader = module.train_dataloader()
started, events = time.perf_counter(), 0
for (shopper_batch, target), _ in zip(loader, range(steps)):
    events += target.numel()
print((time.perf_counter() - started) / events)
"""
)
HSTU = (
    HEAD
    + """
from models.families import build, loss_of
torch.manual_seed(0)
shape = {"width": 128, "layers": 2, "heads": 2, "dropout": 0.3, "max_len": 50, "gated": False, "id_dropout": 0.0, "unnamed": 0.0, "event_dropout": 0.0}
counts = np.bincount(np.concatenate(histories), minlength=items + 1)
learner = NextItem(build("hstu", items, shape, None), loss_of("hstu", "auto"), counts, 1024, 0.002, 0.05, *more)
learner.log = learner.count_loss = lambda *_, **__: None
optimiser = torch.optim.AdamW(learner.parameters(), lr=0.002, fused=True)
taken = []
for index, batch in zip(range(steps), module.train_dataloader()):
    started = time.perf_counter()
    optimiser.zero_grad()
    learner.training_step(batch, index).backward()
    torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    optimiser.step()
    taken.append(time.perf_counter() - started)
print(np.median(taken[len(taken) // 5:]))
"""
)
MAPPED = """
import json, sys
from pathlib import Path
import numpy as np, torch
from models.batches import Histories, HistoryData
from models.families import build, loss_of
from models.training.learner import NextItem
from pipelines.learning.prepared import mapped
steps, items = json.loads(sys.argv[1])
histories = mapped(Path("flat"))
module = HistoryData(Histories(histories, 50), histories.within(histories.items.start[:9], histories.items.end[:9] - 1, targets=histories.items.last()[:9]), 50, 64, 0)
shape = {"width": 64, "layers": 2, "heads": 2, "dropout": 0.3, "max_len": 50, "gated": False, "id_dropout": 0.0, "event_dropout": 0.0}
learner = NextItem(build("sasrec", items, shape, None), "sampled_softmax", np.ones(items + 1), 1024, 0.002, 0.05)
learner.count_loss = lambda *_: None
optimiser = torch.optim.AdamW(learner.parameters(), lr=0.002, fused=True)
most = 0
for index, batch in zip(range(steps), module.train_dataloader()):
    optimiser.zero_grad()
    learner.training_step(batch, index).backward()
    optimiser.step()
    if index % 10 == 0:
        most = max(most, *(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")))
print(most / 1e6)
"""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, help="folder of a sequence file, for the comparison with the peer")
    cli.add_argument("--budget", type=float, default=1200, help="seconds of training of the peer")
    cli.add_argument("--tiny", action="store_true", help="small sizes, whose figures say nothing")
    cli.add_argument("--out", type=Path, default=ROOT / "reports" / "training.json")
    chosen = cli.parse_args()
    device = f"{cores()} cores, {cpu()}"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        there = earlier(Path(folder) / "earlier")
        sizes = [400, 500, 5] if chosen.tiny else [25_000, 12_000, 60]
        turns = 1 if chosen.tiny else TURNS
        value, reason = beside(HSTU, sizes, there, turns)
        rows.append(row(f"HSTU step beside commit {EARLIER}, times as fast", value, 1.5, 2.5, device, reason=reason))
        sizes = [400, 500, 5] if chosen.tiny else [360_000, 12_000, 5_000]  # 10^7 events
        value, reason = beside(BATCHES, sizes, there, turns)
        rows.append(row(f"batches alone beside commit {EARLIER}, times as fast", value, 10, 30, device, reason=reason))
        events, steps = (20_000, 5) if chosen.tiny else (100_000_000, 300)
        flat(Path(folder) / "flat", events, 50_000)
        used = figure(MAPPED, [steps, 50_000], Path(folder), ROOT)
        rows.append(row(f"{events:,} events in flat files, {steps} steps: GB beside them", used, 2, 1, device, less=True))
    value, reason = peer(chosen.data, chosen.budget)
    name = "training seconds of the peer to its best, over ours to the same"
    rows.append(row(name, value, 16, 25, device, reason=reason))
    write_json(chosen.out, {"rows": rows})


def earlier(folder: Path) -> Path | None:
    """The tree of the earlier commit; None where this clone has not got it."""
    packed = subprocess.run(["git", "archive", EARLIER, "models", "pipelines"], cwd=ROOT, capture_output=True)
    if packed.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def beside(program: str, sizes: list[int], there: Path | None, turns: int) -> tuple[float | None, str | None]:
    """How many times as fast as in the earlier tree the program is here; or why nobody knows."""
    if there is None:
        return None, f"commit {EARLIER} is not in this clone"
    taken = {tree: [] for tree in (there, ROOT)}
    for _ in range(turns):
        for tree, seconds in taken.items():
            seconds.append(figure(program, sizes, tree, tree))
    return float(np.median(taken[there]) / np.median(taken[ROOT])), None


def figure(program: str, sizes: list[int], folder: Path, tree: Path) -> float:
    """What the program prints last, run in the folder with the modules of the tree."""
    environment = os.environ | threads() | {"PYTHONPATH": str(tree)}
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(sizes)], cwd=folder, env=environment, capture_output=True, text=True
    )
    if ran.returncode:
        sys.exit(f"a program in {tree} ended with code {ran.returncode}:\n{ran.stderr[-3000:]}")
    return float(ran.stdout.split()[-1])


def flat(folder: Path, events: int, items: int, length: int = 40, block: int = 10_000_000) -> None:
    """Flat files as prepare writes them: histories of `length` events of random items, an hour between two."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "offsets.npy", np.arange(0, events + 1, length))
    for name, kind in (("items", np.int32), ("times", np.int32), ("actions", np.uint8), ("platforms", np.int16)):
        column = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (events,))
        for start in range(0, events, block):
            part = column[start : start + block]
            if name == "items":
                part[:] = rng.integers(1, items + 1, len(part))
            else:
                part[:] = 3600 * (np.arange(start, start + len(part)) % length) if name == "times" else 1
        column.flush()


def peer(data: Path | None, budget: float) -> tuple[float | None, str | None]:
    """The ratio of benchmarks.speed_to_quality; or why nobody knows."""
    if data is None:
        return None, "no --data"
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed_to_quality", "--data", str(data), "--budget", str(budget)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    last = ran.stdout.split("\n")[-2] if ran.stdout else ""
    return (float(last.split()[1]), None) if last.startswith("ratio ") else (None, "benchmarks.speed_to_quality failed")


if __name__ == "__main__":
    main()
