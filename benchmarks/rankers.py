"""Does it pay to join behaviour, history, prices and the record of items? `fusion` beside each of its branches alone, din, dien and
LightGBM on the same features, on the simulated shop.

    python -m benchmarks.rankers                     # about 40 minutes on 2 CPU cores, with din and dien some hours
    python -m benchmarks.rankers --models fusion interest lightgbm --seeds 3

All learn from the first --learn shoppers and are held against the test items and impressions of all --shoppers: none knows a shopper by
name, and with few to test on intervals are wider than what one can be ahead of another. All order the candidates of one retriever
(sasrec), by themselves alone: NDCG@10 with every item ranked, what was not proposed below. All say of each impression of the
test part how probable a purchase is: AUC, log-loss, calibration error. LightGBM gets item, category, brand, platform, the item's
numbers, and of the history what a person would count: its length and prices, how often category and brand stand in it, and which item
followed which in training; one model for purchases, one (LambdaRank) for the order. Differences from fusion are means over seeds with
95 % bootstrap intervals over shoppers. Prints a table, writes reports/rankers.json. Stopped and started again it goes on: networks are
kept beside the data (of one that was stopped halfway, the seconds are those since).
"""

import argparse
import logging
import time
from contextlib import chdir
from pathlib import Path

import numpy as np

from benchmarks.quality import ROOT, prepared, run_folder
from pipelines.stage import write_json

OUT = ROOT  # where data and reports stand
BRANCHES = ("interest", "preference", "purchasing_power")
MODELS = ("fusion", *BRANCHES, "lightgbm", "din", "dien")
BOOTSTRAP = 300
CATEGORIES = [1, 2, 3]  # columns of Tabular that name something: category, brand, platform; items so taken are learnt by heart
TREES = {
    "verbosity": -1,
    "num_leaves": 63,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "num_threads": 2,
    "deterministic": True,
}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    cli.add_argument("--seeds", type=int, default=1)
    cli.add_argument("--shoppers", type=int, default=24_000)
    cli.add_argument("--learn", type=int, default=6000, help="how many of them are learnt from")
    cli.add_argument("--epochs", type=int, help="at most; to try things out")
    chosen = cli.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pushcart").setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    shop = ROOT / "pipelines" / "data" / "sources" / "shop.yaml"
    kept = OUT / "data" / f"rankers-{chosen.shoppers}-{chosen.learn}"
    folder = prepared(kept, "shop", shop, "leave_one_out", {"shoppers": chosen.shoppers})
    with chdir(folder):
        report = compare(chosen.models, chosen.learn, chosen.seeds, chosen.epochs)
    write_json(OUT / "reports" / "rankers.json", report)
    show(report)


def compare(names: list[str], learn: int, seeds: int, epochs: int | None) -> dict:
    from models.metrics import auc, calibration_error, interval, log_loss, ndcg
    from pipelines.learning import device
    from pipelines.learning import prepared as histories
    from pipelines.learning.ranking import rank_all
    from pipelines.stage import params

    data = histories.load()
    data.train = data.train.rows(range(min(learn, len(data.train))))
    shown = data.impressions("test")
    bought = shown.labels[:, 2]
    rows, chances, gains = [], {name: [] for name in names}, {name: [] for name in names}
    for seed in range(seeds):
        settings = params("train") | {"seed": 42 + seed, "model": "fusion", "retriever": "sasrec"}
        settings |= {"precision": device.precision(settings["precision"], device.choose(settings["accelerator"]))}
        settings |= {"epochs": epochs} if epochs else {}
        retriever = retriever_of(settings, data)
        for name in names:
            rank, chance, seconds = answered(name, settings, data, retriever, shown)
            chances[name].append(chance)
            gains[name].append(ndcg(rank, 10))
            rows.append(
                {"model": name, "seed": 42 + seed, "train_s": round(seconds, 1), "ndcg@10": float(gains[name][-1].mean()),
                 "purchase_auc": auc(chance, bought), "purchase_log_loss": log_loss(chance, bought),
                 "purchase_calibration_error": calibration_error(chance, bought)}
            )  # fmt: skip
            print(
                "{model:<18} seed {seed}  NDCG@10 {ndcg@10:.4f}  purchase AUC {purchase_auc:.4f}  {train_s:.0f} s".format(
                    **rows[-1]
                ),
                flush=True,
            )
    report = {
        "shoppers": len(data.full),
        "learnt_from": len(data.train),
        "impressions": len(shown),
        "purchases": int(bought.sum()),
        "retriever_ndcg@10": float(ndcg(rank_all(retriever, data.test, 10)[0], 10).mean()),
        "rows": rows,
        "fusion_gains": {},
    }
    for name in names:
        if "fusion" in names and name != "fusion":
            better = np.mean(gains["fusion"], 0) - np.mean(gains[name], 0)
            report["fusion_gains"][name] = {
                "ndcg@10": [float(better.mean()), *interval(better, 1000, 0)],
                "purchase_auc": auc_gain(chances["fusion"], chances[name], bought, shown.user),
            }
    return report


def retriever_of(settings: dict, data):
    """The retriever trained with these settings; a second run reads it."""
    from pipelines.learning import device, fitting

    kept = Path("retrievers") / fitting.fingerprint(settings)
    return fitting.next_item(settings, data, kept, device.choose(settings["accelerator"]))


def answered(name: str, settings: dict, data, retriever, shown) -> tuple[np.ndarray, np.ndarray, float]:
    """Ranks of the test items by one model alone, probabilities of purchase of the impressions, and the seconds that it took; of
    networks kept. Trees take a minute, and what they are given is made here, of which the kept ones' folder knows nothing.
    """
    settings = settings | ({"branches": [name]} if name in BRANCHES else {"model": name})
    work = run_folder(name, settings)
    kept = work / "answers.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return arrays["rank"], arrays["chance"], float(arrays["seconds"])
    started = time.perf_counter()
    if name == "lightgbm":
        return *lightgbm(settings, data, retriever, shown), time.perf_counter() - started
    rank, chance = network(settings, data, retriever, shown, work)
    seconds = time.perf_counter() - started
    np.savez(kept, rank=rank, chance=chance, seconds=seconds)
    return rank, chance, seconds


def network(settings: dict, data, retriever, shown, work: Path) -> tuple[np.ndarray, np.ndarray]:
    from pipelines.learning import device, fitting
    from pipelines.learning.ranking import rank_all, task_probabilities

    model = fitting.two_stage(settings, data, retriever, work / "checkpoints", device.choose(settings["accelerator"]))
    model.second.blend.fill_(1.0)
    return rank_all(model, data.test, 10)[0], task_probabilities(model, data.full, shown)[:, 2]


def lightgbm(settings: dict, data, retriever, shown) -> tuple[np.ndarray, np.ndarray]:
    import lightgbm as lgb

    table = Tabular(data)
    parts = [data.impressions(part) for part in ("train", "valid")]
    parts[0] = parts[0].rows(np.flatnonzero(parts[0].user < len(data.train)))
    sets = [
        lgb.Dataset(table.rows(p.user, p.position, p.item, p.platform), p.labels[:, 2], categorical_feature=CATEGORIES)
        for p in parts
    ]
    stop = [lgb.early_stopping(30, verbose=False)]
    buys = lgb.train(
        TREES | {"objective": "binary", "metric": "auc", "seed": settings["seed"]}, sets[0], 1000, [sets[1]], callbacks=stop
    )
    chance = buys.predict(table.rows(shown.user, shown.position, shown.item, shown.platform))

    lists = [next_lists(data, retriever, settings), candidates(data.valid, data, "valid_at", retriever, settings["candidates"])]
    sets = [
        lgb.Dataset(table.rows(*columns), label, group=groups, categorical_feature=CATEGORIES) for columns, label, groups in lists
    ]
    ranking = TREES | {"objective": "lambdarank", "metric": "ndcg", "eval_at": [10], "seed": settings["seed"]}
    ranker = lgb.train(ranking, sets[0], 1000, [sets[1]], callbacks=[lgb.early_stopping(30, verbose=False)])
    columns, label, groups = candidates(data.test, data, "test_at", retriever, settings["candidates"])
    scores = ranker.predict(table.rows(*columns)).reshape(len(groups), -1)
    label = label.reshape(scores.shape)
    of_target = np.where(label.any(1), scores[np.arange(len(groups)), label.argmax(1)], -np.inf)
    return (scores >= of_target[:, None]).sum(1) - label.any(1), chance


def candidates(part, data, column: str, retriever, count: int) -> tuple[tuple, np.ndarray, np.ndarray]:
    """What the retriever proposes to each shopper of a held-out part, in no order, or trees that say the same of all would seem to
    know the retriever's: columns for Tabular.rows, labels and group sizes.
    """
    import polars as pl

    from pipelines.learning.prepared import PREPARED
    from pipelines.learning.ranking import rank_all

    at = pl.read_parquet(PREPARED / "histories.parquet", columns=[column])[column]
    users = at.is_not_null().arg_true().to_numpy()
    items = np.random.default_rng(0).permuted(rank_all(retriever, part, count)[1], axis=1)
    platform = part.asked_on()
    spread = [np.repeat(c, items.shape[1]) for c in (users, at.drop_nulls().to_numpy())]
    label = (items == part.targets[:, None]).astype(int).ravel()
    return (*spread, items.ravel(), np.repeat(platform, items.shape[1])), label, np.full(len(items), items.shape[1])


def next_lists(data, retriever, settings: dict) -> tuple[tuple, np.ndarray, np.ndarray]:
    """Lists as models.training.rank_learner learns from, one draw of positions a shopper."""
    import torch

    from models.batches import ImpressionData
    from models.training.rank_learner import DRAWN, PROPOSED, RankImpressions

    torch.manual_seed(settings["seed"])
    learner = RankImpressions(torch.nn.Module(), retriever, settings["candidates"], data.popularity, 0.0, 0.0)
    training = ImpressionData(data.train, data.impressions("train"), settings["max_len"])
    columns, labels = [], []
    for start in range(0, len(training), 256):
        rows = np.arange(start, min(start + 256, len(training)))
        shoppers, platforms, _, _ = training[rows]
        following, again = learner.next_items(shoppers, platforms)
        users, cut = training.kept[rows], training.older[rows]
        row = following.row.numpy()
        keep = ~again.flatten().numpy()
        columns.append(
            np.stack([users[row], following.at.numpy() + cut[row], following.item.numpy(), following.platform.numpy()])
        )
        labels.append(np.where(keep, np.arange(len(row)) % (1 + PROPOSED + DRAWN) == 0, 0))
    columns = np.concatenate(columns, 1)
    return (
        tuple(columns),
        np.concatenate(labels).astype(int),
        np.full(columns.shape[1] // (1 + PROPOSED + DRAWN), 1 + PROPOSED + DRAWN),
    )


class Tabular:
    """(shopper, position, item, platform) to a row of features. Which item followed which is counted without the shopper's own fold:
    else trees would learn to trust counts that hold their own answer.
    """

    def __init__(self, data, longest: int = 50, folds: int = 5):
        import polars as pl

        from models.retrieval.item_to_item import transitions
        from pipelines.learning.prepared import PREPARED

        self.data, self.longest = data, longest
        self.numbers = data.numbers
        items = pl.read_parquet(PREPARED / "items.parquet").sort("item")
        codes = [
            items[c].fill_null("").rank("dense").to_numpy() if c in items.columns else np.zeros(len(items))
            for c in ("category", "brand")
        ]
        self.category, self.brand = (np.concatenate([[0], c]).astype(int) for c in codes)
        self.followed = [
            transitions([h for u, h in enumerate(data.train.items) if u % folds != fold], data.items + 1, data.items)
            for fold in range(folds)
        ]

    def rows(self, user: np.ndarray, position: np.ndarray, item: np.ndarray, platform: np.ndarray) -> np.ndarray:
        size = 20_000
        parts = [slice(i, i + size) for i in range(0, len(user), size)]
        return np.concatenate([self._rows(user[p], position[p], item[p], platform[p]) for p in parts])

    def _rows(self, user: np.ndarray, position: np.ndarray, item: np.ndarray, platform: np.ndarray) -> np.ndarray:
        import torch

        from models.batches import Windows

        moments, row = np.unique(np.stack([user, position]), axis=1, return_inverse=True)
        full, length = self.data.full, np.minimum(moments[1], self.longest)
        windows = Windows(full.items.values, full.actions.values)
        start = full.items.start[moments[0]] + moments[1] - length
        [(history, actions)] = windows.of(start, length, [len(start)], (0, 0), (1, 0))
        history, actions = history.numpy(), actions.numpy()
        real, paid = history > 0, actions == 4
        told, fold = np.zeros((len(history), len(self.numbers)), np.float32), moments[0] % len(self.followed)
        for own in np.unique(fold):
            told[fold == own] = self.followed[own].evidence(torch.from_numpy(history[fold == own])).numpy()
        length = real.sum(1)
        last = history[np.arange(len(history)), np.maximum(length - 1, 0)]
        prices = self.numbers[history][:, :, [0, 1]]

        def mean(of: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return (prices * of[:, :, None]).sum(1) / np.where(of.any(1), of.sum(1), np.nan)[:, None]

        of_history = np.column_stack([length, mean(real), mean(paid), paid.sum(1), self.category[last]])[row]
        newest = np.arange(history.shape[1]) >= (length - 5)[:, None]
        same = [(codes[history][row] == codes[item][:, None]) & real[row] for codes in (self.category, self.brand)]
        counts = [s.sum(1) for s in same] + [(s & newest[row]).sum(1) for s in same]
        of_last = self.numbers[item] - self.numbers[last][row]
        return np.column_stack(
            [item, self.category[item], self.brand[item], platform, self.numbers[item], of_history, *counts, of_last, told[row, item],
             self.category[last][row] == self.category[item]]
        )  # fmt: skip


def auc_gain(one: list[np.ndarray], other: list[np.ndarray], label: np.ndarray, user: np.ndarray) -> list[float]:
    """[gain, low, high]: mean AUC over seeds of one above the other, with a 95 % interval of resampled shoppers."""
    from models.metrics import auc

    def gain(rows: np.ndarray) -> float:
        return float(np.mean([auc(a[rows], label[rows]) - auc(b[rows], label[rows]) for a, b in zip(one, other, strict=True)]))

    rng, people = np.random.default_rng(0), np.unique(user)
    of = np.split(np.arange(len(user)), np.searchsorted(user, people)[1:])
    drawn = [gain(np.concatenate([of[i] for i in rng.integers(len(people), size=len(people))])) for _ in range(BOOTSTRAP)]
    return [gain(np.arange(len(user))), *(float(v) for v in np.quantile(drawn, [0.025, 0.975]))]


def show(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "NDCG@10", "fusion above it", "purchase AUC", "fusion above it", "calibration error", "seconds")
    for name in dict.fromkeys(r["model"] for r in report["rows"]):
        rows = [r for r in report["rows"] if r["model"] == name]
        mean = {k: float(np.mean([r[k] for r in rows])) for k in rows[0] if k != "model"}
        gains = report["fusion_gains"].get(name)
        told = ["{:+.4f} ({:+.4f} to {:+.4f})".format(*gains[k]) if gains else "" for k in ("ndcg@10", "purchase_auc")]
        table.add_row(name, f"{mean['ndcg@10']:.4f}", told[0], f"{mean['purchase_auc']:.4f}", told[1],
                      f"{mean['purchase_calibration_error']:.4f}", f"{mean['train_s']:.0f}")  # fmt: skip
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
