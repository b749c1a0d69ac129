"""A private model from the data to the bento: it states what it promises, and its artefact holds nothing of any shopper."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from deploy.serving.recommender import Recommender
from online.intake import Intake
from tests.conftest import run_stages

pytestmark = pytest.mark.e2e


def test_a_private_artefact_knows_no_shopper_and_answers_them_all_the_same(run: Path, tmp_path: Path):
    params = yaml.safe_load((run / "params.yaml").read_text())
    params["train"] |= {"model": "auto", "privacy": {"epsilon": 8.0, "delta": 1e-6, "steps": 0}}
    params["evaluate"]["bootstrap"] = 10
    (run / "params.yaml").write_text(yaml.safe_dump(params))
    run_stages("prepare", "check_prepared", "embed", "train", "evaluate", "export", "compress", "refit", "replay", "bundle")
    manifest = json.loads((run / "artefact/manifest.json").read_text())
    stated = manifest["privacy"]
    assert all(7.9 < epsilon <= 8.05 for epsilon in stated["epsilon"].values())
    assert set(stated["noised"]) == {"popularity", "transitions"}
    assert {"sasrec", "ease", "refit"} <= set(stated["off"])
    assert manifest["shoppers"] == 0
    items = pl.read_parquet("data/prepared/items.parquet").sort("item")["item_id"]
    assert items.to_list() == pl.read_parquet("data/checked/items.parquet")["item_id"].to_list()  # numbers tell nothing of events
    content = b"".join(path.read_bytes() for path in (run / "artefact").iterdir())
    for row in pl.read_parquet("data/prepared/histories.parquet").iter_rows(named=True):
        assert row["user_id"].encode() not in content
        if len(row["items"]) >= 6:
            assert not any(np.array(row["items"], dtype=kind).tobytes() in content for kind in (np.int32, np.int64))
    door = Intake(tmp_path / "events")
    recommender = Recommender(run / "artefact", state=door.state)
    assert recommender.recommend("alice").fallback == "popular"
    seen = recommender.items[np.arange(2)]
    door.take([{"event_id": i, "user_id": "alice", "event": "view", "item_id": i, "at": 1.77e9, "received": 2e9} for i in seen])
    assert recommender.recommend("alice").fallback is None  # the shop still knows; the artefact does not
