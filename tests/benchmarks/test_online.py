"""The rows of online are taken, and no event is lost or doubled."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import online


@pytest.mark.e2e
def test_every_row_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "argv", ["online", "--tiny", "--out", str(tmp_path)])
    online.main()
    rows = json.loads((tmp_path / "online.json").read_text())["rows"]
    assert len(rows) == 5
    assert [r["value"] for r in rows[3:]] == [0.0, 0.0]
