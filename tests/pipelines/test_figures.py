"""Figures that can be trusted: nothing of the held-out parts leaks, order carries no more than is there, noise and NaN win nothing."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from models import metrics
from pipelines.learning import choices, prepared, saved
from pipelines.learning.ranking import rank_all
from pipelines.stage import StageError, read_json
from tests.conftest import STAGES, make_workspace, run_stages, small_params

CANARY, STRANGER = "canary", "stranger"


def write_shop(path: Path, shoppers: int, items: int, orders: int, size: int, seed: int = 0, rename: int | None = None) -> None:
    """A log of baskets that are noise: `orders` a shopper of `size` items, all of one order at one time, sorted by the item's number.

    rename: a seed by which items get other names; rows stay where they are.
    """
    rng = np.random.default_rng(seed)
    names = np.arange(items) if rename is None else np.random.default_rng(rename).permutation(items)
    lines = ["user_id,item_id,event,timestamp"]
    for shopper in range(shoppers):
        for order in range(orders):
            for item in np.sort(rng.choice(items, size, replace=False)):
                lines.append(f"u{shopper},p{names[item]:05d},purchase,2026-01-{order + 1:02d} 12:00:00")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
def test_what_stands_in_held_out_parts_alone_leaves_no_trace(workspace, split: str):
    workspace(prepare__split=split, source__shop__shoppers=200, train__model="sasrec", train__epochs=1)
    run_stages("collect", "link", "check")
    events = pl.read_parquet("data/checked/events.parquet")
    end = events["timestamp"].max()
    met = (
        events.filter(pl.col("event") == "view")
        .group_by("user_id")
        .agg(pl.col("item_id").n_unique())
        .filter(pl.col("item_id") > 5)
    )
    some = met["user_id"].sort()[:40]  # a shopper with under three items is all training
    last = pl.DataFrame({"user_id": some}).with_columns(
        event_id=pl.format("c{}", "user_id"), item_id=pl.lit(CANARY), event=pl.lit("purchase"), timestamp=pl.lit(end).dt.offset_by("1h"),
        price=pl.lit(9.0), source_row=pl.lit(10**6, pl.UInt32),
    )  # fmt: skip
    late = pl.DataFrame({"user_id": [STRANGER] * 2, "item_id": events["item_id"].drop_nulls().unique().sort()[:2], "event": ["view"] * 2,
                         "event_id": ["s1", "s2"], "source_row": pl.Series([10**6] * 2, dtype=pl.UInt32)})  # fmt: skip
    late = late.with_columns(timestamp=pl.lit(end).dt.offset_by("2h"))
    pl.concat([events, last, late], how="diagonal").write_parquet("data/checked/events.parquet")
    items = pl.read_parquet("data/checked/items.parquet")
    described = items.head(1).with_columns(item_id=pl.lit(CANARY), brand=pl.lit("Canary"), title=pl.lit("canaryword one"))
    pl.concat([items, described]).write_parquet("data/checked/items.parquet")
    run_stages("prepare", "train")

    features = pl.read_parquet("data/prepared/items.parquet")
    canary = features.filter(item_id=CANARY)
    number = canary["item"].item()
    assert canary["popularity"].item() == 0
    assert canary["recency"].item() == 0
    data = prepared.load()
    assert number in set(data.test.targets)
    assert all(number not in h for h in (*data.train.items, *(h for h in data.test.items)))
    others = features.filter(pl.col("popularity") > 0)
    for rate in {"click_rate", "purchase_rate"} & set(features.columns):  # at most what was shown of it in training
        shown = pl.read_parquet("data/prepared/impressions.parquet").filter(item=number, part="train")
        assert shown.is_empty()
        assert others[rate].min() <= canary[rate].item() <= others[rate].max()
    names = read_json("data/prepared/attributes.json")
    assert not any("canary" in n.lower() for n in names)  # said of one item alone
    stranger = pl.read_parquet("data/prepared/histories.parquet").filter(user_id=STRANGER)
    if split == "time":
        assert stranger["train_end"].item() == 0
    model = saved.load("data/model")
    assert model.table.weight[number].abs().max() == 0
    counts = model.prior.counts if model.prior is not None else choices.item_model("transitions", data)[0]
    assert number not in counts.items
    assert counts.items[number].abs().max() == 0
    for name in ("popularity", "item_knn", "transitions", "ease"):
        other = choices.item_model(name, data)[0]
        assert other.bias[number] == 0
        if other.items.shape[1]:
            assert number not in other.items[other.weights != 0]


def test_every_shoppers_true_last_item_counts(workspace, tmp_path: Path):
    lines = ["user_id,item_id,event,timestamp"]
    for u in range(60):
        lines += [f"u{u},p{(u + k) % 7},view,2026-01-0{k + 1} 10:00:00" for k in range(4)]
        lines.append(f"u{u},only{u},purchase,2026-02-01 10:00:00")
    (tmp_path / "log.csv").write_text("\n".join(lines))
    workspace(source__name="files", source__data=str(tmp_path / "log.csv"), train__model="item_knn")
    run_stages("collect", "link", "check", "prepare", "train", "evaluate")
    report = read_json("reports/metrics.json")
    assert report["targets"]["new"] == 1.0
    assert report["test"]["shoppers"] == 60
    assert report["test"]["ndcg@10"] < 0.05  # they cannot be known, and are not left out of the question
    rare = pl.read_parquet("data/prepared/items.parquet").filter(pl.col("item_id").str.starts_with("only"))
    assert len(rare) == 60


def test_a_rare_item_has_no_vector_of_its_own_but_is_asked_for(workspace):
    workspace(prepare__min_item_events=15, train__epochs=1)
    run_stages("collect", "link", "check", "prepare", "train", "evaluate")
    data, items = prepared.load(), pl.read_parquet("data/prepared/items.parquet").sort("item")
    rare = items.filter(~pl.col("trained"))["item"].to_numpy()
    assert len(rare) > 10
    assert not np.isin(data.train.items.flat(), rare).any()
    assert np.isin(data.test.targets, rare).any()
    assert saved.load("data/model").table.weight[torch.from_numpy(rare.astype(int))].abs().max() == 0
    assert read_json("reports/metrics.json")["targets"]["new"] > 0


def test_items_renamed_at_random_change_no_figure_and_noise_stays_noise(tmp_path: Path):
    found = []
    for rename in (None, 1, 2):
        path = tmp_path / f"orders-{rename}.csv"
        write_shop(path, shoppers=250, items=400, orders=4, size=10, rename=rename)
        found.append(figures(tmp_path / f"run-{rename}", path))
    assert found[0] == found[1] == found[2]
    report = found[0]
    assert report["targets"]["baskets"]
    assert report["targets"]["ties"] > 0.85
    chance = sum(1 / np.log2(r + 2) for r in range(10)) / 400
    assert report["test"]["ndcg@10"] < 3 * chance + 0.005
    assert 0 <= report["test"]["basket_recall@10"] < 0.15


def figures(folder: Path, data: Path) -> dict:
    """The report of a small run on the file, in a workspace of its own."""
    params = small_params()
    params["source"] |= {"name": "files", "data": str(data)}
    params["train"] |= {"epochs": 2}
    make_workspace(folder, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages("collect", "link", "check", "prepare", "train", "evaluate")
        return read_json("reports/metrics.json")


@pytest.mark.e2e
def test_auto_says_that_nothing_beats_popularity_on_noise(workspace, tmp_path: Path):
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,event,timestamp"]
    lines += [
        f"u{u},p{i},view,2026-01-01 10:{k:02d}:00" for u in range(600) for k, i in enumerate(rng.choice(60, 6, replace=False))
    ]
    (tmp_path / "noise.csv").write_text("\n".join(lines))
    workspace(source__name="files", source__data=str(tmp_path / "noise.csv"), train__model="auto", train__epochs=2)
    run_stages(*STAGES[: STAGES.index("bundle") + 1])
    chosen = read_json("data/model/model.json")["chosen"]
    assert chosen["model"] == "popularity"
    assert "nothing beats popularity" in chosen["reason"]
    assert {"popularity", "item_knn", "transitions", "sasrec", "blend", "untrained"} <= set(chosen["valid_ndcg@10"])


def test_auto_does_not_try_what_costs_too_much(workspace):
    workspace(train__model="auto", train__blend__budget=10.0)
    run_stages("collect", "link", "check", "prepare", "train")
    chosen = read_json("data/model/model.json")["chosen"]
    assert "sasrec was not tried" in chosen["reason"]
    assert "sasrec" not in chosen["valid_ndcg@10"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_ranked_last(value: float):
    scores = torch.tensor([[-torch.inf, value, 1.0, 2.0], [-torch.inf, 1.0, value, 0.5]])
    assert metrics.ranks(scores, torch.tensor([1, 1])).tolist()[0] == 3
    rank = metrics.ranks(scores, torch.tensor([1, 1])).numpy()
    assert metrics.ndcg(rank, 10).max() <= 1
    assert rank[1] == (0 if value == float("-inf") else 1)  # others that are no number count as above


def test_a_network_that_diverged_wins_nothing(run: Path):
    data, network = prepared.load(), saved.load("data/model")
    network.table.weight.data.fill_(float("nan"))
    rank, _ = rank_all(network, data.test, 10)
    assert metrics.ndcg(rank, 10).sum() == 0


def test_a_training_whose_loss_is_no_number_stops_and_says_so(run: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"]["learning_rate"] = 1e30
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(StageError, match=r"the loss is not finite.*train\.learning_rate"):
        run_stages("train")
