"""The checks: broken rows go to the quarantine, too many of them stop the run and say why."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from pipelines.stage import StageError, read_json
from tests.conftest import ROOT, run_stages


def raw_with(share: float) -> tuple[pl.DataFrame, set[str]]:
    """4,000 events of which `share` are broken, each in one of five ways; and the broken event ids."""
    n = 4000
    broken = round(n * share)
    events = pl.DataFrame(
        {
            "event_id": [f"e{i}" for i in range(n)],
            "user_id": [f"u{i % 50}" for i in range(n)],
            "item_id": [f"i{i % 30}" for i in range(n)],
            "event": ["view"] * n,
            "timestamp": pl.Series(range(1_700_000_000_000_000, 1_700_000_000_000_000 + n)).cast(pl.Datetime("us", "UTC")),
            "price": [9.9] * n,
            "source_row": pl.Series(range(1, n + 1), dtype=pl.UInt32),
        }
    )
    ids = [f"e{i * (n // broken)}" for i in range(broken)]
    how = {
        "user_id": None, "item_id": None, "event": "hover", "price": -5.0, "timestamp": None,
    }  # fmt: skip
    for turn, (column, value) in enumerate(how.items()):
        rows = pl.col("event_id").is_in(ids[turn::5])
        events = events.with_columns(pl.when(rows).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))
    return events, set(ids)


def write_raw(folder: Path, events: pl.DataFrame) -> None:
    (folder / "data/raw").mkdir(parents=True)
    events.write_parquet(folder / "data/raw/events.parquet")


def test_two_percent_broken_goes_on_and_the_quarantine_holds_exactly_them(workspace):
    folder = workspace()
    events, broken = raw_with(0.02)
    write_raw(folder, events)
    run_stages("link", "check")
    quarantine = pl.read_parquet("data/quarantine/events.parquet")
    assert set(quarantine["event_id"]) == broken
    assert set(quarantine["reason"]) == {"no user_id", "no item_id", "unknown event", "impossible price", "no readable timestamp"}
    assert set(pl.read_parquet("data/checked/events.parquet")["event_id"]) == set(events["event_id"]) - broken
    assert read_json("reports/quality.json")["passed"]
    assert Path("reports/data_docs/raw/index.html").exists()


def test_forty_percent_broken_stops_and_names_expectation_column_count_and_rows(workspace):
    folder = workspace()
    events, broken = raw_with(0.4)
    write_raw(folder, events)
    with pytest.raises(StageError) as stopped:
        run_stages("link", "check")
    message = str(stopped.value)
    assert "40.0% of 4,000 rows are broken; check.max_broken_share allows 10%" in message
    assert "expect_column_values_to_not_be_null(user_id): 320 rows" in message
    assert "expect_column_values_to_be_in_set(event): 320 rows" in message
    assert message.count("    row ") == 15  # three of each of the five kinds
    assert not Path("data/checked").exists()
    assert set(pl.read_parquet("data/quarantine/events.parquet")["event_id"]) == broken


def test_the_second_delivery_of_an_event_is_quarantined_and_the_first_kept(workspace):
    folder = workspace()
    events, _ = raw_with(0.02)
    again = events.filter(pl.col("event_id") == "e1").with_columns(source_row=pl.lit(9999, pl.UInt32))
    write_raw(folder, pl.concat([events, again]))
    run_stages("link", "check")
    quarantine = pl.read_parquet("data/quarantine/events.parquet").filter(pl.col("event_id") == "e1")
    assert quarantine["source_row"].to_list() == [9999]
    assert pl.read_parquet("data/checked/events.parquet").filter(pl.col("event_id") == "e1").height == 1


def test_personal_data_is_kept_out(workspace):
    folder = workspace()
    events, _ = raw_with(0.02)
    mail, phone = pl.col("event_id") == "e1", pl.col("event_id") == "e2"
    events = events.with_columns(
        user_id=pl.when(mail).then(pl.lit("jo@example.com")).when(phone).then(pl.lit("13812345678")).otherwise("user_id")
    )
    write_raw(folder, events)
    run_stages("link", "check")
    reasons = dict(pl.read_parquet("data/quarantine/events.parquet").select("event_id", "reason").iter_rows())
    assert reasons["e1"] == reasons["e2"] == "personal data in user_id"


def test_a_shrunken_feed_stops(workspace):
    folder = workspace(shop_name="mine", baseline__rows=100_000, baseline__shop="mine")
    write_raw(folder, raw_with(0.02)[0])
    with pytest.raises(StageError, match="too few or too many rows"):
        run_stages("link", "check")


def test_a_feed_that_has_stopped_is_stale_even_where_nothing_changed(workspace):
    folder = workspace(check__max_age_days=30)
    write_raw(folder, raw_with(0.02)[0])
    with pytest.raises(StageError, match="the newest event is too old"):
        run_stages("freshness")
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["freshness"]
    assert stage["always_changed"]  # DVC would not look at the clock again
    assert "reports/freshness.json" in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["check"]["deps"]


def test_nothing_that_was_refused_as_personal_data_is_published(workspace, caplog: pytest.LogCaptureFixture):
    folder = workspace(check__max_broken_share=0.0)
    events, _ = raw_with(0.02)
    markup, image = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"
    events = events.with_columns(
        user_id=pl.when(pl.col("event_id") == "e1").then(pl.lit("jo@example.com")).otherwise("user_id"),
        item_id=pl.when(pl.col("event_id") == "e1").then(pl.lit("secret-of-jo")).otherwise("item_id"),
        event=pl.when(pl.col("event_id") == "e3")
        .then(pl.lit(markup))
        .when(pl.col("event_id") == "e4")
        .then(pl.lit(image))
        .otherwise("event"),
    )
    write_raw(folder, events)
    with pytest.raises(StageError) as stopped, caplog.at_level("DEBUG"):
        run_stages("link", "check")
    pages = "".join(p.read_text(errors="replace") for p in Path("reports").rglob("*") if p.suffix in (".html", ".json"))
    for secret in ("jo@example.com", "secret-of-jo", markup, "alert(1)", image, "alert(2)"):
        assert secret not in str(stopped.value) + caplog.text + pages
    kept = pl.read_parquet("data/quarantine/events.parquet").filter(pl.col("event_id") == "e1")
    assert kept.select("user_id", "item_id").row(0) == (None, None)
    assert kept["reason"].item() == "personal data in user_id"
    raw = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["collect"]["outs"][0]
    assert raw == {"data/raw": {"push": False}}  # what came in is not sent to a remote


def test_the_same_data_give_the_same_bytes(workspace):
    workspace()
    run_stages("collect", "link", "check", "prepare", "check_prepared")
    folders = (Path("reports/data_docs"), Path("data/checked"), Path("data/quarantine"))

    def contents() -> dict[str, bytes]:
        files = [p for folder in folders for p in folder.rglob("*") if p.is_file()] + [Path("reports/quality.json")]
        return {str(p): p.read_bytes() for p in files}

    before = contents()
    run_stages("check", "check_prepared")
    assert contents() == before


def test_the_shop_s_truth_agrees_with_the_quarantine(workspace):
    workspace(source__shop__dirt=0.05)
    run_stages("collect", "link", "check")
    dirt = pl.read_parquet("data/truth/dirt.parquet").filter(pl.col("kind") != "bot")
    quarantine = pl.read_parquet("data/quarantine/events.parquet")
    twice = dirt.filter(pl.col("kind") == "duplicate").height
    stray = pl.col("kind") == "unknown item"  # of items that left the catalogue: events that stay
    other = dirt.filter(pl.col("kind") != "duplicate", ~stray)
    assert set(other["source_row"]) <= set(quarantine["source_row"])
    assert quarantine.height == other.height + twice


def test_no_leak_passes_verification(workspace):
    workspace()
    run_stages("collect", "link", "check", "prepare")
    path = Path("data/prepared/histories.parquet")
    good = pl.read_parquet(path)
    good.with_columns(pl.col("timestamps").list.reverse()).write_parquet(path)
    with pytest.raises(StageError, match="leakage over time"):
        run_stages("check_prepared")
    good.with_columns(items=pl.col("items").list.eval(pl.element() + 10_000)).write_parquet(path)
    with pytest.raises(StageError, match="outside the vocabulary"):
        run_stages("check_prepared")
    good.write_parquet(path)
    times = Path("data/prepared/flat/times.npy")
    np.save(times, np.load(times)[::-1])
    with pytest.raises(StageError, match=r"flat/times\.npy is not what histories\.parquet says"):
        run_stages("check_prepared")
    np.save(times, np.load(times)[::-1])
    run_stages("check_prepared")
