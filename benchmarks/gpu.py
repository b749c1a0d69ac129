"""What only a GPU can show. `--walk`: every family, ranker and loss is trained, resumed, ranked, measured and fine-tuned on one device.

    python -m benchmarks.gpu --walk                  on the GPU, where there is one
    python -m benchmarks.gpu --walk --device cpu

Needs torch, Lightning and NumPy alone (with SciPy the item models are walked too) and makes its own tiny data. Prints a row a step and
writes gpu_walk.json into --out (reports/). Ends with code 1 where a step failed, with 2 where the device is not there.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

from models import metrics
from models.families import FAMILIES, RANKERS
from models.losses import LOSSES
from models.retrieval.item_to_item import incidence
from models.sequences import Impressions, Sequences
from models.served.pruning import narrowed, settled, sparse
from pipelines.learning import choices, device, fitting, saved
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import rank_all, task_probabilities

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
    cli.add_argument("--walk", action="store_true", required=True)
    cli.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen = cli.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here; --device cpu walks the same on the CPU", file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    out = chosen.out.resolve()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)  # checkpoints
        rows = walk(chosen.device)
        os.chdir(before)
    report = {"device": name, "torch": torch.__version__, "seconds": round(time.perf_counter() - started, 1), "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_walk.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
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
    step("sasrec, refit by its recipe", lambda: refitted(settings | {"model": "sasrec"}, data, kind))
    step("sasrec, taught by two others", lambda: refitted(settings | {"model": "sasrec", "teachers": 2}, data, kind))
    step("sasrec, narrower and sparse, fine-tuned", lambda: finetuned(settings | {"model": "sasrec"}, data, kind))
    if find_spec("scipy") and find_spec("sparse_dot_topn"):
        for name in saved.ITEM_MODELS:
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
        fitting.learn(settings, data, StopOnce())
        raise AssertionError("was not stopped")
    except KeyboardInterrupt:
        pass
    model = fitting.learn(settings, data)[0].state_dict()
    fitting.forget()
    difference = max(float((undisturbed[k].double() - model[k].double()).abs().max()) for k in model)
    assert difference < 1e-3, f"a weight differs by {difference}"
    return difference


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


class StopOnce(Callback):
    """Ctrl-C after the first epoch."""

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == 1:
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


def tiny() -> Prepared:
    """Random walks over a ring of items, with attributes, prices and impressions."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, LENGTH, SHOPPERS)
    items = [(rng.integers(ITEMS) + np.cumsum(rng.integers(1, 4, n))) % ITEMS + 1 for n in lengths]
    times = [np.cumsum(rng.integers(1, 5000, n)) for n in lengths]
    actions = [rng.integers(1, 5, n) for n in lengths]
    platforms = [rng.integers(0, 3, n) for n in lengths]
    full = Sequences(items, times, None, actions, platforms)
    start = full.items.start

    def part(ends: np.ndarray, held_out: bool) -> Sequences:
        asked = [column.values[start + ends] for column in (full.items, full.platforms)] if held_out else [None, None]
        return full.within(start, start + ends, targets=asked[0], platform=asked[1])

    train, valid, test = part(lengths - 2, False), part(lengths - 2, True), part(lengths - 1, True)
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
                    lambda name: shown.rows(np.flatnonzero(cut[name])), [np.array([t]) for t in test.targets], part(lengths - 1, False),
                    content=written)  # fmt: skip


if __name__ == "__main__":
    main()
