"""Takes somebody out of a checkout's files, or tells all that is known of them.

    python -m pipelines.rights forget < NAMES      # prints what was done, a line of JSON a place
    python -m pipelines.rights bento FOLDER < NAMES
    python -m pipelines.rights tell < NAMES        # prints it all, as JSON
    python -m pipelines.rights ids|links < NAMES   # prints all ids of the same person; and why they are, as JSON
    python -m pipelines.rights expire              # removes what is older than `privacy.retention` keeps it; prints as `forget` does

NAMES: a JSON list of ids and pseudonyms, on standard input, as a command line is shown to everybody on the machine. `pushcart forget` and `pushcart export-user` say whose they are (deploy/platform/forgetting.py). Works in the
working directory, a checkout; the DVC cache and its remotes too. Environments are promoted anew by whoever asks.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from online.state import VISITOR, Gone, open_state
from pipelines import settings
from pipelines.artefact import without
from pipelines.data.identity.links import FOLDER, ids_of_people, links_among
from pipelines.data.sources.log import visitors_of
from pipelines.delivery import __main__ as delivery
from pipelines.rights import erasing, telling, versions
from pipelines.rights.erasing import Done, Names
from pipelines.rights.expiring import expire

PLACES = ("data", "campaigns", "reports", "artefact", "bento", ".airflow", ".outbox", "dvc_plots")
WEIGHTS = "the weights of models that learnt from them"


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    does = cli.add_subparsers(dest="does", required=True)
    does.add_parser("forget")
    does.add_parser("tell")
    does.add_parser("ids")
    does.add_parser("links")
    does.add_parser("expire")
    does.add_parser("bento").add_argument("folder", type=Path)
    asked = cli.parse_args()
    try:
        if asked.does == "expire":
            found = settings.load()
            for done in expire(datetime.now(UTC), found.privacy.retention, found.shops, delivery.opened()):
                print(json.dumps(done._asdict(), ensure_ascii=False), flush=True)
            return
        names = json.load(sys.stdin)
        if asked.does == "bento":
            print(json.dumps(without.rewrite(asked.folder / "src" / "artefact", names)))
            return
        if asked.does == "ids":
            print(json.dumps(ids_of(names)))
            return
        if asked.does == "links":
            ids = ids_of(names)
            print(json.dumps({"ids": ids, "links": links_among(FOLDER, ids)}))
            return
        shops = settings.load().shops
        names = Names(names + [v for shop in shops.values() for v in _visitors(Path(shop.events), names)])
        if asked.does == "tell":
            print(json.dumps(telling.told(names, shops, delivery.opened()), ensure_ascii=False, indent=1, default=str))
            return
        for done in forget(names):
            print(json.dumps(done._asdict(), ensure_ascii=False), flush=True)
    except (settings.SettingsError, Gone) as error:
        sys.exit(f"error: {error}")


def ids_of(names: list[str]) -> list[str]:
    """All ids of the people who have these, as the last run linked them."""
    people = ids_of_people(FOLDER)
    return sorted({one for name in names for one in (name, *people.get(name, ()))})


def forget(names: Names) -> Iterator[Done]:
    """Takes somebody out of everything below the working directory but environments and the vault."""
    for shop, served in settings.load().shops.items():
        folder = Path(served.events)
        if folder.exists():
            yield from erasing.erase(folder, names)
            state = open_state(served.state and os.path.expandvars(served.state), folder, shop)
            for name in names.all:
                state.forget(name)
            yield Done(f"the online state of {shop}", len(names.all), "names forgotten")
        if served.kafka is not None:
            yield Done(
                f"Kafka's topic {served.kafka.topic}", 0, "not Pushcart's: it keeps events as long as the broker is told to"
            )
    yield Done("the outbox", delivery.opened().forget(names.all), "messages and opt-outs removed")
    for place in PLACES:
        if Path(place).exists():
            yield from erasing.erase(Path(place), names)
    yield from versions.erase(Path.cwd(), names)
    yield Done(WEIGHTS, 0, "forgotten with the next retrain")


def _visitors(folder: Path, names: list[str]) -> list[str]:
    """Names of visitors that only they were."""
    found = visitors_of(folder, names) if (folder / "log").exists() else []
    return [name for visitor in found for name in (visitor, VISITOR + visitor)]


if __name__ == "__main__":
    main()
