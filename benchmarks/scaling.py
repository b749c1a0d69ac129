"""How does validation loss fall with parameters and with tokens? HSTU on the simulated shop, from a hundred thousand parameters up.

    python -m benchmarks.scaling                                  # on 2 CPU cores, under an hour
    python -m benchmarks.scaling --widths 64 128 256 512 1024 --shoppers 100000      # on a GPU

Every width is trained on every share of the shoppers, with the shipped settings, for the same number of epochs; a token is an event
of a training history, met once an epoch. The loss is the mean cross-entropy (nats) of the held-out next item over the whole
catalogue, without the memory. Fits L = E + A / N^a + B / D^b (Hoffmann et al., "Training Compute-Optimal Large Language Models",
2022) to parameters N and tokens D. Model FLOPs utilisation is what benchmarks.gpu.operations counts over the seconds of all of the training, validation
among them, over what a large matrix product reaches on this device in 32 bits. Prints a table; writes reports/scaling.json and .png.
"""

import argparse
import logging
import time
from contextlib import chdir
from pathlib import Path

import numpy as np

from benchmarks.quality import OUT, ROOT, prepared
from pipelines.stage import chart, write_json


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96, 192])
    cli.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="of the shoppers")
    cli.add_argument("--shoppers", type=int, default=12_000)
    cli.add_argument("--items", type=int, default=3_000)
    cli.add_argument("--epochs", type=int, default=6)
    chosen = cli.parse_args()
    import torch

    from benchmarks.gpu import flops_reached
    from pipelines.learning.device import meant

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    shop = ROOT / "pipelines" / "data" / "sources" / "shop.yaml"
    title = f"scaling-{chosen.shoppers}-{chosen.items}"
    folder = prepared(OUT / "data" / title, "shop", shop, "leave_one_out", {"shoppers": chosen.shoppers, "items": chosen.items})
    place = meant("auto").type
    peak = flops_reached(place, torch.float32, 8192 if place == "cuda" else 2048)
    rows = []
    with chdir(folder):
        for share in chosen.shares:
            for width in chosen.widths:
                rows.append(measured(width, share, chosen.epochs, peak))
                print("{width:>6} wide  {params:>12,} parameters  {tokens:>12,} tokens  loss {loss:.4f}  {seconds:7.1f} s  MFU {mfu:.1%}".format(**rows[-1]), flush=True)  # fmt: skip
    report = {"device_flops": peak, "rows": rows, "fit": fitted(rows)}
    target = OUT / "reports" / "scaling.json"
    write_json(target, report)
    plot(report, target.with_suffix(".png"))
    print("L = {E:.3f} + {A:.3g} / N^{a:.3f} + {B:.3g} / D^{b:.3f}, mean error {error:.4f}".format(**report["fit"]))


def measured(width: int, share: float, epochs: int, peak: float) -> dict:
    """Trains one network in the prepared folder and takes its loss on the validation part."""
    from benchmarks.gpu import operations
    from pipelines.learning import fitting
    from pipelines.learning import prepared as histories
    from pipelines.learning.device import device_of
    from pipelines.stage import params

    settings = params("train") | {"model": "hstu", "width": width, "heads": max(1, width // 48), "transition_prior": False}
    # The share, so that no other's checkpoint is gone on from.
    settings |= {"precision": "32-true", "epochs": epochs, "patience": epochs, "share": share}
    data = histories.load()
    some = np.random.default_rng(0).random(len(data.train)) < share
    data.train = data.train.rows(np.flatnonzero(some))
    started = time.perf_counter()
    network = fitting.learn(settings, data)[0]
    seconds = time.perf_counter() - started
    lengths = (data.train.lengths - 1).clip(0, settings["max_len"])
    return {
        "width": width,
        "share": share,
        "params": sum(p.numel() for p in network.parameters()),
        "tokens": int(lengths.sum()) * epochs,
        "loss": cross_entropy(network, data.valid),
        "seconds": round(seconds, 1),
        "mfu": operations(network, lengths) * epochs / seconds / peak,
        "device": device_of(network).type,
    }


def cross_entropy(network, part) -> float:
    """Mean -ln p(next item) over the catalogue, in nats."""
    import torch

    from pipelines.learning.ranking import batches

    losses = []
    with torch.inference_mode():
        for _, shoppers, target, _ in batches(network, part):
            scores = network.scores(shoppers.history, shoppers.times)
            losses.append(torch.nn.functional.cross_entropy(scores, target, reduction="none"))
    return float(torch.cat(losses).mean())


def fitted(rows: list[dict]) -> dict:
    """E, A, a, B, b by least squares over logarithms of the loss (Hoffmann et al., approach 3)."""
    from scipy.optimize import least_squares

    n, d, loss = (np.array([r[k] for r in rows], float) for k in ("params", "tokens", "loss"))

    def predicted(p: np.ndarray) -> np.ndarray:
        return np.exp(p[0]) + np.exp(p[1] - p[2] * np.log(n)) + np.exp(p[3] - p[4] * np.log(d))

    starts = [(np.log(loss.min() * f), a, x, b, y) for f in (0.5, 0.9) for a in (2, 6) for x in (0.2, 0.5) for b in (2, 6) for y in (0.2, 0.5)]  # fmt: skip
    solved = [least_squares(lambda p: np.log(predicted(p)) - np.log(loss), s, loss="huber", f_scale=1e-2) for s in starts]
    p = min(solved, key=lambda s: s.cost).x
    values = {"E": np.exp(p[0]), "A": np.exp(p[1]), "a": p[2], "B": np.exp(p[3]), "b": p[4]}
    return {k: float(v) for k, v in values.items()} | {"error": float(np.abs(predicted(p) - loss).mean())}


def plot(report: dict, path: Path) -> None:
    fit, title = report["fit"], "HSTU on the simulated shop; dotted: the fit"
    with chart(path, 8, "parameters", "validation cross-entropy (nats)", title) as axes:
        for share in sorted({r["share"] for r in report["rows"]}):
            rows = sorted((r for r in report["rows"] if r["share"] == share), key=lambda r: r["params"])
            n, tokens = np.array([r["params"] for r in rows], float), rows[0]["tokens"]
            line = axes.plot(n, fit["E"] + fit["A"] / n ** fit["a"] + fit["B"] / tokens ** fit["b"], linestyle=":")[0]
            axes.plot(n, [r["loss"] for r in rows], "o", color=line.get_color(), label=f"{tokens:,} tokens")
        axes.legend()


if __name__ == "__main__":
    main()
