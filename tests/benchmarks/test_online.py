"""The rows of online are taken, no event is lost or doubled, and all that knows a shopper's events says the same."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.online import __main__ as online


@pytest.mark.e2e
def test_every_row_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "argv", ["online", "--tiny", "--out", str(tmp_path)])
    online.main()
    rows = {row["name"]: row for row in json.loads((tmp_path / "online.json").read_text())["rows"]}
    assert list(rows) == [told for _, figures in online.ROWS.values() for told, *_ in figures]
    exact = [told for name in ("kills", "redis", "equal") for told, *_ in online.ROWS[name][1]]
    assert all(rows[told]["met"] for told in exact), [rows[told] for told in exact]
    assert rows["online over frozen: + %"]["met"]
