"""Each kind of file and each key of the mapping on a few lines: read right, or refused in one sentence."""

import gzip
import json
import os
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import openpyxl
import polars as pl
import pytest
import yaml

from pipelines.data import doctor
from pipelines.data.privacy import personal
from pipelines.data.reading import records
from pipelines.data.reading.text import RECORD, Records
from pipelines.data.sources import files
from pipelines.stage import StageError
from tests.conftest import ROOT

HEADER = "user_id,item_id,event,timestamp"
COLUMNS = {"user_id": "user_id", "item_id": "item_id", "event": "event", "timestamp": "timestamp"}


def read(path: Path, mapping: dict | None = None, **settings) -> dict[str, pl.DataFrame]:
    return {name: table.collect() for name, table in files.read(path, {"mapping": mapping} | settings).items()}


def log(folder: Path, text: str, name: str = "log.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def said(path: Path, mapping: dict | None = None, **settings) -> str:
    with pytest.raises(StageError) as refused:
        read(path, mapping, **settings)
    return str(refused.value)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2019-10-01 00:00:05 UTC", "2019-10-01 00:00:05"), ("2019-10-01T00:00:05.123Z", "2019-10-01 00:00:05"), ("2024-05-01 10", "2024-05-01 10:00:00"),
        ("5/28/2024 1:05 PM", "2024-05-28 13:05:00"), ("28/05/2024 13:05", "2024-05-28 13:05:00"), ("28.05.24 13:05", "2024-05-28 13:05:00"),
        ("May 28, 2024 1:05 pm", "2024-05-28 13:05:00"), ("28-May-2024", "2024-05-28 00:00:00"), ("Tue, 28 May 2024 13:05:00 GMT", "2024-05-28 13:05:00"),
        ("Tue May 28 2024 13:05:00 GMT+0800 (China Standard Time)", "2024-05-28 05:05:00"), ("Tue May 28 13:05:00 UTC 2024", "2024-05-28 13:05:00"),
        ("2024年5月28日 13时05分", "2024-05-28 13:05:00"), ("2024年5月28日 下午1:05", "2024-05-28 13:05:00"), ("2024年十二月28日", "2024-12-28 00:00:00"),
        ("20240528130500", "2024-05-28 13:05:00"), ("20240528", "2024-05-28 00:00:00"), ("202405281305", "2024-05-28 13:05:00"),
        ("2024052813", "2024-05-28 13:00:00"), ("1716901500", "2024-05-28 13:05:00"), ("1716901500000", "2024-05-28 13:05:00"),
        ("1716901500000000000", "2024-05-28 13:05:00"), ("1716901500.25", "2024-05-28 13:05:00"), ("1.7169015e9", "2024-05-28 13:05:00"),
        ("45440.545138888889", "2024-05-28 13:05:00"), ("2024-05-28T13:05:00+05:30", "2024-05-28 07:35:00"), ("2024-05-28 13:05:00,500", "2024-05-28 13:05:00"),
        ("28-MAY-24 01.05.00.000000 PM", "2024-05-28 13:05:00"), ("2024-05-28-13.05.00.000000", "2024-05-28 13:05:00"),
        ("28/May/2024:13:05:00 +0200", "2024-05-28 11:05:00"),
    ],
)  # fmt: skip
def test_times(tmp_path: Path, written: str, moment: str):
    quoted = f'"{written}"'
    found = read(log(tmp_path, f"{HEADER}\nu,i,view,{quoted}\nu,j,view,{quoted}\n"))["events"]["timestamp"]
    assert {f"{t:%Y-%m-%d %H:%M:%S}" for t in found} == {moment}


def test_day_and_month_are_told_over_the_whole_column_or_asked(tmp_path: Path):
    rows = "".join(f"u{i},i,view,{1 + i % 12}/{1 + i % 12}/2024\n" for i in range(11_000))
    assert re.search(r"does the day or the month come first\?.*time: \{format", said(log(tmp_path, HEADER + "\n" + rows)))
    late = read(log(tmp_path, f"{HEADER}\n{rows}u,i,view,25/1/2024\n"))["events"][
        "timestamp"
    ]  # far behind what is looked at first
    assert late[-1] == datetime(2024, 1, 25, tzinfo=UTC)
    told = {"events": {"columns": COLUMNS, "time": {"format": "%m/%d/%Y"}}}
    assert read(log(tmp_path, f"{HEADER}\nu,i,view,2/1/2024\n"), told)["events"]["timestamp"][0] == datetime(
        2024, 2, 1, tzinfo=UTC
    )
    assert "some dates begin with the day and some with the month" in said(
        log(tmp_path, f"{HEADER}\nu,i,view,25/1/2024\nu,i,view,1/25/2024\n")
    )


@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        (["12,50", "1.299,00"], [12.5, 1299.0]), (["12.50", "1,299.00"], [12.5, 1299.0]), (["1'299.50", "5"], [1299.5, 5.0]), (["1 299,5", "7"], [1299.5, 7.0]),
        (["¥1,234.5", "€ 5.00"], [1234.5, 5.0]), (["12.5 USD", "EUR 7"], [12.5, 7.0]), (["350.000 đ", "1.290.000 đ"], [350_000.0, 1_290_000.0]),
        (["(5.00)", "3.00"], [-5.0, 3.0]), (["-5.00", "1.5e3"], [-5.0, 1500.0]), (["99元", "88.8元"], [99.0, 88.8]), (["", "NA"], [None, None]),
        (["₹ 1,23,456.50", "₹ 99.00"], [123_456.5, 99.0]), (["12.50-", "3.00"], [-12.5, 3.0]), (["CHF 1’299.50", "1 299.50 kr"], [1299.5, 1299.5]),
    ],
)  # fmt: skip
def test_numbers(tmp_path: Path, written: list[str], numbers: list[float]):
    rows = "\n".join(f'u,i{i},view,1700000000,"{price}"' for i, price in enumerate(written))
    found = read(log(tmp_path, f"{HEADER},price\n{rows}\n"), {"events": {"columns": COLUMNS | {"price": "price"}}})["events"]
    assert found["price"].to_list() == numbers
    assert "unread" not in found.columns or found["unread"].null_count() == len(found)


def test_what_does_not_read_is_kept_as_it_is_written(tmp_path: Path):
    found = read(log(tmp_path, f"{HEADER},price\nu,i,view,1700000000,free\nu,j,view,soon,5\nu,k,view,1700000000,7\n"))["events"]
    assert found["unread"].to_list() == ["price: free", "timestamp: soon", None]
    found = read(log(tmp_path, f"{HEADER},price\nu,i,view,1700000000,1.5万\nu,j,view,1700000000,350k\nu,k,view,1700000000,7\n"))[
        "events"
    ]
    assert found["unread"].to_list() == ["price: 1.5万", "price: 350k", None]
    both = f"{HEADER},price\n" + 'u,i,view,1700000000,"12,5"\nu,j,view,1700000000,12.5\n'
    assert "has a decimal comma and '12.5' a decimal point" in said(log(tmp_path, both))


@pytest.mark.parametrize(
    "encoding", ["gb18030", "big5", "shift_jis", "euc_kr", "cp1251", "cp1252", "cp1254", "utf-16", "utf-8-sig"]
)
def test_encodings(tmp_path: Path, encoding: str):
    titles = {
        "gb18030": "蓝山不锈钢电热水壶", "utf-16": "蓝山不锈钢电热水壶", "utf-8-sig": "蓝山不锈钢电热水壶", "big5": "藍山不鏽鋼電熱水壺", "shift_jis": "ステンレスの電気ケトル",
        "euc_kr": "스테인리스 전기 주전자", "cp1251": "Электрический чайник", "cp1252": "Größe Straße crème brûlée", "cp1254": "Çaydanlık büyük şişe öğütücü ığdır",
    }  # fmt: skip
    rows = "\n".join(f"u{i},p{i},view,{1_700_000_000 + i},{titles[encoding]}" for i in range(8))
    assert set(read(log(tmp_path, f"{HEADER},title\n{rows}\n", encoding=encoding))["items"]["title"]) == {titles[encoding]}


BROKEN = f"""{HEADER},title
u1,p1,view,1700000000,Lamp 12" wide
u2,p2,view,1700000001,"Blue" mug
u3,p3,view,1700000002,"two
lines"
u4,p4,view,1700000003,a,field too many
u5,p5,view,1700000004,"never closed
u6,p6,view,1700000005,"well, quoted"
"""


def test_stray_quotes_are_text_and_what_cannot_be_read_has_its_line(tmp_path: Path):
    mapping = {"events": {"columns": COLUMNS}, "items": {"columns": {"item_id": "item_id", "title": "title"}}}
    for name in ("log.csv", "log.csv.gz", "log.csv.zip"):
        path = tmp_path / name
        content = BROKEN.encode()
        if name.endswith("zip"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("log.csv", content)
        else:
            path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        found = read(path, mapping)
        assert found["items"].sort("item_id")["title"].to_list() == ['Lamp 12" wide', '"Blue" mug', "two\nlines", "well, quoted"]
        assert found["events"]["source_row"].to_list() == [1, 2, 3, 6]
        assert found["unread"].select("record", "line", "reason").rows() == [
            (4, 6, "6 fields, where there are 5 columns"),
            (5, 7, "a quote that does not close"),
        ]
        assert found["records"].row(0) == (6, 4)


def test_a_record_that_gets_lost_stops_the_run_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = records.read

    def leaking(*arguments) -> Records:
        found = whole(*arguments)
        found.frame = found.frame.filter(pl.col(RECORD) != 3)
        return found

    monkeypatch.setattr(records, "read", leaking)
    path = log(tmp_path, HEADER + "\n" + "".join(f"u,i{i},view,{1_700_000_000 + i}\n" for i in range(6)))
    assert "6 records are there, but 5 were read; they part at record 3" in said(path, {"events": {"columns": COLUMNS}})


def test_forms_of_delimited_files(tmp_path: Path):
    lines = ["u1::p1::view::1700000000", "u2::p2::cart::1700000060"]
    told = {
        "events": {
            "format": {"separator": "::", "header": False},
            "columns": {"user_id": 1, "item_id": 2, "event": 3, "timestamp": 4},
        }
    }
    assert read(log(tmp_path, "\n".join(lines), "ratings.dat"), told)["events"]["user_id"].to_list() == ["u1", "u2"]
    titled = f"Export of 2024-05-01\n\n{HEADER}\nu,i,view,1700000000\nv,j,view,1700000001\n"
    assert len(read(log(tmp_path, titled))["events"]) == 2
    assert len(read(log(tmp_path, f"sep=;\n{HEADER.replace(',', ';')}\nu;i;view;1700000000\n"))["events"]) == 1
    assert len(read(log(tmp_path, f"{HEADER}\ru,i,view,1700000000\rv,j,view,1700000001"))["events"]) == 2
    assert "two columns are called user_id" in said(log(tmp_path, f"user_id, {HEADER}\nu,u,i,view,1700000000\n"))
    assert "is empty" in said(log(tmp_path, ""))
    packed = bytearray(gzip.compress(f"{HEADER}\nu,i,view,1700000000\n".encode() * 99))
    packed[40:60] = b"x" * 20
    (tmp_path / "log.csv.gz").write_bytes(packed)
    assert "cannot be read" in said(tmp_path / "log.csv.gz")
    assert "holds no row" in said(log(tmp_path, "sep=;\n\n"))
    assert "has no header" in said(log(tmp_path, "u1,p1,view,1700000000\nu2,p2,view,1700000060\n"))


def test_delimited_files_as_other_programs_write_them(tmp_path: Path):
    rows = {
        "escaped quotes": f'{HEADER},title\nu,i,view,1700000000,"Screen 5\\" wide"\nu,j,view,1700000001,"a \\"b\\",\nc"\n',
        "single quotes": "'user_id','item_id','event','timestamp','title'\n'u','i','view','1700000000','Screen 5\" wide'\n".replace(
            '"', "″"
        )
        + "'u','j','view','1700000001','a, b'\n",
        "a separator at the end": f"{HEADER},title\nu,i,view,1700000000,Screen 5,\nu,j,view,1700000001,b,\n",
    }
    titles = {
        "escaped quotes": ['Screen 5" wide', 'a "b",\nc'],
        "single quotes": ["Screen 5″ wide", "a, b"],
        "a separator at the end": ["Screen 5", "b"],
    }
    for form, text in rows.items():
        found = read(log(tmp_path, text))
        assert found["unread"].is_empty(), form
        assert found["items"]["title"].to_list() == titles[form], form
    assert "there is a header and no row" in said(log(tmp_path, HEADER + "\n"))


def test_more_packed_parts_than_files_may_be_open(tmp_path: Path):
    for i in range(80):
        (tmp_path / f"events-{i:03d}.csv.gz").write_bytes(gzip.compress(f"{HEADER}\nu{i},i,view,{1_700_000_000 + i}\n".encode()))
    code = (
        "import os, resource; from pathlib import Path; from pipelines.data.sources import files; "
        "open_now = len(os.listdir('/proc/self/fd')); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); "
        f"print(len(files.read(Path({str(tmp_path)!r}), {{}})['events'].collect()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "80", done.stderr[-500:]


def test_a_file_for_each_kind_of_event(tmp_path: Path):
    for name in ("views", "purchases"):
        log(
            tmp_path,
            f"user_id,item_id,timestamp{',price' if name == 'purchases' else ''}\nu,i,1700000000{',5' if name == 'purchases' else ''}\n",
            f"{name}.csv",
        )
    assert sorted(read(tmp_path)["events"].select("event", "price").rows(), key=str) == [("purchase", 5.0), ("view", None)]
    alone = read(tmp_path / "views.csv")["events"]
    assert alone["event"].to_list() == ["view"]


def test_lists_are_taken_apart_wherever_they_stand(tmp_path: Path):
    stream = [
        {"uid": "u", "event": "view", "ts": 1700000000, "properties": {"product_id": "i"}},
        {
            "uid": "u",
            "event": "purchase",
            "ts": 1700000001,
            "properties": {"products": [{"product_id": "i", "price": 5}, {"product_id": "j"}]},
        },
        {"uid": "u", "event": "view", "ts": 1700000002, "properties": {"products": []}},
    ]
    found = read(log(tmp_path, "\n".join(map(json.dumps, stream)), "stream.jsonl"))
    assert found["events"].select("item_id", "event", "price").rows() == [
        ("i", "view", None),
        ("i", "purchase", 5.0),
        ("j", "purchase", None),
    ]
    assert found["left_out"].rows() == [("no properties.products", 1)]
    for cell in ("i;j", "['i', 'j']", '"[""i"", ""j""]"', "i j"):
        cell = f'"{cell}"' if cell.startswith("['") else cell
        found = read(
            log(tmp_path, f"order_id,user_id,date,items\n1,u,2024-05-01,{cell}\n2,u,2024-05-02,{cell}\n3,u,2024-05-03,\n")
        )
        assert found["events"]["item_id"].to_list() == ["i", "j", "i", "j"], cell
        assert found["left_out"].rows() == [("no items", 1)]


def test_json_in_its_forms(tmp_path: Path):
    orders = [
        {"id": "o1", "customer": {"id": 7, "email": "a@b.c"}, "at": "2024-05-01T10:00:00Z", "lines": [{"sku": "001", "price": 5.50}, {"sku": "002", "price": 7}]},
        {"id": "o2", "customer": {"id": 912345678901234567}, "at": "2024-05-02T10:00:00Z", "lines": [{"sku": "001", "price": 5.50}]},
    ]  # fmt: skip
    mapping = {"events": {"explode": "lines", "columns": {"user_id": "customer.id", "item_id": "lines.sku", "order_id": "id", "timestamp": "at",
                                                          "price": "lines.price"}, "constants": {"event": "purchase"}}}  # fmt: skip
    forms = {
        "a.json": json.dumps(orders, indent=2),
        "b.jsonl": "\n".join(map(json.dumps, orders)),
        "c.json": json.dumps({"orders": orders}),
    }
    for name, text in forms.items():
        events = read(log(tmp_path, text, name), mapping)["events"]
        assert events.select("user_id", "item_id", "price").rows() == [
            ("7", "001", 5.5),
            ("7", "002", 7.0),
            ("912345678901234567", "001", 5.5),
        ], name
    wrong = {"events": mapping["events"] | {"columns": mapping["events"]["columns"] | {"user_id": "customer"}}}
    assert "customer is an object; name one of customer.id, customer.email" in said(tmp_path / "b.jsonl", wrong)


def test_spreadsheets_and_parquet(tmp_path: Path):
    book = openpyxl.Workbook()
    for row in (
        ["user_id", "item_id", "event", "timestamp", "price"],
        [17850, "00012", "view", datetime(2024, 5, 1, 10), 12.5],
        [17851, "7", "view", datetime(2024, 5, 2), 3],
    ):
        book.active.append(row)
    book.save(tmp_path / "shop.xlsx")
    events = read(tmp_path / "shop.xlsx")["events"]
    assert events.select("user_id", "item_id", "price").rows() == [("17850", "00012", 12.5), ("17851", "7", 3.0)]
    assert events["timestamp"][0] == datetime(2024, 5, 1, 10, tzinfo=UTC)
    pl.DataFrame(
        {
            "user_id": [1.0, 2.0],
            "item_id": [912345678901234567, 5],
            "event": ["view", "view"],
            "timestamp": [datetime(2024, 5, 1), datetime(2024, 5, 2)],
        }
    ).write_parquet(tmp_path / "shop.parquet")
    events = read(tmp_path / "shop.parquet")["events"]
    assert events.select("user_id", "item_id").rows() == [("1", "912345678901234567"), ("2", "5")]


def test_several_files_joins_and_conditions(tmp_path: Path):
    for month in ("01", "02"):
        log(tmp_path, f"order_id,sku,price\no{month},p1,5\no{month},p2,7\n", f"lines-{month}.csv")
    log(tmp_path, "order_id,user,at,status\no01,u1,2024-01-01,paid\no02,u2,2024-02-01,cancelled\n", "orders.csv")
    mapping = {"events": {"file": "lines-*.csv", "join": yaml.safe_load("[{file: orders.csv, on: order_id}]"), "where": "status = 'paid' AND price >= 6",
                          "columns": {"user_id": "user", "item_id": "sku", "timestamp": "at", "order_id": "order_id"},
                          "constants": {"event": "purchase"}}}  # fmt: skip
    found = read(tmp_path, mapping)
    assert found["events"].select("source_file", "source_row", "user_id", "item_id").rows() == [("lines-01.csv", 2, "u1", "p2")]
    assert found["left_out"]["rows"].to_list() == [3]
    log(tmp_path, "order_id,user,at,status\no01,u1,2024-01-01,paid\no01,u2,2024-02-01,paid\n", "orders.csv")
    assert "it must stand once" in said(tmp_path, mapping)


def test_a_folder_without_a_mapping(tmp_path: Path):
    log(tmp_path, "order_id,sku,quantity\no1,p1,1\no2,p2,2\n", "order_lines.csv")
    log(tmp_path, "order_id,customer_id,order_date\no1,u1,2024-01-01\no2,u2,2024-02-01\n", "orders.csv")
    log(tmp_path, "sku,name,category\np1,Mug,kitchen\np2,Lamp,light\n", "products.csv")
    log(tmp_path, "customer_id,city,email,birthdate\nu1,Bonn,a@b.de,1990-01-01\nu2,Rom,b@c.it,1991-01-01\n", "customers.csv")
    found = read(tmp_path)
    assert found["events"].select("user_id", "item_id", "event").rows() == [("u1", "p1", "purchase"), ("u2", "p2", "purchase")]
    assert found["items"].select("item_id", "title").rows() == [("p1", "Mug"), ("p2", "Lamp")]
    assert set(found["users"].columns) == {"source_row", "user_id", "city"}


def test_a_file_beside_the_log_that_cannot_be_read_is_named_and_stands_in_nobodys_way(tmp_path: Path):
    log(tmp_path, f"{HEADER}\nu,i,view,1700000000\nv,j,view,1700000060\n", "events.csv")
    log(tmp_path, "", "empty.csv")
    log(tmp_path, "x,y\n1,2\n3,4\n", "notes.csv")
    lines, ready = doctor.page(tmp_path)
    assert ready
    assert "empty.csv is not used" in "\n".join(lines)
    assert "notes.csv is there and is not used: it holds x, y" in "\n".join(lines)


def test_values_returns_and_what_is_left_out(tmp_path: Path):
    path = log(
        tmp_path, f"{HEADER},quantity\nu,i,buy,1700000000,2\nu,i,buy,1700000060,-1\nu,,start,1700000070,\nu,j,hover,1700000080,\n"
    )
    rules = {"columns": COLUMNS | {"quantity": "quantity"}, "values": {"event": {"buy": "purchase", "*": None}}}
    found = read(path, {"events": rules})
    assert found["events"].select("event", "quantity").rows() == [("purchase", 2.0), ("return", 1.0)]
    assert found["left_out"].rows() == [("event hover", 1), ("event start", 1)] or found["left_out"].rows() == [
        ("event start", 1),
        ("event hover", 1),
    ]


def test_a_key_of_a_person_is_hashed_under_a_secret(tmp_path: Path):
    path = log(
        tmp_path,
        f"{HEADER}\nJo@Example.com,i,view,1700000000\njo@example.com ,j,view,1700000060\nal@example.com,i,view,1700000000\n",
    )
    mapping = {"events": {"columns": COLUMNS, "hash": ["user_id"]}}
    assert "set source.hash_key to a file outside the checkout" in said(path, mapping)
    key = tmp_path / "key"
    key.write_text("a secret of one shop")
    users = read(path, mapping, hash_key=str(key))["events"]["user_id"].to_list()
    assert users[0] == users[1] != users[2]
    assert len(users[0]) == 32
    key.write_text("the secret of another")
    assert read(path, mapping, hash_key=str(key))["events"]["user_id"][0] != users[0]


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"colums": {}}, "events.colums is not a setting; did you mean columns?"),
        ({"columns": COLUMNS | {"user": "user_id"}}, "user is not known; did you mean user_id?"),
        ({"columns": COLUMNS | {"user_id": "userid"}}, "has no column 'userid'; did you mean user_id?"),
        ({"columns": COLUMNS, "time": {"timezone": "Asia/Shanghia"}}, "which is no time zone; did you mean Asia/Shanghai?"),
        ({"columns": COLUMNS, "time": {"unit": "seconds"}}, "time.unit is 'seconds'; it must be 's', 'ms', 'us', 'ns' or 'days'"),
        ({"columns": COLUMNS, "values": {"event": {"pv": "veiw"}}}, "veiw is not known; did you mean view?"),
        ({"columns": COLUMNS, "values": {"evnt": {"pv": "view"}}}, "values: evnt is not mapped"),
        ({"columns": COLUMNS, "where": "status ="}, "where: "),
        ({"columns": COLUMNS, "where": "status = 'paid'"}, "where: no column 'status'"),
        ({"columns": COLUMNS, "format": {"encoding": "utf8x"}}, "'utf8x', which is no encoding"),
        ({"columns": COLUMNS, "hash": ["email"]}, "hash: email is not known"),
        ({"columns": COLUMNS, "explode": "lines"}, "explode names lines, but the columns are user_id"),
        ({"columns": COLUMNS | {"price": ["a"]}}, "events.columns.price is"),
    ],
)
def test_every_key_is_checked(tmp_path: Path, rules: dict, sentence: str):
    assert sentence in said(log(tmp_path, f"{HEADER}\nu,i,view,1700000000\n"), {"events": rules})


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (
            "user_id,item_id,action,timestamp\nu,i,0,1700000000\nu,j,1,1700000001\n",
            "action holds 0 (1 rows), 1 (1 rows): which is what?",
        ),
        ("user_id,item_id,rating,timestamp\nu,i,5,1700000000\nu,j,1,1700000001\n", "rating holds ratings (1 to 5)"),
        (
            "user_id,item_id,status,timestamp\nu,i,paid,1700000000\nu,j,refused,1700000001\n",
            "status holds paid (1 rows), refused (1 rows): which rows count?",
        ),
        (
            "user_id,item_id,opened,closed\nu,i,2024-05-01,2024-05-02\nu,j,2024-05-01,2024-05-03\n",
            "opened, closed hold times: when did it happen?",
        ),
        (
            "user_id,customer_id,item_id,timestamp\nu,a,i,1700000000\nu,b,j,1700000001\n",
            "user_id or customer_id: which one is the shopper?",
        ),
        (
            "phone,item_id,timestamp\n13800138000,i,1700000000\n13800138001,j,1700000001\n",
            "holds telephone numbers: may it be hashed",
        ),
        (
            "user_id,item_id,timestamp,click,purchase\nu,i,1700000000,1,0\nu,j,1700000001,0,1\n",
            'click, purchase say on each row whether it happened: which are to count? Say where: "purchase = 1"',
        ),
        (
            "user_id,item_id,event,event_time,created_at\nu,i,view,2024-05-01 10:00,2024-05-01 10:01\n",
            "event_time, created_at hold times: when did it happen?",
        ),
        ("email,item_id,timestamp\na@b.de,i,1700000000\nc@d.de,j,1700000001\n", "hash: [user_id]"),
        ("user_id,item_id,event,timestamp\nu,i,view,1700000000\nu,j,wobble,1700000001\n", "wobble (1 rows)"),
    ],
)
def test_what_would_be_wrong_without_a_word_is_asked(tmp_path: Path, text: str, question: str):
    path = log(tmp_path, text)
    assert question in said(path)
    lines, ready = doctor.page(path)
    assert not ready
    assert any(line.startswith("I need to know") for line in lines)


def test_the_doctor_writes_a_mapping_and_never_over_a_file(tmp_path: Path):
    path = log(tmp_path, f"{HEADER},price\nu,i,view,1700000000,5\nv,j,buy,1700000060,7\n")
    kept = tmp_path / "shop.yaml"
    command = [sys.executable, "-m", "deploy.cli", "doctor", str(path), "--write", str(kept)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    first = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "ready" in first.stdout.splitlines()[-1]
    assert read(path, yaml.safe_load(kept.read_text()))["events"].equals(read(path)["events"])
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stdout


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("call 13812345678 now", True), ("a13812345678f0", False), ("jo@example.com", True), ("11010519491231002X", True), ("110105194912310021", False),
        ("912345678901234567", False), ("0f3a13912345678bc2", False),
    ],
)  # fmt: skip
def test_what_is_personal_data_and_what_is_none(text: str, holds: bool):
    assert pl.DataFrame({"t": [text]}).select(personal("t")).item() is holds


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("musical-instruments", "overall holds ratings"), ("diginetica", r"userId is empty in 6\d%"), ("cdnow", "what shoppers did or paid and when.*no item"),
        ("open-bandit", "impressions logged with the chance.*no shopper"), ("hillstrom", r"an experiment's outcomes \(visit, conversion, spend by segment\)"),
    ],
)  # fmt: skip
def test_the_doctor_says_what_real_data_are(real_data, name: str, what: str):
    lines, ready = doctor.page(real_data(name))
    assert not ready
    assert re.search(what, "\n".join(lines))


def test_the_first_column_that_says_something_is_taken(tmp_path: Path):
    rows = "\n".join(
        f"{session},{user},a,view,2024-05-01 10:00:00"
        for session, user in (("s1", "NA"), ("s2", "u2"), ("s3", ""), ("s4", "NULL"))
    )
    path = log(tmp_path, f"session,user,item_id,event,timestamp\n{rows}\n")
    columns = {"user_id": {"first_of": ["user", "session"]}, "item_id": "item_id", "event": "event", "timestamp": "timestamp"}
    assert read(path, {"events": {"columns": columns}})["events"]["user_id"].to_list() == ["s1", "u2", "s3", "s4"]
