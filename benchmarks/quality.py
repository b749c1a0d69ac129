"""Which model recommends best on this data? Every model under the same budget, several seeds, compared honestly.

    python -m benchmarks.quality --data ../shared/data/amazon-beauty --models best --seeds 3
    python -m benchmarks.quality --data ../shared/data/ml-100k --models all --seeds 1 --split time

Models are named settings in benchmarks/quality.yaml, the same for every data set, chosen on validation parts alone. Data is
collected, checked and prepared once, by the stages that also run in production; then each (model, seed) is trained and ranked: all items, those already met left out, one relevant item a shopper. Runs stand in
data/quality/<data set>-<split> and are not repeated while their settings and the code stay the same, so an interrupted comparison
goes on where it was.

Prints a table; writes reports/quality/<data set>[-time].json and .png. The best model is the one with the best mean validation
NDCG@10; the others are held against it shopper by shopper (paired t-test on NDCG@10, the mean over seeds each).
"""

import argparse
import json
import logging
import os
import subprocess
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import yaml

from pipelines.stage import chart, write_json

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT  # where data/quality and reports/quality stand
CODE = ("pipelines", "marketing", "campaigns", "models", "expectations", "deploy", "online", "privacy", "service", "help")
STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])  # in the order data flows
SETTINGS = yaml.safe_load((ROOT / "benchmarks" / "quality.yaml").read_text(encoding="utf-8"))
log = logging.getLogger("pushcart")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True, help="file or folder, as make demo's DATA")
    cli.add_argument("--source", help="as make demo's SOURCE; told from the files if left out")
    cli.add_argument("--models", nargs="+", default=["best"], help=f"all, or of {', '.join(SETTINGS)}")
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--split", choices=["leave_one_out", "time"], default="leave_one_out")
    cli.add_argument("--epochs", type=int, help="at most, for every model; to try things out")
    chosen = cli.parse_args()
    names = list(SETTINGS) if chosen.models == ["all"] else chosen.models
    unknown = set(names) - set(SETTINGS)
    if unknown:
        cli.error(f"no model {', '.join(sorted(unknown))} in benchmarks/quality.yaml; there are {', '.join(SETTINGS)}")
    if not chosen.data.exists():
        cli.error(f"--data {chosen.data} is not there")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    source, title = dataset(chosen.data, chosen.source)
    title += "-time" if chosen.split == "time" else ""
    base = prepared(OUT / "data" / "quality" / title, source, chosen.data.resolve(), chosen.split)
    runs = []
    for seed in range(chosen.seeds):
        for name in names:
            settings = SETTINGS[name] | {"seed": 42 + seed} | ({"epochs": chosen.epochs} if chosen.epochs else {})
            runs.append(trained(base, name, settings))
    report = compare(title, runs)
    target = OUT / "reports" / "quality" / f"{title}.json"
    write_json(target, report)
    plot(report, target.with_suffix(".png"))
    show(report)


def dataset(data: Path, source: str | None) -> tuple[str, str]:
    """The source to read the data with, and what to call it."""
    source = source or guess(data)
    return source, "shop" if source == "shop" else data.resolve().stem


def guess(data: Path) -> str:
    """The source whose files these are."""
    for source, pattern in (("sequences", "*.txt"), ("recbole", "*.inter"), ("reviews", "*.json*"), ("shop", "shop.yaml")):
        if data.match(pattern) or (data.is_dir() and list(data.glob(pattern))):
            return source
    return "files"


def prepared(
    folder: Path,
    source: str,
    data: Path,
    split: str,
    shop: dict | None = None,
    prepare: dict | None = None,
    sections: dict | None = None,
    **settings,
) -> Path:
    """A workspace in which the stages up to verify have run on the data; `shop`: settings of the simulated shop; `prepare`: of the stage; `sections`:
    others of params.yaml; the rest: of the source.
    """
    params = shipped()
    params["source"] |= {"name": source, "data": str(data)} | settings
    params["source"]["shop"] |= shop or {}
    params["prepare"] |= {"split": split} | (prepare or {})
    for name, told in (sections or {}).items():
        params[name] |= told
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "reports/verified.json").exists() and yaml.safe_load((folder / "params.yaml").read_text()) == params:
        return folder
    link_code(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    run(folder, "collect", "link", "check", "prepare", "check_prepared")
    return folder


def run_folder(name: str, train: dict) -> Path:
    """Where one model's training in the working directory is kept: another for other settings, data or code."""
    from pipelines.learning.fitting import fingerprint

    return Path("runs") / f"{name}-{train['seed']}-{fingerprint(train)}"


def trained(base: Path, name: str, settings: dict) -> dict:
    """Trains and ranks one model, unless that is done; the row of the report, with `gains`, NDCG@10 of each test shopper."""
    params = yaml.safe_load((base / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= settings
    with chdir(base):
        folder = base / run_folder(name, params["train"])
    if not (folder / "row.json").exists():
        log.info("quality: %s, seed %s", name, settings["seed"])
        (folder / "data").mkdir(parents=True, exist_ok=True)
        link_code(folder)
        for part in ("prepared", "checked"):
            if not (folder / "data" / part).exists():
                (folder / "data" / part).symlink_to(base / "data" / part)
        (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
        started = time.perf_counter()
        run(folder, "train")
        seconds = time.perf_counter() - started
        row, gains = measured(folder, params)
        np.save(folder / "gains.npy", gains)
        (folder / "row.json").write_text(json.dumps({"model": name, "train_s": round(seconds, 1)} | row))
    return json.loads((folder / "row.json").read_text()) | {"gains": np.load(folder / "gains.npy")}


def measured(folder: Path, params: dict) -> tuple[dict, np.ndarray]:
    """What the finished training shows on the validation and the test part."""
    from models import metrics
    from models.families import loss_of
    from models.rankers.two_stage import TwoStage, first_stage, network_of
    from models.retrieval.blend import Blend
    from models.retrieval.sparse_item_model import SparseItemModel
    from pipelines import evaluate
    from pipelines.learning import device, saved
    from pipelines.learning import prepared as histories
    from pipelines.learning.ranking import rank_all, task_probabilities

    with chdir(folder):
        settings, data = params["train"], histories.load()
        model, counts = saved.load("data/model", device.choose(settings["accelerator"])), data.popularity
        valid, _ = rank_all(model, data.valid, 10)
        rank, top = rank_all(model, data.test, max(params["evaluate"]["ks"]))
        shown = data.impressions("test")
        expected = task_probabilities(model, data.full, shown) if isinstance(model, TwoStage) else None
    gains = metrics.ndcg(rank, 10)
    network, blended = network_of(model), isinstance(first_stage(model), Blend)
    share = counts / counts.sum()
    counted = [part for part in model.modules() if isinstance(part, SparseItemModel)]
    row = {
        "family": settings["model"],
        "loss": loss_of(settings["retriever"] if isinstance(model, TwoStage) else settings["model"], settings["loss"])
        if network is not None and not blended
        else None,
        "seed": settings["seed"],
        "side_information": network is not None and network.attributes is not None,
        "params": sum(p.numel() for p in model.parameters()) + sum(n.weights.numel() for n in counted),
        "transition_prior": network is not None and network.prior is not None,
        "valid_ndcg@10": float(metrics.ndcg(valid, 10).mean()),
    } | evaluate.summary(rank, top, data, params["evaluate"], settings["seed"])
    row["popularity_bias"] = float(share[top[:, :10]].mean() / share[data.test.targets].mean())
    if expected is not None:
        row["impressions"] = evaluate.tasks(expected, shown.labels)
    row["segments"] = {name: float(gains[rows].mean()) for name, rows in evaluate.segments(data, counts).items() if rows.any()}
    return row, gains


def compare(title: str, runs: list[dict]) -> dict:
    """The report: rows, means by model, the best by validation and how surely it is better than the others."""
    from scipy import stats

    names = list(dict.fromkeys(r["model"] for r in runs))
    of = {name: [r for r in runs if r["model"] == name] for name in names}
    gains = {name: np.mean([r["gains"] for r in of[name]], axis=0) for name in names}
    best = max(names, key=lambda name: np.mean([r["valid_ndcg@10"] for r in of[name]]))

    def mean(name: str) -> dict:
        numbers = ("ndcg@10", "recall@10", "valid_ndcg@10", "train_s", "params", "coverage@10", "popularity_bias")
        return {"model": name, "seeds": len(of[name])} | {k: float(np.mean([r[k] for r in of[name]])) for k in numbers}

    means = [mean(name) for name in names]
    for row in means:
        if row["model"] != best:
            row["p_beside_best"] = float(stats.ttest_rel(gains[best], gains[row["model"]]).pvalue)
    return {
        "dataset": title,
        "cores": os.cpu_count(),
        "rows": [{k: v for k, v in r.items() if k != "gains"} for r in runs],
        "means": means,
        "best": {k: v for k, v in mean(best).items() if k in ("model", "ndcg@10", "recall@10")},
    }


def show(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "model", "NDCG@10", "Recall@10", "valid NDCG@10", "training s", "parameters", "coverage", "p", title=report["dataset"]
    )
    for row in sorted(report["means"], key=lambda r: -r["valid_ndcg@10"]):
        table.add_row(
            row["model"], f"{row['ndcg@10']:.4f}", f"{row['recall@10']:.4f}", f"{row['valid_ndcg@10']:.4f}", f"{row['train_s']:.0f}",
            f"{row['params']:,.0f}", f"{row['coverage@10']:.2f}", f"{row['p_beside_best']:.1e}" if "p_beside_best" in row else "best",
        )  # fmt: skip
    Console(width=110).print(table)


def plot(report: dict, path: Path) -> None:
    """Quality against seconds of training; a dot's area grows with the number of parameters."""
    from matplotlib import colormaps

    with chart(path, 9, "seconds of training", "test NDCG@10", f"{report['dataset']}: mean over seeds") as axes:
        colours = colormaps["tab20"]
        largest = max(r["params"] for r in report["means"]) or 1
        for i, row in enumerate(sorted(report["means"], key=lambda r: -r["ndcg@10"])):
            seconds, size = max(row["train_s"], 0.1), 30 + 400 * row["params"] / largest
            axes.scatter(seconds, row["ndcg@10"], s=size, alpha=0.6, color=colours(i))
            axes.scatter([], [], s=60, color=colours(i), label=f"{row['model']}  {row['ndcg@10']:.4f}")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def shipped() -> dict:
    """params.yaml as it is committed: the file itself may hold what a run brought back. As it stands where its keys are being changed."""
    here = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    committed = yaml.safe_load(shown.stdout) if not shown.returncode else here

    def keys(part: object) -> object:
        return {name: keys(inner) for name, inner in part.items()} if isinstance(part, dict) else None

    mapping = {"source": here["source"] | {"mapping": None}}  # whose keys are the shop's
    return committed if keys(here | mapping) == keys(committed) else here


def link_code(folder: Path) -> None:
    for name in CODE:
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)


def run(folder: Path, *stages: str) -> None:
    from importlib import import_module

    with chdir(folder):
        for stage in stages:
            import_module(f"pipelines.{stage}").main()


if __name__ == "__main__":
    main()
