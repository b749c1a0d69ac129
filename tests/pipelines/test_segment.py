"""The stage that segments shoppers, on the small shop and where there is nothing to tell."""

import json
from pathlib import Path

import polars as pl
import pytest

from marketing.segments.repeats import REPEATS
from marketing.segments.shoppers import REPURCHASES, SHOPPERS
from pipelines.stage import StageError
from tests.conftest import run_stages


def test_every_shopper_has_a_row_and_segments_are_counted(finished: Path):
    report = json.loads((finished / "reports/segments.json").read_text())
    shoppers = pl.read_parquet(finished / "data/segments/shoppers.parquet")
    assert shoppers.schema == SHOPPERS
    assert report["shoppers"] == len(shoppers) == sum(report["lifecycle"].values())
    assert not shoppers["user_id"].str.starts_with("crawler").any()
    sizes = {row["segment"]: row["size"] for row in report["segments"]}
    assert sizes["big_spenders"] == shoppers.filter(money_score=5).height > 0
    assert report["overlaps"]["big_spenders"]["big_spenders"] == sizes["big_spenders"]
    assert (
        max(row["before"] for row in report["segments"]) < report["shoppers"] / 10
    )  # the small shop is hardly older than thirty days
    assert pl.read_parquet(finished / "data/segments/repurchases.parquet").schema == REPURCHASES
    repeats = pl.read_parquet(finished / "data/segments/repeats.parquet")
    assert repeats.schema == REPEATS
    candidates = pl.read_parquet(finished / "data/candidates/candidates.parquet")
    offered = repeats.join(candidates, on=["user_id", "item_id"])
    assert offered["due"].all()  # of what was bought nothing else is offered
    assert len(offered) == repeats.filter("due").height > 0


def test_twice_the_same_bytes(workspace):
    folder = workspace()
    run_stages("collect", "freshness", "link", "check")
    found = []
    for _ in range(2):
        run_stages("segment")
        found.append([p.read_bytes() for p in [*sorted((folder / "data/segments").iterdir()), folder / "reports/segments.json"]])
    assert found[0] == found[1]


def test_where_times_tell_order_alone_it_says_so(workspace, tmp_path: Path):
    (tmp_path / "sequences.txt").write_text("\n".join(f"{u} 1 2 3 4" for u in range(1, 30)), encoding="utf-8")
    folder = workspace(source__name="sequences", source__data=str(tmp_path / "sequences.txt"))
    run_stages("collect", "freshness", "link", "check", "segment")
    report = json.loads((folder / "reports/segments.json").read_text())
    assert "order of events, not their time" in report["cannot_be_told"][0]
    assert pl.read_parquet(folder / "data/segments/shoppers.parquet").is_empty()


def test_a_segment_that_cannot_be_asked_stops_the_stage(workspace):
    folder = workspace()
    (folder / "campaigns").unlink()
    (folder / "campaigns").mkdir()
    (folder / "campaigns/segments.yaml").write_text("loyal: orderz > 2\n", encoding="utf-8")
    with pytest.raises(StageError, match=r"campaigns/segments\.yaml: loyal: there is no column orderz; did you mean orders"):
        run_stages("segment")
