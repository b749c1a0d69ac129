"""prepare: checked events to histories of item numbers, features and a split.

In:  data/checked, settings `prepare`, `source`, `train.privacy` (with it, items and their numbers are those of the catalogue alone).
Out: data/prepared/histories.parquet (a row a shopper, oldest item first), flat/*.npy (its lists, as training reads them: items, times in seconds
     since `origin`, actions, platforms, one shopper after the other, and offsets), items.parquet (number 1.. = row order, features),
     content.parquet (words of what is written of items, counted), impressions.parquet (what was shown to whom, and what came of it),
     attributes.json (what the numbers in items' `attributes` mean, from 1), users.parquet (features), prepared.json (sizes, platforms by number, ties, origin of times, what was removed and why).

A history holds the first time a shopper meets each item: that is what the protocol of the published tables ranks (items
already seen are filtered out). Its columns: user_id, items (list of item number), timestamps (list), actions (list: the
strongest thing done to the item before the next was met, 1 = seen, 2 = favourite, 3 = cart, 4 = purchase), platforms (list of
number from 1, 0 = not told), train_end (items before this position are for training), valid_at and test_at (position of the item to predict;
null where there is none), test_basket (how many items from test_at on stand in one basket; 1 where times tell order). Items at test_at and
later are never seen before the test.

Items are all of the events and of the catalogue: `trained` says which of them training shows often enough for a vector of their own,
`listed` which may be recommended (those of the catalogue, where there is one).

An impression's columns: user (row of histories), position (how many items of the history came before), item, platform, clicked,
carted, purchased (within a session's gap after it; any action is a click), part (train, valid, test). Where none are logged, every item of
a history stands for an impression that was clicked.
"""

from pathlib import Path

import numpy as np
import polars as pl

from pipelines.data.cleaning import clean
from pipelines.data.content import content
from pipelines.data.features import attributes, item_features, user_features
from pipelines.data.histories import BASKETS, flat, meetings, platforms, vocabulary
from pipelines.data.impressions import impressions
from pipelines.data.sources import source
from pipelines.data.split import divide
from pipelines.data.tables import SOURCE_ROW
from pipelines.stage import StageError, log, output, params, run, write_json

CHECKED = Path("data/checked")


def main() -> None:
    settings, chosen, train = params("prepare", "source", "train")
    ordered_only = source(chosen["name"]).ordered_only(chosen)
    if settings["split"] == "time" and ordered_only:
        raise StageError(f"prepare.split: source {chosen['name']!r} knows the order of events, not their time; use leave_one_out")
    events = pl.scan_parquet(CHECKED / "events.parquet")
    catalogue = None
    if (CHECKED / "items.parquet").exists():
        catalogue = pl.read_parquet(CHECKED / "items.parquet").drop(SOURCE_ROW)
    actions, removed = clean(events, settings)
    met, ties = meetings(actions)
    if train["privacy"]:
        if catalogue is None:
            raise StageError("train.privacy: which items there are would tell what shoppers met; bring a table of items")
        met = met.filter(pl.col("item_id").is_in(catalogue["item_id"].implode()))
    items = vocabulary(met.clear() if train["privacy"] else met, catalogue)
    named = platforms(met)
    split, cuts = divide(met, items, named, settings)
    shown = impressions(events, actions, split, items, named, settings, cuts)
    sizes = {
        "shoppers": len(split),
        "items": len(items),
        "interactions": len(met),
        "impressions": len(shown),
        "sessions": actions.select(pl.struct("user_id", "session_id").n_unique()).collect(engine="streaming").item(),
        "valid": split["valid_at"].count(),
        "test": split["test_at"].count(),
    }
    if not sizes["valid"] or not sizes["test"]:
        raise StageError("prepare: no shopper has a history long enough to validate and test on (3 different items, at 3 times where times "
                         "name baskets)")  # fmt: skip
    described = item_features(items, catalogue, split, shown, ordered_only, settings["min_item_events"])
    written, terms = content(described, settings["content"])
    features, names = attributes(described, settings["attributes"])
    people = user_features(actions)
    arrays, origin = flat(split)
    facts = {
        "split": settings["split"],
        **cuts,
        "ties": round(ties, 4),
        "baskets": ties > BASKETS,
        "ordered_only": ordered_only,
        "min_item_events": settings["min_item_events"],
        "terms": len(terms),
        "origin": origin,
    }
    with output("data/prepared") as folder:
        split.write_parquet(folder / "histories.parquet")
        (folder / "flat").mkdir()
        for name, array in arrays.items():
            np.save(folder / "flat" / f"{name}.npy", array)
        features.write_parquet(folder / "items.parquet")
        written.write_parquet(folder / "content.parquet")
        shown.write_parquet(folder / "impressions.parquet")
        write_json(folder / "attributes.json", names)
        people.write_parquet(folder / "users.parquet")
        write_json(folder / "prepared.json", facts | {"platforms": named, "sizes": sizes, "removed": removed})
    log.info("prepare: %s", ", ".join(f"{v:,} {k}" for k, v in sizes.items()))
    log.info("prepare: removed %s", ", ".join(f"{v:,} {k}" for k, v in removed.items()))
    log.info("prepare: %.0f %% of the neighbours in histories have equal times%s", 100 * ties,
             "; items of equal time are taken for a basket, and one drawn from the last is held out" if ties > BASKETS else "")  # fmt: skip


if __name__ == "__main__":
    run(main)
