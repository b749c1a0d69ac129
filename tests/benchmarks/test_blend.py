"""The table of the blend's parts, on a shop that takes seconds."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import blend, quality
from tests.conftest import ROOT


@pytest.mark.e2e
def test_every_part_has_a_row_and_other_data_keep_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blend, "OUT", tmp_path)
    monkeypatch.setattr(quality, "OUT", tmp_path)
    monkeypatch.setattr(blend, "REPORT", tmp_path / "reports/blend.json")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/blend.json").write_text('{"rows": [{"data": "other", "part": "blend"}], "without": []}')
    data = str(ROOT / "pipelines/data/sources/shop.yaml")
    monkeypatch.setattr(sys, "argv", ["blend", "--data", data, "--shop", "300", "60", "--seeds", "1", "--epochs", "1"])
    blend.main()
    report = json.loads((tmp_path / "reports/blend.json").read_text())
    rows = {row["part"]: row for row in report["rows"] if row["data"] == "shop"}
    assert {"popularity", "transitions", "item_knn", "ease", "content", "network", "untrained", "blend"} <= set(rows)
    assert all(row["interval"][0] <= row["ndcg@10"] <= row["interval"][1] for row in rows.values())
    assert rows["untrained"]["seconds"] > 0
    assert {"transitions", "content", "sasrec"} <= {row["part"] for row in report["without"]}
    assert [row["data"] for row in report["hidden"]] == ["shop"]
    assert {"data": "other", "part": "blend"} in report["rows"]
