"""The stages that campaigns are made by: on the small shop, where there is nothing to tell, and with campaigns that cannot be."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from marketing import plan
from pipelines import uplift
from tests.conftest import ROOT, run_stages


def test_candidates_are_what_the_model_recommends(finished: Path):
    found = pl.read_parquet(finished / "data/candidates/candidates.parquet")
    histories = pl.read_parquet(finished / "data/prepared/histories.parquet", columns=["user_id", "items"])
    names = pl.read_parquet(finished / "data/prepared/items.parquet", columns=["item_id"])["item_id"]
    met = histories.explode("items").select("user_id", item_id=names.gather(pl.Series(histories["items"].explode()) - 1))
    repeats = pl.read_parquet(finished / "data/segments/repeats.parquet")
    new = found.join(repeats.filter("due"), on=["user_id", "item_id"], how="anti")
    assert new.join(met, on=["user_id", "item_id"], how="inner").is_empty()
    assert found.group_by("user_id").agg(pl.col("rank").max() == pl.len())["rank"].all()
    assert pl.read_parquet(finished / "data/candidates/popular.parquet")["rank"].to_list() == list(range(1, 51))


def test_offers_reach_and_plans_are_made_of_them(finished: Path):
    offers = pl.read_parquet(finished / "data/uplift/offers.parquet")
    users = pl.read_parquet(finished / "data/checked/users.parquet")
    reached = dict(users.select("user_id", pl.col("channels").str.split(" ")).iter_rows())
    assert all(channel in reached[user] for user, channel in offers.select("user_id", "channel").unique().iter_rows())
    report = json.loads((finished / "reports/plans.json").read_text())["spring"]
    table = pl.read_parquet(finished / "data/plans/spring.parquet")
    assert table.schema == plan.PLAN
    assert sum(report["waterfall"].values()) == report["audience"] == table["user_id"].n_unique()
    assert report["send"] == table.filter(outcome=plan.SEND)["user_id"].n_unique() > 0
    assert report["cost"] == pytest.approx(table.filter(outcome=plan.SEND)["cost"].sum())
    assert report["cost"] <= report["budget"]


@pytest.fixture
def pushed(workspace):
    """A shop with enough pushes to learn from, without a model: candidates are drawn at random."""

    def make() -> Path:
        folder = workspace(source__shop__shoppers=1500, source__shop__days=45)
        run_stages("collect", "freshness", "link", "check", "segment")
        rng, users = np.random.default_rng(0), pl.read_parquet("data/checked/users.parquet")["user_id"]
        items = pl.read_parquet("data/checked/items.parquet")["item_id"]
        (folder / "data/candidates").mkdir()
        drawn = [(u, items[int(i)], rank + 1) for u in users for rank, i in enumerate(rng.permutation(len(items))[:5])]
        schema = {"user_id": pl.String, "item_id": pl.String, "rank": pl.UInt16}
        pl.DataFrame(drawn, schema=schema, orient="row").write_parquet(folder / "data/candidates/candidates.parquet")
        return folder

    return make


@pytest.mark.e2e
def test_what_a_push_changes_is_learnt_and_the_plan_is_worth_about_what_it_says(pushed):
    folder = pushed()
    run_stages("uplift", "plan")
    report = json.loads((folder / "reports/uplift.json").read_text())
    assert report["pushes"] > 2000
    assert report["by"] in ("response", "S", "T", "X", "DR")
    offers = pl.read_parquet(folder / "data/uplift/offers.parquet")
    assert offers["extra"].null_count() == 0
    assert 0.002 < offers["extra"].mean() < 0.1
    found = json.loads((folder / "reports/plans.json").read_text())["spring"]
    low, high = found["interval"]
    assert low < found["worth"] < high
    first = [
        (folder / name).read_bytes() for name in ("data/uplift/offers.parquet", "data/plans/spring.parquet", "reports/plans.json")
    ]
    run_stages("uplift", "plan")
    assert first == [
        (folder / name).read_bytes() for name in ("data/uplift/offers.parquet", "data/plans/spring.parquet", "reports/plans.json")
    ]


@pytest.mark.e2e
def test_a_channel_that_was_never_tried_is_not_planned(pushed):
    folder = pushed()
    events = pl.read_parquet("data/checked/events.parquet")
    events.filter((pl.col("channel") != "email").fill_null(True)).write_parquet("data/checked/events.parquet")
    run_stages("uplift", "plan")
    offers = pl.read_parquet("data/uplift/offers.parquet")
    assert offers.filter(channel="email")["extra"].null_count() == offers.filter(channel="email").height > 0
    assert "email" not in json.loads((folder / "reports/plans.json").read_text())["spring"]["by_channel"]


@pytest.mark.e2e
def test_without_pushes_of_the_past_a_first_campaign_can_be_planned(pushed):
    folder = pushed()
    events = pl.read_parquet("data/checked/events.parquet").filter(pl.col("campaign_id").is_null())
    events.write_parquet("data/checked/events.parquet")
    run_stages("uplift", "plan")
    assert "0 pushes of the past" in json.loads((folder / "reports/uplift.json").read_text())["reason"]
    found = json.loads((folder / "reports/plans.json").read_text())["spring"]
    assert found["worth"] is None
    assert found["send"] > 0


def test_too_few_purchases_are_too_few():
    table = pl.DataFrame({"sent": [True, False] * 400, "bought": [True] + [False] * 799})
    assert "0 purchases in one arm" in uplift.too_few(table)
    assert uplift.too_few(table.head(10)).startswith("10 pushes")


WRONG = {
    "Spring": ("x: 1", "named by its file"),
    "fax": ("channels: [fax]\nbudget: 1\nstarts: 2026-03-03", "what a message by fax costs"),
    "typo": ("channels: [email]\nbudgets: 1\nstarts: 2026-03-03", "did you mean budget"),
    "broken": ("a: [", "cannot be read as YAML"),
    "loyl": ("channels: [email]\nbudget: 1\nstarts: 2026-03-03\naudience: loyl", "neither everyone nor a segment"),
    "red": ("channels: [email]\nbudget: 1\nstarts: 2026-03-03\nitems: colour = 'red'", "there is no column colour"),
}


def test_a_campaign_that_cannot_be_is_refused_and_says_why(run):
    Path("campaigns").unlink()
    shutil.copytree(ROOT / "campaigns", "campaigns")
    for name, (text, _) in WRONG.items():
        Path(f"campaigns/{name}.yaml").write_text(text, encoding="utf-8")
    run_stages("plan")
    found = json.loads(Path("reports/plans.json").read_text())
    for name, (_, said) in WRONG.items():
        assert said in found[name]["refused"]
    assert found["spring"]["send"] > 0  # the others are planned all the same
    assert [p.name for p in Path("data/plans").iterdir()] == ["spring.parquet"]
