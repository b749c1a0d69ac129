"""Preparation against slow definitions, on generated logs (hypothesis)."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.cleaning import clean
from pipelines.data.features import MOST, attributes, item_features
from pipelines.data.histories import meetings, platforms, vocabulary
from pipelines.data.impressions import impressions
from pipelines.data.split import divide
from pipelines.data.tables import TIMESTAMP
from pipelines.stage import StageError
from tests.conftest import run_stages, small_params

SETTINGS = small_params()["prepare"]
START = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = st.tuples(
    st.sampled_from(["u1", "u2", "u3", "u4"]),
    st.sampled_from([*"abcdefgh", None]),
    st.sampled_from(["view", "purchase", "search", "impression"]),
    st.integers(0, 5000),
)


def frame(rows: list[tuple]) -> pl.LazyFrame:
    times = [START + timedelta(minutes=m) for *_, m in rows]
    return pl.LazyFrame(
        {
            "user_id": [r[0] for r in rows],
            "item_id": [r[1] for r in rows],
            "event": [r[2] for r in rows],
            "timestamp": times,
            "source_row": range(1, len(rows) + 1),
        },
        schema={"user_id": pl.String, "item_id": pl.String, "event": pl.String, "timestamp": TIMESTAMP, "source_row": pl.UInt32},
    )


def slow_histories(rows: list[tuple]) -> dict[str, list[str]]:
    """First meetings in order of time; at equal times in the order of the source."""
    first: dict[str, dict[str, tuple]] = {}
    for at, (u, i, e, m) in enumerate(rows):
        if e in SETTINGS["history_events"] and i is not None:
            first.setdefault(u, {})[i] = min((m, at), first.get(u, {}).get(i, (m, at)))
    return {u: sorted(items, key=items.get) for u, items in first.items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=60))
def test_histories_are_first_meetings_in_order_of_time(rows: list[tuple]):
    expected = slow_histories(rows)
    if not expected:
        with pytest.raises(StageError, match="nothing is left"):
            clean(frame(rows), SETTINGS)
        return
    actions, removed = clean(frame(rows), SETTINGS)
    met, ties = meetings(actions)
    if ties <= 0.5:  # else a draw stands first in each basket
        assert {u: rows["item_id"].to_list() for (u,), rows in met.group_by("user_id", maintain_order=True)} == expected
    assert {u: set(rows["item_id"]) for (u,), rows in met.group_by("user_id")} == {u: set(i) for u, i in expected.items()}
    assert sum(removed.values()) + len(actions.collect()) == len(rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENT.filter(lambda e: e[1] is not None), min_size=1, max_size=60), st.sampled_from(["leave_one_out", "time"]))
def test_no_split_learns_from_the_future(rows: list[tuple], split: str):
    rows = [(u, i, "view", m) for u, i, _, m in rows]
    met, ties = meetings(clean(frame(rows), SETTINGS)[0])
    items = vocabulary(met, None)
    divided, cuts = divide(met, items, [], SETTINGS | {"split": split, "valid_share": 0.2, "test_share": 0.2})
    assert divided["items"].list.len().sum() == len(met)
    for user in divided.iter_rows(named=True):
        times, valid, test = user["timestamps"], user["valid_at"], user["test_at"]
        assert times == sorted(times)
        if split == "leave_one_out" and ties > 0.5:  # the last basket and the one before it are held out
            moments = sorted(set(times))
            enough = len(moments) >= 3
            starts = tuple(times.index(m) for m in moments[-2:]) if enough else (None, None)
            assert (valid, test) == starts
            assert user["train_end"] == (valid if enough else len(times))
            assert user["test_basket"] == (times.count(moments[-1]) if enough else None)
        elif split == "leave_one_out":
            enough = len(times) >= 3
            assert (valid, test) == ((len(times) - 2, len(times) - 1) if enough else (None, None))
            assert user["train_end"] == len(times) - 2 * enough
        else:
            cut = datetime.fromisoformat(cuts["valid_from"])
            assert all(t < cut for t in times[: user["train_end"]])
            assert all(t >= cut for t in times[user["train_end"] :])
            assert valid is None or cut <= times[valid] < datetime.fromisoformat(cuts["test_from"])
            assert test is None or times[test] >= datetime.fromisoformat(cuts["test_from"])


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENT.filter(lambda e: e[1] is not None), min_size=1, max_size=40), st.permutations("abcdefgh"))
def test_items_renamed_at_random_get_the_same_numbers(rows: list[tuple], names: list[str]):
    renamed = dict(zip("abcdefgh", names, strict=True))

    def divided(rows: list[tuple]) -> pl.DataFrame:
        met, _ = meetings(clean(frame([(u, i, "view", m) for u, i, _, m in rows]), SETTINGS)[0])
        return divide(met, vocabulary(met, None), [], SETTINGS)[0]

    assert divided(rows).equals(divided([(u, renamed[i], e, m) for u, i, e, m in rows]))


def test_what_is_held_out_of_a_basket_is_a_draw_and_not_the_first_in_the_file():
    rows = [(f"u{u}", f"i{u}-{basket}-{i}", "view", basket) for u in range(200) for basket in range(3) for i in range(5)]
    met, ties = meetings(clean(frame(rows), SETTINGS)[0])
    assert ties > 0.5
    items = vocabulary(met, None)
    divided, _ = divide(met, items, [], SETTINGS)
    names = dict(items.select("item", "item_id").iter_rows())
    held_out = [names[row["items"][row["test_at"]]] for row in divided.iter_rows(named=True)]
    places = [int(name.rpartition("-")[2]) for name in held_out]
    assert all(places.count(place) > 20 for place in range(5))  # 40 of each if all are as likely
    assert all(name.split("-")[1] == "2" for name in held_out)


def test_a_return_takes_the_latest_purchase_back_and_nothing_else():
    rows = [("u", "a", "view", 0), ("u", "a", "purchase", 1), ("u", "a", "purchase", 5), ("u", "a", "return", 7), ("u", "b", "purchase", 2),
            ("u", "b", "return", 1), ("v", "a", "purchase", 3)]  # fmt: skip
    acts, removed = clean(frame(rows), SETTINGS)
    kept = acts.select("user_id", "item_id", "event", (pl.col("timestamp") - START).dt.total_minutes().alias("m")).collect()
    assert sorted(kept.rows()) == [
        ("u", "a", "purchase", 1),
        ("u", "a", "view", 0),
        ("u", "b", "purchase", 2),
        ("v", "a", "purchase", 3),
    ]
    assert removed["purchases taken back"] == 1


def test_the_vocabulary_holds_the_catalogue_and_what_left_it():
    met, _ = meetings(clean(frame([("u", "gone", "view", 0), ("u", "a", "view", 1)]), SETTINGS)[0])
    items = vocabulary(met, pl.DataFrame({"item_id": ["new", "a"]}))
    assert items["item_id"].to_list() == ["gone", "a", "new"]
    assert items["item"].to_list() == [1, 2, 3]
    assert items["listed"].to_list() == [False, True, True]


def test_more_platforms_than_fit_into_a_byte():
    rows = [(f"u{n}", item, "view", n + i) for n in range(400) for i, item in enumerate("abc")]
    events = frame(rows).with_columns(platform=pl.format("p{}", pl.col("user_id")))
    met, _ = meetings(clean(events, SETTINGS)[0])
    names = platforms(met)
    divided, _ = divide(met, vocabulary(met, None), names, SETTINGS)
    assert len(names) == 400
    assert divided["platforms"].explode().null_count() == 0
    assert sorted(set(divided["platforms"].explode())) == list(range(1, 401))


def test_one_long_title_does_not_widen_all():
    items = pl.DataFrame({"item": [1, 2], "title": [" ".join(f"word{i}" for i in range(500))] * 2})
    known, _ = attributes(pl.concat([items, pl.DataFrame({"item": range(3, 9), "title": ["red"] * 6})]), ["words"])
    assert known["attributes"].list.len().max() == MOST


SHOWN = st.tuples(
    st.sampled_from(["u1", "u2"]),
    st.sampled_from([*"abcd"]),
    st.sampled_from(["view", "cart", "purchase", "impression"]),
    st.integers(0, 120),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(SHOWN, min_size=1, max_size=50), st.sampled_from(["leave_one_out", "time"]))
def test_impressions_by_definition(rows: list[tuple], split: str):
    rows = list(dict.fromkeys(rows))
    first = slow_histories(rows)
    if not first:
        return
    chosen = SETTINGS | {"split": split, "valid_share": 0.2, "test_share": 0.2}
    actions, _ = clean(frame(rows), chosen)
    history, ties = meetings(actions)
    if ties > 0.5:
        return
    items = vocabulary(history, None)
    divided, cuts = divide(history, items, [], chosen)
    found = impressions(frame(rows), actions, divided, items, [], chosen, cuts)
    names, people = items["item_id"].to_list(), divided["user_id"].to_list()
    met = {(u, i): min(m for x, y, e, m in rows if (x, y) == (u, i) and e != "impression") for u in first for i in first[u]}
    expected = []
    for u, i, e, m in rows:
        if e == "impression" and u in first and i in names and met.get((u, i), m) >= m:
            within = {
                x
                for v, y, x, n in rows
                if (v, y) == (u, i) and x != "impression" and m <= n <= m + SETTINGS["session_gap_minutes"]
            }
            position = sum(met[u, j] < m for j in first[u])
            valid_at = divided["valid_at"][people.index(u)]
            if split == "time":
                when = START + timedelta(minutes=m)
                late = [when >= datetime.fromisoformat(cuts[c]) for c in ("valid_from", "test_from")]
            else:
                late = [valid_at is not None and position >= valid_at + more for more in (0, 1)]
            part = "test" if late[1] else "valid" if late[0] else "train"
            expected.append(
                (people.index(u), position, names.index(i) + 1, bool(within), "cart" in within, "purchase" in within, part)
            )
    if any(e == "impression" and u in first and i in names for u, i, e, _ in rows):
        assert sorted(found.drop("platform").rows()) == sorted(expected)
    else:  # nothing was logged: what was met stands for it
        assert len(found) == len(history)
        assert found["clicked"].all()


def test_actions_are_the_strongest_before_the_next_item():
    rows = [
        ("u", "a", "view", 0),
        ("u", "a", "cart", 3),
        ("u", "b", "view", 5),
        ("u", "a", "purchase", 9),
        ("u", "b", "favourite", 9),
    ]
    assert meetings(clean(frame(rows), SETTINGS)[0])[0]["action"].to_list() == [3, 2]


def test_sessions_end_with_the_gap():
    rows = [("u", "a", "view", 0), ("u", "b", "view", 29), ("u", "c", "view", 60), ("v", "a", "view", 61)]
    actions = clean(frame(rows), SETTINGS)[0].collect()
    assert actions["session_id"].to_list() == ["1", "1", "2", "1"]


def test_bots_are_removed(workspace):
    workspace()
    run_stages("collect", "link", "check", "prepare")
    users = pl.read_parquet("data/prepared/users.parquet")["user_id"]
    assert not users.str.starts_with("crawler").any()
    assert json.loads(Path("data/prepared/prepared.json").read_text())["removed"]["events of 2 bots"] > 1000


def test_preparing_twice_gives_the_same_bytes(workspace):
    workspace()
    run_stages("collect", "link", "check", "prepare")
    first = {f: f.read_bytes() for f in Path("data/prepared").rglob("*.*")}
    run_stages("prepare")
    assert {f: f.read_bytes() for f in Path("data/prepared").rglob("*.*")} == first


def test_order_without_time_cannot_be_split_by_time(workspace, tmp_path: Path):
    (tmp_path / "s.txt").write_text("".join(f"{u} 1 2 3 4\n" for u in range(5)))
    workspace(source__name="sequences", source__data=str(tmp_path / "s.txt"), prepare__split="time")
    with pytest.raises(StageError, match="leave_one_out"):
        run_stages("collect", "link", "check", "prepare")


def test_what_is_known_of_items_becomes_numbers():
    items = pl.DataFrame(
        {
            "item": [1, 2, 3, 4, 5],
            "category": ["home > lamps", "home > cups", "toys", "toys > trains", None],
            "brand": ["A", "A", None, "B", "B"],
            "price": [5.0, 5.0, 5.0, 900.0, None],
            "log_price": [0.0] * 5,
            "attributes": ["7 9", None, "9", "", "9"],
            "title": ["Red lamp", "red cup", None, "A train", "A drum"],
        }
    )
    known, names = attributes(items, ["category", "brand", "price", "attributes", "words"])
    told = [{names[n - 1] for n in numbers} for numbers in known["attributes"].to_list()]
    assert told == [
        {"category:home", "brand:A", "words:red"},
        {"category:home", "brand:A", "words:red"},
        {"category:toys"},
        {"category:toys", "brand:B"},
        {"brand:B"},
    ]  # "attributes:9" and the price of three are said of more than half, the rest of one item alone
    assert attributes(items, [])[0]["attributes"].to_list() == [[]] * 5


def test_features_of_items_by_their_formulas():
    day = timedelta(days=1)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    split = pl.DataFrame({
        "items": [[1, 2, 3], [2, 1, 3]],
        "timestamps": [[start, start + 30 * day, start + 31 * day], [start + 30 * day, start + 30 * day, start + 31 * day]],
        "train_end": [2, 1],
    })  # fmt: skip
    shown = pl.DataFrame({"item": [1, 1, 2, 3], "clicked": [True, False, True, True], "purchased": [False, False, True, True],
                          "part": ["train", "train", "train", "test"]})  # fmt: skip
    catalogue = pl.DataFrame({"item_id": ["a", "b", "c"], "category": ["x", "x", "y"], "price": [1.0, 3.0, 10.0]})
    items = pl.DataFrame({"item": [1, 2, 3], "item_id": ["a", "b", "c"]})
    found = item_features(items, catalogue, split, shown, False, 1)
    assert found["popularity"].to_list() == [1, 2, 0]  # of the training part alone
    assert found["recency"].to_list() == [0.5, 2.0, 0.0]  # half after 30 days

    def standardised(values: list[float]) -> list[float]:
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        return [pytest.approx((v - mean) / deviation) for v in values]

    mean = 2 / 3  # clicks an impression in training
    rates = [math.log((1 + 20 * mean) / 22), math.log((1 + 20 * mean) / 21), math.log(mean)]
    assert found["click_rate"].to_list() == standardised(rates)
    prices = [math.log(2), math.log(4), math.log(11)]
    assert found["log_price"].to_list() == standardised(prices)
    of_x = (prices[0] + prices[1]) / 2
    assert found["relative_price"].to_list() == standardised([prices[0] - of_x, prices[1] - of_x, 0.0])


def test_a_view_lasts_as_long_as_is_told_or_until_the_next_action_of_the_session():
    rows = [
        ("u", "a", "view", 0),
        ("u", "b", "view", 2),
        ("u", "b", "cart", 3),
        ("u", "c", "view", 4),
        ("u", "d", "view", 29),
        ("u", "a", "view", 300),
    ]
    events = frame(rows)
    assert clean(events, SETTINGS, ("looked",))[0].collect()["looked"].to_list() == [120.0, 60.0, None, 600.0, None, None]
    told = events.with_columns(duration=pl.Series([7.0, None, 5.0, 9000.0, 3.0, None]))
    actions = clean(told, SETTINGS, ("looked",))[0].collect()
    assert actions["looked"].to_list() == [7.0, 60.0, None, 600.0, 3.0, None]
    assert "duration" not in actions.columns
