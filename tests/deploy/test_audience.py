"""What /audience says is what the segments say; and a condition reads the table of shoppers and nothing else."""

from pathlib import Path

import polars as pl
import pytest

from deploy.serving import audience
from deploy.serving.audience import Audience, BadCondition
from marketing.segments import named
from tests.conftest import ROOT

SEGMENTS = named.read((ROOT / "campaigns/segments.yaml").read_text(encoding="utf-8"), "segments.yaml")
CONDITIONS = [*SEGMENTS.values(), "orders BETWEEN 1 AND 3 OR category LIKE 'kitchen%'", "margin IS NULL", "NOT (recency_days > 5)",
              "purchase_chance > 0.5 AND COALESCE(discount_share, 0) < 0.1", "first_seen < '2026-01-05'", "orders >= 1 -- buyers"]  # fmt: skip


@pytest.fixture(scope="module")
def shoppers(finished: Path) -> pl.DataFrame:
    return pl.read_parquet(finished / "data/segments/shoppers.parquet")


@pytest.fixture(scope="module")
def people(finished: Path) -> Audience:
    return Audience(finished / "artefact")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_holds_for_whom_the_segments_say(people: Audience, shoppers: pl.DataFrame, condition: str):
    if "first_seen" in condition:
        members = shoppers.filter(pl.col("first_seen").dt.strftime("%Y-%m-%d") < "2026-01-05")
    else:
        members = shoppers.filter(named.members(shoppers, {"m": condition.partition("--")[0]})["m"])
    assert people.of(condition, 5) == (len(members), members["user_id"].sort().head(5).to_list())


@pytest.mark.parametrize(
    ("condition", "why"),
    [("1=1) UNION SELECT name FROM sqlite_master --", "no condition"), ("orders > (SELECT avg(orders) FROM shoppers)", "nothing else"),
     ("EXISTS (SELECT 1 FROM sqlite_master)", "nothing else"), ("load_extension('x')", "nothing else"), ("orders; DROP TABLE shoppers", "no condition"),
     ("randomblob(1000000000) IS NULL", "nothing else"), ("orders >", "no condition"), ("orderz > 1", "did you mean orders"), ("(", "no condition"), (")", "no condition"),
     ("\0", "no condition"), ("orders = ?", "no condition"), ("user_id = 'x' ORDER BY 1", "no condition")],
)  # fmt: skip
def test_what_is_no_condition_over_a_shopper_is_refused(people: Audience, condition: str, why: str):
    with pytest.raises(BadCondition, match=why):
        people.of(condition, 3)
    assert people.of("orders >= 0", 0)[0] > 0


def test_a_condition_that_takes_too_long_is_ended(people: Audience, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audience, "SECONDS", -1.0)
    monkeypatch.setattr(audience, "STEPS", 10)
    with pytest.raises(BadCondition, match="takes longer"):
        people.of("orders >= 0", 3)
