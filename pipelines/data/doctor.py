"""What Pushcart makes of a shop's files, before anything is run: `pushcart doctor DATA`.

    python -m pipelines.data.doctor DATA [--mapping FILE] [--write FILE]

Reads the first records of each file. Prints what each column is taken for and why, what else it could be, what is lost, five rows as they will be
understood, and ends with "ready", "ready, but ..." or "I need to know ..." with the question. Asks nothing, changes nothing; --write keeps the mapping, in
a file that is not there yet. Ends with code 0 where it is ready, 1 where a question is open or nothing can be read.
"""

import argparse
import sys
from pathlib import Path

import polars as pl

from pipelines.data.reading import proposal as proposals
from pipelines.data.reading.look import SAMPLE
from pipelines.data.reading.mapping import parse
from pipelines.data.reading.proposal import Proposal
from pipelines.data.reading.translation import Reading, hash_key, translate
from pipelines.data.sources.files import files_of, written
from pipelines.data.tables import SOURCE_FILE, SOURCE_ROW, UNREAD
from pipelines.settings import SettingsError, mapping_of
from pipelines.stage import StageError

ROWS = 5
WIDEST = 28  # letters of a cell that are shown


def main() -> int:
    cli = argparse.ArgumentParser(
        prog="pushcart doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_argument("data", type=Path, help="a file, or a folder of files")
    cli.add_argument("--mapping", type=Path, help="YAML file with a mapping; left out: one is proposed")
    cli.add_argument("--write", type=Path, help="file to keep the proposed mapping in")
    cli.add_argument("--hash-key", help="file with the secret of `hash`")
    chosen = cli.parse_args()
    try:
        lines, ready = page(chosen.data.expanduser(), chosen.mapping, chosen.write, chosen.hash_key)
    except StageError as error:
        lines, ready = [f"I need to know: {error}" if "I need to know" not in str(error) else str(error)], False
    for line in lines:
        print(line.encode(sys.stdout.encoding or "ascii", "backslashreplace").decode(sys.stdout.encoding or "ascii"))
    return 0 if ready else 1


def page(data: Path, mapping: Path | None = None, write: Path | None = None, key: str | None = None) -> tuple[list[str], bool]:
    """The lines to show, and whether the files are ready to be used.

    Raises:
        StageError: nothing can be read, or the mapping does not fit.
    """
    if not data.exists():
        raise StageError(f"{data} is not there")
    if write is not None and write.exists():
        raise StageError(f"--write {write} is there already; name another file")
    proposal = Proposal()
    if mapping is not None:
        try:
            document = mapping_of(mapping)
        except SettingsError as error:
            raise StageError(f"--mapping: {error}") from error
    else:
        proposal = proposals.propose(data)
        document = proposal.mapping
    lines = described(data, proposal)
    if proposal.questions:
        return [
            *lines,
            "",
            f"I need to know: {proposal.questions[0]}",
            *(f"and: {question}" for question in proposal.questions[1:]),
        ], False
    parsed = parse(document)
    reading = translate(data, parsed, files_of(data, parsed), hash_key(key, Path.cwd()), SAMPLE)
    if reading.notes:
        lines += ["", "how it is read", *(f"  {note}" for note in dict.fromkeys(reading.notes))]
    lines += understood(reading)
    if reading.questions:
        return [
            *lines,
            "",
            f"I need to know: {reading.questions[0]}",
            *(f"and: {question}" for question in reading.questions[1:]),
        ], False
    if mapping is None:
        lines += [
            "",
            "as a mapping (source.mapping, or a file named by MAPPING=):",
            *("  " + line for line in written(document).splitlines()),
        ]
    if write is not None:
        write.write_text(written(document), encoding="utf-8")
        lines.append(f"kept in {write}")
    but = list(dict.fromkeys([*proposal.warnings, *reading.doubts, *_broken(reading)]))
    return [*lines, "", f"ready, but {but[0]}" if but else "ready", *(f"  and {line}" for line in but[1:])], True


def described(data: Path, proposal: Proposal) -> list[str]:
    """What the files are taken for, and why."""
    lines = [f"{data}: {proposal.kind}" if proposal.kind else f"{data}"]
    for table, paths in proposal.files.items():
        names = ", ".join(p.name for p in paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        lines += ["", f"{table}, from {names}"]
        reasons = [r for r in proposal.reasons if r.table == table]
        width = max((len(r.column) for r in reasons), default=0)
        for reason in reasons:
            others = f" (it could be {', '.join(reason.others[:3])})" if reason.others else ""
            lines.append(f"  {reason.canonical:<12} {reason.column:<{min(width, 30)}}  {reason.why}{others}")
    if proposal.lost:
        lines += ["", "not taken"]
        lines += [f"  {column}: {why}" for column, why in proposal.lost.items()]
    return lines


def understood(reading: Reading) -> list[str]:
    """The first rows of each table as they will be understood."""
    lines = []
    for name, table in reading.tables.items():
        rows = table.drop([c for c in (SOURCE_ROW, SOURCE_FILE, UNREAD) if c in table.collect_schema()]).head(ROWS).collect()
        cells = [rows.columns] + [["" if v is None else _cell(v) for v in row] for row in rows.rows()]
        widths = [max(len(row[i]) for row in cells) for i in range(rows.width)]
        lines += ["", f"{name}, the first rows as they will be understood"]
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    for reason, count in reading.left_out.items():
        lines.append(f"  left out on purpose: {count:,} rows, {reason}")
    return lines


def _cell(value: object) -> str:
    text = (
        f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else f"{value:g}" if isinstance(value, float) else str(value)
    )
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _broken(reading: Reading) -> list[str]:
    """What will go to the quarantine."""
    lines = [
        f"{row['file']}, line {row['line']} cannot be read: {row['reason']}"
        for row in reading.unread.head(3).iter_rows(named=True)
    ]
    events = reading.tables["events"]
    if UNREAD in events.collect_schema():
        unread = events.filter(pl.col(UNREAD).is_not_null()).select(SOURCE_ROW, UNREAD).head(3).collect()
        lines += [f"row {row} holds what does not read: {text}" for row, text in unread.rows()]
    return lines


if __name__ == "__main__":
    sys.exit(main())
