"""A mapping for files of which nothing is told: what each column is taken for and why, what else it could be, what is lost, what must be asked.

In: the first records of each file. Out: a proposal. What would be wrong without a word if guessed wrongly is asked, with the line of the mapping
that answers.
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipelines.data.privacy import PERSONAL
from pipelines.data.reading import records
from pipelines.data.reading.delimited import quoted
from pipelines.data.reading.look import EMPTY, Look, in_words, is_other_time, looked_at, table_of
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.names import ITEM_KEYS, PERSONS, RATINGS, STATUSES, kind_of, kind_of_file, kind_of_flag, plain
from pipelines.data.reading.text import SUFFIXES
from pipelines.data.tables import KNOWN_AGAIN_BY, SOURCE_FILE
from pipelines.stage import StageError

CODES = 20  # different whole numbers that may be codes of events
CONSTANT = 0.9  # share of rows on which a title must say what it mostly says of the item
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
    *KNOWN_AGAIN_BY,
    "request_id",
    "campaign_id",
    "channel",
    "propensity",
    "expected",
)
ITEMS_OWN = ("title", "description", "category", "brand", "price", "cost", "in_stock", "stock", "image", "sound")


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
    if not len(events.frame):
        raise StageError(f"{', '.join(path.name for path in events.paths[:5])}: there is a header and no row")
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
        return {"events": looked_at([data])}
    paths = readable(data)
    if not paths:
        raise StageError(f"source.data: no file in {data} that can be read ({', '.join(SUFFIXES)}, packed or not)")
    files = {table: parts for table in ("events", "items", "users") if (parts := parts_of(table, paths))}
    rest = [p for p in paths if not any(p in parts for parts in files.values())]
    looks = {table: looked_at(parts) for table, parts in files.items()}
    groups: dict[tuple, list[Path]] = {}
    for path in rest:
        try:
            if path.stat().st_size:
                groups.setdefault(tuple(records.read(path, Format(), limit=50).columns), []).append(path)
            else:
                proposal.warnings.append(f"{path.name} is not used: it is empty")
        except StageError as error:
            proposal.warnings.append(f"{path.name} is not used: {error}")
    others, joined = [looked_at(parts) for parts in groups.values()], None
    kinds: dict[str, list[Look]] = {}
    for look in others:
        kinds.setdefault(table_of(look), []).append(look)
    if "events" not in looks:
        found = kinds.pop("events", [])
        lines, orders = kinds.get("lines", []), kinds.get("orders", [])
        if len(found) == 1:
            looks["events"] = found[0]
        elif len(found) > 1 and (several := _one_kind_a_file(found)):
            looks["events"] = several
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
        if look is not joined and not any(set(look.paths) <= set(used.paths) for used in looks.values()):
            proposal.warnings += [
                f"{p.name} is there and is not used: it holds {', '.join(look.columns[:8])}" for p in look.paths
            ]
    for table, parts in files.items():
        proposal.mapping.setdefault(table, {})["file"] = (
            [p.relative_to(data).as_posix() for p in parts] if len(parts) > 1 else parts[0].relative_to(data).as_posix()
        )
    proposal.files = files
    return looks


def _one_kind_a_file(looks: list[Look]) -> Look | None:
    """Files of which each tells of one kind of event by its name, and which call shopper, item and time alike; as one."""
    kinds = [kind_of_file(path.name) for look in looks for path in look.paths]
    alike = len({(look.named("user_id")[0], look.items[0], *look.named("timestamp")[:1]) for look in looks}) == 1
    if not alike or None in kinds or any(look.explode for look in looks):
        return None
    widest = max(looks, key=lambda look: len(look.columns))
    widest.paths = [*widest.paths, *(path for look in looks if look is not widest for path in look.paths)]
    return widest


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
    if look.explode:
        proposal.mapping["events"]["explode"] = look.explode
    if look.records.form.get("header") is False:
        cells = [quoted([v or "" for v in row]) for row in look.frame.head(2).rows()]
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
            _take(proposal, taken, canonical, *_inside_first(look, found), "called so")
    return taken


def _inside_first(look: Look, found: list[str]) -> tuple[str | dict, list[str]]:
    """The column to take, and the others; of an exploded list and of the record itself both, the list's first."""
    inside = [c for c in found if look.is_inside(c)]
    outside = [c for c in found if c not in inside]
    if inside and outside:
        return {"first_of": [inside[0], outside[0]]}, [*inside[1:], *outside[1:]]
    return found[0], found[1:]


def _take(proposal: Proposal, taken: dict, canonical: str, column: str | dict, others: list[str], why: str) -> None:
    """Takes a column of the events, or the first of several, for something."""
    names = [column] if isinstance(column, str) else column["first_of"]
    taken[canonical] = names[0]
    proposal.mapping["events"]["columns"][canonical] = column
    proposal.reasons.append(Reason("events", canonical, " and ".join(names), why, others))


def _user(look: Look, taken: dict, proposal: Proposal) -> None:
    found = [c for c in look.named("user_id") if not look.is_mail(c) and not look.is_person(c)]
    if not found:
        personal = {"e-mail addresses": look.is_mail, "telephone numbers": look.is_phone, "names of persons": look.is_person}
        keys = [(c, what) for what, holds in personal.items() for c in look.columns if holds(c)]
        if keys:
            column, what = keys[0]
            proposal.questions.append(
                f"the only column that tells shoppers apart is {column}, which holds {what}: may it be hashed under a key of yours? "
                f"Then map user_id: {column} with hash: [user_id], and set source.hash_key"
            )
        else:
            proposal.questions.append(f"no column says who the shopper is, among {_listed(look.columns)}: map user_id in columns")
        return
    visitors = [c for c in (*look.named("visitor_id"), *look.named("session_id")) if c != found[0]]
    ids = [c for c in found[1:] if plain(c.rpartition(".")[2]).endswith("id") and c not in visitors]
    if look.empty(found[0]) > EMPTY and (others := [c for c in (*ids, *visitors) if look.empty(c) < look.empty(found[0])]):
        proposal.questions.append(
            f"{found[0]} is empty in {look.empty(found[0]):.0%} of the rows, {others[0]} in {look.empty(others[0]):.0%}: who is the shopper there? "
            f"Map user_id: {{first_of: [{found[0]}, {others[0]}]}}, or user_id: {found[0]} to leave the others to the quarantine"
        )
    elif look.empty(found[0]) > EMPTY:
        proposal.warnings.append(
            f"{found[0]} is empty in {look.empty(found[0]):.0%} of the rows, which go to the quarantine, unless where: leaves them out"
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
        found[1:],
        f"called as shoppers are; {count:,} different in the rows looked at",
    )


def _item(look: Look, taken: dict, proposal: Proposal) -> None:
    found = [c for c in look.items if c not in taken.values()]
    if not found:
        known = [
            f"{name} ({column})"
            for name, column in (("the shopper", taken.get("user_id")), ("the time", next(iter(look.named("timestamp")), None)))
            if column
        ]
        proposal.questions.append(
            "no column says which item it is"
            + (f"; found were {' and '.join(known)}" if known else "")
            + f", among {_listed(look.columns)}: map item_id in columns"
            + (f", with explode: {look.lists[0]} where that list holds them" if look.lists else "")
        )
        return
    count = look.given(found[0]).n_unique()
    _take(
        proposal,
        taken,
        "item_id",
        *_inside_first(look, found),
        f"{f'a row for each of {look.explode}' if look.explode else 'called as items are'}; {count:,} different in the rows looked at",
    )


def _time(look: Look, taken: dict, proposal: Proposal) -> None:
    free = [c for c in look.times if c not in taken.values()]
    named = [c for c in look.named("timestamp") if c in free]
    dates = [c for c in free if look.times[c] == "date" and not is_other_time(c)]
    clocks = [c for c in free if look.times[c] == "clock" and not is_other_time(c)]
    full = [c for c in named if look.times[c] == "time"]
    if not full and len(dates) == 1 and len(clocks) == 1:
        proposal.mapping["events"]["columns"]["timestamp"] = {"join": [dates[0], clocks[0]]}
        taken["timestamp"], taken["clock"] = dates[0], clocks[0]
        proposal.reasons.append(
            Reason("events", "timestamp", f"{dates[0]} and {clocks[0]}", "one holds dates, the other times of day", [])
        )
        return
    best = [c for c in dict.fromkeys([*full, *named]) if look.times[c] != "clock"]
    if best:
        others = [c for c in dict.fromkeys([*best[1:], *dates]) if c != best[0]]
        rivals = [
            c
            for c in best[1:]
            if look.times[c] == look.times[best[0]] and not is_other_time(c) and not look.frame[c].equals(look.frame[best[0]])
        ]
        if rivals:
            proposal.questions.append(f"{', '.join([best[0], *rivals])} hold times: when did it happen? Map timestamp in columns")
        _take(proposal, taken, "timestamp", best[0], others, "called so, and holds times")
        return
    others = [c for c in free if not is_other_time(c) and look.times[c] != "clock"]
    if len(others) == 1:
        _take(proposal, taken, "timestamp", others[0], [], "the only column that holds times")
    elif others:
        proposal.questions.append(f"{', '.join(others)} hold times: when did it happen? Map timestamp in columns")
    else:
        order = ", ".join(look.sequence[:2])
        way = f"time: {{order: [{order}]}} if these number what a shopper did" if order else "map timestamp in columns"
        proposal.questions.append(f"no column holds times, among {_listed(look.columns)}: {way}")


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
        _take(proposal, taken, "event", column, [], f"holds {', '.join(list(spelled)[:4])}")
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
    flags = [c for c in free if look.is_flag(c)]
    if flags:
        proposal.questions.append(
            f'{", ".join(flags)} {"say" if len(flags) > 1 else "says"} on each row whether it happened: which are to count? Say where: "{flags[-1]} = '
            f'{_condition(look, flags[-1])}", with constants: {{event: {kind_of_flag(flags[-1])}}}'
        )
        return
    names = [rules["file"]] if isinstance(rules.get("file"), str) else rules.get("file") or [look.paths[0].name]
    kinds = {name: kind_of_file(name) for name in names}
    if len(names) > 1 and None not in kinds.values():
        listed = ", ".join(f"{name} of {kind}s" for name, kind in list(kinds.items())[:4])
        _take(proposal, taken, "event", SOURCE_FILE, [], f"each file tells of one kind, by its name: {listed}")
        rules["values"] = {"event": kinds}
        return
    kind = kinds[names[0]] if len(names) == 1 and kinds[names[0]] else "purchase"
    rules["constants"] = {"event": kind}
    proposal.warnings.append(
        f"no column says what the shopper did: every row is taken for a {kind} (constants: {{event: ...}} says otherwise)"
    )


def _condition(look: Look, flag: str) -> str:
    """What a flag that is up is compared with, in SQL."""
    value = max(look.given(flag).unique(), key=lambda v: v.lower() in ("1", "1.0", "true", "yes"))
    return value if value[0].isdigit() else f"'{value}'"


def _listed(columns: list[str]) -> str:
    """The names of columns, to show."""
    return ", ".join(c if len(c) <= 40 else c[:37] + "..." for c in columns[:20]) + (", ..." if len(columns) > 20 else "")


# Items and shoppers


def _items_of_the_log(look: Look, taken: dict, proposal: Proposal) -> None:
    """What a log says of its items on every row."""
    columns = {"item_id": proposal.mapping["events"]["columns"]["item_id"]}
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
    if is_other_time(column) and column in look.times:
        return "a time of something else"
    return "not needed"
