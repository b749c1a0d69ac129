"""Files that are dropped are taken once, row by row, also where whoever takes them is stopped in between."""

import json
import os
from pathlib import Path

import pytest

from online import dropped
from online.intake import Intake
from pipelines.data.sources import log


def test_rows_of_files_come_in_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, drop = tmp_path / "events", tmp_path / "events" / "drop"
    drop.mkdir(parents=True)
    rows = [{"event_id": f"e{n}", "user_id": "u", "event": "view", "item_id": f"i{n % 7}"} for n in range(2500)]
    (drop / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\nno row\n", encoding="utf-8")
    (drop / "b.csv").write_text(
        "event_id,user_id,event,item_id,price\ne1,u,view,i1,\nc1,u,purchase,茶,3.5\nc2,u,hover,x,\n", encoding="utf-8"
    )
    intake = Intake(folder)
    dropped.look(intake)
    assert not list((folder / "log").glob("file.*"))  # they may still be written
    for path in drop.iterdir():
        if path.is_file():
            os.utime(path, (0, 0))
    takes = iter([None, None])

    def stopped(*arguments: object, take=intake.take) -> None:
        next(takes)
        take(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "take", stopped)
        with pytest.raises(StopIteration):
            dropped.look(intake)
    dropped.look(intake)
    assert {path.name for path in (drop / "taken").iterdir()} == {"a.jsonl", "b.csv"}
    events = log.read(folder, {})["events"].collect()
    assert sorted(events["event_id"]) == sorted([f"e{n}" for n in range(2500)] + ["c1"])
    assert events.filter(event_id="c1").select("item_id", "price").row(0) == ("茶", 3.5)
    assert len(intake.state.now("u", 0.0).acts) == 200
    (drop / "again.jsonl").write_bytes((drop / "taken" / "a.jsonl").read_bytes())
    os.utime(drop / "again.jsonl", (0, 0))
    assert dropped.take(drop / "again.jsonl", intake) == 0
