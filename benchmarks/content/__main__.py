"""What content brings: rows on the simulated shop and on public data, each beside what it is held against.

    python -m benchmarks.content                    # all rows (make bench-content), an hour
    python -m benchmarks.content --row texts        # one of them
    python -m benchmarks.content --tiny             # small sizes: does it run?
    python -m benchmarks.content --events events.csv.gz --items items.csv.gz [--sequences Beauty.txt]   # words and an encoder on other data

Prints a line a row and writes reports/content.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.

With --events (columns user, item, position) and --items (item, title and, if there are any, description, brand), reports/content_text.json holds NDCG@10 of the blend that knows ids alone, words, an encoder's
vectors, both, and of what is served of them, of targets with at most five events in training and of all: {"rare": {"ids", "words", "encoder", "both", "served"}, "all": {...}}. A file of --sequences (user item item ...) with titles.csv
beside it, or with --items where there are no --events, adds, or is, the same.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.content import texts
from benchmarks.figures import take_rows
from pipelines.stage import write_json

ROWS = {}


def main() -> None:
    if not {"--events", "--sequences"} & {argument.partition("=")[0] for argument in sys.argv}:
        take_rows(__doc__, ROWS, "content.json")
        return
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--events", type=Path, help="user, item, position")
    cli.add_argument("--items", type=Path, help="item, title, description, brand")
    cli.add_argument("--sequences", type=Path, help="user item item ... a line")
    cli.add_argument("--untrained", action="store_true", help="blends without a network")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen = cli.parse_args()
    for file in (chosen.events, chosen.items, chosen.sequences):
        if file and not file.is_file():
            cli.error(f"{file} is not there")
    if chosen.events and not chosen.items:
        cli.error("--events needs --items, the texts")
    report, out = {}, chosen.out.resolve()
    with TemporaryDirectory() as scratch:
        if chosen.events:
            print(chosen.events)
            file = texts.of_tables(Path(scratch) / "events", chosen.events, chosen.items)
            report = texts.measured(Path(scratch) / "events", "sequences", file, not chosen.untrained, titles="titles.csv")
        if chosen.sequences:
            print(chosen.sequences)
            file = texts.of_sequences(Path(scratch) / "sequences", chosen.sequences, None if chosen.events else chosen.items)
            found = texts.measured(Path(scratch) / "sequences", "sequences", file, not chosen.untrained, titles="titles.csv")
            report = report | {"sequences": found} if report else found
    write_json(out / "content_text.json", report)


if __name__ == "__main__":
    main()
