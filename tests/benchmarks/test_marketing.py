"""The rows of marketing are taken, and say so where their data are not there."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import marketing
from tests.conftest import REAL_DATA


def taken(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["marketing", "--tiny", "--out", str(folder), *arguments])
    marketing.main()
    return json.loads((folder / "marketing.json").read_text())["rows"]


@pytest.mark.e2e
@pytest.mark.skipif(not REAL_DATA.exists(), reason="shared/data is not here")
def test_every_row_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rows = taken(monkeypatch, tmp_path)
    assert len(rows) == 33
    assert all(isinstance(r["value"], float) for r in rows)
    assert all(r["met"] for r in rows[:3])


def test_one_row_without_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rows = taken(monkeypatch, tmp_path, "--row", "hillstrom", "--data", str(tmp_path / "none"))
    page = (tmp_path / "marketing.html").read_text()
    assert "hillstrom is not in --data" in page
    assert "<svg" in page
    assert {(r["value"], r["reason"]) for r in rows} == {(None, "hillstrom is not in --data")}
