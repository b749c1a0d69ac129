"""All links between ids of a shop's shoppers, and its tables by person.

In: the canonical tables as `collect` leaves them. Out: links with reasons and people; the tables with a person's id in place of each of theirs, without what
ids are known again by, which nothing else may read.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from online.state import VISITOR
from pipelines.data.identity import evidence, likely
from pipelines.data.identity.people import LINKS, PEOPLE, SEVERAL, TAKEN, Graph, linked
from pipelines.data.identity.visitors import TELLING
from pipelines.data.privacy import personal
from pipelines.data.reading.names import NO, YES
from pipelines.data.tables import KNOWN_AGAIN_BY, SOURCE_ROW
from pipelines.stage import StageError

FOLDER = Path("data/links")

READ_HERE_ALONE = (*KNOWN_AGAIN_BY, "known_by", "may_link")


class Found(NamedTuple):
    """Attributes: links: columns of people.LINKS. people: people.PEOPLE. report: counts, and what was measured."""

    links: pl.DataFrame
    people: pl.DataFrame
    report: dict


def found(
    tables: dict[str, pl.LazyFrame], settings: dict, said: Callable[[Iterable[str]], dict[str, bool]], undone: set[frozenset[str]]
) -> Found:
    """Links of what settings allow.

    Args:
        settings: `identity`. said: what ids said of being linked, those that said anything; it counts more than users.may_link. undone: pairs that are not one person.

    Raises:
        StageError: a mail address or a telephone number is not hashed.
    """
    events, users, items = (tables.get(name) for name in ("events", "users", "items"))
    if "known_by" not in events.collect_schema():
        events = events.with_columns(known_by=pl.lit(None, pl.String))
    _check_hashed(events, users)
    refused = _refused(events, users, settings["consent"], said)
    mine = events.filter(~pl.col("user_id").is_in(sorted(refused)).fill_null(False)) if refused else events
    told = users.filter(~pl.col("user_id").is_in(sorted(refused)).fill_null(False)) if refused and users is not None else users
    certain = evidence.certain(mine, told, settings["limits"]["ids"])
    platform, most = dict(evidence.platforms(mine).iter_rows()), settings["limits"]["ids"]
    graph = Graph(platform, most, certain.held, undone, evidence.begun(mine))
    links = linked(certain.pairs.with_columns(chance=pl.lit(1.0)), graph)
    report = {"refused": len(refused), "shared": certain.shared}
    if settings["links"] == "likely":
        more = likely.likely(mine, items, told, graph, settings["precision"])
        links = pl.concat([links, linked(more.pairs.with_columns(reason=pl.lit(likely.REASON)), graph)])
        report["likely"] = more.report
    shared = _shared(mine, graph)
    theirs = pl.col("one").is_in(sorted(shared)) | pl.col("other").is_in(sorted(shared))
    links = links.with_columns(taken=pl.when(theirs & (pl.col("taken") == TAKEN)).then(pl.lit(SEVERAL)).otherwise("taken"))
    table = graph.people().filter(~pl.col("user_id").is_in(sorted(shared)))
    counts = Counter((reason, taken) for reason, taken in links.select("reason", "taken").iter_rows())
    report |= {
        "people": table["person_id"].n_unique(),
        "ids_of_people": len(table),
        "largest": int(table.group_by("person_id").len()["len"].max() or 0),
        "links": [{"reason": r, "outcome": taken, "links": n} for (r, taken), n in sorted(counts.items())],
        "shared_devices": len(shared),
    }
    return Found(links.sort("one", "other", "reason"), table, report)


def by_person(tables: dict[str, pl.LazyFrame], folder: Path) -> dict[str, pl.LazyFrame]:
    """The tables with people's ids. folder: what the stage `link` wrote. A person's rows of users become one: of each attribute what is known first, of channels all that reach them."""
    person = pl.scan_parquet(folder / "people.parquet")
    nobody = not person.select(pl.len()).collect().item()
    told, events = dict(tables), tables["events"]
    if "visitor_id" in events.collect_schema():
        anonymous = ~evidence.signed_in() & pl.col("visitor_id").is_not_null()
        events = events.with_columns(user_id=pl.when(anonymous).then(pl.lit(VISITOR) + pl.col("visitor_id")).otherwise("user_id"))
    events = events.filter(~pl.col("event").is_in(TELLING).fill_null(False))
    told["events"] = (events if nobody else _renamed(events, person)).drop(READ_HERE_ALONE, strict=False)
    if "users" in tables:
        users = tables["users"].drop(READ_HERE_ALONE, strict=False)
        told["users"] = users if nobody else _merged(users, person)
    return told


def ids_of_people(folder: Path) -> dict[str, list[str]]:
    """Of each id of a person who has several all their ids. folder: what the stage `link` wrote; nobody has several where it never ran."""
    file = folder / "people.parquet"
    if not file.exists():
        return {}
    groups = pl.read_parquet(file).sort("user_id").group_by("person_id").agg("user_id")["user_id"].to_list()
    return {one: group for group in groups for one in group}


def links_among(folder: Path, ids: list[str]) -> list[dict]:
    """Rows of LINKS that name one of so many ids. folder: what the stage `link` wrote."""
    file = folder / "links.parquet"
    if not file.exists():
        return []
    return pl.read_parquet(file).filter(pl.col("one").is_in(ids) | pl.col("other").is_in(ids)).to_dicts()


def read_undone(file: Path) -> set[frozenset[str]]:
    """Pairs that are not one person, of a CSV file with the columns one and other; none where there is no file.

    Raises:
        StageError: it is no such file.
    """
    if not file.exists():
        return set()
    try:
        rows = pl.read_csv(file, infer_schema=False).select("one", "other").drop_nulls()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StageError(f"{file} is no CSV file with the columns one and other: {error}") from error
    return {frozenset(pair) for pair in rows.iter_rows()}


def nothing() -> Found:
    """Where ids are not linked."""
    return Found(pl.DataFrame(schema=LINKS), pl.DataFrame(schema=PEOPLE), {})


def _check_hashed(events: pl.LazyFrame, users: pl.LazyFrame | None) -> None:
    for name, table in (("events", events), ("users", users)):
        for column in evidence.HASHES if table is not None else ():
            if (
                column in table.collect_schema()
                and (bare := table.filter(personal(column)).select(SOURCE_ROW).head(1).collect()).height
            ):
                raise StageError(
                    f"{name}: {column}, row {bare.item():,}: is an address or a number itself, not a hash of it; let the shop hash it, or name the "
                    "column under `hash` in source.mapping"
                )


def _refused(
    events: pl.LazyFrame, users: pl.LazyFrame | None, consent: str, asked: Callable[[Iterable[str]], dict[str, bool]]
) -> set[str]:
    """Ids that may not be linked."""
    ids = set(events.select(pl.col("user_id").drop_nulls().unique()).collect(engine="streaming").to_series())
    said: dict[str, bool] = {}
    if users is not None and "may_link" in users.collect_schema():
        word = pl.col("may_link").cast(pl.String).str.to_lowercase()
        yes_or_no = pl.when(word.is_in(YES)).then(True).when(word.is_in(NO)).then(False)
        said = dict(users.select("user_id", yes_or_no.alias("may")).drop_nulls().collect().iter_rows())
    silent = consent == "opt_in"
    said |= asked(ids)
    return {i for i in ids if not said.get(i, i.startswith(VISITOR) or not silent)}  # visitors are asked as whom they sign in


def _shared(events: pl.LazyFrame, graph: Graph) -> set[str]:
    """Visitors on devices where several people sign in."""
    if not {"visitor_id", "device_hash"} <= set(events.collect_schema()):
        return set()
    rows = events.filter(pl.col("device_hash").is_not_null())
    signed = rows.filter(evidence.signed_in()).select("device_hash", "user_id").drop_nulls().unique().collect(engine="streaming")
    signed = signed.with_columns(person=pl.Series([graph.person(one) for one in signed["user_id"]], dtype=pl.String))
    several = signed.group_by("device_hash").agg(pl.col("person").n_unique()).filter(pl.col("person") > 1)["device_hash"]
    theirs = rows.filter(pl.col("device_hash").is_in(several.implode())).select("visitor_id").drop_nulls().unique()
    return {VISITOR + visitor for visitor in theirs.collect(engine="streaming")["visitor_id"]}


def _renamed(table: pl.LazyFrame, person: pl.LazyFrame) -> pl.LazyFrame:
    columns = table.collect_schema().names()
    table = table.join(person, on="user_id", how="left", maintain_order="left")
    return table.with_columns(user_id=pl.coalesce("person_id", "user_id")).select(columns)


def _merged(users: pl.LazyFrame, person: pl.LazyFrame) -> pl.LazyFrame:
    """A row a person. Rows without an id, and those that stand twice under one id, stay as they are, for the check to find."""
    names = users.collect_schema().names()
    rows = _renamed(users.with_columns(again=~pl.col("user_id").is_first_distinct() | pl.col("user_id").is_null()), person)
    several = ~pl.col("again") & (pl.len().over("user_id", "again") > 1)
    rows = rows.with_columns(several=several)
    first = [pl.col(c).drop_nulls().first() for c in names if c not in ("user_id", "channels")]
    if "channels" in names:
        first.append(pl.col("channels").drop_nulls().str.split(" ").explode().unique().sort().str.join(" ").str.strip_chars())
    merged = rows.filter("several").sort(SOURCE_ROW).group_by("user_id", maintain_order=True).agg(first).select(names)
    return pl.concat([rows.filter(~pl.col("several")).select(names), merged]).sort(SOURCE_ROW)
