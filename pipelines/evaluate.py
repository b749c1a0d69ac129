"""evaluate: the trained model on the test part, beside popularity and item-kNN, overall and by segment.

In:  data/prepared, data/model, settings `evaluate`, `train.seed`, `baseline`.
Out: reports/metrics.json (for dvc metrics), reports/plots/{at_k,segments}.csv (for dvc plots).

Every item that the shopper has not met is ranked; one item is relevant. Metrics are means over shoppers, with 95 % bootstrap
intervals. A test item outside the vocabulary's training part still counts: nothing is left out of the mean.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from models import metrics
from models.baselines import ItemKNN, Popularity, incidence
from models.batches import pad
from models.sasrec import SASRec
from pipelines import histories
from pipelines.histories import Part, Prepared
from pipelines.stage import log, output, params, run, write_json
from pipelines.train import load

Scores = Callable[[list[np.ndarray]], np.ndarray]
BATCH = 256


def main() -> None:
    settings, train, baseline, source = params("evaluate", "train", "baseline", "source")
    data = histories.load()
    met = incidence(data.train, len(data.items) + 1)
    scorers: dict[str, Scores] = {
        "test": network_scores(load("data/model")),
        "popularity": Popularity(met).scores,
        "item_knn": ItemKNN(met, settings["knn_neighbours"]).scores,
    }
    popularity = np.concatenate([[0], data.items["popularity"].to_numpy()])
    parts = segments(data, popularity)
    report, at_k, by_segment = {}, [], []
    for name, scores in scorers.items():
        rank, top = rank_all(scores, data.test, max(settings["ks"]))
        report[name] = summary(rank, top, popularity, settings, train["seed"])
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
    report["segments"] = {s: {r["model"]: r["ndcg@10"] for r in by_segment if r["segment"] == s} for s in parts}
    if baseline["ndcg"] is not None and baseline["source"] == f"{source['name']}:{source['data']}":
        report["production"] = {"ndcg@10": baseline["ndcg"], "gain": report["test"]["ndcg@10"] / baseline["ndcg"] - 1}
    write_json("reports/metrics.json", report)
    with output("reports/plots") as folder:
        pl.DataFrame(at_k).write_csv(folder / "at_k.csv")
        pl.DataFrame(by_segment).write_csv(folder / "segments.csv")


def network_scores(network: SASRec) -> Scores:
    """The network as a function of histories, on the best device there is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)

    def scores(chosen: list[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return network.scores(pad([h[-network.max_len :] for h in chosen]).to(device)).float().cpu().numpy()

    return scores


def rank_all(scores: Scores, part: Part, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N,) of the targets among the items not met before, and what would be recommended, (N, k) item numbers."""
    ranks, tops = np.zeros(len(part.targets), int), []
    order = np.argsort([len(h) for h in part.histories], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        chosen = [part.histories[r] for r in rows]
        unseen = torch.from_numpy(scores(chosen)).scatter(1, pad(chosen), -torch.inf)
        unseen[:, 0] = -torch.inf
        ranks[rows] = metrics.ranks(unseen, torch.from_numpy(part.targets[rows])).numpy()
        tops.append(unseen.topk(min(k, unseen.shape[1])).indices.numpy())
    return ranks, np.concatenate(tops)


def segments(data: Prepared, popularity: np.ndarray) -> dict[str, np.ndarray]:
    """Which test shoppers (N,) bool belong to which segment.

    New shoppers met at most five items before; the head is the fewest items that hold 80 % of the training events.
    """
    length = np.array([len(h) for h in data.test.histories])
    order = np.argsort(-popularity, kind="stable")
    head_size = np.searchsorted(popularity[order].cumsum(), 0.8 * popularity.sum()) + 1
    head = np.isin(data.test.targets, order[:head_size])
    return {"new shoppers": length <= 5, "regular shoppers": length > 5, "head items": head, "tail items": ~head}


def summary(rank: np.ndarray, top: np.ndarray, popularity: np.ndarray, settings: dict, seed: int) -> dict:
    report = {f"{name}@{k}": float(f(rank, k).mean()) for k in settings["ks"] for name, f in metrics.METRICS.items()}
    for name in ("ndcg", "recall"):
        report[f"{name}@10_interval"] = metrics.interval(metrics.METRICS[name](rank, 10), settings["bootstrap"], seed)
    report["coverage@10"] = metrics.coverage(top[:, :10], len(popularity) - 1)
    report["novelty@10"] = metrics.novelty(top[:, :10], popularity)
    report["shoppers"] = len(rank)
    return report


if __name__ == "__main__":
    run(main)
