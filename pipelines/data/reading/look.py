"""A look at the first records of a file: what its columns hold by their names and values, and what the file is."""

import re
from collections import Counter
from functools import cached_property
from pathlib import Path

import polars as pl

from pipelines.data.reading import records
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.names import (
    BASKETS,
    COLUMN_NAMES,
    ITEM_KEYS,
    NULLS,
    OTHER_TIMES,
    PERSONS,
    PHONES,
    kind_of_flag,
    plain,
)
from pipelines.data.reading.text import ELEMENT, RECORD
from pipelines.data.reading.values import DAYS, FORMS, is_compact, tidy

SAMPLE = 20_000  # records of a file that are looked at
MOST, SOME = 0.8, 0.3  # share of a column's texts that must be times; where it is called as times are
NAME = r"^\p{Lu}[\p{L}'.-]+(?: \p{Lu}[\p{L}'.-]*)+$"  # Jane Roe
EMPTY = 0.2  # share of empty cells from which a column does not tell of every row
CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s*[AaPp][Mm])?")
SEQUENCES = ("ordernumber", "orderno", "sequence", "position", "step", "rank", "addtocartorder", "linenumber")
ARMS = ("segment", "treatment", "group", "variant", "arm", "exposed", "testgroup", "version", "campaign")
OUTCOMES = (
    "visit",
    "visits",
    "conversion",
    "converted",
    "spend",
    "click",
    "clicks",
    "revenue",
    "sumgamerounds",
    "retention1",
    "retention7",
    "purchase",
    "response",
)


class Look:
    """The first records of files of one form, with a row for each element of the list `explode`."""

    def __init__(self, paths: list[Path], explode: str | None = None):
        self.paths, self.explode = paths, explode
        self.records = records.read(next((p for p in paths if p.stat().st_size), paths[0]), Format(), explode, SAMPLE)
        frame = self.records.frame.drop(RECORD, ELEMENT, strict=False).collect(engine="streaming")
        text = [pl.col(c).cast(pl.String, strict=False).str.strip_chars().replace(NULLS, None) for c in frame.columns]
        self.frame = frame.select(text) if frame.width else frame
        self.columns = self.frame.columns

    def named(self, canonical: str, more: tuple[str, ...] = ()) -> list[str]:
        """Columns that are called so, the best name first; of nested ones the last part counts too."""
        names = (*COLUMN_NAMES[canonical], *more)
        found = [c for name in names for c in self.columns if plain(c) == name]
        found += [c for name in names for c in self.columns if "." in c and plain(c.rpartition(".")[2]) == name]
        return list(dict.fromkeys(found))

    @property
    def items(self) -> list[str]:
        """Columns that may say which item it is; those of the exploded list first."""
        named = self.named("item_id")
        inside = [c for c in named if self.is_inside(c)]
        whole = [self.explode] if self.explode in self.columns else []
        return list(dict.fromkeys([*inside, *whole, *named]))

    def is_inside(self, column: str) -> bool:
        """Does the column come from the exploded list?"""
        return self.explode is not None and (column == self.explode or column.startswith(self.explode + "."))

    @property
    def lists(self) -> list[str]:
        """Columns that hold lists: told so by Parquet, written as JSON, or called as baskets are and parted by marks."""
        written = [c for c in self.columns if self.share(c, r"^\s*\[") > 0.5]
        parted = [c for c in self.columns if plain(c) in BASKETS and self.share(c, r"[^\s;|,][;|, ][^\s;|,]") > MOST]
        return list(dict.fromkeys([*self.records.lists, *written, *parted]))

    def given(self, column: str) -> pl.Series:
        return self.frame[column].drop_nulls()

    def empty(self, column: str) -> float:
        return self.frame[column].null_count() / max(len(self.frame), 1)

    def share(self, column: str, pattern: str) -> float:
        values = self.given(column)
        return float(values.str.contains(pattern).mean() or 0.0) if len(values) else 0.0

    def is_number(self, column: str) -> bool:
        return self.share(column, r"^[^\d]{0,6}[-(]?\d[\d.,'’\s]*[)-]?[^\d]{0,6}$") > 0.5

    def is_mail(self, column: str) -> bool:
        return self.share(column, r"^[^@\s]+@[^@\s]+\.[^@\s]+$") > 0.5

    def is_phone(self, column: str) -> bool:
        return plain(column.rpartition(".")[2]) in PHONES and self.share(column, r"^\+?[\d\s()./-]{7,20}$") > 0.5

    def is_flag(self, column: str) -> bool:
        """Is it called as an event is, and does it say whether there was one?"""
        return kind_of_flag(column) is not None and self.share(column, r"(?i)^(?:[01](?:\.0)?|true|false|yes|no)$") == 1

    def is_person(self, column: str) -> bool:
        return self.share(column, NAME) > 0.8 and plain(column.rpartition(".")[2]) in (
            "customer",
            "user",
            "buyer",
            "member",
            "shopper",
            *PERSONS,
        )

    @property
    def sequence(self) -> list[str]:
        """Columns that number what a shopper did."""
        return [c for name in SEQUENCES for c in self.columns if plain(c) == name and self.is_number(c)]

    @cached_property
    def times(self) -> dict[str, str]:
        """Columns that hold times: date, clock, or both ("time")."""
        found, called = {}, self.named("timestamp")
        for column in self.columns:
            values = self.given(column).unique(maintain_order=True).head(200)
            if not len(values):
                continue
            tidied = values.to_frame("t").select(tidy(pl.col("t")))["t"].to_list()
            looks = Counter(_time_look(text) for text in tidied)
            look, count = max(
                ((look, n) for look, n in looks.items() if look and (look != "days" or column in called)),
                key=lambda found: found[1],
                default=(None, 0),
            )
            if count > (SOME if column in called else MOST) * len(tidied):
                found[column] = "time" if look == "days" else look
        return found


def _time_look(text: str) -> str | None:
    form = next((found for pattern in FORMS if (found := pattern.fullmatch(text))), None)
    if form:
        return "time" if form.groupdict().get("H") else "date"
    digits = str(int(float(text))) if re.fullmatch(r"\d\.\d+[eE]\+?\d+", text) else text.partition(".")[0]
    if digits.isdigit():
        if len(digits) in (8, 12, 14) and is_compact(digits):
            return "date" if len(digits) == 8 else "time"
        if len(digits) == 5 and DAYS[0] <= int(digits) < DAYS[1]:
            return "days"
        scale = {10: 1, 13: 1e3, 16: 1e6, 19: 1e9}.get(len(digits))
        return "time" if scale and 7e8 < int(digits) / scale < 2.1e9 else None
    if CLOCK.fullmatch(text):
        return "clock"
    return None


def is_other_time(column: str) -> bool:
    return any(part in plain(column) for part in OTHER_TIMES)


def table_of(look: Look) -> str:
    """What a file may hold: events, items, users, orders (without items), lines (of orders), or something else."""
    user, item, order = look.named("user_id"), look.items, look.named("order_id")
    time = bool(set(look.times) & {c for c in look.columns if not is_other_time(c)})
    if user and item and time:
        return "events"
    if item and order and not user:
        return "lines"
    if user and order and not item and (time or look.sequence):
        return "orders"
    if item and not user:
        return "items"
    if user and not item:
        return "users"
    if set(map(plain, look.columns)) & set(ITEM_KEYS) and (look.named("title") or look.named("category")):
        return "items"
    return "other"


def in_words(look: Look) -> str:
    """What a file is, and what it lacks of a log of events."""
    words = [plain(c.rpartition(".")[2]) for c in look.columns]
    user, item = look.named("user_id"), look.items
    time = bool([c for c in look.times if not is_other_time(c)])
    arms = [c for c, word in zip(look.columns, words, strict=True) if word in ARMS]
    outcomes = [c for c, word in zip(look.columns, words, strict=True) if word in OUTCOMES]
    missing = [name for name, there in (("shopper", user), ("item", item), ("time", time)) if not there]
    if any("propensity" in word for word in words) and item:
        what = f"impressions logged with the chance that they had ({', '.join(outcomes) or 'no outcome'})"
    elif arms and len(outcomes) > 1 and not item:
        what = f"an experiment's outcomes ({', '.join(outcomes)} by {arms[0]})"
    elif user and time and item:
        what = "a log of events"
    elif user and time:
        what = "what shoppers did or paid and when, good for their value over time but not for recommendations"
    elif user and item:
        what = "a log of events without times"
    elif item and not user:
        what = "a table of items" if not time else "a log of items"
    elif user:
        what = "a table of shoppers"
    else:
        what = "a table"
    return what + (f"; it has no {' and no '.join(missing)}" if missing else "")


def looked_at(paths: list[Path]) -> Look:
    """A look at files; with the list exploded that says which items they were, where nothing else says it of all rows."""
    look = Look(paths)
    if look.items and look.empty(look.items[0]) <= EMPTY:
        return look
    for column in look.lists:
        exploded = Look(paths, column)
        if any(map(exploded.is_inside, exploded.items)):
            return exploded
    return look
