"""Makes Parquet of the log's files that nobody writes any more: `<topic>.<partition>.<first>.<last>.parquet`, written beside, synced, renamed. The name says that it is whole.

    python -m pipelines.data.sources.rolling FOLDER [--once]

FOLDER: of events (.events). Looks every minute until it is interrupted. Lines are removed once they are rolled and older than what the online state is made again from.
"""

import argparse
import time
from pathlib import Path

from online import log
from online.state import KEPT
from pipelines.data.sources.log import lines
from pipelines.stage import write_whole


def roll(folder: Path, now: float) -> int:
    """Rolls what can be rolled of a log at a moment (seconds); how many files it made."""
    made = 0
    for path in log.files(folder):
        age = now - path.stat().st_mtime
        done = next(iter(folder.glob(f"{path.stem}.*.parquet")), None)
        if done is not None:
            if age > KEPT:
                path.unlink()
        elif (
            path.suffix == ".jsonl" or age > 2 * log.SECONDS
        ):  # an .open file that old is never written again: see EventLog.append
            rows = lines(path).collect()
            if rows.is_empty():
                continue
            at = log.position(path)
            last = rows["offset"].max() if rows["offset"].null_count() == 0 else at.first + len(rows) - 1
            write_whole(folder / f"{at.topic}.{at.partition}.{at.first:020d}.{last:020d}.parquet", rows.write_parquet)
            made += 1
    return made


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", type=Path)
    cli.add_argument("--once", action="store_true")
    chosen = cli.parse_args()
    while True:
        made = roll(chosen.folder / "log", time.time())
        print(f"rolled {made} files", flush=True)
        if chosen.once:
            return
        time.sleep(log.SECONDS)


if __name__ == "__main__":
    main()
