"""From records and a mapping to the canonical tables.

In: the files of a shop, the typed mapping. Out: tables as lazy frames, what could not be read, what was left out on purpose and why. A first pass
over the columns that the mapping names counts what their texts look like; values.py decides; a second pass, the caller's, reads.
"""

import difflib
import hashlib
import hmac
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import polars as pl

from pipelines.data.reading import records
from pipelines.data.reading.mapping import Column, FirstOf, Joined, Mapping, Table
from pipelines.data.reading.names import NO, NULLS, PERSONS, YES, kind_of, plain
from pipelines.data.reading.text import ELEMENT, RECORD, UNREAD_SCHEMA, Records, encoding_of_all
from pipelines.data.reading.values import (
    EXAMPLES,
    Times,
    id_facts,
    id_of,
    number_facts,
    number_of,
    shape_of,
    style_facts,
    tidy,
    time_of,
    times_of,
)
from pipelines.data.tables import EVENT_KINDS, KNOWN_AGAIN_BY, SOURCE_FILE, SOURCE_ROW, TIMESTAMP, UNREAD
from pipelines.stage import StageError

IDS = ("user_id", "item_id", "event_id", "session_id", "order_id", "visitor_id", *KNOWN_AGAIN_BY)
NUMBERS = ("price", "quantity", "cost", "stock", "duration")
HEAD = 10_000  # rows by which the times of a column are looked at first
SHAPES = 400  # shapes of times that one column may have
UNITS = ("s", "ms", "us", "ns")
ELSE = "*"  # among `values`: every value that is not named
ORDER_FROM = 946_684_800_000_000  # microseconds: where an order without times begins, 2000-01-01


@dataclass
class Source:
    """A table's files, read: one frame with SOURCE_ROW, and SOURCE_FILE where there are several."""

    frame: pl.LazyFrame
    columns: list[str]
    files: list[Records]


@dataclass
class Reading:
    """What was made of a shop's files."""

    tables: dict[str, pl.LazyFrame] = field(default_factory=dict)
    unread: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=UNREAD_SCHEMA))
    left_out: dict[str, int] = field(default_factory=dict)  # rows of the events, by reason
    records: int = 0  # in the events' files
    rows: int = 0  # that they tell, those left out among them
    notes: list[str] = field(default_factory=list)  # how it is read
    doubts: list[str] = field(default_factory=list)  # what may be meant otherwise
    questions: list[str] = field(default_factory=list)


def translate(
    data: Path, mapping: Mapping, files: dict[str, list[Path]], key: bytes | None = None, limit: int | None = None
) -> Reading:
    """All tables of the mapping.

    Args:
        files: of each table. key: of `hash`. limit: look at so many records a file only.

    Raises:
        StageError: a file, a column or a value cannot be used. Questions are left to the caller.
    """
    reading, sources = Reading(), {}
    for name, table in mapping.tables().items():
        shared = files[name] == files["events"]
        rules = table if not shared or name == "events" else table.model_copy(update={"format": mapping.events.format, "explode": mapping.events.explode,
                                                                               "join": table.join or mapping.events.join})  # fmt: skip
        same = (tuple(files[name]), rules.format, rules.explode, tuple(j.model_dump_json() for j in rules.join))
        if same not in sources:
            sources[same] = source(files[name], rules, data, reading.notes, limit)
        reading.tables[name] = _Translation(name, rules, sources[same], key, reading).table()
        if shared and name != "events":
            reading.tables[name] = _last_said(name, reading.tables[name])
        elif name != "events":
            reading.unread = pl.concat([reading.unread, *(r.unread for r in sources[same].files)])
    return reading


def source(paths: list[Path], table: Table, folder: Path, notes: list[str], limit: int | None = None) -> Source:
    """The files of one table as one frame, joined with others where the mapping says so."""
    form = table.format
    if form.encoding is None and (encoding := encoding_of_all(paths, limit)):
        form = form.model_copy(update={"encoding": encoding})
        notes.append(f"the files are read as {encoding}")
    empty = [path for path in paths if path.stat().st_size == 0] if len(paths) > 1 else []
    notes += [f"{path.name} is empty" for path in empty]
    read = [records.read(path, form, table.explode, limit) for path in paths if path not in empty]
    if not any(one.count for one in read):
        raise StageError(f"{', '.join(path.name for path in paths[:5])}: there is a header and no row")
    for one in read:
        notes += one.notes
    notes += _forms(read)
    frames, before = [], 0
    for one in read:
        frame = one.frame.with_columns((pl.col(RECORD) + before).cast(pl.UInt32).alias(SOURCE_ROW)).drop(RECORD)
        named = len(read) > 1 or SOURCE_FILE in table.columns.values()
        frames.append(frame.with_columns(pl.lit(_below(one.path, folder)).alias(SOURCE_FILE)) if named else frame)
        before += one.count
    columns = list(dict.fromkeys(column for one in read for column in one.columns))
    if len({tuple(one.columns) for one in read}) > 1:
        extra = [
            f"{one.path.name} lacks {', '.join(c for c in columns if c not in one.columns)}"
            for one in read
            if set(columns) - set(one.columns)
        ]
        notes.append(f"the files differ in their columns: {'; '.join(extra[:3])}")
    frame = pl.concat(frames, how="diagonal_relaxed") if len(frames) > 1 else frames[0]
    for join in table.join:
        frame, columns = _joined(frame, columns, join, folder, table, notes)
    return Source(frame, columns, read)


def _below(path: Path, folder: Path) -> str:
    """A file's name, with the folders between."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) and path != folder else path.name


def _forms(read: list[Records]) -> list[str]:
    """The forms that the files have, in words."""
    files: dict[str, list[str]] = {}
    for one in read:
        words = {"header": lambda header: "with a header" if header else "without a header", "form": str}
        said = ", ".join(words.get(name, lambda value, name=name: f"{name} {value!r}")(value) for name, value in one.form.items())
        files.setdefault(said, []).append(one.path.name)
    return [f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {said}" for said, names in files.items()]


def _joined(frame, columns: list[str], join, folder: Path, table: Table, notes: list[str]) -> tuple[pl.LazyFrame, list[str]]:
    """Adds the columns of another file, in which the key stands once."""
    path = (folder if folder.is_dir() else folder.parent) / join.file
    if not path.is_file():
        raise StageError(f"source.mapping: join names {join.file}, which is not in {path.parent}")
    other = records.read(path, table.format)
    notes += other.notes
    on = {join.on: join.on} if isinstance(join.on, str) else join.on
    for here, there in on.items():
        if here not in columns:
            raise StageError(f"source.mapping: join on {here!r}: the file has {', '.join(columns)}")
        if there not in other.columns:
            raise StageError(f"source.mapping: join on {there!r}: {join.file} has {', '.join(other.columns)}")
    right = other.frame.drop(RECORD)
    twice = right.group_by(list(on.values())).len().filter(pl.col("len") > 1).head(1).collect()
    if len(twice):
        raise StageError(
            f"source.mapping: join: {join.file} has {list(on.values())} = {twice.row(0)[:-1]} on {twice['len'][0]} rows; it must stand once"
        )
    added = [c for c in other.columns if c not in columns and c not in on.values()]
    joined = frame.join(
        right.select(*on.values(), *added), left_on=list(on), right_on=list(on.values()), how="left", maintain_order="left"
    )
    return joined, [*columns, *added]


class _Translation:
    """One table: what its columns look like, and what follows from it."""

    def __init__(self, name: str, rules: Table, found: Source, key: bytes | None, reading: Reading):
        self.name, self.rules, self.source, self.key, self.reading = name, rules, found, key, reading
        self.where = f"source.mapping.{name}"
        self.left_out_before = 0  # rows that are gone before the texts are looked at
        if rules.hash and key is None:
            raise StageError(
                f"{self.where}.hash: set source.hash_key to a file outside the checkout that holds a secret (head -c 32 /dev/urandom | base64)"
            )
        personal = [
            c
            for c, spec in rules.columns.items()
            if name == "users" and {plain(c), plain(_said(spec))} & set(PERSONS) and c not in rules.hash
        ]
        for column in personal:
            reading.notes.append(
                f"users.{column} tells who the person is: it is not collected (hash: [{column}] keeps a keyed hash)"
            )
        self.texts = {column: self._text(spec, column) for column, spec in rules.columns.items() if column not in personal}

    def table(self) -> pl.LazyFrame:
        frame = self._filtered(self.source.frame)
        facts = self._facts(frame)
        chosen, unread = [SOURCE_ROW, *([SOURCE_FILE] if SOURCE_FILE in frame.collect_schema() else [])], []
        for column, text in self.texts.items():
            value = self._value(column, text, facts)
            chosen.append(value.alias(column))
            if self._loses(column, facts):
                lost = value.is_null() & (text.is_not_null() if column in IDS else ~text.is_in(NULLS))
                unread.append(pl.when(lost).then(pl.format("{}: {}", pl.lit(column), text)))
        if self.rules.time.order and "timestamp" not in self.texts:
            chosen.append(self._order().alias("timestamp"))
        chosen += [pl.lit(value).alias(column) for column, value in self.rules.constants.items()]
        if unread:
            chosen.append(pl.concat_str(unread, separator="; ", ignore_nulls=True).replace("", None).alias(UNREAD))
        frame = frame.select(chosen)
        if self.name == "events":
            frame = self._without_what_is_left_out(frame, facts)
            frame = self._returns(frame)
        for column in self.rules.hash:
            frame = frame.with_columns(pl.col(column).map_batches(lambda s: _hashed(s, self.key), pl.String, is_elementwise=True))
        if self.name == "events":
            self._count(facts)
        return frame

    def _loses(self, column: str, facts: dict) -> bool:
        """May some of the column's texts not read?"""
        if column in NUMBERS:
            return facts[f"{column}.plain"] < facts[f"{column}.given"]
        if column == "timestamp":
            return facts["times.lost"] > 0
        return column in IDS and facts[f"{column}.scientific"] > 0

    # Columns

    def _text(self, spec: Column, column: str) -> pl.Expr:
        """The column's text, stripped; null where it is empty."""
        if isinstance(spec, FirstOf):
            *others, last = (self._text(one, column) for one in spec.first_of)
            return pl.coalesce([*(pl.when(~text.is_in(NULLS)).then(text) for text in others), last])
        if isinstance(spec, Joined):
            return pl.concat_str([self._text(one, column) for one in spec.join], separator=" ", ignore_nulls=False)
        name = self._name(spec, column)
        kind = self.source.frame.collect_schema()[name]
        value = pl.col(name)
        if kind == pl.Boolean:
            value = pl.when(value).then(pl.lit("true")).when(~value).then(pl.lit("false"))
        elif isinstance(kind, pl.Datetime):
            value = (value.dt.convert_time_zone("UTC") if kind.time_zone else value).dt.to_string(
                "%Y-%m-%d %H:%M:%S%.6f" + ("%z" if kind.time_zone else "")
            )
        elif kind != pl.String:
            value = value.cast(pl.String, strict=False)
        value = value.str.strip_chars()
        return pl.when(value != "").then(value)

    def _name(self, spec: str | int, column: str) -> str:
        """The file's own name of a column: a name, a dotted path, or a position where there is no header."""
        name, there = str(spec), self.source.columns
        if name in there or (name == SOURCE_FILE and name in self.source.frame.collect_schema()):
            return name
        inside = [c for c in there if c.startswith(name + ".")]
        if inside:
            raise StageError(f"{self.where}.columns.{column}: {name} is an object; name one of {', '.join(inside)}")
        near = difflib.get_close_matches(name, there, 1)
        files = ", ".join(r.path.name for r in self.source.files[:3])
        meant = f"; did you mean {near[0]}?" if near else ""
        raise StageError(f"{self.where}.columns.{column}: {files} has no column {name!r}{meant}; it has {', '.join(there)}")

    def _value(self, column: str, text: pl.Expr, facts: dict) -> pl.Expr:
        notes = self.reading.notes
        if column in IDS:
            return id_of(column, text, facts, notes)
        if column in NUMBERS:
            return number_of(column, text, facts, self.rules.format.decimal, self.reading.doubts)
        if column == "timestamp":
            return time_of(text, facts["times"], self.rules.time.timezone)
        if column == "in_stock":
            plain, number = text.str.to_lowercase(), text.cast(pl.Float64, strict=False)
            return pl.when(plain.is_in(YES)).then(True).when(plain.is_in(NO)).then(False).otherwise(number > 0)
        values = self.rules.values.get(column)
        text = text.replace(NULLS, None)
        if column == "event" and self.name == "events":
            return text  # named below, where what is left out is counted
        if column == "category" and self.name == "items":
            text = text.str.replace_all(r"\s*[>/|＞]\s*", " > ")
        return text.replace({_word(k): None if v is None else str(v) for k, v in values.items()}) if values else text

    def _order(self) -> pl.Expr:
        """Times that tell nothing but the order: seconds by the rank of what the mapping names, of each shopper."""
        by = [pl.col(self._name(spec, "order")).cast(pl.Float64, strict=False) for spec in self.rules.time.order]
        user = self.texts["user_id"]
        rank = pl.struct(by).rank("dense").over(user)
        return (ORDER_FROM + rank.cast(pl.Int64) * 1_000_000).cast(TIMESTAMP)

    # What is counted first

    def _facts(self, frame: pl.LazyFrame) -> dict:
        counts: dict[str, pl.Expr] = {"rows": pl.len()}
        for column, text in self.texts.items():
            if column in IDS:
                counts |= id_facts(column, text)
            elif column in NUMBERS:
                counts |= number_facts(column, text)
        times = None
        if "timestamp" in self.texts:
            times = self._times_of_the_head(frame)
            counts["times.lost"] = self._lost_times(times)
        facts = _counted(frame, counts)
        written = {}
        for column in NUMBERS:
            if column in self.texts and (self.rules.format.decimal == "," or facts[f"{column}.plain"] < facts[f"{column}.given"]):
                written |= style_facts(column, self.texts[column])
        facts |= _counted(frame, written) if written else {}
        if times is not None:
            if facts["times.lost"] or times.ambiguous:
                times = times_of(self._shapes(frame), self.rules.time)
                facts |= _counted(frame, {"times.lost": self._lost_times(times)})
            facts["times"] = times
            self._say_times(times, facts["rows"])
        if self.name == "events" and "event" in self.texts:
            spelled = (
                frame.select(event=self.texts["event"].replace(NULLS, None)).group_by("event").len().collect(engine="streaming")
            )
            facts["events"] = dict(spelled.sort("len", descending=True).iter_rows())
        return facts

    def _times_of_the_head(self, frame: pl.LazyFrame) -> Times:
        """How the first times are read, which is most often how all are."""
        head = frame.select(text=self.texts["timestamp"]).head(HEAD).collect()
        times = times_of(self._shapes(head.lazy(), pl.col("text")), self.rules.time)
        times.tidied = head.select((tidy(pl.col("text")) != pl.col("text")).any()).item() or False
        return times

    def _lost_times(self, times: Times) -> pl.Expr:
        text = self.texts["timestamp"]
        return (~text.is_in(NULLS) & time_of(text, times, self.rules.time.timezone).is_null()).sum()

    def _shapes(self, frame: pl.LazyFrame, text: pl.Expr | None = None) -> pl.DataFrame:
        """The shapes of a column's times (see values.times_of).

        Raises:
            StageError: the column holds texts of all shapes, so no times.
        """
        text = tidy(self.texts["timestamp"] if text is None else text)
        given = frame.select(text=text).filter(pl.col("text").is_not_null() & ~pl.col("text").is_in(NULLS))
        date = r"^(\d{1,2})[-/.](\d{1,2})[-/.](?:\d{4}|\d{2})(?:\D|$)"
        shapes = given.group_by(shape=shape_of(pl.col("text"))).agg(
            pl.len(), least=pl.col("text").min(), most=pl.col("text").max(), first=pl.col("text").first(), rows=pl.col("text").head(EXAMPLES),
            one=pl.col("text").str.extract(date, 1).cast(pl.Int32).max(), two=pl.col("text").str.extract(date, 2).cast(pl.Int32).max(),
        ).collect(engine="streaming").sort("len", "shape", descending=[True, False])  # fmt: skip
        if len(shapes) > SHAPES:
            asked = _said(self.rules.columns["timestamp"])
            raise StageError(
                f"{self.where}.columns.timestamp: {asked} holds no times, but such as {', '.join(shapes['first'].head(EXAMPLES))}"
            )
        return shapes

    def _say_times(self, times: Times, rows: int) -> None:
        """Notes how times are read; asks where day and month cannot be told apart.

        Raises:
            StageError: no time could be read.
        """
        asked = _said(self.rules.columns["timestamp"])
        if times.question:
            answers = 'time: {format: "%d/%m/%Y %H:%M"} or {format: "%m/%d/%Y %H:%M"}, as the times are written'
            self.reading.questions.append(f"{asked}: {times.question} Say so with {answers}")
        elif rows and times.unread and not times.readers:
            counted = all(text.lstrip("-").isdigit() for text in times.unread)
            way = "say how they are written with time: {format: ...}"
            if counted:
                way = f"if they number the orders of a shopper say time: {{order: [{asked}]}} in the place of columns.timestamp"
            found = ", ".join(times.unread[:EXAMPLES])
            raise StageError(
                f"{self.where}.columns.timestamp: {asked} holds no times that can be read, but such as {found}; {way}"
            )
        elif times.unread:
            self.reading.doubts.append(f"{asked}: not read as times: {', '.join(times.unread[:EXAMPLES])}")
        zoned = any("z" in reader or reader in UNITS for _, reader in times.readers)
        zone = "" if zoned else f", in the time zone {self.rules.time.timezone}"
        self.reading.notes += [f"{asked}: read as {reader}{zone}" for _, reader in times.readers]

    # Rows

    def _filtered(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that tell of an item, where lists are exploded, and that `where` lets through; columns of numbers are numbers to it."""
        if self.rules.explode and "item_id" in self.texts:
            told = pl.col(ELEMENT).is_not_null() | self.texts["item_id"].is_not_null()
            self._leave_out(f"no {self.rules.explode}", frame.select((~told).sum()).collect(engine="streaming").item())
            frame = frame.filter(told)
        if not self.rules.where:
            return frame
        try:
            condition = pl.sql_expr(self.rules.where)
            named = list(condition.meta.root_names())
        except pl.exceptions.PolarsError as error:
            raise StageError(f"{self.where}.where: {str(error).splitlines()[0]}") from error
        missing = [c for c in named if c not in self.source.columns]
        if missing:
            raise StageError(f"{self.where}.where: no column {missing[0]!r}; the file has {', '.join(self.source.columns)}")
        head = frame.select(named).head(2000).collect()
        texts = [c for c in named if head[c].dtype == pl.String]
        numbers = [
            c
            for c in texts
            if head[c].drop_nulls().len() and head[c].drop_nulls().cast(pl.Float64, strict=False).null_count() == 0
        ]
        kept = frame.with_columns([pl.col(c).alias(f"\0{c}") for c in numbers]).with_columns(
            pl.col(numbers).cast(pl.Float64, strict=False)
        )
        try:
            counted = kept.select(pl.len(), condition.fill_null(False).sum().alias("kept")).collect(engine="streaming").row(0)
        except pl.exceptions.PolarsError as error:
            raise StageError(f"{self.where}.where: {str(error).splitlines()[0]}") from error
        self._leave_out(f"where {self.rules.where}", counted[0] - counted[1])
        kept = kept.filter(condition.fill_null(False)).with_columns([pl.col(f"\0{c}").alias(c) for c in numbers])
        return kept.drop([f"\0{c}" for c in numbers])

    def _leave_out(self, reason: str, rows: int) -> None:
        if self.name == "events" and rows:
            self.reading.left_out[reason] = rows
            self.left_out_before += rows

    def _without_what_is_left_out(self, frame: pl.LazyFrame, facts: dict) -> pl.LazyFrame:
        """Events by their canonical names, without those that the mapping leaves out; the rest keep the shop's word, for the check to find."""
        if "event" not in self.texts:
            return frame
        said = {_word(k): v for k, v in self.rules.values.get("event", {}).items()}
        names: dict[str, str | None] = {}
        for word in facts["events"]:
            if word is None:
                continue
            if word in said or ELSE in said:
                names[word] = said.get(word, said.get(ELSE)) if word in said or word not in EVENT_KINDS else word
            elif word not in EVENT_KINDS:
                names[word] = kind_of(word) or word
        out = [word for word, kind in names.items() if kind is None]
        for word in out:
            self.reading.left_out[f"event {word}"] = facts["events"][word]
        frame = frame.filter(~pl.col("event").is_in(out) | pl.col("event").is_null()) if out else frame
        renamed = {word: kind for word, kind in names.items() if kind is not None and kind != word}
        return frame.with_columns(pl.col("event").replace(renamed)) if renamed else frame

    def _returns(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """A purchase of a negative quantity takes one back."""
        if "quantity" not in frame.collect_schema():
            return frame
        back = (pl.col("event") == "purchase") & (pl.col("quantity") < 0)
        event = pl.when(back).then(pl.lit("return")).otherwise(pl.col("event"))
        quantity = pl.when(event == "return").then(pl.col("quantity").abs()).otherwise(pl.col("quantity"))
        return frame.with_columns(event.alias("event"), quantity.alias("quantity"))

    def _count(self, facts: dict) -> None:
        self.reading.records = sum(r.count for r in self.source.files)
        self.reading.rows = facts["rows"] + self.left_out_before
        self.reading.unread = pl.concat([self.reading.unread, *(r.unread for r in self.source.files)])
        if not self.rules.explode and self.reading.rows != self.reading.records - sum(len(r.unread) for r in self.source.files):
            self._tell_where_they_part()

    def _tell_where_they_part(self) -> None:
        """Raises StageError: Polars and the records that were counted differ; it names the first record."""
        before, expected = 0, []
        for one in self.source.files:
            unread = set(one.unread["record"])
            expected += [(before + i, one.path.name, i) for i in range(1, one.count + 1) if i not in unread]
            before += one.count
        found = self.source.frame.select(SOURCE_ROW).collect(engine="streaming")[SOURCE_ROW].sort().to_list()
        pairs = zip_longest(expected, found, fillvalue=(None, self.source.files[-1].path.name, None))
        _, name, record = next((e for e, row in pairs if e[0] != row), expected[-1] if expected else (0, "", 0))
        raise StageError(
            f"{name}: {len(expected):,} records are there, but {len(found):,} were read; they part at record {record}. This is a fault of Pushcart's: "
            "please report it with the form of the file"
        )


def _counted(frame: pl.LazyFrame, counts: dict[str, pl.Expr]) -> dict:
    return frame.select(**counts).collect(engine="streaming").row(0, named=True)


def _last_said(name: str, table: pl.LazyFrame) -> pl.LazyFrame:
    """One row an item or shopper of a log that repeats them on every row: the last value said of each holds, of prices the median."""
    key = {"items": "item_id", "users": "user_id"}[name]
    columns = [c for c in table.collect_schema() if c not in (key, SOURCE_ROW, SOURCE_FILE, UNREAD)]
    values = [pl.col(c).median() if c in ("price", "cost") else pl.col(c).drop_nulls().last() for c in columns]
    if "price" in columns:  # a price no shop asks for is the event's fault, not the item's
        table = table.with_columns(pl.when(pl.col("price") >= 0).then("price"))
    return table.drop_nulls(key).group_by(key, maintain_order=True).agg(*values, pl.col(SOURCE_ROW).first())


def _said(spec: Column) -> str:
    """A column of the mapping in words."""
    return (
        " and ".join(map(str, spec.join if isinstance(spec, Joined) else spec.first_of))
        if isinstance(spec, Joined | FirstOf)
        else str(spec)
    )


def _word(key: object) -> str:
    """A key of `values` as the file writes it."""
    return str(key).lower() if isinstance(key, bool) else str(key)


def _hashed(values: pl.Series, key: bytes) -> pl.Series:
    """Keyed hashes (HMAC-SHA256, 16 bytes) of the texts in lower case, without blanks around: the same of one address, however it is written."""
    known: dict[str, str] = {}

    def one(text: str | None) -> str | None:
        if text is None:
            return None
        if text not in known:
            known[text] = hmac.new(key, text.strip().lower().encode(), hashlib.sha256).hexdigest()[:32]
        return known[text]

    return pl.Series(values.name, [one(v) for v in values], dtype=pl.String)


def hash_key(path: str | None, checkout: Path) -> bytes | None:
    """The secret of `hash`, from a file outside the checkout.

    Raises:
        StageError: there is no such file, it lies inside, or it is too short.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise StageError(f"source.hash_key: {file} is not there")
    if file.resolve().is_relative_to(checkout.resolve()):
        raise StageError(f"source.hash_key: {file} lies inside the checkout; put it where no copy of the data goes")
    secret = file.read_bytes().strip()
    if len(secret) < 16:
        raise StageError(
            f"source.hash_key: {file} holds {len(secret)} bytes; take 32 random ones (head -c 32 /dev/urandom | base64)"
        )
    return secret
