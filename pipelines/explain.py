"""explain: what carries the trained model's answers, how far what is said of it holds, and where the model is wrong and for whom.

In:  data/model, data/refit, data/prepared, data/checked (categories, brands, attributes of shoppers), settings `explain`, `train.seed`.
Out: reports/explanation.json, reports/explanation/*.png.

Faithfulness is measured on a sample of test shoppers: how much less the first answer is ahead of popular items as the five most important events go, by each way to name them, beside random ones and the newest.
`both ends` is what servers name; `searched` looks for the five events whose absence changes most, which no way can be much better than. Controls: what is read off a model of shuffled weights must fall short of
it; attention is shown and never called a reason.
"""

from copy import deepcopy

import numpy as np
import polars as pl
import torch

from models import metrics
from models.explaining.attributions import (
    Question,
    attention,
    both_ends,
    counterfactual,
    deletion,
    insertion,
    integrated_gradients,
    leave_one_out,
    recency,
    searched,
    shapley,
    shuffled,
    silenced,
)
from models.rankers.fusion import Fusion
from models.rankers.two_stage import TwoStage, unchanged
from pipelines.data.tables import CHECKED
from pipelines.learning import prepared, saved
from pipelines.learning.prepared import PREPARED, Prepared
from pipelines.learning.ranking import SAMPLE, rank_all
from pipelines.stage import chart, log, output, params, run, write_json

NAMED, REFERENCE, DRAWS = 5, 50, 5  # events that are named; popular items beside which an answer is looked at; random orders
SHORTEST = 2 * NAMED  # events of a history, so that five of them are not most of it
ACTIONS = ("view", "favourite", "cart", "purchase")
DEPTH = 4  # of the tree that stands in for the model
ORDERS, EVERY = 20, 4  # random orders of a history's events, and of which shoppers: of every fourth
ITEMS_A_SHOPPER = 40  # that the tree learns from
BINS = 10


def main() -> None:
    settings, seed = params("explain"), params("train")["seed"]
    data, model, again = prepared.load(), saved.load("data/model"), saved.load("data/refit")
    items = pl.read_parquet(PREPARED / "items.parquet").sort("item")
    with output("reports/explanation") as folder:
        report, examples = faithfulness(model, again, data, settings["shoppers"], seed)
        report |= {"surrogate": surrogate(model, data, items, settings["shoppers"], seed)}
        report |= {"diagnosis": diagnosis(model, data, items, settings["protected"], seed), "branches": branches(model, data)}
        curves(folder, report["faithfulness"])
        calibration(folder, report["diagnosis"]["calibration"])
        importance(folder, report["importance"])
        pictures(folder, examples)
        write_json("reports/explanation.json", report)
    falls = {name: way["deletion"][-1] for name, way in report["faithfulness"].items()}
    log.info("explain: without the five events that are named the first answer falls by %s", ", ".join(f"{fall:.2f} ({name})" for name, fall in falls.items()))  # fmt: skip
    log.info("explain: a tree of depth %s stands in for the model with R2 %.2f", DEPTH, report["surrogate"]["r2"])


def faithfulness(model, again, data: Prepared, about: int, seed: int) -> tuple[dict, list[dict]]:
    """What is said of about so many test shoppers' first answers, and how far it holds; and two of them as examples, with their attention."""
    long = np.flatnonzero(data.test.lengths >= SHORTEST)
    part = data.test.rows(long[:: max(1, len(long) // about)][:about]) if len(long) else data.test.rows([])
    if not len(part):
        return {"faithfulness": {}, "importance": {}, "shoppers": 0}, []
    first = rank_all(model, part, 1)[1][:, 0]
    reference = torch.from_numpy(np.argsort(-data.popularity, kind="stable")[:REFERENCE])
    wrong, draw = shuffled(deepcopy(model), seed), torch.Generator().manual_seed(seed)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    shares, sizes, same, examples = [], [], [], []
    with unchanged(model), unchanged(again), unchanged(wrong):
        for row in range(len(part)):
            history, times = (
                torch.from_numpy(np.asarray(column[row][-model.max_len :], dtype=np.int64)) for column in (part.items, part.times)
            )
            asked = (history, times, int(first[row]), reference)
            question = Question(model, *asked)
            falls = both_ends(question)
            looked = attention(question)
            ways = {
                "both ends": falls,
                "leave-one-out": leave_one_out(question),
                "integrated gradients": integrated_gradients(question),
                "attention": looked,
                "Shapley's value": shapley(question, ORDERS, seed) if row % EVERY == 0 else None,
                "recency": recency(question),
                "shuffled weights": both_ends(Question(wrong, *asked)),
                "searched": searched(question, NAMED),
            }
            for name, way in ways.items():
                if way is not None:
                    curves_of = (deletion(question, way, NAMED), insertion(question, way, NAMED))
                    found.setdefault(name, []).append(tuple(curve.numpy() for curve in curves_of))
            random = [torch.rand(len(history), generator=draw) for _ in range(DRAWS)]
            drawn = [
                torch.stack([curve(question, way, NAMED) for way in random]).mean(0).numpy() for curve in (deletion, insertion)
            ]
            found.setdefault("random", []).append(tuple(drawn))
            shares.append(of_whom(falls, part.actions[row][-model.max_len :]))
            sizes.append(counterfactual(question, falls))
            same.append(int(falls.argmax()) == int(both_ends(Question(again, *asked)).argmax()))
            if looked is not None and len(examples) < 2:
                examples.append({"attention": looked.numpy(), "both ends": falls.numpy()})
    curves_of = {
        name: {"deletion": np.mean([d for d, _ in way], 0).tolist(), "insertion": np.mean([i for _, i in way], 0).tolist(), "shoppers": len(way)}
        for name, way in found.items()
    }  # fmt: skip
    changed = [size for size in sizes if size is not None]
    report = {
        "shoppers": len(part),
        "faithfulness": curves_of,
        "importance": {name: float(np.mean([share[name] for share in shares])) for name in shares[0]},
        "counterfactual": {"changed": len(changed) / len(sizes), "median_events": float(np.median(changed)) if changed else None},
        "same_reason_after_refit": float(np.mean(same)),
    }
    return report, examples


def of_whom(falls: torch.Tensor, actions: np.ndarray) -> dict[str, float]:
    """Shares of what all events add to an answer: of the newest, the five newest, and of each action."""
    gains = falls.clamp(min=0).numpy()
    shares = gains / gains.sum() if gains.sum() > 0 else np.full(len(gains), 1 / len(gains))
    found = {"the newest event": float(shares[-1]), "the five newest": float(shares[-NAMED:].sum())}
    done = np.asarray(actions)[-len(shares) :]
    return found | {f"{name}s": float(shares[done == number].sum()) for number, name in enumerate(ACTIONS, 1)}


def surrogate(model, data: Prepared, items: pl.DataFrame, about: int, seed: int) -> dict:
    """A tree over what a person can read that stands in for the model: its rules, and how much of the scores of other shoppers it tells (R2)."""
    from sklearn.tree import DecisionTreeRegressor, export_text

    part, rng = data.test.sample(2 * about), np.random.default_rng(seed)
    codes = {
        name: items[name].fill_null("").cast(pl.Categorical).to_physical().to_numpy()
        for name in ("category", "brand")
        if name in items.columns
    }
    rows, wanted, whose = [], [], []
    with torch.inference_mode(), unchanged(model):
        for row in range(len(part)):
            history, times = (np.asarray(column[row][-model.max_len :], dtype=np.int64) for column in (part.items, part.times))
            shown = rng.choice(np.arange(1, data.items + 1), min(ITEMS_A_SHOPPER, data.items), replace=False)
            scores = model.scores(torch.from_numpy(history)[None], torch.from_numpy(times)[None])[0, shown].numpy()
            known = {"popularity": np.log1p(data.popularity[shown]), "met before": np.isin(shown, history)}
            for name, code in codes.items():
                of_history, of_items = code[history - 1], code[shown - 1]
                known |= {
                    f"same {name} as the newest": of_items == of_history[-1],
                    f"share of the history in its {name}": (of_items[:, None] == of_history).mean(1),
                }
            rows.append(np.column_stack([np.asarray(column, dtype=float) for column in known.values()]))
            wanted.append((scores - scores.mean()) / max(float(scores.std()), 1e-9))
            whose += [row] * len(shown)
    features, target, learnt = np.concatenate(rows), np.concatenate(wanted), np.array(whose) % 2 == 0
    tree = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=50, random_state=seed).fit(features[learnt], target[learnt])
    return {
        "r2": float(tree.score(features[~learnt], target[~learnt])),
        "rules": export_text(tree, feature_names=list(known), decimals=2).splitlines(),
    }


def diagnosis(model, data: Prepared, items: pl.DataFrame, protected: list[str], seed: int) -> dict:
    """Where the model is wrong, for whom, how sure it is, and what it shows too much or too little of; of (a sample of) the test shoppers."""
    part = data.test.sample(SAMPLE)
    ranks, top = rank_all(model, part, 10)
    gains = metrics.ndcg(ranks, 10)
    groups = {
        "length of the history": _groups(
            np.digitize(part.lengths, [5, 10, 20, 50]), ["under 5", "5 to 9", "10 to 19", "20 to 49", "50 and more"]
        )
    }
    for name in ("category", "brand"):
        if name in items.columns:
            groups[name] = items[name].fill_null("unknown").to_numpy()[part.targets - 1]
    if data.platforms:
        groups["platform"] = np.array(["unknown", *data.platforms])[part.asked_on()]
    mixed = np.random.default_rng(seed).permutation(len(part))
    elsewhere = metrics.ndcg(
        rank_all(model, part.within(part.items.start, part.items.end, targets=part.targets[mixed]), 10)[0], 10
    )
    return {
        "by_group": {name: _by_group(labels, gains) for name, labels in groups.items()},
        "protected": _protected(protected, part, gains, data),
        "calibration": _calibrated(model, part),
        "popularity": {
            "recommended": float(np.log1p(data.popularity[top]).mean()), "targets": float(np.log1p(data.popularity[part.targets]).mean()),
            "catalogue": float(np.log1p(data.popularity[1:]).mean()),
        },
        "exposure_of_small_brands": _small_brands(items, data, top),
        "ndcg@10_of_others_targets": float(elsewhere.mean()),
        "ndcg@10": float(gains.mean()),
    }  # fmt: skip


def branches(model, data: Prepared) -> list[dict]:
    """What each branch of `fusion` contributes: NDCG@10 of (a sample of) the test shoppers with it and without what it reads, and the share of first answers that change. Of other models: none."""
    if not isinstance(model, TwoStage) or not isinstance(model.second.ranker.encoder, Fusion):
        return []
    part = data.test.sample(SAMPLE)
    ranks, top = rank_all(model, part, 10)
    found, gains = [], metrics.ndcg(ranks, 10)
    for name, branch in model.second.ranker.encoder.branches.items():
        with silenced(branch):
            ranks, others = rank_all(model, part, 10)
        lost = gains - metrics.ndcg(ranks, 10)
        found.append({
            "branch": name, "ndcg@10": float(gains.mean()), "lost": float(lost.mean()), "error": float(1.96 * lost.std() / len(lost) ** 0.5), "changed": float((others[:, 0] != top[:, 0]).mean()),
        })  # fmt: skip
    return found


def _groups(codes: np.ndarray, names: list[str]) -> np.ndarray:
    return np.array(names)[codes]


def _by_group(labels: np.ndarray, gains: np.ndarray) -> list[dict]:
    """NDCG@10 a group of at least 30 shoppers, worst first."""
    table = pl.DataFrame({"group": labels.astype(str), "ndcg@10": gains})
    found = table.group_by("group").agg(
        pl.len().alias("shoppers"), pl.col("ndcg@10").mean(), error=1.96 * pl.col("ndcg@10").std() / pl.len().sqrt()
    )
    return found.filter(pl.col("shoppers") >= 30).sort("ndcg@10", "group").to_dicts()


def _protected(names: list[str], part, gains: np.ndarray, data: Prepared) -> dict[str, list[dict]]:
    """The same by attributes of shoppers that settings name."""
    file = CHECKED / "users.parquet"
    if not names or not file.exists():
        return {}
    rows = pl.read_parquet(PREPARED / "histories.parquet", columns=["user_id", "test_at"]).filter(pl.col("test_at").is_not_null())
    asked = rows[np.arange(0, len(rows), max(1, len(rows) // SAMPLE)).tolist()]
    users = asked.join(pl.read_parquet(file).unique("user_id", keep="first"), on="user_id", how="left", maintain_order="left")
    return {
        name: _by_group(users[name].cast(pl.String).fill_null("unknown").to_numpy(), gains)
        for name in names
        if name in users.columns
    }


def _calibrated(model, part) -> list[dict]:
    """What a softmax of the scores says of the first answer's chance, and how often it was what came next, by tenths of what it says."""
    said, came = [], []
    rows = part.sample(1000)
    with torch.inference_mode(), unchanged(model):
        for row in range(len(rows)):
            history, times = (
                torch.from_numpy(np.asarray(column[row][-model.max_len :], dtype=np.int64)) for column in (rows.items, rows.times)
            )
            scores = model.scores(history[None], times[None])[0].float()
            scores[history] = -torch.inf
            chances = scores.softmax(0)
            best = int(chances.argmax())
            said.append(float(chances[best]))
            came.append(best == rows.targets[row])
    table = (
        pl.DataFrame({"said": said, "came": came})
        .sort("said")
        .with_row_index("place")
        .with_columns(tenth=pl.col("place") * BINS // max(len(said), 1))
    )
    return (
        table.group_by("tenth", maintain_order=True)
        .agg(pl.len().alias("shoppers"), pl.col("said").mean(), pl.col("came").mean())
        .drop("tenth")
        .to_dicts()
    )


def _small_brands(items: pl.DataFrame, data: Prepared, top: np.ndarray) -> dict | None:
    """What share of answers, of events and of the catalogue the smaller half of the brands has."""
    if "brand" not in items.columns:
        return None
    counted = items.select("item", "brand", popularity=pl.Series(data.popularity[1:])).drop_nulls("brand")
    brands = counted.group_by("brand").agg(pl.col("popularity").sum()).sort("popularity", "brand")
    small = counted.filter(pl.col("brand").is_in(brands["brand"][: len(brands) // 2].implode()))
    shown = np.isin(top, small["item"].to_numpy())
    return {
        "answers": float(shown.mean()),
        "events": small["popularity"].sum() / max(counted["popularity"].sum(), 1),
        "catalogue": len(small) / max(len(counted), 1),
    }


def curves(folder, ways: dict[str, dict]) -> None:
    """How far the first answer falls, and how far it comes back."""
    for kind, title in (
        ("deletion", "without the most important events the first answer falls by"),
        ("insertion", "with the most important events alone it is ahead by"),
    ):
        with chart(folder / f"{kind}.png", 8, "events", "score, beside popular items'", title, "linear") as axes:
            for name, way in ways.items():
                axes.plot(
                    range(1, NAMED + 1),
                    way[kind],
                    marker="o",
                    label=name,
                    linestyle="--" if name in ("random", "shuffled weights", "searched") else "-",
                )
            axes.set_xticks(range(1, NAMED + 1))
            axes.legend()


def calibration(folder, rows: list[dict]) -> None:
    """What is said beside what came."""
    with chart(
        folder / "calibration.png", 6, "said", "came", "the chance of the first answer, and how often it came", "linear"
    ) as axes:
        largest = max([*(row["said"] for row in rows), *(row["came"] for row in rows), 0.01])
        axes.plot([0, largest], [0, largest], color="grey", linestyle=":")
        axes.plot([row["said"] for row in rows], [row["came"] for row in rows], marker="o")


def importance(folder, shares: dict[str, float]) -> None:
    """What carries answers, as bars."""
    with chart(
        folder / "importance.png", 7, "share of what a history adds to the first answer", "", "what carries answers", "linear"
    ) as axes:
        axes.barh(list(shares)[::-1], list(shares.values())[::-1])


def pictures(folder, examples: list[dict]) -> None:
    """Attention of two shoppers beside what leaving out says: how different they are."""
    for number, example in enumerate(examples, 1):
        with chart(
            folder / f"attention-{number}.png",
            8,
            "event, oldest first",
            "share",
            "attention (which is no reason) and leaving out",
            "linear",
        ) as axes:
            for name, values in example.items():
                positive = np.maximum(values, 0)
                axes.plot(positive / max(float(positive.sum()), 1e-9), marker="o", label=name)
            axes.legend()


if __name__ == "__main__":
    run(main)
