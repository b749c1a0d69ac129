"""What content brings: rows on the simulated shop and on public data, each beside what it is held against.

    python -m benchmarks.content                    # all rows (make bench-content), an hour
    python -m benchmarks.content --row look         # one of them
    python -m benchmarks.content --tiny             # small sizes: does it run?
    python -m benchmarks.content --events events.csv.gz --items items.csv.gz [--sequences Beauty.txt]   # words and an encoder on other data

Prints a line a row and writes reports/content.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.

With --events (columns user, item, position) and --items (item, title and, if there are any, description, brand), reports/content_text.json holds NDCG@10 of the blend that knows ids alone, words, an encoder's
vectors, both, and of what is served of them, of targets with at most five events in training and of all: {"rare": {"ids", "words", "encoder", "both", "served"}, "all": {...}}. A file of --sequences (user item item ...) with titles.csv
beside it, or with --items where there are no --events, adds, or is, the same.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.content import customers, items, people, texts
from benchmarks.figures import take_rows
from pipelines.stage import write_json

# By name: how it is taken, and of each figure its name, what is asked for at least, the aim, and whether less is better.
ROWS = {
    "look": (items.look, [("simulated: items of the same hidden look among the ten most similar by picture: share", 0.9, 0.95, False)]),
    "new_items": (items.new_items, [
        ("simulated: items without any event, recall@50 over that of category and price alone", 3, 5, False),
        ("... recall@50", 0, 0, False),
        ("... by category and price alone", 0, 0, False),
    ]),
    "two_languages": (items.two_languages, [
        ("simulated, each item in one of two languages: NDCG@10 by an encoder over that by words, - 1", 0.1, 0.2, False),
        ("... by an encoder", 0, 0, False),
        ("... by words", 0, 0, False),
    ]),
    "office": (partial(items.public, "amazon-office", True), [
        ("amazon-office, targets of at most 5 training events, NDCG@10 without texts", 0, 0, False),
        ("... with words", 0, 0, False),
        ("... with an encoder", 0, 0, False),
        ("... with both, of which validation keeps what helps: served", 0, 0, False),
        ("... served over words", 1, 1.2, False),
        ("amazon-office, all targets: served over words", 1, 1.05, False),
    ]),
    "beauty": (partial(items.public, "amazon-beauty", False), [
        ("Beauty with titles, without a network, targets of at most 5 training events, NDCG@10 without texts", 0, 0, False),
        ("Beauty: ... with words", 0, 0, False),
        ("Beauty: ... with an encoder", 0, 0, False),
        ("Beauty: ... with both, of which validation keeps what helps: served", 0, 0, False),
        ("Beauty: ... served over words", 1, 1.05, False),
        ("Beauty, all targets: served over words", 1, 1.05, False),
    ]),
    "rates": (items.rates, [
        ("texts of 100,000 items, measured on 10,000: minutes", 15, 7.5, True),
        ("pictures of 224 pixels of 100,000 items, measured on 640: minutes", 30, 15, True),
        ("the second day with a hundredth new, over the first", 0.02, 0.01, True),
    ]),
    "links": (people.links, [
        ("links, simulated (5 platforms, 40 % of visits anonymous): precision", 0.99, 0.995, False),
        ("... recall of people", 0.6, 0.75, False),
        ("... anonymous events that were given to somebody: precision", 0, 0, False),
        ("... of all anonymous events: share", 0, 0, False),
    ]),
    "linked_answers": (people.answers, [
        ("shoppers known on two platforms or more: NDCG@10 linked over not linked, - 1", 0.1, 0.2, False),
        ("... lower end of its 95 % interval", 0, 0, False),
        ("... linked", 0, 0, False),
        ("... not linked", 0, 0, False),
        ("... shoppers", 0, 0, False),
    ]),
    "intents": (customers.intents, [
        ("intents: accuracy in 5 folds", 0.995, 0.998, False),
        ("intents: accuracy with 10 examples each", 0.94, 0.97, False),
        ("intents: calibration error", 0.02, 0.01, True),
        ("intents: area under the curve of none of these", 0.95, 0.98, False),
    ]),
    "chinese": (customers.chinese, [("intents: accuracy of the simulated shop's head on 297 messages in Chinese", 0.8, 0.9, False)]),
    "passages": (customers.passages, [("the right passage first, 216 questions in other words: share", 0.85, 0.93, False)]),
    "founded": (customers.founded, [
        ("answers with a figure, date or link that stands in no source, of 2,000 that a model words", 0, 0, True),
        ("... faithful ones that are used: share", 0.5, 0.9, False),
    ]),
    "complaints": (customers.complaints, [
        ("messages to shoppers with an open complaint, of 10,000 that were due", 0, 0, True),
        ("... sent: share", 0.9, 0.9, False),
    ]),
    "assist": (customers.assist, [("/assist: p99, ms", 60, 30, True), ("/assist: memory of a worker, MB", 300, 200, True)]),
}  # fmt: skip


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
