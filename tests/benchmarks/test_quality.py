"""The comparison of models, on a data set that takes seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality


@pytest.mark.e2e
def test_a_comparison_is_whole_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    lines = [f"{u} " + " ".join(map(str, rng.permutation(20)[: rng.integers(5, 9)] + 1)) for u in range(60)]
    data = tmp_path / "small"
    data.mkdir()
    (data / "small.txt").write_text("\n".join(lines))
    monkeypatch.setattr(quality, "OUT", tmp_path)
    command = ["quality", "--data", str(data), "--models", "best", "item_knn", "--seeds", "2", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", command)
    quality.main()
    report = json.loads((tmp_path / "reports/quality/small.json").read_text())
    assert report["dataset"] == "small"
    assert [(r["model"], r["seed"]) for r in report["rows"]] == [("best", 42), ("item_knn", 42), ("best", 43), ("item_knn", 43)]
    for row in report["rows"]:
        assert {"loss", "ndcg@10", "recall@10", "train_s", "params", "side_information", "popularity_bias", "segments"} <= set(
            row
        )
    assert set(report["best"]) == {"model", "ndcg@10", "recall@10"}
    assert (tmp_path / "reports/quality/small.png").stat().st_size > 10_000

    monkeypatch.setattr(quality, "run", lambda *_: pytest.fail("trained again"))
    quality.main()
    assert json.loads((tmp_path / "reports/quality/small.json").read_text()) == report


def test_the_source_is_told_from_the_files(tmp_path: Path):
    for name, source in (("a.txt", "sequences"), ("b.inter", "recbole"), ("c.json", "reviews"), ("d.csv", "files")):
        folder = tmp_path / source
        folder.mkdir()
        (folder / name).touch()
        assert quality.guess(folder) == source
        assert quality.guess(folder / name) == source
