"""evaluate: the trained model on the test part, beside popularity and item-kNN, overall and by segment.

In:  data/prepared, data/model, settings `evaluate`, `train.seed`, `train.accelerator`, `baseline`.
Out: reports/metrics.json (for dvc metrics), reports/plots/{at_k,segments}.csv (for dvc plots).

Every item of the events or the catalogue that the shopper has not met is ranked; one item is relevant. Metrics are means over all shoppers
that have a test item, in the vocabulary of training or not, with 95 % bootstrap intervals. Where times name baskets, `basket_recall@10` says
how many of the whole last basket (or of ten, where it holds more) are among the first ten.

Of a blend also what it is made of. Of rankers also what they expect of the impressions of the test part: AUC, log-loss and calibration error, a task each.
"""

import numpy as np
import polars as pl

from models import metrics
from models.rankers.ranker import TASKS
from models.rankers.two_stage import TwoStage, first_stage
from models.retrieval.blend import Blend
from models.retrieval.item_to_item import incidence, item_knn
from pipelines.learning import device, prepared, saved
from pipelines.learning.choices import best_popularity
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import SAMPLE, rank_all, task_probabilities
from pipelines.stage import log, output, params, read_json, run, shop_name, write_json

RARE = 3  # events in training under which an item is rare


def main() -> None:
    settings, train, baseline = params("evaluate", "train", "baseline")
    data, place = prepared.load(), device.choose(train["accelerator"])
    met, counts = incidence(data.train.items, data.items + 1), data.popularity
    models = {
        "test": saved.load("data/model", place),
        "popularity": best_popularity(data).to(place),
        "item_knn": item_knn(met, settings["knn_neighbours"]).to(place),
    }
    parts = segments(data, counts)
    report, at_k, by_segment = {}, [], []
    for name, model in models.items():
        rank, top = rank_all(model, data.test, max(settings["ks"]))
        report[name] = summary(rank, top, data, settings, train["seed"])
        log.info("evaluate: %-10s NDCG@10 %.4f, Recall@10 %.4f", name, report[name]["ndcg@10"], report[name]["recall@10"])
        at_k += [
            {"model": name, "k": k, "ndcg": metrics.ndcg(rank, k).mean(), "recall": metrics.recall(rank, k).mean()}
            for k in range(1, 21)
        ]
        for segment, rows in parts.items():
            if rows.any():
                by_segment.append(
                    {
                        "model": name,
                        "segment": segment,
                        "shoppers": int(rows.sum()),
                        "ndcg@10": metrics.ndcg(rank[rows], 10).mean(),
                    }
                )
    if isinstance(models["test"], TwoStage):
        report["retriever"] = summary(
            *rank_all(models["test"].retriever, data.test, max(settings["ks"])), data, settings, train["seed"]
        )
        shown = data.impressions("test")
        report["impressions"] = tasks(task_probabilities(models["test"], data.full, shown), shown.labels)
        for task, values in report["impressions"].items():
            log.info("evaluate: %-10s AUC %.4f, calibration error %.4f", task, values["auc"], values["calibration_error"])
    if isinstance(first := first_stage(models["test"]), Blend):
        shape = read_json("data/model/model.json")
        report["blend"] = made_of(first, data, shape.get("retriever", shape))
    report["segments"] = {s: {r["model"]: r["ndcg@10"] for r in by_segment if r["segment"] == s} for s in parts}
    facts = read_json(prepared.PREPARED / "prepared.json")
    report["targets"] = {
        "new": float((counts[data.test.targets] == 0).mean()),
        "rare": float(((counts[data.test.targets] > 0) & (counts[data.test.targets] < RARE)).mean()),
        "ties": facts["ties"],
        "baskets": facts["baskets"],
    }
    log.info("evaluate: %.1f %% of the targets are new to training, %.1f %% rare (under %s events); %.0f %% of neighbours tie in time",
             100 * report["targets"]["new"], 100 * report["targets"]["rare"], RARE, 100 * facts["ties"])  # fmt: skip
    if baseline["ndcg"] and baseline["shop"] == shop_name():
        report["production"] = {"ndcg@10": baseline["ndcg"], "gain": report["test"]["ndcg@10"] / baseline["ndcg"] - 1}
    write_json("reports/metrics.json", report)
    with output("reports/plots") as folder:
        pl.DataFrame(at_k).write_csv(folder / "at_k.csv")
        pl.DataFrame(by_segment).write_csv(folder / "segments.csv")


def made_of(model: Blend, data: Prepared, shape: dict) -> list[dict]:
    """A row a part of the blend: its weight, its NDCG@10 by itself on the validation part, and the blend's on (a sample of) the test part
    without it, the others as they are.
    """
    part, rows = data.test.sample(SAMPLE), []
    whole = metrics.ndcg(rank_all(model, part, 10)[0], 10)
    for name, one in shape["recipe"]["parts"].items():
        rest = metrics.ndcg(rank_all(model.without(name), part, 10)[0], 10)
        rows.append({"part": name, "weight": one["weight"], "valid_ndcg@10": shape["chosen"]["valid_ndcg@10"][name]})
        rows[-1] |= {"test_ndcg@10": float(whole.mean()), "without": float(rest.mean())}
    return rows


def segments(data: Prepared, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Which test shoppers (N,) bool belong to which segment.

    New shoppers met at most five items before; the head is the fewest items that hold 80 % of the training events.
    """
    length = data.test.lengths
    order = np.argsort(-counts, kind="stable")
    head_size = np.searchsorted(counts[order].cumsum(), 0.8 * counts.sum()) + 1
    head = np.isin(data.test.targets, order[:head_size])
    return {
        "new shoppers": length <= 5,
        "regular shoppers": length > 5,
        "head items": head,
        "tail items": ~head,
        "new items": counts[data.test.targets] == 0,
    }


def tasks(probability: np.ndarray, label: np.ndarray) -> dict[str, dict[str, float]]:
    """Metrics of each task that has two outcomes; probability, label (N, 3)."""
    return {
        task: {
            "auc": metrics.auc(p, y),
            "log_loss": metrics.log_loss(p, y),
            "calibration_error": metrics.calibration_error(p, y),
            "impressions": len(y),
            "positives": int(y.sum()),
        }
        for task, p, y in zip(TASKS[1:], probability.T, label.T, strict=True)
        if 0 < y.sum() < len(y)
    }


def summary(rank: np.ndarray, top: np.ndarray, data: Prepared, settings: dict, seed: int) -> dict:
    report = {f"{name}@{k}": float(f(rank, k).mean()) for k in settings["ks"] for name, f in metrics.METRICS.items()}
    for name in ("ndcg", "recall"):
        report[f"{name}@10_interval"] = metrics.interval(metrics.METRICS[name](rank, 10), settings["bootstrap"], seed)
    if any(len(b) > 1 for b in data.baskets):
        report["basket_recall@10"] = float(
            np.mean([np.isin(t[:10], b).sum() / min(len(b), 10) for t, b in zip(top, data.baskets, strict=True)])
        )
    report["coverage@10"] = metrics.coverage(top[:, :10], data.items)
    report["novelty@10"] = metrics.novelty(top[:, :10], data.popularity)
    report["shoppers"] = len(rank)
    return report


if __name__ == "__main__":
    run(main)
