"""How many seconds of training does the strongest open peer take to its best quality, and how many do we?

    python -m benchmarks.speed_to_quality --data ../shared/data/amazon-beauty
    python -m benchmarks.speed_to_quality --data ../shared/data/amazon-beauty --budget 300 --peer-settings "--factors 128 --loss softmax"

One after the other on this machine, each for at most the budget of training (evaluation not counted; of ours, weighing the
memory is). After every epoch each ranks all items for every shopper of the test part. The peer (RecTools' SASRec, a script that
prints a JSON line an epoch) runs in a virtualenv of its own, made under data/peer when it is not there. Ends with `ratio N`: the
peer's seconds over ours to the best NDCG@10 that the peer reached. Writes reports/speed_to_quality.json and .png.

Settings of the peer tried on Beauty, and what they reached on 2 cores (some beside other work): 128 wide, sampled
softmax: 0.0086 after the first epoch's 417 s; --factors 128 --loss softmax: 0.0164 after 610 s; --factors 64 --loss softmax --max-len 20:
0.0078 after 201 s; --factors 128 --loss softmax --max-len 20: 0.0090 after 124 s, 0.0530 after 943 s. The last is the default.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

from benchmarks.quality import ROOT, guess, prepared
from pipelines.stage import chart, write_json

PEER = ROOT.parent / "shared" / "peers" / "rectools_sequential.py"
TRIED_BEST = "--factors 128 --loss softmax --max-len 20"
PINS = ("torch==2.13.0", "rectools[torch]==0.19.0")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True, help="folder of a sequence file")
    cli.add_argument("--budget", type=float, default=1200, help="seconds of training each")
    cli.add_argument("--peer", type=Path, default=PEER, help="the peer's script")
    cli.add_argument(
        "--peer-settings", default=TRIED_BEST, help="arguments of the peer's script; empty: those of its published row"
    )
    chosen = cli.parse_args()
    files = sorted(chosen.data.glob("*.txt"))
    if len(files) != 1:
        cli.error(f"--data {chosen.data} must hold one .txt sequence file, it holds {len(files)}")
    if not chosen.peer.exists():
        cli.error(f"--peer {chosen.peer} is not there")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pushcart").setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    interpreter = peer_environment(ROOT / "data" / "peer")
    mine = ours(chosen.data.resolve(), chosen.budget)
    theirs = peers(interpreter, chosen.peer, files[0], chosen.budget, chosen.peer_settings.split())
    wanted = max(theirs["curve"], key=lambda p: p["ndcg@10"])
    reached = next((p for p in mine["curve"] if p["ndcg@10"] >= wanted["ndcg@10"]), None)
    report = {
        "dataset": chosen.data.resolve().stem,
        "peer_best": wanted,
        "ours_there": reached,
        "ratio": wanted["train_s"] / reached["train_s"] if reached else None,
        "ours": mine,
        "peer": theirs,
    }
    target = ROOT / "reports" / "speed_to_quality.json"
    write_json(target, report)
    plot(report, target.with_suffix(".png"))
    print(f"peer: NDCG@10 {wanted['ndcg@10']:.4f} after {wanted['train_s']:.0f} s, {theirs['peak_mb']:,} MB")
    if reached is None:
        print(f"ours: best {max(p['ndcg@10'] for p in mine['curve']):.4f}, never that of the peer\nratio 0")
        sys.exit(1)
    print(f"ours: NDCG@10 {reached['ndcg@10']:.4f} after {reached['train_s']:.0f} s, {mine['peak_mb']:,} MB")
    print(f"ratio {report['ratio']:.1f}")


def ours(data: Path, budget: float) -> dict:
    """The shipped settings, measured on the test part after every epoch."""
    import torch
    from pytorch_lightning.callbacks import Callback

    from models.metrics import ndcg, recall
    from pipelines.learning import choices, fitting
    from pipelines.learning import prepared as histories
    from pipelines.learning.ranking import rank_all
    from pipelines.stage import params

    curve = []

    class Curve(Callback):
        trained = 0.0

        def on_train_epoch_start(self, trainer, module) -> None:
            self.started = time.perf_counter()

        def on_validation_start(self, trainer, module) -> None:
            self.trained += time.perf_counter() - self.started

        def on_train_epoch_end(self, trainer, module) -> None:
            network, drawn = module.network.eval(), torch.get_rng_state()
            started = time.perf_counter()
            choices.finish(network, all_data, settings["transition_prior"])
            finishing = time.perf_counter() - started
            rank, _ = rank_all(network, all_data.test, 10)
            point = {"train_s": round(self.trained + finishing, 1), "ndcg@10": float(ndcg(rank, 10).mean()), "recall@10": float(recall(rank, 10).mean())}  # fmt: skip
            curve.append(point)
            print(json.dumps({"model": "Pushcart"} | point), flush=True)
            network.prior = None
            network.train()
            torch.set_rng_state(drawn)
            trainer.should_stop = trainer.should_stop or self.trained >= budget

    folder = prepared(ROOT / "data" / "quality" / data.stem, guess(data), data, "leave_one_out")
    with chdir(folder):
        settings, all_data = params("train") | {"model": "sasrec"}, histories.load()
        fitting.learn(settings, all_data, Curve())
    return {"settings": settings, "curve": curve, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def peers(interpreter: Path, script: Path, file: Path, budget: float, settings: list[str]) -> dict:
    command = [str(interpreter), str(script), str(file), "--budget", str(budget), *settings]
    curve = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        for line in running.stdout:
            if line.startswith("{"):
                print(line.rstrip(), flush=True)
                curve.append(json.loads(line))
    if running.returncode or not curve:
        raise SystemExit(f"error: the peer ended with {running.returncode}; run it by hand: {' '.join(command)}")
    points = [{k: point[k] for k in ("train_s", "ndcg@10", "recall@10")} for point in curve]
    return {"settings": " ".join(settings) or "published", "curve": points, "peak_mb": max(p["peak_mb"] for p in curve)}


def peer_environment(folder: Path) -> Path:
    """The interpreter of the peer's own virtualenv, made if it is not there."""
    interpreter = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making the peer's virtualenv in {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PINS], check=True)
        (folder / "ready").touch()
    return interpreter


def plot(report: dict, path: Path) -> None:
    with chart(path, 8, "seconds of training", "test NDCG@10", report["dataset"]) as axes:
        for name, side in (("Pushcart", report["ours"]), (f"RecTools SASRec ({report['peer']['settings']})", report["peer"])):
            axes.plot([p["train_s"] for p in side["curve"]], [p["ndcg@10"] for p in side["curve"]], marker="o", label=name)
        axes.axhline(report["peer_best"]["ndcg@10"], color="grey", linestyle=":")
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)


if __name__ == "__main__":
    main()
