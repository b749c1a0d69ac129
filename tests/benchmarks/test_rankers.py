"""The comparison of rankers, on a shop that takes seconds; and its table of features against counting by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import rankers
from models.retrieval.item_to_item import transitions
from pipelines.learning import prepared


@pytest.mark.e2e
def test_rankers_are_compared_with_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rankers, "OUT", tmp_path)
    monkeypatch.setattr(rankers, "BOOTSTRAP", 20)
    sizes = ["--shoppers", "300", "--learn", "200", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["rankers", *sizes, "--models", "fusion", "interest", "lightgbm"])
    rankers.main()
    report = json.loads((tmp_path / "reports/rankers.json").read_text())
    assert report["learnt_from"] == 200 < report["shoppers"]
    assert [r["model"] for r in report["rows"]] == ["fusion", "interest", "lightgbm"]
    for row in report["rows"]:
        assert 0 < row["ndcg@10"] < 1
        assert 0.3 < row["purchase_auc"] < 1
    for gain in report["fusion_gains"].values():
        for middle, low, high in gain.values():
            assert low <= middle <= high


def test_features_by_counting(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished)
    data = prepared.load()
    table = rankers.Tabular(data)
    user, position, item = 5, 4, 9
    [row] = table.rows(np.array([user]), np.array([position]), np.array([item]), np.array([1]))
    history = data.full.items[user][:position]
    category = pl.read_parquet("data/prepared/items.parquet").sort("item")["category"].to_list()
    same = sum(category[i - 1] == category[item - 1] for i in history)
    features = 4 + table.numbers.shape[1]
    assert row[0] == item
    assert row[3] == 1
    assert row[features] == position
    np.testing.assert_allclose(row[features + 1 : features + 3], table.numbers[history][:, :2].mean(0), rtol=1e-5)
    counts = features + 7
    assert row[counts] == row[counts + 2] == same  # fewer than five events: the newest are all
    others = transitions([h for u, h in enumerate(data.train.items) if u % 5 != user % 5], data.items + 1, data.items)
    assert row[-2] == pytest.approx(others.evidence(torch.from_numpy(history)[None])[0, item].item())  # without its own fold
    assert row[-1] == (category[history[-1] - 1] == category[item - 1])
