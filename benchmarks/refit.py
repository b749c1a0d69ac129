"""Does it help to serve a model that has learnt from everything up to now? A backtest on the simulated shop.

    python -m benchmarks.refit                 # about ten minutes
    python -m benchmarks.refit --seeds 1 --shoppers 1000 --epochs 3

Of each shopper the last item is the future (t + 2). The honest model learns up to t and chooses its epochs and weights on t + 1; the refit one
repeats them on everything up to t + 1. Both are asked, with the same history up to t + 1, for the item at t + 2. Prints both figures
and the mean paired difference with its 95 % interval over shoppers; writes reports/refit_backtest.json.
"""

import argparse
import json
import logging
from contextlib import chdir
from pathlib import Path

import numpy as np

from benchmarks.quality import ROOT, prepared
from pipelines.stage import write_json

ROOT_OF_DATA = ROOT / "data" / "refit"


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--shoppers", type=int, default=3000)
    cli.add_argument("--epochs", type=int, help="at most; to try things out")
    cli.add_argument("--out", type=Path, default=ROOT / "reports" / "refit_backtest.json")
    chosen = cli.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pushcart").setLevel(logging.INFO)
    shop = ROOT / "pipelines" / "data" / "sources" / "shop.yaml"
    folder = prepared(
        ROOT / "data" / "refit" / str(chosen.shoppers), "shop", shop, "leave_one_out", {"shoppers": chosen.shoppers}
    )
    with chdir(folder):
        report = backtest(chosen.seeds, chosen.epochs)
    write_json(chosen.out, report)
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}))


def backtest(seeds: int, epochs: int | None) -> dict:
    """The report: a row a seed, and the gain over all of them."""
    from models.metrics import interval, ndcg
    from pipelines import refit, train
    from pipelines.learning import fitting
    from pipelines.learning import prepared as histories
    from pipelines.learning.ranking import rank_all
    from pipelines.stage import params

    data, rows, gains = histories.load(), [], []
    for seed in range(seeds):
        settings = params("train") | {"seed": 42 + seed} | ({"epochs": epochs} if epochs else {})
        model, shape, _ = train.learn(settings, data)
        before = ndcg(rank_all(model, data.test, 10)[0], 10)
        model, _ = refit.learn(settings, data.up_to_the_test(), shape)
        after = ndcg(rank_all(model, data.test, 10)[0], 10)
        fitting.forget()
        gains.append(after - before)
        rows.append({"seed": 42 + seed, "honest": float(before.mean()), "refit": float(after.mean())})
        print("seed {seed}: NDCG@10 {honest:.4f} honest, {refit:.4f} refit".format(**rows[-1]), flush=True)
    mean = np.mean(gains, axis=0)
    return {"shoppers": len(mean), "rows": rows, "gain": float(mean.mean()), "gain_interval": interval(mean, 1000, 0)}


if __name__ == "__main__":
    main()
