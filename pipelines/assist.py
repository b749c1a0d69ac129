"""assist: what answers customers: a head that tells what they want, and an index of the shop's help pages.

In:  settings `assist` (a folder of Markdown pages; messages with what was wanted, CSV; the same as hand-overs were corrected), data/prepared (titles, by which made-up messages name items).
Out: data/assist (service/answers.py reads it; empty where the shop brings no pages), reports/assist.json: accuracy, with its interval, and calibration error of messages held out, by intent too.

In a message, {item} and {order} stand for any item and any number of an order: each such message is written WRITTEN times.
"""

from pathlib import Path

import numpy as np
import polars as pl

from pipelines.learning.intents import learn
from pipelines.learning.passages import indexed
from pipelines.learning.prepared import PREPARED
from pipelines.stage import StageError, log, output, params, run, write_json
from service import passages
from service.passages import is_chinese

WRITTEN = 3
SLOTS = ("{item}", "{order}")


def main() -> None:
    settings, seed = params("assist"), params("train")["seed"]
    if not settings["enabled"]:
        with output("data/assist"):
            write_json("reports/assist.json", {"messages": 0, "passages": 0})
        log.info("assist: assist.enabled is false, so no customer is answered")
        return
    pages = Path(settings["pages"]).expanduser()
    read = passages.read(pages) if pages.is_dir() else []
    if not read:
        raise StageError(f"assist.pages: {pages} holds no Markdown page with a passage (relative paths start at {Path.cwd()})")
    messages, intents = labelled([settings["utterances"], settings["corrected"]], seed)
    unknown = {name for passage in read for name in passage.intents} - set(intents)
    if unknown:
        raise StageError(
            f"assist.pages: intents that no message has: {', '.join(sorted(unknown))}; assist.utterances has {', '.join(sorted(set(intents)))}"
        )
    head, report = learn(messages, intents, seed)
    with output("data/assist") as folder:
        head.write(folder, "intents")
        indexed(read, seed).write(folder)
        write_json(
            "reports/assist.json", {"messages": len(messages), "intents": len(set(intents)), "passages": len(read)} | report
        )
    log.info(
        "assist: %s messages of %s intents, accuracy %.3f where held out; %s passages",
        f"{len(messages):,}",
        len(set(intents)),
        report["accuracy"],
        f"{len(read):,}",
    )


def labelled(files: list[str | None], seed: int) -> tuple[list[str], list[str]]:
    """Messages and what was wanted, slots filled in by chance.

    Raises:
        StageError: a file cannot be used; it is named.
    """
    tables = []
    for name in filter(None, files):
        file = Path(name).expanduser()
        if not file.is_file():
            raise StageError(f"assist: {file} is not there (relative paths start at {Path.cwd()})")
        table = pl.read_csv(file, infer_schema=False)
        if missing := {"utterance", "intent"} - set(table.columns):
            raise StageError(f"assist: {file} has no column {', '.join(sorted(missing))}; it has {', '.join(table.columns)}")
        tables.append(table.select("utterance", "intent").drop_nulls())
    rows = pl.concat(tables).unique(maintain_order=True).rows() if tables else []
    counts = {intent: sum(1 for _, other in rows if other == intent) for _, intent in rows}
    if len(counts) < 2 or min(counts.values()) < 2:
        few = [intent for intent, count in counts.items() if count < 2]
        raise StageError(
            f"assist.utterances: at least two intents with two messages each are needed; too few of {', '.join(few) or 'all'}"
        )
    return written(rows, _titles(), seed)


def written(rows: list[tuple[str, str]], titles: dict[bool, list[str]], seed: int) -> tuple[list[str], list[str]]:
    """Messages and intents with the slots filled in by chance. titles: of items, in Chinese or not."""
    rng, found = np.random.default_rng(seed), []
    for message, intent in rows:
        for _ in range(WRITTEN if any(slot in message for slot in SLOTS) else 1):
            item = titles[is_chinese(message)][rng.integers(len(titles[is_chinese(message)]))]
            found.append((message.replace("{item}", item).replace("{order}", str(rng.integers(10**5, 10**7))), intent))
    return [message for message, _ in found], [intent for _, intent in found]


def _titles() -> dict[bool, list[str]]:
    """Short names of items, in Chinese or not."""
    items = pl.read_parquet(PREPARED / "items.parquet")
    told = items["title"].drop_nulls().to_list() if "title" in items.columns and items.schema["title"] == pl.String else []
    parts = {part.split(",")[0].split("（")[0].strip() for title in told for part in title.split(" / ")}
    return {chinese: sorted(p for p in parts if p and is_chinese(p) == chinese) or ["item"] for chinese in (True, False)}


if __name__ == "__main__":
    run(main)
