"""A mapping for files of which nothing is told: what each column is taken for and why, what else it could be, what is lost, what must be asked.

In: the first records of each file. Out: a proposal. What would be wrong without a word if guessed wrongly is asked, with the line of the mapping
that answers.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from pipelines.data.privacy import PERSONAL
from pipelines.data.reading import records
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.names import (
    COLUMN_NAMES,
    ITEM_KEYS,
    NULLS,
    OTHER_TIMES,
    PERSONS,
    RATINGS,
    STATUSES,
    kind_of,
    plain,
)
from pipelines.data.reading.values import DAYS, FORMS, _is_compact, tidy
from pipelines.stage import StageError

SAMPLE = 20_000  # records of a file that are looked at
CODES = 20  # different whole numbers that may be codes of events
CONSTANT = 0.9  # share of rows on which a title must say what it mostly says of the item
MOST, SOME = 0.8, 0.3  # share of a column's texts that must be times; where it is called as times are
EMPTY = 0.2  # share of empty cells from which another column may be the shopper
NAME = r"^\p{Lu}[\p{L}'.-]+(?: \p{Lu}[\p{L}'.-]*)+$"  # Jane Roe
CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s*[AaPp][Mm])?")
EVENTS_OWN = (
    "event_id",
    "session_id",
    "order_id",
    "platform",
    "query",
    "duration",
    "quantity",
    "price",
    "currency",
    "visitor_id",
)
ITEMS_OWN = ("title", "description", "category", "brand", "price", "cost", "in_stock", "stock", "image")
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


@dataclass
class Reason:
    """Why a column is taken for something."""

    table: str
    canonical: str
    column: str
    why: str
    others: list[str]  # what else it could be


@dataclass
class Proposal:
    """A guessed mapping."""

    mapping: dict = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)  # columns that are not taken, and why
    questions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kind: str = ""  # what the files are, in words


class Look:
    """The first records of files of one form."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.records = records.read(paths[0], Format(), limit=SAMPLE)
        frame = self.records.frame.drop(records.RECORD).collect(engine="streaming")
        text = [pl.col(c).cast(pl.String, strict=False).str.strip_chars().replace(NULLS, None) for c in frame.columns]
        self.frame = frame.select(text) if frame.width else frame
        self.columns = self.frame.columns

    def named(self, canonical: str, more: tuple[str, ...] = ()) -> list[str]:
        """Columns that are called so, the best name first; of nested ones the last part counts too."""
        names = (*COLUMN_NAMES[canonical], *more)
        found = [c for name in names for c in self.columns if plain(c) == name]
        found += [c for name in names for c in self.columns if "." in c and plain(c.rpartition(".")[2]) == name]
        return list(dict.fromkeys(found))

    def given(self, column: str) -> pl.Series:
        return self.frame[column].drop_nulls()

    def empty(self, column: str) -> float:
        return self.frame[column].null_count() / max(len(self.frame), 1)

    def share(self, column: str, pattern: str) -> float:
        values = self.given(column)
        return float(values.str.contains(pattern).mean() or 0.0) if len(values) else 0.0

    def is_number(self, column: str) -> bool:
        return self.share(column, r"^[^\d]{0,6}[-(]?\d[\d.,\s]*\)?[^\d]{0,6}$") > 0.5

    def is_mail(self, column: str) -> bool:
        return self.share(column, r"^[^@\s]+@[^@\s]+\.[^@\s]+$") > 0.5

    def is_person(self, column: str) -> bool:
        return self.share(column, NAME) > 0.8 and plain(column.rpartition(".")[2]) in (
            "customer",
            "user",
            "buyer",
            "member",
            "shopper",
            *PERSONS,
        )

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
        if len(digits) in (8, 12, 14) and _is_compact(digits):
            return "date" if len(digits) == 8 else "time"
        if len(digits) == 5 and DAYS[0] <= int(digits) < DAYS[1]:
            return "days"
        scale = {10: 1, 13: 1e3, 16: 1e6, 19: 1e9}.get(len(digits))
        return "time" if scale and 7e8 < int(digits) / scale < 2.1e9 else None
    if CLOCK.fullmatch(text):
        return "clock"
    return None


def propose(data: Path) -> Proposal:
    """The proposal for a file or a folder.

    Raises:
        StageError: there is nothing to read.
    """
    proposal = Proposal()
    looks = _assigned(data, proposal)
    if "events" not in looks:
        return proposal
    events = looks["events"]
    taken = _events(events, proposal)
    if "items" in looks:
        _items_of_their_own(looks["items"], events, taken, proposal)
    elif taken.get("item_id"):
        _items_of_the_log(events, taken, proposal)
    if "users" in looks:
        _users(looks["users"], proposal)
    used = {
        column for reason in proposal.reasons if reason.table in ("events", "items") for column in reason.column.split(" and ")
    }
    for column in events.columns:
        if column not in used and not any(column in question for question in proposal.questions):
            proposal.lost.setdefault(column, _why_lost(events, column))
    return proposal


# Which file is what


def readable(data: Path) -> list[Path]:
    """The files of a folder that can be read, its subfolders' too where it has none itself."""
    found = sorted(f for f in data.iterdir() if records.is_readable(f))
    return found or sorted(f for f in data.rglob("*") if records.is_readable(f))


def parts_of(table: str, paths: list[Path]) -> list[Path]:
    """The files that are called as the table, or begin so: events.csv, events-2024-05.csv, events.1.csv.gz."""
    return [p for p in paths if p.name.lower() == table or p.name.lower().startswith(tuple(f"{table}{mark}" for mark in ".-_ ("))]


def _assigned(data: Path, proposal: Proposal) -> dict[str, Look]:
    """The table that each file holds; questions where that cannot be told."""
    if data.is_file():
        proposal.files = {"events": [data]}
        return {"events": Look([data])}
    paths = readable(data)
    if not paths:
        raise StageError(f"source.data: no file in {data} that can be read ({', '.join(records.SUFFIXES)}, packed or not)")
    files = {table: parts for table in ("events", "items", "users") if (parts := parts_of(table, paths))}
    rest = [p for p in paths if not any(p in parts for parts in files.values())]
    looks = {table: Look(parts) for table, parts in files.items()}
    groups: dict[tuple, list[Path]] = {}
    for path in rest:
        try:
            groups.setdefault(tuple(records.read(path, Format(), limit=50).columns), []).append(path)
        except StageError as error:
            proposal.warnings.append(f"{path.name} is not used: {error}")
    others, joined = [Look(parts) for parts in groups.values()], None
    kinds: dict[str, list[Look]] = {}
    for look in others:
        kinds.setdefault(_kind(look), []).append(look)
    if "events" not in looks:
        found = kinds.pop("events", [])
        lines, orders = kinds.get("lines", []), kinds.get("orders", [])
        if len(found) == 1:
            looks["events"] = found[0]
        elif len(found) > 1:
            listed = ", ".join(look.paths[0].name for look in found)
            proposal.questions.append(f"{listed} all look like events: which is it? Name it in events: {{file: ...}}")
            return {}
        elif len(lines) == 1 and len(orders) == 1 and (key := _common(lines[0], orders[0], "order_id")):
            joined = orders[0]
            looks["events"] = _lines_with_orders(lines[0], joined, key, proposal)
        elif len(others) == 1:
            looks["events"] = others[0]
        else:
            holds = "; ".join(f"{look.paths[0].name} is {in_words(look)}" for look in others)
            proposal.questions.append(
                f"which file holds the events, with shopper, item and time? {holds}. Name it in events: {{file: ...}}, with join: where it takes two"
            )
            return {}
        files["events"] = looks["events"].paths
    for table in ("items", "users"):
        if table not in looks and len(kinds.get(table, [])) == 1:
            looks[table] = kinds.pop(table)[0]
            files[table] = looks[table].paths
    for look in others:
        if look is not joined and look not in looks.values():
            proposal.warnings += [
                f"{p.name} is there and is not used: it holds {', '.join(look.columns[:8])}" for p in look.paths
            ]
    for table, parts in files.items():
        proposal.mapping.setdefault(table, {})["file"] = (
            [p.relative_to(data).as_posix() for p in parts] if len(parts) > 1 else parts[0].relative_to(data).as_posix()
        )
    proposal.files = files
    return looks


def _kind(look: Look) -> str:
    """What a file may hold: events, items, users, orders (without items), lines (of orders), or something else."""
    user, item, order = look.named("user_id"), look.named("item_id"), look.named("order_id")
    time = bool(set(look.times) & {c for c in look.columns if not _other_time(c)})
    if user and item and time:
        return "events"
    if item and order and not user:
        return "lines"
    if user and order and time and not item:
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
    user, item = look.named("user_id"), look.named("item_id")
    time = bool([c for c in look.times if not _other_time(c)])
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


def _common(one: Look, other: Look, canonical: str) -> str | None:
    return next((c for c in one.named(canonical) if c in other.named(canonical)), None)


def _lines_with_orders(lines: Look, orders: Look, key: str, proposal: Proposal) -> Look:
    """Lines of orders with what their order says of all of them."""
    proposal.mapping["events"] = {"join": [{"file": orders.paths[0].name, "on": key}]}
    proposal.kind = f"lines of orders, with the orders of {orders.paths[0].name}"
    added = [c for c in orders.columns if c not in lines.columns]
    lines.frame = lines.frame.join(orders.frame.unique(key).select(key, *added), on=key, how="left", maintain_order="left")
    lines.columns = lines.frame.columns
    vars(lines).pop("times", None)  # of the columns that it had
    return lines


# Columns of events


def _events(look: Look, proposal: Proposal) -> dict[str, str]:
    taken: dict[str, str] = {}
    proposal.mapping.setdefault("events", {})["columns"] = {}
    if look.records.form.get("header") is False:
        cells = [records.quoted([v or "" for v in row]) for row in look.frame.head(2).rows()]
        proposal.questions.append(
            f"{look.paths[0].name} has no header, so nothing says what its columns are; the first rows are {' and '.join(cells)}. Name them by position: "
            "columns: {user_id: 1, item_id: 2, event: 4, timestamp: 5}, with the right numbers"
        )
        return taken
    proposal.kind = proposal.kind or in_words(look)
    for find in (_user, _item, _time, _event):
        find(look, taken, proposal)
    for canonical in EVENTS_OWN:
        found = [c for c in look.named(canonical) if c not in taken.values()]
        if canonical in ("price", "quantity", "duration"):
            found = [c for c in found if look.is_number(c)]
        if canonical == "event_id" and found and look.given(found[0]).n_unique() < len(look.given(found[0])):
            proposal.lost[found[0]] = "repeats, so it numbers no events"
            continue
        if found:
            _take(proposal, taken, canonical, found[0], "called so", found[1:])
    return taken


def _take(proposal: Proposal, taken: dict, canonical: str, column: str, why: str, others: list[str]) -> None:
    """Takes a column of the events for something."""
    taken[canonical] = column
    proposal.mapping["events"]["columns"][canonical] = column
    proposal.reasons.append(Reason("events", canonical, column, why, others))


def _user(look: Look, taken: dict, proposal: Proposal) -> None:
    found = [c for c in look.named("user_id") if not look.is_mail(c) and not look.is_person(c)]
    mails = [c for c in look.columns if look.is_mail(c)]
    if not found:
        if mails or (persons := [c for c in look.named("user_id") if look.is_person(c)]):
            column = mails[0] if mails else persons[0]
            what = "e-mail addresses" if mails else "names of persons"
            proposal.questions.append(
                f"the only column that tells shoppers apart is {column}, which holds {what}: may it be hashed under a key of yours? "
                f"Then map user_id: {column} with hash: [user_id], and set source.hash_key"
            )
        else:
            proposal.questions.append(
                f"no column says who the shopper is, among {', '.join(look.columns[:20])}: map user_id in columns"
            )
        return
    visitors = [c for c in (*look.named("visitor_id"), *look.named("session_id")) if c != found[0]]
    ids = [c for c in found[1:] if plain(c.rpartition(".")[2]).endswith("id") and c not in visitors]
    if look.empty(found[0]) > EMPTY and (others := [c for c in (*ids, *visitors) if look.empty(c) < look.empty(found[0])]):
        proposal.questions.append(
            f"{found[0]} is empty in {look.empty(found[0]):.0%} of the rows, {others[0]} in {look.empty(others[0]):.0%}: who is the shopper there? "
            f"Map user_id: {{first_of: [{found[0]}, {others[0]}]}}, or user_id: {found[0]} to leave the others to the quarantine"
        )
    elif (
        plain(found[0].rpartition(".")[2]).endswith("id")
        and ids
        and look.given(ids[0]).n_unique() != look.given(found[0]).n_unique()
    ):
        proposal.questions.append(f"{found[0]} or {ids[0]}: which one is the shopper? Map user_id in columns")
    count = look.given(found[0]).n_unique()
    _take(
        proposal,
        taken,
        "user_id",
        found[0],
        f"called as shoppers are; {count:,} different in the rows looked at",
        found[1:],
    )


def _item(look: Look, taken: dict, proposal: Proposal) -> None:
    found = [c for c in look.named("item_id") if c not in taken.values()]
    if not found:
        known = [
            f"{name} ({column})"
            for name, column in (("the shopper", taken.get("user_id")), ("the time", next(iter(look.named("timestamp")), None)))
            if column
        ]
        proposal.questions.append(
            "no column says which item it is"
            + (f"; found were {' and '.join(known)}" if known else "")
            + f", among {', '.join(look.columns[:20])}: map item_id in columns"
        )
        return
    count = look.given(found[0]).n_unique()
    _take(
        proposal,
        taken,
        "item_id",
        found[0],
        f"called as items are; {count:,} different in the rows looked at",
        found[1:],
    )


def _other_time(column: str) -> bool:
    return any(part in plain(column) for part in OTHER_TIMES)


def _time(look: Look, taken: dict, proposal: Proposal) -> None:
    free = [c for c in look.times if c not in taken.values()]
    named = [c for c in look.named("timestamp") if c in free]
    dates = [c for c in free if look.times[c] == "date" and not _other_time(c)]
    clocks = [c for c in free if look.times[c] == "clock" and not _other_time(c)]
    full = [c for c in named if look.times[c] == "time"]
    if not full and len(dates) == 1 and len(clocks) == 1:
        proposal.mapping["events"]["columns"]["timestamp"] = {"join": [dates[0], clocks[0]]}
        taken["timestamp"], taken["clock"] = dates[0], clocks[0]
        proposal.reasons.append(
            Reason("events", "timestamp", f"{dates[0]} and {clocks[0]}", "one holds dates, the other times of day", [])
        )
        return
    best = [c for c in (*full, *named) if look.times[c] != "clock"]
    if best:
        _take(
            proposal,
            taken,
            "timestamp",
            best[0],
            "called so, and holds times",
            [c for c in dict.fromkeys([*best[1:], *dates]) if c != best[0]],
        )
        return
    others = [c for c in free if not _other_time(c) and look.times[c] != "clock"]
    if len(others) == 1:
        _take(proposal, taken, "timestamp", others[0], "the only column that holds times", [])
    elif others:
        proposal.questions.append(f"{', '.join(others)} hold times: when did it happen? Map timestamp in columns")
    else:
        order = [
            c
            for c in look.columns
            if plain(c) in ("ordernumber", "orderno", "sequence", "position", "step", "rank") and look.is_number(c)
        ]
        way = (
            f"time: {{order: [{', '.join(order[:2])}]}} if these number what a shopper did"
            if order
            else "map timestamp in columns"
        )
        proposal.questions.append(f"no column holds times, among {', '.join(look.columns[:20])}: {way}")


def _event(look: Look, taken: dict, proposal: Proposal) -> None:
    rules, free = proposal.mapping["events"], [c for c in look.columns if c not in taken.values()]
    named = [c for c in look.named("event") if c in free]
    others = [c for c in free if c not in named and not look.is_number(c)]
    for column in (*named, *others):
        values = look.given(column)
        spelled = dict(values.value_counts(sort=True).iter_rows())
        known = sum(n for v, n in spelled.items() if kind_of(v)) / max(len(values), 1)
        if known <= (0 if column in named else 0.5):
            continue
        _take(proposal, taken, "event", column, f"holds {', '.join(list(spelled)[:4])}", [])
        said = {v: kind for v in sorted(spelled) if (kind := kind_of(v)) and kind != v}
        unknown = {v: n for v, n in spelled.items() if not kind_of(v)}
        if said:
            rules["values"] = {"event": said}
        if unknown:
            listed = ", ".join(f"{v} ({n:,} rows)" for v, n in list(unknown.items())[:8])
            answer = ", ".join(f"{v}: null" for v in list(unknown)[:3])
            proposal.questions.append(
                f"{column} holds words that name no event known here: {listed}. Name them or leave them out: values: {{event: {{{answer}}}}}"
            )
        return
    codes = [c for c in named if 1 < look.given(c).n_unique() <= CODES]
    if codes:
        counts = look.given(codes[0]).value_counts(sort=True)
        listed = ", ".join(f"{v} ({n:,} rows)" for v, n in counts.iter_rows())
        values = ", ".join(
            f"{v}: {kind}" for v, kind in zip(counts[codes[0]].sort(), ("view", "cart", "purchase", "favourite"), strict=False)
        )
        proposal.questions.append(
            f"{codes[0]} holds {listed}: which is what? Map event: {codes[0]}, with values: {{event: {{{values}}}}} as it is with you"
        )
        return
    ratings = [c for c in free if plain(c.rpartition(".")[2]) in RATINGS and look.is_number(c)]
    statuses = [c for c in free if plain(c.rpartition(".")[2]) in STATUSES and 1 < look.given(c).n_unique() <= CODES]
    if ratings:
        proposal.questions.append(
            f"nothing says what the shopper did, but {ratings[0]} holds ratings ({look.given(ratings[0]).cast(pl.Float64, strict=False).min():g} to "
            f'{look.given(ratings[0]).cast(pl.Float64, strict=False).max():g}): which are to count? Say constants: {{event: purchase}} for all of them, or with where: "{ratings[0]} >= 4" too'
        )
        return
    if statuses:
        listed = ", ".join(f"{v} ({n:,} rows)" for v, n in look.given(statuses[0]).value_counts(sort=True).iter_rows())
        first = look.given(statuses[0]).value_counts(sort=True)[statuses[0]][0]
        name = f'"{statuses[0]}"' if not statuses[0].isidentifier() else statuses[0]
        proposal.questions.append(
            f"{statuses[0]} holds {listed}: which rows count? Say where: '{name} = ''{first}''', with constants: {{event: purchase}}"
        )
        return
    rules["constants"] = {"event": "purchase"}
    proposal.warnings.append(
        "no column says what the shopper did: every row is taken for a purchase (constants: {event: ...} says otherwise)"
    )


# Items and shoppers


def _items_of_the_log(look: Look, taken: dict, proposal: Proposal) -> None:
    """What a log says of its items on every row."""
    columns = {"item_id": taken["item_id"]}
    own = [c for name, c in taken.items() if name != "price"]
    for canonical in ITEMS_OWN:
        found = [c for c in look.named(canonical) if c not in own and c not in columns.values()]
        if canonical in ("price", "cost", "stock"):
            found = [c for c in found if look.is_number(c)]
        for column in found:
            if canonical == "title" and not _says_one_thing(look, taken["item_id"], column):
                proposal.lost[column] = "differs from row to row of one item, so it is no title"
                continue
            if canonical == "title" and look.is_person(column):
                proposal.lost[column] = "holds names of persons"
                continue
            columns[canonical] = column
            proposal.reasons.append(
                Reason(
                    "items",
                    canonical,
                    column,
                    "says the same of an item on its rows" if canonical == "title" else "called so",
                    [],
                )
            )
            break
    if len(columns) > 1:
        proposal.mapping["items"] = {"columns": columns}
        proposal.files.setdefault("items", proposal.files["events"])


def _says_one_thing(look: Look, key: str, column: str) -> bool:
    """Is the column's text a property of the item?"""
    pairs = look.frame.drop_nulls([key, column]).group_by(key, pl.col(column).str.to_lowercase()).len()
    several = pairs.group_by(key).agg(most=pl.col("len").max(), rows=pl.col("len").sum()).filter(pl.col("rows") > 1)
    if several.is_empty():
        return plain(column.rpartition(".")[2]) not in PERSONS
    return several["most"].sum() >= CONSTANT * several["rows"].sum()


def _items_of_their_own(look: Look, events: Look, taken: dict, proposal: Proposal) -> None:
    known = set(events.given(taken["item_id"]).unique()) if taken.get("item_id") else set()
    candidates = look.named("item_id", ITEM_KEYS)
    key = next(
        (c for c in candidates if known and set(look.given(c)) & known), candidates[0] if candidates and not known else None
    )
    rules = proposal.mapping.setdefault("items", {})
    name = look.paths[0].name
    if key is None:
        proposal.mapping.pop("items")
        proposal.files.pop("items")
        proposal.warnings.append(
            f"{name} is there and is not used: none of its columns ({', '.join(look.columns[:10])}) holds the items of the events"
        )
        return
    columns = rules.setdefault("columns", {"item_id": key})
    proposal.reasons.append(Reason("items", "item_id", key, f"holds the items of {events.paths[0].name}", []))
    for canonical in ITEMS_OWN:
        found = [c for c in look.named(canonical) if c not in columns.values()]
        if found:
            columns[canonical] = found[0]
            proposal.reasons.append(Reason("items", canonical, found[0], "called so", found[1:]))


def _users(look: Look, proposal: Proposal) -> None:
    found = look.named("user_id", ("id",))
    if not found:
        proposal.mapping.pop("users", None)
        proposal.files.pop("users", None)
        proposal.warnings.append(f"{look.paths[0].name} is there and is not used: no column says who the shopper is")
        return
    columns = proposal.mapping.setdefault("users", {}).setdefault("columns", {"user_id": found[0]})
    proposal.reasons.append(Reason("users", "user_id", found[0], "called as shoppers are", found[1:]))
    for column in look.columns:
        personal = plain(column) in PERSONS or look.share(column, PERSONAL) > 0.05 or look.is_person(column)
        if personal:
            proposal.lost[column] = "tells who the person is, and is not collected"
        elif column != found[0]:
            columns[column] = column


def _why_lost(look: Look, column: str) -> str:
    if plain(column.rpartition(".")[2]) in PERSONS or look.is_mail(column) or look.is_person(column):
        return "tells who the person is, and is not collected"
    if _other_time(column) and column in look.times:
        return "a time of something else"
    return "not needed"
