"""Anyone's export, translated by a mapping of columns and values (pipelines/data/reading), or by a proposal where none is given.

In: a file, or a folder of files: CSV and its kin, JSON lines or arrays, Parquet, spreadsheets, packed or not, in any encoding. Out: the canonical
tables; `unread`, records that could not be read, with line and reason; `left_out`, how many rows the mapping leaves out, by reason; and `files`, how
many records each holds. Lost: columns that the mapping does not name.

The mapping's grammar is in docs/data-scientist.md. A proposal that must ask stops the run, with the question and the line that answers it.
"""

import logging
from pathlib import Path

import polars as pl
import yaml

from pipelines.data.reading import proposal as proposals
from pipelines.data.reading import records
from pipelines.data.reading.mapping import Mapping, parse
from pipelines.data.reading.text import SUFFIXES
from pipelines.data.reading.translation import Reading, hash_key, translate
from pipelines.stage import StageError

log = logging.getLogger("pushcart")


def ordered_only(settings: dict) -> bool:
    """Do the timestamps tell order, not time? `settings`: source of params.yaml."""
    mapping = settings["mapping"]
    return bool(isinstance(mapping, dict) and ((mapping.get("events") or {}).get("time") or {}).get("order"))


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """Raises: StageError: no readable file, a mapping that does not fit, or a question that only a person can answer."""
    reading = understood(data, settings)[1]
    for note in dict.fromkeys([*reading.notes, *reading.doubts]):
        log.info("collect: %s", note)
    if reading.questions:
        raise StageError(asked(reading.questions))
    left_out = pl.LazyFrame(
        {"reason": list(reading.left_out), "rows": list(reading.left_out.values())},
        schema={"reason": pl.String, "rows": pl.Int64},
    )
    counted = pl.LazyFrame({"records": [reading.records], "rows": [reading.rows]})
    return reading.tables | {"unread": reading.unread.lazy(), "left_out": left_out, "records": counted}


def understood(data: Path, settings: dict, limit: int | None = None) -> tuple[proposals.Proposal | None, Reading]:
    """The proposal, where no mapping is given, and what is read by it or by the mapping.

    Raises:
        StageError: see read; questions of a proposal are raised too.
    """
    if not data.exists():
        raise StageError(f"source.data: {data} is not there")
    document, proposal = settings.get("mapping"), None
    if not document:
        proposal = proposals.propose(data)
        if proposal.questions:
            raise StageError(asked(proposal.questions))
        document = proposal.mapping
        log.info(
            "no mapping given; guessed this one (keep it as source.mapping, or in a file named by MAPPING=):\n%s",
            written(document),
        )
        for line in (
            *proposal.warnings,
            *(f"{column} is not taken: {why}" for column, why in proposal.lost.items() if why != "not needed"),
        ):
            log.info("collect: %s", line)
    mapping = parse(document)
    key = hash_key(settings.get("hash_key"), Path.cwd())
    return proposal, translate(data, mapping, files_of(data, mapping), key, limit)


def asked(questions: list[str]) -> str:
    """The questions as one message."""
    return "source.mapping: I need to know: " + "\n  and: ".join(questions)


def written(document: dict) -> str:
    """A mapping as YAML."""
    return yaml.safe_dump(document, allow_unicode=True, sort_keys=False, default_flow_style=None, width=110)


def files_of(data: Path, mapping: Mapping) -> dict[str, list[Path]]:
    """The files of each table of the mapping.

    Raises:
        StageError: there is none.
    """
    if data.is_file():
        return {
            name: _named(data.parent, table.files, name) if table.files and name != "events" else [data]
            for name, table in mapping.tables().items()
        }
    there = proposals.readable(data)
    if not there:
        raise StageError(f"source.data: no file in {data} that can be read ({', '.join(SUFFIXES)}, packed or not)")
    found = {}
    for name, table in mapping.tables().items():
        files = _named(data, table.files, name) if table.files else proposals.parts_of(name, there)
        if not files and name == "events":
            alike = len({tuple(records.read(p, table.format, limit=50).columns) for p in there}) == 1
            files = there if len(there) == 1 or alike else []
        if not files and name != "events" and not table.files:
            files = found["events"]  # said in the log itself
        if not files:
            raise StageError(
                f"source.data: no file {name}.* in {data}, which holds {', '.join(p.name for p in there[:10])}; name it in source.mapping: {name}: {{file: ...}}"
            )
        found[name] = files
    return found


def _named(folder: Path, names: list[str], table: str) -> list[Path]:
    """Files by name, else by pattern; of a folder all that can be read."""
    found = []
    for name in names:
        exact = folder / name
        files = [exact] if exact.is_file() else proposals.readable(exact) if exact.is_dir() else sorted(folder.glob(name))
        files = [f for f in files if f.is_file()]
        if not files:
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:10])
            raise StageError(f"source.mapping.{table}.file: no file {name} in {folder}, which holds {there}")
        found += files
    return list(dict.fromkeys(found))
