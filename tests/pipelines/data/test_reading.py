"""Tables written in any form that is supported come back as they were, or are refused; never as something else."""

import csv
import gzip
import io
import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.data.reading.names import NULLS
from pipelines.data.reading.text import COPIES
from pipelines.data.sources import files
from pipelines.data.tables import UNREAD
from pipelines.stage import StageError

COLUMNS = ("user_id", "item_id", "event", "timestamp", "price", "title")
WORDS = {
    "utf-8": ["café", "水壶", "주전자", "やかん", "чайник", "mug"], "utf-8-sig": ["café", "水壶", "mug"], "utf-16": ["café", "水壶", "mug"],
    "gb18030": ["蓝山水壶", "电热毯", "不锈钢锅", "用户甲"], "big5": ["藍山水壺", "電熱毯", "不鏽鋼鍋", "使用者甲"],
    "shift_jis": ["ステンレスケトル", "コーヒーミル", "電気毛布", "お客様"], "euc_kr": ["스테인리스주전자", "커피그라인더", "전기담요", "고객"],
    "cp1252": ["Größe", "Straße", "crème", "brûlée", "señor"], "cp1251": ["чайник", "электрический", "кофемолка", "ручная"],
}  # fmt: skip
TIMES = {
    "%Y-%m-%d %H:%M:%S": 1, "%Y/%m/%d %H:%M:%S": 1, "%Y-%m-%dT%H:%M:%SZ": 1, "%Y-%m-%d %H:%M:%S UTC": 1, "%d.%m.%Y %H:%M": 60, "%m/%d/%Y %I:%M %p": 60,
    "%d %b %Y %H:%M:%S": 1, "%B %d, %Y %I:%M:%S %p": 1, "%Y%m%d%H%M%S": 1, "%Y年%m月%d日 %H时%M分%S秒": 1, "%Y-%m-%d %H": 3600, "%Y-%m-%d": 86400,
    "%a, %d %b %Y %H:%M:%S GMT": 1, "s": 1, "ms": 1, "us": 1, "ns": 1, "offset": 1,
}  # fmt: skip
ZONED = ("Z", "UTC", "GMT")
EPOCH = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@st.composite
def tables(draw) -> tuple[list[dict], dict]:
    """Rows, and the form to write them in."""
    encoding = draw(st.sampled_from(list(WORDS)))
    form = {
        "kind": draw(st.sampled_from(["csv", "csv", "csv", "json lines", "json array", "parquet"])),
        "encoding": encoding,
        "separator": draw(st.sampled_from([",", ";", "\t", "|"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "escaped": draw(st.booleans()),
        "decimal": draw(st.sampled_from([".", ","])),
        "time": draw(st.sampled_from([form for form in TIMES if form.isascii() or encoding in ("utf-8", "utf-16", "gb18030")])),
        "zone": draw(st.sampled_from(["UTC", "Asia/Shanghai", "America/New_York"])),
        "parts": draw(st.integers(1, 3)),
        "packed": draw(st.sampled_from(["", ".gz", ".zst"])),
        "newline": draw(st.sampled_from(["\n", "\r\n"])),
    }
    word = st.sampled_from(WORDS[encoding])
    ids = st.tuples(word, st.sampled_from(["", "-", "_", "."]), st.integers(0, 99)).map(lambda parts: "".join(map(str, parts)))
    marks = st.sampled_from([" ", " ", ", ", '"', ' "', "; ", "|", "'", "\n", "\t", '""'])
    texts = st.lists(st.tuples(word, marks), max_size=5).map(lambda parts: "".join(w + m for w, m in parts))
    step = TIMES[form["time"]]
    rows = draw(
        st.lists(
            st.fixed_dictionaries({
                "user_id": ids | st.integers(1, 10**18).map(str),
                "item_id": ids | st.integers(0, 10**6).map(lambda i: f"{i:08d}"),
                "event": st.sampled_from(["view", "cart", "purchase"]),
                "timestamp": st.integers(1_000_000_000 // step, 1_900_000_000 // step).map(lambda t: t * step),
                "price": st.integers(1, 10**7).map(lambda cents: cents / 100),
                "title": texts,
            }),
            min_size=3, max_size=12,
        )
    )  # fmt: skip
    return rows, form


def written_time(seconds: int, form: dict) -> str:
    if form["time"] in EPOCH:
        return str(seconds * EPOCH[form["time"]])
    moment = datetime.fromtimestamp(seconds, UTC)
    if form["time"] == "offset":
        return moment.astimezone(ZoneInfo("Asia/Kolkata")).isoformat()
    if not form["time"].endswith(ZONED):
        moment = moment.astimezone(ZoneInfo(form["zone"]))
    return moment.strftime(form["time"])


def truth(seconds: int, form: dict) -> list[datetime]:
    """The moments that a written time may stand for: two where a clock was set back, and the step's beginning in its zone."""
    if form["time"] in (*EPOCH, "offset") or form["time"].endswith(ZONED):
        return [datetime.fromtimestamp(seconds, UTC)]
    local = datetime.strptime(written_time(seconds, form), form["time"]).replace(tzinfo=ZoneInfo(form["zone"]))
    return [local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)]


def write(rows: list[dict], form: dict, folder: Path) -> None:
    cells = [
        row | {"timestamp": written_time(row["timestamp"], form), "price": f"{row['price']:.2f}".replace(".", form["decimal"])} for row in rows
    ]  # fmt: skip
    size = -(-len(cells) // form["parts"])
    for part, start in enumerate(range(0, len(cells), size)):
        some = cells[start : start + size]
        name = folder / f"events-{part}"
        if form["kind"] == "parquet":
            pl.DataFrame(some).write_parquet(name.with_suffix(".parquet"))
            continue
        if form["kind"] == "csv":
            text = io.StringIO()
            writer = csv.DictWriter(
                text, COLUMNS, delimiter=form["separator"], quoting=form["quoting"], lineterminator=form["newline"],
                doublequote=not form["escaped"], escapechar="\\" if form["escaped"] else None,
            )  # fmt: skip
            writer.writeheader()
            writer.writerows(some)
            text, suffix = text.getvalue(), ".csv"
        elif form["kind"] == "json lines":
            text, suffix = form["newline"].join(json.dumps(row, ensure_ascii=False) for row in some), ".jsonl"
        else:
            text, suffix = json.dumps(some, ensure_ascii=False, indent=1), ".json"
        content = text.encode(form["encoding"])
        path = Path(f"{name}{suffix}{form['packed']}")
        if form["packed"] == ".gz":
            content = gzip.compress(content)
        if form["packed"] == ".zst":
            content = pa.compress(content, codec="zstd", asbytes=True)
        path.write_bytes(content)


def held(example: tuple[list[dict], dict]) -> bool:
    """Reads what was written: is the table back? False where it was refused."""
    rows, form = example
    rules = {"columns": {c: c for c in COLUMNS[:5]}, "time": {"timezone": form["zone"]}}
    with tempfile.TemporaryDirectory() as folder:
        write(rows, form, Path(folder))
        try:
            found = files.read(
                Path(folder), {"mapping": {"events": rules, "items": {"columns": {"item_id": "item_id", "title": "title"}}}}
            )
            events = found["events"].collect().sort("source_row")
            titles = dict(found["items"].collect().select("item_id", "title").iter_rows())
        except StageError:
            return False
        unread = found["unread"].collect()
    COPIES.clear()  # as the end of a process does
    flawed = set(events.filter(pl.col(UNREAD).is_not_null())["source_row"]) if UNREAD in events.columns else set()
    assert len(events) + len(unread) == len(rows), (events, unread)
    for row in events.iter_rows(named=True):
        if row["source_row"] in flawed:
            continue
        wanted = rows[row["source_row"] - 1]
        assert row["user_id"] == wanted["user_id"]
        assert row["item_id"] == wanted["item_id"]
        assert row["event"] == wanted["event"]
        assert row["timestamp"] in truth(wanted["timestamp"], form)
        assert row["price"] == pytest.approx(wanted["price"])
    last = {row["item_id"]: row["title"] for row in rows if row["title"].strip() and row["title"].strip() not in NULLS}
    if not len(unread):
        for item, title in last.items():
            same = titles[item] or ""
            assert same.replace("\r\n", "\n") == title.strip(), (same, title)
    return True


EVERY = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@settings(max_examples=100, **EVERY)
@given(tables())
def test_some_tables_come_back_or_are_refused(example: tuple[list[dict], dict]):
    held(example)


@pytest.mark.e2e
@settings(max_examples=int(os.environ.get("EXAMPLES", "2000")), **EVERY)
@given(tables())
def test_a_table_comes_back_or_is_refused(example: tuple[list[dict], dict]):
    held(example)


def test_most_tables_come_back():
    """A reader that refused all of them would pass the test above."""
    start = 1_700_000_000
    for time in TIMES:
        for kind in ("csv", "json lines", "parquet"):
            form = {"kind": kind, "encoding": "utf-8", "separator": ";", "quoting": csv.QUOTE_MINIMAL, "decimal": ",", "time": time, "zone": "UTC",
                    "parts": 2, "packed": "", "newline": "\n", "escaped": False}  # fmt: skip
            step = TIMES[time]
            rows = [{"user_id": f"u{i}", "item_id": f"{i:08d}", "event": "view", "timestamp": (start + i * 90_061) // step * step, "price": i + 0.5,
                     "title": f'Lamp {i}" wide; "{i}"'} for i in range(30)]  # fmt: skip
            assert held((rows, form)), (time, kind)
    assert timedelta(0) == datetime.fromtimestamp(start, UTC).utcoffset()
