"""Events from files that are dropped in a folder into the log and the state, each row once, whatever is killed.

    python -m online.dropped FOLDER [--state URL] [--shop NAME] [--lateness SECONDS] [--once]

In: FOLDER/drop/*.jsonl and *.csv (UTF-8, a header), with the columns of an event; a file counts once it has not changed for a moment. Out: the log in FOLDER; the files in FOLDER/drop/taken, or gone where shoppers are known by pseudonyms. A row that is no event
stands in the log with the reason.
"""

import argparse
import csv
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from online.events import line_of
from online.intake import Intake, add_arguments
from online.log import EventLog, goes_on_at
from privacy.people import of_environment
from privacy.vault import VaultError

SETTLED = 2.0  # seconds since a file changed from which it is whole
AT_ONCE = 1000  # rows that share a write
LOOK = 1.0  # seconds between two looks


def rows_of(path: Path) -> Iterator[object]:
    """The rows of a file; what is no JSON as text."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        if path.suffix == ".csv":
            for row in csv.DictReader(file):
                yield {name: value for name, value in row.items() if value not in ("", None)}
            return
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                yield line


def take(path: Path, intake: Intake) -> int:
    """Takes a file, from where it was taken to; how many rows."""
    with path.open("rb") as file:
        partition = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    first = goes_on_at(intake.folder / "log", "file", partition)
    book = EventLog(intake.folder / "log", "file", partition, first)
    left = islice(rows_of(path), first, None)
    while rows := list(islice(left, AT_ONCE)):
        now = time.time()
        intake.take([line_of(row, now, intake.lateness) | {"offset": book.next + n} for n, row in enumerate(rows)], book)
    book.close()
    return book.next - first


def look(intake: Intake) -> None:
    """Takes what was dropped."""
    drop = intake.folder / "drop"
    (drop / "taken").mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in drop.iterdir() if path.suffix in (".jsonl", ".csv")):
        if time.time() - path.stat().st_mtime < SETTLED:
            continue
        count = take(path, intake)
        if intake.people.pseudonyms:
            path.unlink()  # it names people by their own ids
        else:
            path.rename(drop / "taken" / path.name)
        print(f"{path.name}: {count:,} rows", flush=True)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(cli)
    cli.add_argument("--once", action="store_true")
    chosen = cli.parse_args()
    try:
        people = of_environment()
    except VaultError as error:
        sys.exit(f"error: {error}")
    intake = Intake(chosen.folder, chosen.state, chosen.shop, chosen.lateness, people)
    while True:
        look(intake)
        if chosen.once:
            return
        time.sleep(LOOK)


if __name__ == "__main__":
    main()
