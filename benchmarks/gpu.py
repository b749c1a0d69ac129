"""What only a GPU can show.

    python -m benchmarks.gpu --walk                              on the GPU, where there is one: does everything run?
    python -m benchmarks.gpu --walk --device cpu
    python -m benchmarks.gpu --data ../shared/data/amazon-beauty   how fast? (--device cpu --tiny: does the script run?)

Needs torch, Lightning and NumPy alone (with SciPy the item models are walked too).

--walk: every family, ranker and loss is trained, resumed, ranked, measured and fine-tuned on tiny data. Prints a row a step and writes gpu_walk.json
into --out (reports/); ends with code 1 where a step failed.
--data: a folder with one sequence file. Seconds of training by the shipped settings; the share of what large products of matrices reach that
HSTU's steps reach (attention counts, padding does not); memory of large catalogues; a training that moves between GPU and CPU. Writes gpu.json into --out:
{"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.

Ends with code 2 where the device is not there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import chdir
from copy import deepcopy
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader

from benchmarks.figures import row
from models import metrics
from models.batches import Gathered, ShopperBatch
from models.encoders import hstu
from models.families import FAMILIES, RANKERS, build
from models.losses import LOSSES
from models.retrieval.item_to_item import incidence
from models.retrieval.network import NextItemNetwork
from models.sequences import Impressions, Sequences
from models.served.pruning import narrowed, settled, sparse
from models.training.learner import NextItem
from pipelines.learning import choices, device, fitting, saved
from pipelines.learning.captured import CapturedSteps
from pipelines.learning.prepared import KINDS, Prepared
from pipelines.learning.ranking import rank_all, task_probabilities
from pipelines.stage import write_json

SHOPPERS, ITEMS, LENGTH = 200, 60, 14
SETTINGS = {
    "retriever": "sasrec", "candidates": 20, "rank_by": "next", "branches": ["interest", "preference", "purchasing_power"],
    "ranker": {"batch_users": 16, "learning_rate": 0.003, "epochs": 2}, "blend": {"parts": ["popularity", "transitions", "two_hops", "content", "sasrec"], "budget": 1e18}, "side_information": True, "transition_prior": True,
    "id_dropout": 0.1, "seed": 42, "max_len": 12, "width": 16, "layers": 1, "heads": 2, "dropout": 0.1, "event_dropout": 0.1, "gated": False,
    "loss": "auto", "negatives": 16, "batch_users": 16, "accumulate": 1, "learning_rate": 0.003, "weight_decay": 0.01, "epochs": 2, "teachers": 0,
    "patience": 4, "precision": "32-true", "devices": 1, "strategy": "auto",
}  # fmt: skip


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = cli.add_mutually_exclusive_group(required=True)
    what.add_argument("--walk", action="store_true")
    what.add_argument("--data", type=Path, help="folder of a sequence file")
    cli.add_argument("--tiny", action="store_true", help="small sizes, whose figures say nothing")
    cli.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen = cli.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here; --device cpu walks the same on the CPU", file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    started, file = time.perf_counter(), chosen.data and sequence_file(chosen.data)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):  # checkpoints
        if chosen.data:
            measured(chosen.device, name, file, chosen.tiny, lambda rows: write_json(out / "gpu.json", {"rows": rows}))
            return
        rows = walk(chosen.device)
    report = {"device": name, "torch": torch.__version__, "seconds": round(time.perf_counter() - started, 1), "rows": rows}
    write_json(out / "gpu_walk.json", report)
    failed = [r["step"] for r in rows if not r["passed"]]
    print(
        f"{name}: {len(rows) - len(failed)} of {len(rows)} steps in {report['seconds']} s"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    sys.exit(bool(failed))


def walk(kind: str) -> list[dict]:
    """All steps on the device; a row each: step, passed, seconds, ndcg@10 or what was measured, error."""
    data, rows = tiny(), []

    def step(name: str, act: Callable[[], float]) -> None:
        started, row = time.perf_counter(), {"step": name, "passed": True, "value": None, "error": None}
        try:
            row["value"] = round(act(), 6)
            row["passed"] = bool(np.isfinite(row["value"]))
        except Exception:
            row |= {"passed": False, "error": traceback.format_exc()[-1500:]}
        row["seconds"] = round(time.perf_counter() - started, 2)
        rows.append(row)
        print(f"{name:<44} {'ok' if row['passed'] else 'FAILED':<7} {row['seconds']:6.2f} s  {row['value']}", flush=True)
        if row["error"]:
            print(row["error"], flush=True)

    settings = SETTINGS | {"accelerator": "gpu" if kind == "cuda" else "cpu"}
    for family in FAMILIES:
        step(f"{family}", lambda family=family: learnt(settings | {"model": family}, data, kind))
    for loss in LOSSES:
        step(f"sasrec, loss {loss}", lambda loss=loss: learnt(settings | {"model": "sasrec", "loss": loss}, data, kind))
    for ranker in RANKERS:
        step(f"{ranker}", lambda ranker=ranker: learnt(settings | {"model": ranker}, data, kind))
    for model in (*FAMILIES, *RANKERS):
        changed = settings | {"model": model, "precision": "bf16-mixed"}
        step(f"{model}, bf16-mixed", lambda changed=changed: learnt(changed, data, kind))
    for model in ("sasrec", "hstu", "fusion"):
        step(f"{model}, stopped and resumed", lambda model=model: resumed(settings | {"model": model}, data))
    if kind == "cuda":
        for model in FAMILIES:
            step(
                f"{model}, captured as launched one by one",
                lambda model=model: captured_or_not(settings | {"model": model}, data),
            )
        wider = settings | {"model": "hstu", "width": 32}
        step("hstu by its kernels, captured as launched one by one", lambda: captured_or_not(wider, data))
        for events, precision in product((5, 70, 200), (torch.float32, torch.bfloat16)):
            name = f"an HSTU layer by its kernels, {events} events, {precision}"
            step(name, lambda events=events, precision=precision: fused_layer_off(events, precision))
    step("sasrec, refit by its recipe", lambda: refitted(settings | {"model": "sasrec"}, data, kind))
    step("sasrec, taught by two others", lambda: refitted(settings | {"model": "sasrec", "teachers": 2}, data, kind))
    step("sasrec, narrower and sparse, fine-tuned", lambda: finetuned(settings | {"model": "sasrec"}, data, kind))
    if find_spec("scipy") and find_spec("sparse_dot_topn"):
        for name in (n for n in saved.ITEM_MODELS if n not in KINDS or n in data.embedded):
            step(name, lambda name=name: ranked(choices.item_model(name, data)[0].to(kind), data))
        step("blend", lambda: blended(settings, data, kind))
    return rows


def learnt(settings: dict, data: Prepared, kind: str) -> float:
    """Trains, saves, loads, ranks; NDCG@10 of the test part."""
    model, shape, _ = fitting.learn(settings, data)
    fitting.forget()
    assert device.device_of(model).type == kind, f"the model is on {device.device_of(model)}"
    saved.save("model", shape, model)
    again = saved.load("model", kind)
    value = ranked(again, data)
    assert value == ranked(model, data)
    if settings["model"] in RANKERS:
        shown = data.impressions("test")
        probability = task_probabilities(again, data.full, shown)
        assert np.isfinite(probability).all()
        assert probability.shape == (len(shown), 3)
    return value


def resumed(settings: dict, data: Prepared) -> float:
    """Trains once undisturbed and once stopped after its first epoch and gone on with: the largest difference of a weight."""
    undisturbed = fitting.learn(settings, data)[0].state_dict()
    fitting.forget()
    try:
        fitting.learn(settings, data, StopAt(1))
        raise AssertionError("was not stopped")
    except KeyboardInterrupt:
        pass
    model = fitting.learn(settings, data)[0].state_dict()
    fitting.forget()
    difference = max(float((undisturbed[k].double() - model[k].double()).abs().max()) for k in model)
    assert difference < 1e-3, f"a weight differs by {difference}"
    return difference


def captured_or_not(settings: dict, data: Prepared) -> float:
    """Trains with steps captured as graphs and with the same steps launched operation by operation: the largest difference of a weight."""
    found, capture = [], CapturedSteps.capture
    for possible in (True, False):
        captures = []

        def observed(self, *args, possible=possible, captures=captures) -> None:
            if possible:
                capture(self, *args)
            self.possible = captures.append(self.possible) or (self.possible and possible)

        with mock.patch.object(CapturedSteps, "capture", observed):
            found.append(fitting.learn(settings | {"transition_prior": False}, data)[0].state_dict())
        fitting.forget()
        assert captures, "no step was captured"
        assert all(captures), "a step could not be captured"
    difference = max(float((found[0][k].double() - found[1][k].double()).abs().max()) for k in found[0])
    assert difference < 1e-3, f"a weight differs by {difference}"
    return difference


def fused_layer_off(events: int, kind: torch.dtype) -> float:
    """The largest difference of outputs and gradients of an HSTU layer by its kernels from its formula in float64, beside the largest number."""
    torch.manual_seed(0)
    block = hstu.Block(128, 2, 0.0, events + 3).cuda()
    for parameter in block.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    x, wanted = (torch.randn(4, events, 128, device="cuda") for _ in range(2))
    gap = torch.randint(0, hstu.TIME_BUCKETS, (4, events, events), device="cuda")
    found = []
    for layer, bucket in ((deepcopy(block).double(), gap), (block, gap.byte())):
        given = x.to(layer.out.weight.dtype).requires_grad_()
        with torch.autocast("cuda", kind, enabled=kind != torch.float32 and layer is block):
            out = layer(given, bucket)
        found.append([out.detach(), *torch.autograd.grad((out * wanted).sum(), [given, *layer.parameters()])])
    off = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))
    assert off < (2e-2 if kind == torch.bfloat16 else 5e-3), f"off by {off}"
    return off


def refitted(settings: dict, data: Prepared, kind: str) -> float:
    _, shape, _ = fitting.learn(settings, data)
    fitting.forget()
    model, _, _ = fitting.learn(settings, data.everything(), recipe=shape["recipe"])
    fitting.forget()
    assert device.device_of(model).type == kind
    return ranked(model, data)


def finetuned(settings: dict, data: Prepared, kind: str) -> float:
    network = fitting.learn(settings | {"transition_prior": False}, data)[0].cpu()
    fitting.forget()
    smaller = settled(fitting.distil(sparse(narrowed(network, 0.5), 0.5), network, data, settings, 1))
    return ranked(smaller.to(kind), data)


def ranked(model: saved.Model, data: Prepared) -> float:
    return float(metrics.ndcg(rank_all(model, data.test, 10)[0], 10).mean())


class StopAt(Callback):
    """Ctrl-C after so many epochs."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def blended(settings: dict, data: Prepared, kind: str) -> float:
    """A blend of a network and what is counted, chosen, saved, loaded, made again by its recipe."""
    from pipelines.learning import blending

    model, shape, _ = blending.choose(settings, data)
    fitting.forget()
    assert device.device_of(model).type == kind, f"the model is on {device.device_of(model)}"
    saved.save("model", shape, model)
    value = ranked(saved.load("model", kind), data)
    assert value == ranked(model, data)
    assert shape["model"] == "blend", shape["chosen"]["reason"]
    assert np.isfinite(ranked(blending.built(settings, data.everything(), shape["recipe"])[0], data))
    fitting.forget()
    return value


# Speed

SHIPPED = SETTINGS | {
    "model": "sasrec", "side_information": False, "transition_prior": False, "max_len": 50, "width": 128, "layers": 2, "heads": 2, "dropout": 0.3,
    "event_dropout": 0.0, "negatives": 1024, "batch_users": 64, "learning_rate": 0.002, "weight_decay": 0.05, "epochs": 12, "precision": "auto",
}  # fmt: skip
MOVED = """
import json, sys
from pathlib import Path
from benchmarks import gpu
from pipelines.learning import fitting
settings, stop, file, shoppers = json.loads(sys.argv[1])
data = gpu.held_out(Path(file), shoppers)
try:
    model = fitting.learn(gpu.SHIPPED | settings, data, *([gpu.StopAt(stop)] if stop else []))[0]
    print(gpu.ranked(model, data))
except KeyboardInterrupt:
    print(0.0)
"""


def measured(kind: str, name: str, file: Path, small: bool, write: Callable[[list[dict]], None]) -> None:
    """Takes the rows of reports/gpu.json and writes them as they come."""
    rows = []

    def take(title: str, at_least: float, aim: float, act: Callable[[], float], less: bool = False) -> None:
        reason = None
        try:
            value = act()
        except Exception as error:
            value, reason = None, f"{type(error).__name__}: {error}"
        rows.append(row(title, value, at_least, aim, name, less, reason))
        write(rows)

    data, quality = held_out(file, 500 if small else None), {}
    title = "shipped settings, 12 epochs with validation: seconds"
    take(title, 10, 5, lambda: trained_in(kind, data, 1 if small else 12, quality), less=True)
    rows[-1] |= quality
    width, layers, shoppers = (32, 1, 4) if small else (1024, 8, 64)
    peak = flops_reached(kind, torch.bfloat16, 256 if small else 8192)
    for events, at_least, aim in ((200, 0.3, 0.5), (1000, 0.25, 0.45)):
        size = (20 if small else events), (shoppers if events == 200 else max(1, shoppers // 8))
        take(
            f"HSTU, {events} events: share of what products reach",
            at_least,
            aim,
            lambda size=size: hstu_flops(kind, width, layers, *size) / peak,
        )
    for items, loss, at_least in ((1_000_000, "full_softmax", 24), (10_000_000, "sampled_softmax", 60)):
        size = items // 1000 if small else items
        take(
            f"{items:,} items, {loss}: peak GB",
            at_least,
            at_least / 2,
            lambda size=size, loss=loss: peak_memory(kind, size, loss),
            less=True,
        )
    title = "a training moved to the CPU and back: NDCG@10 off that of one undisturbed"
    take(title, 0.002, 0.001, lambda: moved(kind, file, small), less=True)


def trained_in(kind: str, data: Prepared, epochs: int, quality: dict[str, float]) -> float:
    """Seconds; the NDCG@10 of the test part goes into `quality`."""
    started = time.perf_counter()
    model = fitting.learn(SHIPPED | {"accelerator": "gpu" if kind == "cuda" else "cpu", "epochs": epochs}, data)[0]
    seconds = time.perf_counter() - started
    fitting.forget()
    quality["ndcg@10"] = ranked(model, data)
    return seconds


def sequence_file(folder: Path) -> Path:
    """The one sequence file of a folder: a line a shopper, its number and its items, oldest first."""
    files = sorted(folder.resolve().glob("*.txt"))
    if len(files) != 1:
        sys.exit(f"error: --data {folder} must hold one .txt sequence file, it holds {len(files)}")
    return files[0]


def held_out(file: Path, shoppers: int | None = None) -> Prepared:
    """The data of a sequence file, of each shopper the last item held out for the test and the one before for validation."""
    lines = [np.array(line.split()[1:], np.int64) for line in file.read_text(encoding="utf-8").splitlines()[:shoppers]]
    full = Sequences(lines, [np.arange(len(items)) for items in lines])
    start, end = full.items.start, full.items.end
    valid, test = full.asking(end - 2), full.asking(end - 1)
    train = full.within(start, end - 2)
    counts = np.bincount(train.items.flat(), minlength=int(full.items.values.max()) + 1)
    return Prepared(full, train, valid, test, [], counts, counts.astype(float), None, np.zeros((len(counts), 0), np.float32), [], None,
                    [np.array([target]) for target in test.targets], full.within(start, end - 1), ordered_only=True)  # fmt: skip


def learner_of(model: str, items: int, loss: str, shape: dict) -> NextItem:
    return NextItem(build(model, items, SHIPPED | shape, None), loss, np.ones(items + 1), 1024, 0.002, 0.05)


class Clock(Callback):
    """Seconds of a step, from the end of the `first` on."""

    def __init__(self, kind: str, first: int):
        self.kind, self.first = kind, first

    def on_train_batch_end(self, trainer, module, outputs, batch, index: int) -> None:
        if index == self.first:
            finished(self.kind)
            self.started = time.perf_counter()
        elif trainer.is_last_batch:
            finished(self.kind)
            self.seconds = (time.perf_counter() - self.started) / (index - self.first)


def stepped(learner: NextItem, kind: str, batches: list[tuple], precision: str) -> float:
    """Seconds of a step, under Lightning, as models are trained."""
    clock, settings = Clock(kind, len(batches) // 3), SHIPPED | {"precision": precision}
    place = device.meant("gpu" if kind == "cuda" else "cpu")
    trainer = lightning.Trainer(
        max_epochs=1, accelerator=place.type, devices=1, precision=precision, gradient_clip_val=1.0, callbacks=[clock],
        strategy=fitting.captured(learner, Gathered(), settings, place) or "auto",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(learner, DataLoader(batches, batch_size=None))
    return clock.seconds


def finished(kind: str) -> None:
    """Waits for what the device was given to do."""
    if kind == "cuda":
        torch.cuda.synchronize()


def random_batches(kind: str, items: int, events: int, shoppers: int, count: int) -> list[tuple]:
    """Batches of full histories of random items."""
    drawn = []
    for _ in range(count):
        columns = [torch.randint(1, items + 1, (shoppers, events), device=kind) for _ in range(2)]
        times = torch.randint(1, 90_000, (shoppers, events), device=kind).cumsum(1)
        shopper_batch = ShopperBatch(
            columns[0], times, torch.ones_like(times), torch.zeros(shoppers, dtype=torch.long, device=kind)
        )
        drawn.append((shopper_batch, columns[1]))
    return drawn


def hstu_flops(kind: str, width: int, layers: int, events: int, shoppers: int, items: int = 20_000) -> float:
    """Floating point operations a second of HSTU's training steps in bf16."""
    shape = {"width": width, "layers": layers, "heads": max(1, width // 128), "max_len": events}
    learner = learner_of("hstu", items, "full_softmax", shape)
    seconds = stepped(learner, kind, random_batches(kind, items, events, shoppers, 30), "bf16-mixed")
    return operations(learner.network, np.full(shoppers, events)) / seconds


def operations(network: NextItemNetwork, lengths: np.ndarray) -> float:
    """Floating point operations that training HSTU on histories of these lengths takes, once: 6 a weight of its matrices and event, the item table
    among them, and of attention 12 a layer, number of the width, and pair of events of which one is not after the other. Padding counts for nothing.
    """
    weights = sum(p.numel() for p in network.encoder.parameters() if p.ndim > 1) + network.table.weight.numel()
    pairs = float((lengths * (lengths + 1) / 2).sum())
    return 6 * weights * float(lengths.sum()) + 12 * len(network.encoder.blocks) * network.table.embedding_dim * pairs


def flops_reached(kind: str, precision: torch.dtype, size: int) -> float:
    """Floating point operations a second of a product of matrices of this size, which should fill the device, in this precision."""
    a, b = (torch.randn(size, size, device=kind, dtype=precision) for _ in range(2))
    taken = []
    for _ in range(20):
        finished(kind)
        started = time.perf_counter()
        a @ b
        finished(kind)
        taken.append(time.perf_counter() - started)
    return 2 * size**3 / float(np.median(taken))


def peak_memory(kind: str, items: int, loss: str) -> float:
    """GB that a few steps of a network 64 wide take of the GPU at most."""
    if kind == "cpu":
        raise RuntimeError("torch tells no peak of a CPU")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    learner = learner_of("sasrec", items, loss, {"width": 64})
    stepped(learner, kind, random_batches(kind, items, 50, 64, 4), "32-true")
    return torch.cuda.max_memory_allocated() / 1e9


def moved(kind: str, file: Path, small: bool) -> float:
    """How far the NDCG@10 of a training that was stopped on the device, gone on with on the CPU and ended on the device is from undisturbed."""
    root, epochs = Path(__file__).resolve().parent.parent, 3 if small else 6

    def part(stop: int | None, there: bool, folder: str) -> float:
        Path(folder).mkdir(exist_ok=True)
        hidden = {} if there and kind == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        given = json.dumps(
            [{"epochs": epochs, "accelerator": "auto", "precision": "32-true"}, stop, str(file), 300 if small else 5000]
        )
        environment = os.environ | hidden | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
        command = [sys.executable, "-c", MOVED, given]
        ran = subprocess.run(command, cwd=Path(folder), env=environment, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(ran.stderr[-2000:])
        return float(ran.stdout.split()[-1])

    for folder in ("undisturbed", "moved"):  # a training is named by its code too
        Path(folder).mkdir()
        for name in ("models", "pipelines"):
            Path(folder, name).symlink_to(root / name)
    undisturbed = part(None, True, "undisturbed")
    part(1, True, "moved")
    part(2, False, "moved")
    return abs(part(None, True, "moved") - undisturbed)


def tiny() -> Prepared:
    """Random walks over a ring of items, with attributes, prices and impressions."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, LENGTH, SHOPPERS)
    items = [(rng.integers(ITEMS) + np.cumsum(rng.integers(1, 4, n))) % ITEMS + 1 for n in lengths]
    times = [np.cumsum(rng.integers(1, 5000, n)) for n in lengths]
    actions = [rng.integers(1, 5, n) for n in lengths]
    platforms = [rng.integers(0, 3, n) for n in lengths]
    full = Sequences(items, times, None, actions, platforms)
    start, end = full.items.start, full.items.end
    train, valid, test = full.within(start, end - 2), full.asking(end - 2), full.asking(end - 1)
    counts = np.bincount(train.items.flat(), minlength=ITEMS + 1)
    user = np.repeat(np.arange(SHOPPERS), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    shown = Impressions(user, position, rng.integers(1, ITEMS + 1, len(user)), rng.integers(0, 3, len(user)),
                        (rng.random((len(user), 3)) < [0.4, 0.2, 0.1]).astype(np.float32).cumprod(1))  # fmt: skip
    cut = {"train": position < (lengths - 2)[user], "test": position >= (lengths - 1)[user]}
    cut["valid"] = ~cut["train"] & ~cut["test"]
    numbers = np.vstack([np.zeros((1, 3)), rng.normal(size=(ITEMS, 3))]).astype(np.float32)
    known = np.vstack([np.zeros((1, 2), np.int64), rng.integers(1, 9, (ITEMS, 2))])
    written = incidence(list(known), int(known.max()) + 1) if find_spec("scipy") else None
    return Prepared(full, train, valid, test, ["app", "web"], counts, counts.astype(float), known, numbers, [0, 1],
                    lambda name: shown.rows(np.flatnonzero(cut[name])), [np.array([t]) for t in test.targets], full.within(start, end - 1),
                    content=written)  # fmt: skip


if __name__ == "__main__":
    main()
