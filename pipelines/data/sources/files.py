"""Anyone's export: CSV, Parquet or JSON lines, gzipped or not, translated by a mapping of columns and values.

In: one file, or a folder with events.*, items.*, users.* (or one file of any name). Text may be UTF-8 (with or without BOM)
or GBK/GB18030, separated by comma, semicolon, tab or bar; times may be epoch seconds, milliseconds, microseconds or
ISO-like. Out: the canonical tables.

The mapping (source.mapping) says per table which column is what, and what the shop calls the canonical events:

    events:
      columns: {user_id: 用户, item_id: 商品, event: 行为, timestamp: 时间, price: 售价}
      values: {event: {pv: view, fav: favourite, cart: cart, buy: purchase}}
      timezone: Asia/Shanghai      # of times without one; UTC if left out
      file: log.csv                # only where a folder's file is not named events.*
      constants: {event: purchase} # columns that the file does not have
    items:
      columns: {item_id: 商品, title: 名称}

Without a mapping, columns are guessed from their names and values, and the guess is printed as a mapping to keep.
"""

import csv
import gzip
import io
import logging
import re
import tempfile
from pathlib import Path

import polars as pl
import yaml

from pipelines.data.tables import EVENT_KINDS, EVENTS, ITEMS, SOURCE_ROW, TIMESTAMP
from pipelines.stage import StageError

ORDERED_ONLY = False
log = logging.getLogger("pushcart")

DECODED: list[io.IOBase] = []  # open until the process ends; polars reads them late
TABLES = ("events", "items", "users")
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json")
NULLS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "none", "-", "\\N", "无", "空"]
IDS = ("user_id", "item_id", "event_id", "session_id")
MISSING = 0.05  # share of rows from which a word such as NA stands for a missing id
YES, NO = ("1", "true", "yes", "y", "是", "有货", "有"), ("0", "false", "no", "n", "否", "缺货", "无货")

# What columns are called, in order of preference; compared without case, blanks and punctuation.
COLUMN_NAMES = {
    "event_id": ("eventid", "logid", "uuid", "事件id", "事件编号", "日志id"),
    "user_id": ("userid", "user", "uid", "shopper", "shopperid", "customer", "customerid", "customercode", "memberid",
                "member", "visitorid", "buyerid", "buyer", "reviewerid", "用户", "用户id", "用户编号", "会员", "会员id", "会员号",
                "会员编号", "顾客", "顾客id", "顾客编号", "客户", "客户id", "客户编号", "买家", "买家id", "访客", "访客id"),
    "item_id": ("itemid", "item", "productid", "product", "sku", "skuid", "goodsid", "goods", "asin", "articleid", "spu",
                "商品", "商品id", "商品编号", "商品编码", "货号", "货品", "货品编号", "产品", "产品id", "产品编号"),
    "event": ("event", "eventname", "eventtype", "action", "behavior", "behaviour", "behaviortype", "behaviourtype", "type", "行为", "行为类型",
              "行为名称", "事件", "事件名", "事件名称", "事件类型", "动作", "操作", "操作类型"),
    "timestamp": ("timestamp", "time", "ts", "eventtime", "datetime", "date", "createdat", "eventdate", "unixreviewtime",
                  "时间", "时间戳", "发生时间", "事件时间", "行为时间", "日期", "操作时间", "下单时间", "创建时间"),
    "session_id": ("sessionid", "session", "visitid", "会话", "会话id", "会话编号"),
    "platform": ("platform", "device", "channel", "client", "平台", "渠道", "终端", "设备", "端"),
    "query": ("query", "searchquery", "keyword", "searchterm", "搜索词", "关键词", "查询词"),
    "quantity": ("quantity", "qty", "count", "amount", "数量", "件数", "购买数量"),
    "price": ("price", "unitprice", "saleprice", "售价", "价格", "单价", "成交价", "金额", "商品价格"),
    "title": ("title", "name", "itemname", "productname", "productdisplayname", "名称", "标题", "商品名称", "商品名", "商品标题", "品名", "产品名称"),
    "description": ("description", "desc", "描述", "简介", "商品描述", "详情"),
    "category": ("category", "categoryname", "categorypath", "cat", "categoryid", "类别", "类目", "品类", "分类", "商品类别", "商品分类", "商品类目"),
    "brand": ("brand", "brandname", "brandid", "品牌", "品牌名", "品牌名称", "商品品牌"),
    "in_stock": ("instock", "available", "availability", "库存", "有货", "是否有货", "在库"),
    "image": ("image", "imageurl", "picture", "图片", "主图", "商品图片"),
}  # fmt: skip
EVENT_NAMES = {
    "view": ("view", "pv", "browse", "pageview", "detail", "viewitem", "productview", "impressiondetail", "浏览", "查看", "浏览商品", "点击浏览", "看"),
    "search": ("search", "query", "搜索", "查询", "检索"),
    "favourite": ("favourite", "favorite", "fav", "like", "wish", "wishlist", "collect", "收藏", "关注", "喜欢", "加收藏"),
    "cart": ("cart", "addtocart", "addcart", "basket", "加购", "加购物车", "加入购物车", "购物车"),
    "purchase": ("purchase", "buy", "order", "pay", "paid", "transaction", "checkout", "购买", "下单", "支付", "付款", "成交", "买", "已购买"),
    "impression": ("impression", "exposure", "show", "exposed", "曝光", "展示", "推送"),
    "click": ("click", "clk", "tap", "点击"),
}  # fmt: skip
REQUIRED = {"events": ("user_id", "item_id", "event", "timestamp"), "items": ("item_id",), "users": ("user_id",)}
# Written as the numbers 20240105 or 1704448800, or as one of these.
TIME_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y/%m/%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M",
    "%Y年%m月%d日 %H:%M:%S", "%Y年%m月%d日 %H时%M分%S秒", "%Y.%m.%d %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%Y%m%d%H%M%S",
)  # fmt: skip
DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%Y年%m月%d日", "%Y%m%d", "%Y.%m.%d")
ZONED_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z")


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """Raises: StageError: no readable file, or a mapping that names a table, column or file that is not there."""
    if not data.exists():
        raise StageError(f"source.data: {data} is not there")
    mapping = settings.get("mapping")
    files = _files(data, mapping or {})
    frames = {path: _scan(path) for path in sorted(set(files.values()))}
    if mapping:
        _check(mapping, files, frames)
    else:
        mapping = {table: guess for table, path in files.items() if (guess := _guess(table, frames[path]))}
        if "events" not in mapping:
            raise StageError(
                f"{files['events']}: could not guess which columns are the shopper, the item and the time among "
                f"{', '.join(frames[files['events']].collect_schema())}; write source.mapping (see docs/data-scientist.md)"
            )
        shown = yaml.safe_dump(mapping, allow_unicode=True, sort_keys=False, default_flow_style=None, width=110)
        log.info("no mapping given; guessed this one (keep it as source.mapping, or in a file named by MAPPING=):\n%s", shown)
    tables = {}
    for table, rules in mapping.items():
        tables[table] = _translate(table, frames[files[table]], rules, shared=files[table] == files["events"])
    return tables


def _files(data: Path, mapping: dict) -> dict[str, Path]:
    """Which file each table is read from."""
    unknown = set(mapping) - set(TABLES)
    if unknown:
        raise StageError(f"source.mapping: unknown table {', '.join(sorted(unknown))}; it may have {', '.join(TABLES)}")
    if data.is_file():
        return dict.fromkeys(mapping or TABLES, data)
    readable = [f for f in sorted(data.iterdir()) if _suffix(f) in SUFFIXES]
    if not readable:
        raise StageError(f"source.data: no CSV, Parquet or JSON-lines file in {data}")
    files = {}
    for table in mapping or TABLES:
        wanted = mapping.get(table, {}).get("file")
        named = [f for f in readable if (f.name == wanted if wanted else f.name.split(".")[0] == table)]
        if not named and (wanted or len(readable) > 1):
            if not wanted and table != "events":
                continue
            raise StageError(f"source.data: no file {wanted or table + '.*'} in {data}")
        files[table] = named[0] if named else readable[0]
    return files


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _scan(path: Path) -> pl.LazyFrame:
    """The file's columns, all as text where the format has no types, and its row numbers."""
    suffix = _suffix(path)
    if suffix in (".parquet", ".pq"):
        frame = pl.scan_parquet(path)
    elif suffix in (".jsonl", ".ndjson", ".json"):
        frame = pl.scan_ndjson(path, infer_schema_length=None, ignore_errors=True)
    elif suffix in (".csv", ".tsv", ".txt"):
        text = _as_utf8(path)
        with text.open(encoding="utf-8-sig", newline="") as opened:
            header = opened.readline()
        frame = pl.scan_csv(
            text, separator=_separator(header), infer_schema=False, null_values="",
            truncate_ragged_lines=True, ignore_errors=True, encoding="utf8-lossy",
        )  # fmt: skip
    else:
        raise StageError(f"source.data: {path} is none of {', '.join(SUFFIXES)} (or the same with .gz)")
    frame = frame.rename(lambda column: column.strip().lstrip("\ufeff"))
    if not frame.collect_schema():
        raise StageError(f"{path} is empty")
    return frame.with_row_index(SOURCE_ROW, 1)


def _as_utf8(path: Path) -> Path:
    """The file itself if it is plain UTF-8, else a decoded copy among the temporary files, written piece by piece."""
    encoding = _encoding(path)
    if encoding == "utf-8" and path.suffix != ".gz":
        return path
    # It has no name, so it goes with the process, however that ends.
    copy = tempfile.TemporaryFile("w", encoding="utf-8")  # noqa: SIM115
    DECODED.append(copy)
    with _open(path) as raw, io.TextIOWrapper(raw, encoding, errors="replace") as text:
        while block := text.read(1 << 20):
            copy.write(block)
    copy.flush()
    return Path(f"/proc/self/fd/{copy.fileno()}")


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _encoding(path: Path) -> str:
    """utf-8 or gb18030 (which holds GBK and GB2312): the one that decodes more of the whole file."""
    import codecs

    with _open(path) as raw:
        head = raw.read(4)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    wrong = {}
    for encoding in ("utf-8", "gb18030"):
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        with _open(path) as raw:
            wrong[encoding] = sum(decoder.decode(block).count("\ufffd") for block in iter(lambda: raw.read(1 << 20), b""))
        if not wrong[encoding]:
            return encoding
    return min(wrong, key=wrong.get)


def _separator(header: str) -> str:
    try:
        return csv.Sniffer().sniff(header, delimiters=",;\t|").delimiter
    except csv.Error:
        return max(",;\t|", key=header.count)


def _check(mapping: dict, files: dict[str, Path], frames: dict[Path, pl.LazyFrame]) -> None:
    if "events" not in mapping:
        raise StageError("source.mapping: no table 'events'")
    for table, rules in mapping.items():
        allowed = {"columns", "values", "constants", "timezone", "file"}
        if not isinstance(rules, dict) or set(rules) - allowed or not isinstance(rules.get("columns"), dict):
            raise StageError(
                f"source.mapping.{table}: expected `columns:` and, optionally, {', '.join(sorted(allowed - {'columns'}))}"
            )
        there = set(frames[files[table]].collect_schema()) - {SOURCE_ROW}
        for canonical, column in rules["columns"].items():
            if str(column) not in there:
                raise StageError(
                    f"source.mapping.{table}.columns.{canonical}: {files[table].name} has no column {column!r}; "
                    f"it has {', '.join(sorted(there))}"
                )
        missing = [c for c in REQUIRED[table] if c not in rules["columns"] and c not in rules.get("constants", {})]
        if missing:
            raise StageError(f"source.mapping.{table}.columns: {', '.join(missing)} must be mapped (or given in `constants`)")
        unknown = [c for c in rules["columns"] if table != "users" and c not in (EVENTS if table == "events" else ITEMS)]
        if unknown:
            raise StageError(f"source.mapping.{table}.columns: unknown {', '.join(unknown)}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _guess(table: str, frame: pl.LazyFrame) -> dict | None:
    """A mapping for the table, or None if the file does not hold it."""
    names = [c for c in frame.collect_schema() if c != SOURCE_ROW]
    by_plain_name = {_plain(name): name for name in reversed(names)}
    wanted = {"events": EVENTS, "items": ITEMS, "users": {"user_id": None}}[table]
    columns = {}
    for canonical in wanted:
        found = next((by_plain_name[n] for n in COLUMN_NAMES.get(canonical, ()) if n in by_plain_name), None)
        if found and found not in columns.values():
            columns[canonical] = found
    sample = frame.select(names).head(2000).collect()
    if table == "events":
        rest = [n for n in names if n not in columns.values()]
        if "timestamp" not in columns:
            times = [n for n in rest if _times(sample.lazy(), n, "UTC").collect()["timestamp"].null_count() < len(sample) / 5]
            columns |= {"timestamp": times[0]} if times else {}
        if "event" not in columns:
            kinds = [n for n in rest if sample[n].dtype == pl.String and _known_kinds(sample[n]) > 0.5]
            columns |= {"event": kinds[0]} if kinds else {}
        if not {"user_id", "item_id", "timestamp"} <= set(columns):
            return None
        rules = {"columns": columns}
        if "event" not in columns:
            rules["constants"] = {"event": "purchase"}
            return rules
        spelled = frame.select(pl.col(columns["event"]).cast(pl.String).str.strip_chars().unique()).head(1000).collect()
        values = {v: kind for v in spelled.to_series().drop_nulls().sort() if (kind := _kind(v)) and kind != v}
        return rules | ({"values": {"event": values}} if values else {})
    if table == "users":
        if "user_id" not in columns or "item_id" in {c for c in COLUMN_NAMES if any(n in by_plain_name for n in COLUMN_NAMES[c])}:
            return None  # a shopper's column beside an item's is a log, not a table of shoppers
        return {"columns": columns | {n: n for n in names if n not in columns.values()}}
    return {"columns": columns} if "item_id" in columns else None


def _kind(value: str) -> str | None:
    plain = _plain(value)
    return next((kind for kind, names in EVENT_NAMES.items() if plain in names), None)


def _known_kinds(values: pl.Series) -> float:
    return values.drop_nulls().map_elements(lambda v: _kind(v) is not None, return_dtype=pl.Boolean).mean() or 0.0


def _translate(table: str, frame: pl.LazyFrame, rules: dict, shared: bool) -> pl.LazyFrame:
    columns, schema = rules["columns"], frame.collect_schema()
    zone = rules.get("timezone", "UTC")
    chosen = [pl.col(SOURCE_ROW)]
    for canonical, column in columns.items():
        value = pl.col(str(column))
        if canonical == "timestamp":
            continue
        if canonical in ("price", "quantity"):
            value = _number(value, schema[column])
        elif canonical == "in_stock":
            value = _yes(value, schema[column])
        elif schema[column] != pl.String:
            value = value.cast(pl.String, strict=False)
        if canonical in IDS:
            value = value.str.strip_chars().replace(["", *_placeholders(frame, str(column))], None)
        elif canonical in (*EVENTS, *ITEMS) and canonical not in ("price", "quantity", "in_stock"):
            value = value.str.strip_chars().replace(NULLS, None)
        chosen.append(value.alias(canonical))
    if "timestamp" in columns:
        frame = _times(frame, str(columns["timestamp"]), zone)
        chosen.append(pl.col("timestamp"))
    chosen += [pl.lit(value).alias(name) for name, value in rules.get("constants", {}).items()]
    frame = frame.select(chosen)
    for column, values in rules.get("values", {}).items():
        frame = frame.with_columns(pl.col(column).replace({str(k): str(v) for k, v in values.items()}))
    if table == "events":
        known = {v: kind for kind, names in EVENT_NAMES.items() for v in names}
        plain = pl.col("event").str.to_lowercase().str.replace_all(r"[\W_]+", "")
        canonical = pl.col("event").is_in(EVENT_KINDS)
        return frame.with_columns(
            pl.when(canonical).then("event").otherwise(plain.replace_strict(known, default=pl.col("event"))).alias("event")
        )
    if table == "items" and "category" in columns:
        frame = frame.with_columns(pl.col("category").str.replace_all(r"\s*[>/|＞]\s*", " > "))
    if shared:  # a log repeats an item on every row: the last value said of it holds
        key = "item_id" if table == "items" else "user_id"
        values = [pl.col(c).drop_nulls().last() for c in frame.collect_schema() if c != key and c != SOURCE_ROW]
        frame = frame.drop_nulls(key).group_by(key, maintain_order=True).agg(*values, pl.col(SOURCE_ROW).first())
        if "price" in columns:  # a price no shop asks for is the event's fault, not the item's
            frame = frame.with_columns(pl.when(pl.col("price") >= 0).then("price"))
    return frame


def _placeholders(frame: pl.LazyFrame, column: str) -> list[str]:
    """Words such as NA that stand for a missing id in this column, because a good share of its rows has them; a single item called NA
    keeps its name.
    """
    text = pl.col(column).cast(pl.String, strict=False).str.strip_chars()
    counts = frame.select(text.alias("word"), pl.len().alias("rows")).filter(pl.col("word").is_in(NULLS[1:]))
    found = counts.group_by("word").agg(share=pl.len() / pl.col("rows").first()).filter(pl.col("share") > MISSING).collect()
    if len(found):
        log.info("%s in column %s: taken for missing", ", ".join(sorted(found["word"])), column)
    return found["word"].to_list()


def _number(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind != pl.String:
        return value.cast(pl.Float64, strict=False)
    return value.str.replace_all(r"[^\d.eE+\-]", "").cast(pl.Float64, strict=False)


def _yes(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind == pl.Boolean:
        return value
    text = value.cast(pl.String, strict=False).str.strip_chars().str.to_lowercase()
    number = text.cast(pl.Float64, strict=False)
    return pl.when(text.is_in(YES)).then(True).when(text.is_in(NO)).then(False).otherwise(number > 0)


def _times(frame: pl.LazyFrame, column: str, zone: str) -> pl.LazyFrame:
    """Adds `timestamp`, UTC; null where the text is no time."""
    kind = frame.collect_schema()[column]
    value = pl.col(column)
    if isinstance(kind, pl.Datetime):
        local = value if kind.time_zone else value.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return frame.with_columns(timestamp=local.dt.convert_time_zone("UTC").cast(TIMESTAMP))
    if kind == pl.Date:
        return frame.with_columns(timestamp=value.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    text = value.cast(pl.String, strict=False).str.strip_chars()
    number = text.cast(pl.Float64, strict=False)
    # Epoch seconds of 1973 to 5138 have 9 to 11 digits, milliseconds 12 to 14, microseconds 15 to 17.
    micros = (
        pl.when(number.is_between(1e8, 1e11, closed="left")).then(number * 1e6)
        .when(number.is_between(1e11, 1e14, closed="left")).then(number * 1e3)
        .when(number.is_between(1e14, 1e17, closed="left")).then(number)
    )  # fmt: skip
    as_date = number.is_between(19700101, 21001231)
    epoch = pl.when(~as_date).then(micros.cast(pl.Int64, strict=False)).cast(TIMESTAMP)
    zoned_text = text.str.replace(r"Z$", "+00:00")
    zoned = [zoned_text.str.to_datetime(f, strict=False, time_unit="us", time_zone="UTC") for f in ZONED_FORMATS]
    naive = [text.str.to_datetime(f, strict=False, time_unit="us") for f in TIME_FORMATS]
    naive += [text.str.to_date(f, strict=False).cast(pl.Datetime("us")) for f in DATE_FORMATS]
    local = [n.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC") for n in naive]
    return frame.with_columns(timestamp=pl.coalesce(epoch, *zoned, *local))
