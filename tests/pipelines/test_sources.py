"""Each source on a small file: what it reads, what it leaves out, what it says of wrong input."""

import gzip
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipelines.collect import OLD
from pipelines.data.sources import source
from pipelines.data.tables import with_event_ids
from pipelines.stage import StageError
from tests.conftest import ROOT, run_stages, small_params


def read(name: str, data: Path, **settings) -> dict[str, pl.DataFrame]:
    return {k: v.collect() for k, v in source(name).read(data, {"mapping": None} | settings).items()}


def test_unknown_source_is_named():
    with pytest.raises(StageError, match="'shops'"):
        source("shops")


class TestShop:
    def tables(self, **changes) -> dict[str, pl.DataFrame]:
        knobs = small_params()["source"]["shop"] | changes
        return read("shop", ROOT / "pipelines/data/sources/shop.yaml", shop=knobs)

    def test_same_seed_same_rows_and_other_seed_others(self):
        one, again, other = self.tables(), self.tables(), self.tables(seed=8)
        assert all(one[name].equals(again[name]) for name in one)
        assert not one["events"].equals(other["events"])

    def test_truth_names_every_broken_row(self):
        tables = self.tables(dirt=0.05)
        dirt = tables["events"].join(tables["truth_dirt"], on="source_row", how="inner")
        kinds = dict(dirt.group_by("kind").len().iter_rows())
        assert set(kinds) == {
            "duplicate",
            "no user",
            "no item",
            "no time",
            "impossible price",
            "unknown item",
            "unknown event",
            "bot",
        }
        assert dirt.filter(pl.col("kind") == "no user")["user_id"].null_count() == kinds["no user"]
        clean = tables["events"].join(tables["truth_dirt"], on="source_row", how="anti")
        assert clean["event_id"].is_unique().all()
        assert clean["price"].drop_nulls().min() > 0

    def test_without_dirt_nothing_is_broken(self):
        tables = self.tables(dirt=0.0)
        assert tables["truth_dirt"].is_empty()
        assert tables["events"]["user_id"].null_count() == 0

    def test_exposure_is_random_and_lifts_purchases_as_the_truth_says(self):
        truth = self.tables(shoppers=20_000, days=10)["truth_uplift"]
        assert 0.48 < truth["exposed"].mean() < 0.52
        shares = dict(truth.group_by("exposed").agg(pl.col("bought").mean()).iter_rows())
        assert shares[True] - shares[False] == pytest.approx(truth["uplift"].mean(), abs=0.01)
        assert truth["uplift"].min() < 0 < truth["uplift"].max()  # some are only annoyed

    def test_every_push_is_logged_with_its_chance_and_its_answers_name_it(self):
        tables = self.tables(shoppers=2000, dirt=0.0)
        events, truth = tables["events"], tables["truth_uplift"]
        pushes = events.filter(pl.col("campaign_id").is_not_null())
        assert set(pushes["event"]) == {"impression", "holdout"}
        assert len(pushes) == len(truth)
        assert pushes.filter(event="impression").height == truth["exposed"].sum()
        assert pushes["propensity"].is_between(0, 0.5).all()
        assert (
            0.9 < (1 / pushes["propensity"] / 120).mean() / 2 < 1.1
        )  # mean of one over the chance: how many choices there were, 120 items or none
        asked = set(pushes["request_id"])
        assert set(events.filter(event="click")["request_id"]) <= asked
        users = tables["users"]
        left = truth.filter("left").select("user_id", "channel")
        joined = left.join(users, on="user_id")
        assert len(left) > 0
        assert not any(channel in channels.split() for channel, channels in joined.select("channel", "channels").iter_rows())

    def test_what_is_used_up_is_bought_again_and_some_is_sent_back(self):
        tables = self.tables(shoppers=1000, dirt=0.0)
        events = tables["events"].with_columns(pl.col("user_id", "item_id").cast(pl.String)).join(tables["items"], on="item_id")
        days = events.filter(event="purchase").group_by("user_id", "item_id", "category").agg(
            n=pl.col("timestamp").dt.date().n_unique()
        )  # fmt: skip
        again = dict(days.group_by("category").agg((pl.col("n") > 1).mean()).iter_rows())
        assert again["kitchen > tea"] > 3 * again["kitchen > kettles"]
        refills = tables["truth_refills"]
        assert refills["timestamp"].min() >= events["timestamp"].max() - timedelta(days=3)
        assert len(refills.join(days, on=["user_id", "item_id"], how="semi")) == len(refills) > 0
        back, bought = (events.filter(event=kind).height for kind in ("return", "purchase"))
        assert 0 < back < 0.1 * bought

    def test_events_after_the_funnel(self):
        counts = dict(self.tables()["events"].group_by("event").len().iter_rows())
        assert counts["view"] > counts["cart"] > counts["purchase"] > 0
        assert counts["search"] > 0
        assert counts["impression"] > counts["click"]


def test_sequences_keep_their_order(tmp_path: Path):
    (tmp_path / "Toy.txt").write_text("1 5 6 7\n2 6 5\n")
    (tmp_path / "Toy_item2attributes.json").write_text('{"5": [1, 2]}')
    tables = read("sequences", tmp_path)
    events = tables["events"].sort("user_id", "timestamp")
    assert events["item_id"].to_list() == ["5", "6", "7", "6", "5"]
    assert set(tables["items"]["item_id"]) == {"5", "6", "7"}


def test_sequences_take_their_titles_from_the_file_that_is_named(tmp_path: Path):
    (tmp_path / "Toy.txt").write_text("1 5 6 7\n2 6 5\n")
    (tmp_path / "titles.csv").write_text("item,asin,title\n5,B0,Red mug\n9,B1,Unknown\n")
    items = dict(read("sequences", tmp_path, titles="titles.csv")["items"].select("item_id", "title").iter_rows())
    assert items == {"5": "Red mug", "6": "Item 6", "7": "Item 7"}
    with pytest.raises(StageError, match=r"source\.titles: .*nothing\.csv is not there"):
        read("sequences", tmp_path, titles="nothing.csv")
    (tmp_path / "other.csv").write_text("item,name\n5,x\n")
    with pytest.raises(StageError, match="no column title"):
        read("sequences", tmp_path, titles="other.csv")


def test_sequences_name_the_line_without_items(tmp_path: Path):
    (tmp_path / "Toy.txt").write_text("1 5 6\n2\n")
    with pytest.raises(StageError, match="line 2"):
        read("sequences", tmp_path)


def test_recbole_reads_typed_headers_and_drops_the_postal_code(tmp_path: Path):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\ti\t3\t881250949\n")
    (tmp_path / "x.item").write_text('item_id:token\tmovie_title:token_seq\tclass:token_seq\ni\tThe "Best"\tComedy\n')
    (tmp_path / "x.user").write_text("user_id:token\tage:token\tzip_code:token\nu\t24\t85711\n")
    tables = read("recbole", tmp_path)
    assert tables["events"]["timestamp"].dt.year().item() == 1997
    assert tables["items"].row(0) == ("i", 'The "Best"', "Comedy", "Comedy")
    assert tables["users"].columns == ["user_id", "age"]


def test_reviews_leave_the_reviewer_out(tmp_path: Path):
    line = {
        "reviewerID": "A1",
        "asin": "B1",
        "reviewerName": "Jo Doe",
        "reviewText": "mine",
        "overall": 5.0,
        "unixReviewTime": 1393545600,
    }
    with gzip.open(tmp_path / "r.json.gz", "wt") as file:
        file.write(json.dumps(line) + "\n")
    tables = read("reviews", tmp_path)
    assert tables["events"].select("user_id", "item_id", "event").row(0) == ("A1", "B1", "purchase")
    assert not any("Jo" in str(row) for table in tables.values() for row in table.iter_rows())


MAPPING = {
    "events": {
        "columns": {"user_id": "用户", "item_id": "商品", "event": "行为", "timestamp": "时间", "price": "售价"},
        "values": {"event": {"pv": "view", "buy": "purchase"}},
    },
    "items": {"columns": {"item_id": "商品", "title": "名称", "brand": "品牌", "category": "类别", "price": "售价"}},
}
CHINESE = "用户,商品,品牌,名称,类别,行为,时间,售价\nu1,p1,蓝山,水壶,厨房/水壶,pv,1700000000,¥1,234.5\nu1,p1,蓝山,水壶,厨房/水壶,buy,1700000060,88\n"


COLUMNS = MAPPING["events"]["columns"]


class TestFiles:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_encodings(self, tmp_path: Path, encoding: str, zipped: bool):
        text = CHINESE.replace("¥1,234.5", "¥12.5").encode(encoding.replace("gbk", "gb18030"))
        path = tmp_path / ("shop.csv.gz" if zipped else "shop.csv")
        path.write_bytes(gzip.compress(text) if zipped else text)
        tables = read("files", path, mapping=MAPPING)
        assert tables["events"]["event"].to_list() == ["view", "purchase"]
        assert tables["events"]["price"].to_list() == [12.5, 88.0]
        assert tables["items"].select("item_id", "title", "brand", "category").row(0) == ("p1", "水壶", "蓝山", "厨房 > 水壶")

    @pytest.mark.parametrize(
        "written",
        ["1700000000", "1700000000000", "1700000000000000", "1.7e9", "2023-11-14 22:13:20", "2023/11/14 22:13:20", "2023-11-14T22:13:20Z",
         "2023-11-15T06:13:20+08:00", "2023年11月14日 22:13:20", "2023-11-14T22:13:20.000"],
    )  # fmt: skip
    def test_times(self, tmp_path: Path, written: str):
        path = tmp_path / "e.csv"
        path.write_text(f"user_id,item_id,event,timestamp\nu,i,view,{written}\n", encoding="utf-8")
        assert read("files", path)["events"]["timestamp"].dt.epoch("s").item() == 1_700_000_000

    def test_times_without_a_zone_take_the_mapping_s(self, tmp_path: Path):
        path = tmp_path / "e.csv"
        path.write_text("user_id,item_id,event,timestamp\nu,i,view,2023-11-15 06:13:20\n")
        rules = {"columns": {c: c for c in ("user_id", "item_id", "event", "timestamp")}, "timezone": "Asia/Shanghai"}
        assert read("files", path, mapping={"events": rules})["events"]["timestamp"].dt.epoch("s").item() == 1_700_000_000

    def test_guess_is_printed_and_can_be_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        path = tmp_path / "shop.csv"
        path.write_text(CHINESE.replace("¥1,234.5", "12.5"), encoding="gb18030")
        with caplog.at_level("INFO", "pushcart"):
            guessed = read("files", path)
        printed = yaml.safe_load(caplog.text.split("MAPPING=):\n")[1].split("INFO ")[0])
        kept = read("files", path, mapping=printed)
        assert all(guessed[name].equals(kept[name]) for name in guessed)
        assert guessed["events"]["event"].to_list() == ["view", "purchase"]

    def test_parquet_and_json_lines_in_a_folder(self, tmp_path: Path):
        pl.DataFrame(
            {"uid": [1, 2], "sku": ["a", "b"], "action": ["buy", "pv"], "ts": [1_700_000_000, 1_700_000_001]}
        ).write_parquet(tmp_path / "events.parquet")
        (tmp_path / "items.jsonl").write_text(
            '{"sku": "a", "name": "A", "instock": true}\n{"sku": "b", "name": "B", "instock": false}\n'
        )
        tables = read("files", tmp_path)
        assert tables["events"]["user_id"].to_list() == ["1", "2"]
        assert tables["items"]["in_stock"].to_list() == [True, False]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"columns": COLUMNS | {"user_id": "会员"}}, "no column '会员'"),
            ({"columns": {"user_id": "用户"}}, "item_id, event, timestamp must be mapped"),
            ({"column": {}}, "events.column is not a setting; did you mean columns?"),
        ],
    )
    def test_wrong_mappings_are_named(self, tmp_path: Path, change: dict, message: str):
        path = tmp_path / "shop.csv"
        path.write_text(CHINESE, encoding="utf-8")
        with pytest.raises(StageError, match=message):
            read("files", path, mapping={"events": change})

    def test_ungessable_columns_are_listed(self, tmp_path: Path):
        path = tmp_path / "x.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(StageError, match="a, b"):
            read("files", path)

    def test_broken_cells_become_null_and_keep_their_row(self, tmp_path: Path):
        path = tmp_path / "e.csv"
        path.write_text("user_id,item_id,event,timestamp,price\nu,i,view,1700000000,5\n,i,view,soon,cheap\nu,i\n")
        mapping = {"events": {"columns": {c: c for c in ("user_id", "item_id", "event", "timestamp", "price")}}}
        events = read("files", path, mapping=mapping)["events"]
        assert events["source_row"].to_list() == [1, 2, 3]
        assert events.row(1, named=True) | {"event": "view"} == {
            "source_row": 2, "user_id": None, "item_id": "i", "event": "view", "price": None, "timestamp": None,
            "unread": "timestamp: soon; price: cheap",
        }  # fmt: skip


def test_events_older_than_they_are_kept_are_left_out_and_counted(workspace, tmp_path: Path):
    days = ("2025-01-01", "2026-02-20", "2026-03-01")
    (tmp_path / "log.csv").write_text(
        "user,item,time\n" + "".join(f"u{n % 2},i{n},{day}T00:00:0{n}Z\n" for n, day in enumerate(days))
    )
    workspace(source__name="files", source__data=str(tmp_path / "log.csv"), privacy__retention__events=30)
    run_stages("collect")
    assert pl.read_parquet("data/raw/events.parquet")["item_id"].to_list() == ["i1", "i2"]
    out = dict(pl.read_parquet("data/raw/left_out.parquet").iter_rows())
    assert out[OLD] == 1


def test_collect_names_missing_data(workspace):
    workspace(source__data="nowhere.csv")
    with pytest.raises(StageError, match=r"nowhere\.csv is not there"):
        run_stages("collect")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "folder", "events"),
    [("sequences", "amazon-beauty", 198_502), ("recbole", "ml-100k", 100_000), ("reviews", "musical-instruments", 10_261)],
)
def test_real_files_are_read_whole(real_data, name: str, folder: str, events: int):
    tables = read(name, real_data(folder))
    assert len(tables["events"]) == events
    assert sum(tables["events"].null_count().row(0)) == 0


def test_an_id_that_reads_like_nothing_is_an_id_and_many_of_them_are_nothing(tmp_path: Path):
    rows = [f"u{i},{'NA' if i == 3 else f'p{i}'},view,{1_700_000_000 + i}" for i in range(100)]
    (tmp_path / "log.csv").write_text("user_id,item_id,event,timestamp\n" + "\n".join(rows))
    events = source("files").read(tmp_path / "log.csv", {"mapping": None})["events"].collect()
    assert events["item_id"][3] == "NA"
    assert events["item_id"].null_count() == 0
    rows = [f"{'NA' if i % 2 else f'u{i}'},p{i},view,{1_700_000_000 + i}" for i in range(100)]
    (tmp_path / "log.csv").write_text("user_id,item_id,event,timestamp\n" + "\n".join(rows))
    assert source("files").read(tmp_path / "log.csv", {"mapping": None})["events"].collect()["user_id"].null_count() == 50


def test_made_up_event_ids_depend_on_no_library_and_never_meet(tmp_path: Path):
    rows = pl.LazyFrame({"user_id": ["u", "u"], "item_id": ["a", "a"], "source_row": [7, 9]})
    assert with_event_ids(rows).collect()["event_id"].to_list() == ["row-7", "row-9"]


def test_decoded_copies_of_a_feed_go_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    (tmp_path / "log.csv").write_bytes("用户,商品,行为,时间\n小明,茶,浏览,1700000000\n".encode("gb18030") * 1)
    code = f"""
import os, signal
from pathlib import Path
from pipelines.data.sources import source
from pipelines.data.tables import with_event_ids
events = source("files").read(Path({str(tmp_path / "log.csv")!r}), {{"mapping": None}})["events"]
assert events.collect()["item_id"].to_list() == ["茶"], events.collect()
assert os.listdir({str(scratch)!r}) == []
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert list(scratch.iterdir()) == []
