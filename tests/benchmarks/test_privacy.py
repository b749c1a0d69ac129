"""The rows of privacy and explanation are taken; who was forgotten stands nowhere and does not come back, and no id stands in clear."""

import gzip
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import explain
from benchmarks.figures import take_rows
from benchmarks.privacy.__main__ import ROWS
from benchmarks.privacy.traces import traces


def taken(rows: dict, file: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict]:
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--row", name, "--out", str(tmp_path)])
    take_rows("", rows, file)
    return {row["name"]: row for row in json.loads((tmp_path / file).read_text())["rows"]}


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["forgetting", "gradients", "audit", "encrypted"])
def test_privacy_is_what_it_promises(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = taken(ROWS, "privacy.json", name, monkeypatch, tmp_path)
    assert [row["name"] for row in found.values() if not row["met"]] == []


@pytest.mark.e2e
def test_reasons_are_what_they_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = taken(explain.ROWS, "explain.json", "planted", monkeypatch, tmp_path)
    assert [row["name"] for row in found.values() if not row["met"]] == []


def test_the_search_reads_what_is_packed(tmp_path: Path):
    history = [3, 1, 4, 15, 9, 26]
    pl.DataFrame({"who": ["u7", "x"], "items": [history, [1]]}).write_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "a.npy", np.array([0, *history, 7], dtype=np.int32))
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(b'{"user": "u7"}'))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("inner.txt", "u7")
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "kept").write_text("u7")
    found = traces(tmp_path, ["u7"], history, [tmp_path / "vault"])
    places = {Path(place.split(":")[0].split(" (")[0]).name for place in found}
    assert places == {"t.parquet", "a.npy", "t.json.gz", "t.zip"}
    assert traces(tmp_path, ["u8"], [9, 9, 9, 9, 9, 9], [tmp_path / "vault"]) == []
