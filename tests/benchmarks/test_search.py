"""The search for settings, on a data set that takes seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search


@pytest.mark.e2e
def test_a_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    data = tmp_path / "small"
    data.mkdir()
    lines = [f"{u} " + " ".join(map(str, rng.permutation(20)[: rng.integers(5, 9)] + 1)) for u in range(60)]
    (data / "small.txt").write_text("\n".join(lines))
    monkeypatch.setattr(search, "OUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["search", "--data", str(data), "--model", "mlp", "--trials", "2", "--epochs", "1"])
    for trials in (2, 4):
        search.main()
        report = json.loads((tmp_path / "reports/search/small-mlp.json").read_text())
        assert [t["number"] for t in report["trials"]] == list(range(trials))
    done = [t for t in report["trials"] if t["state"] == "complete"]
    assert report["best"]["valid_ndcg@10"] == max(t["valid_ndcg@10"] for t in done)
    assert set(report["best"]["settings"]) == set(search.SPACE) - set(search.ONLY)
    assert not list((tmp_path / "data/quality/small/search").iterdir())
