"""What makes it likely that two ids are one person's: a device or a network address that few share, and the same habits.

In: events with `known_by`, users, what is linked for certain. Out: of each id that nothing certain links the account that is likeliest the same person's, with a calibrated chance.

A logistic regression learns on what is certain, held out: of ids that are linked for certain, whose the regression would have said they are, from what was seen elsewhere than where that was told. A link is proposed only from
the chance on from which such links were right often enough (the lower bound of Wilson's interval, 1927).
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from online.state import VISITOR
from pipelines.data.identity.evidence import HASHES, LIKELY, signed_in
from pipelines.data.identity.people import Graph
from pipelines.data.identity.visitors import is_visitor
from pipelines.data.tables import SOURCE_FILE, UNREAD

REASON = "the same device or network address, and the same habits"
MOST_PEOPLE = 8  # that share a device or an address which still says something
SHARE = 840  # of which each of one to eight people has a whole number: sums of these are the same in any order
FOLDS, FEWEST = 5, 400  # of what is certain, that a chance can be shown on
Z = 1.96  # of the interval
COLUMNS = ("one", "other", "chance")
NO_ATTRIBUTES = ("user_id", "channels", "home_platform", UNREAD, SOURCE_FILE, *HASHES)


class Likely(NamedTuple):
    """Attributes: pairs: one (id without a certain link), other (account), chance; those that may be taken. report: what was measured on certain links that were held out."""

    pairs: pl.DataFrame
    report: dict


def likely(
    events: pl.LazyFrame, items: pl.LazyFrame | None, users: pl.LazyFrame | None, certain: Graph, precision: float, seed: int = 0
) -> Likely:
    """The pairs that are right with at least `precision`.

    events: with `known_by`; what a visitor did who is known by a sign-in counts as an id of its own here, so that it can be learnt from. certain: what is linked for certain.
    """
    nothing = Likely(pl.DataFrame(schema={"one": pl.String, "other": pl.String, "chance": pl.Float64}), {})
    if not set(LIKELY) & set(events.collect_schema()):
        return nothing
    acts = _acts(events)
    pairs = _candidates(acts, certain)
    if pairs.is_empty():
        return nothing
    inputs = np.column_stack([_features(pairs, acts, items), _attributes(pairs, users)])
    ends = list(pairs.select("one", "other").iter_rows())
    person = [certain.person(other) for _, other in ends]
    same = np.array([certain.person(one) == of for (one, _), of in zip(ends, person, strict=True)])
    different = np.array([certain.hinders(one, other) is not None for one, other in ends])
    learnt = np.flatnonzero(same | different)
    if min(same.sum(), different.sum()) < FEWEST:
        few = {"held_out": len(learnt), "said": "too few certain links to learn from"}
        return Likely(nothing.pairs, {"visitors": few, "accounts": few})
    groups = np.unique([certain.person(one) for one, _ in ends], return_inverse=True)[1]
    fold = np.random.default_rng(seed).integers(FOLDS, size=groups.max() + 1)[groups]
    chance = _fit(inputs[learnt], same[learnt]).predict_proba(inputs)[:, 1]
    for held in range(FOLDS):
        rows, others = (learnt[(fold[learnt] == held) == of] for of in (True, False))
        chance[rows] = _fit(inputs[others], same[others]).predict_proba(inputs[rows])[:, 1]
    found = pairs.select("one", "other").with_columns(
        chance=pl.Series(chance), person=pl.Series(person), same=pl.Series(same), different=pl.Series(different)
    )
    taken, report = [], {}
    for name, theirs in (
        ("visitors", is_visitor("one")),
        ("accounts", ~is_visitor("one")),
    ):
        best = _best(found.filter(theirs))
        least, report[name] = _threshold(best.filter(pl.col("same") | pl.col("different")), precision)
        # Whose person is known already needs no likely link.
        linked = found.filter(theirs, "same")["one"].unique() if name == "visitors" else pl.Series([], dtype=pl.String)
        open_ = _best(found.filter(theirs, ~pl.col("same"), ~pl.col("different"), ~pl.col("one").is_in(linked.implode())))
        taken.append(open_.filter(pl.col("chance") >= least))
        report[name] |= {"proposed": len(taken[-1]), "undecided": len(open_) - len(taken[-1])}
    return Likely(pl.concat(taken).select(*COLUMNS), report)


def _acts(events: pl.LazyFrame) -> pl.LazyFrame:
    """What each id did, an anonymous visitor's under the visitor: id, seen_by (the visitor that a row tells), item_id, event, timestamp, device_hash, address_hash."""
    there = events.collect_schema()
    visitor = pl.col("visitor_id") if "visitor_id" in there else pl.lit(None, pl.String)
    who = pl.when(signed_in() | visitor.is_null()).then("user_id").otherwise(pl.lit(VISITOR) + visitor)
    hashes = [pl.col(c) if c in there else pl.lit(None, pl.String).alias(c) for c in LIKELY]
    found = events.filter(pl.col("user_id").is_not_null(), pl.col("event") != "holdout")
    return found.select("item_id", "event", "timestamp", *hashes, id=who.cast(pl.String), seen_by=visitor.cast(pl.String))


def _candidates(acts: pl.LazyFrame, certain: Graph) -> pl.DataFrame:
    """Pairs of an id with an account that were seen with the same device or address, elsewhere than where the id itself was told: one, other, and of each kind how much that says."""
    found = []
    for column in LIKELY:
        held = acts.filter(pl.col(column).is_not_null(), pl.col("id").is_not_null()).select("id", "seen_by", value=column)
        held = held.group_by("id", "seen_by", "value").len("times").collect(engine="streaming")
        accounts = held.filter(~is_visitor("id"))
        accounts = accounts.with_columns(person=pl.Series([certain.person(one) for one in accounts["id"]], dtype=pl.String))
        accounts = accounts.with_columns(people=pl.col("person").n_unique().over("value")).filter(pl.col("people") <= MOST_PEOPLE)
        pairs = (
            held.lazy()
            .join(accounts.lazy(), on="value", suffix="_other")
            .filter(
                pl.col("id") != pl.col("id_other"),
                (pl.lit(VISITOR) + pl.col("seen_by_other")).fill_null("") != pl.col("id"),
            )
        )
        says = pairs.group_by(one="id", other="id_other", value="value").agg(
            (SHARE // pl.col("people").first().cast(pl.Int64)).alias("says"),
            times=pl.min_horizontal(pl.col("times").sum(), pl.col("times_other").sum()),
        )
        kind = column.removesuffix("_hash")
        found.append(says.group_by("one", "other").agg(
            pl.col("says").sum().alias(kind), pl.col("says").max().alias(f"{kind}_alone"), pl.col("times").sum().log1p().alias(f"{kind}_times")
        ))  # fmt: skip
    device, address = found
    pairs = device.join(address, on=["one", "other"], how="full", coalesce=True).fill_null(0.0)
    return pairs.sort("one", "other").collect(engine="streaming")


def _features(pairs: pl.DataFrame, acts: pl.LazyFrame, items: pl.LazyFrame | None) -> np.ndarray:
    """(P, F) of pairs: what devices and addresses say, whether the one is a visitor, and how alike their hours, items, categories and brands are."""
    ids = pl.concat([pairs["one"], pairs["other"]]).unique().sort()
    number = pl.DataFrame({"id": ids}).with_row_index("row")
    own = acts.join(number.lazy(), on="id").filter(pl.col("event") != "impression")
    told = (
        items.select("item_id", *(c for c in ("category", "brand") if c in items.collect_schema())) if items is not None else None
    )
    own = own.join(told, on="item_id", how="left") if told is not None else own
    own = own.with_columns(hour=pl.col("timestamp").dt.hour().cast(pl.String)).collect(engine="streaming")
    one, other = (
        pairs.join(number, left_on=c, right_on="id", how="left", maintain_order="left")["row"].to_numpy()
        for c in ("one", "other")
    )
    alike = [
        _cosines(own, column, len(ids), one, other)
        for column in ("item_id", "hour", "category", "brand")
        if column in own.columns
    ]
    counts = np.log1p(np.bincount(own["row"].to_numpy(), minlength=len(ids)))
    visitor = pairs["one"].str.starts_with(VISITOR).to_numpy().astype(float)
    plain = [pairs[c].to_numpy() for c in pairs.columns[2:]]
    base = np.column_stack([*plain, *alike, counts[one], counts[other]])
    # How much of what speaks for the one the id's other candidates have: who is the only one is likelier right.
    place = pairs.select(pl.col("one").rank("dense")).to_series().to_numpy() - 1
    share = []
    for column in (*plain, *alike):
        total = np.bincount(place, column)[place]
        share.append(np.divide(column, total, out=np.zeros_like(column, dtype=float), where=total > 0))
    many = np.log(np.bincount(place)[place])
    return np.column_stack([base, *share, many, visitor, base * visitor[:, None]])


def _attributes(pairs: pl.DataFrame, users: pl.LazyFrame | None) -> np.ndarray:
    """(P, 2) of pairs of accounts: how surprising it is that so many attributes agree (the sum of -log of the values' shares), and how many differ."""
    agree, differ = np.zeros(len(pairs)), np.zeros(len(pairs))
    names = (
        [] if users is None else [c for c, kind in users.collect_schema().items() if kind == pl.String and c not in NO_ATTRIBUTES]
    )
    if not names:
        return np.column_stack([agree, differ])
    told = users.filter(pl.col("user_id").is_in(pl.concat([pairs["one"], pairs["other"]]).unique().implode()))
    told = told.unique("user_id", keep="first").select("user_id", *names).collect()
    for name in names:
        known = told.select("user_id", value=name).drop_nulls()
        known = known.with_columns(surprise=-(pl.len().over("value") / pl.len()).log())
        one, other = (
            pairs.join(known, left_on=c, right_on="user_id", how="left", maintain_order="left") for c in ("one", "other")
        )
        equal = (one["value"] == other["value"]).fill_null(False).to_numpy()
        agree += np.where(equal, one["surprise"].fill_null(0.0).to_numpy(), 0.0)
        differ += (one["value"] != other["value"]).fill_null(False).to_numpy()
    return np.column_stack([agree, differ])


def _cosines(own: pl.DataFrame, column: str, ids: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(P,) cosines between what two ids did, counted by a column; rarer values count more."""
    import scipy.sparse as sp

    told = own.select("row", value=pl.col(column).cast(pl.String)).drop_nulls()
    codes = told["value"].rank("dense").to_numpy() - 1
    table = sp.coo_matrix(
        (np.ones(len(told)), (told["row"].to_numpy(), codes)), shape=(ids, int(codes.max(initial=0)) + 1)
    ).tocsr()
    table.data = np.log1p(table.data)
    table = table @ sp.diags(np.log(ids / np.maximum(np.bincount(table.indices, minlength=table.shape[1]), 1)) + 0.1)
    length = np.sqrt(np.asarray(table.multiply(table).sum(1)).ravel())
    dot = np.asarray(table[one].multiply(table[other]).sum(1)).ravel()
    return np.divide(dot, length[one] * length[other], out=np.zeros(len(one)), where=dot > 0)


def _fit(inputs: np.ndarray, same: np.ndarray):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(inputs, same)


def _best(pairs: pl.DataFrame) -> pl.DataFrame:
    """Of each id the likeliest account, its chance lowered by that of another person's likeliest."""
    order = pairs.sort("one", "chance", "other", descending=[False, True, False])
    by_person = order.unique(["one", "person"], keep="first", maintain_order=True)
    second = by_person.group_by("one", maintain_order=True).agg(second=pl.col("chance").slice(1, 1).first())
    best = by_person.unique("one", keep="first", maintain_order=True).join(second, on="one", how="left", maintain_order="left")
    return best.with_columns(chance=pl.col("chance") * (1 - pl.col("second").fill_null(0.0))).drop("second")


def _threshold(held: pl.DataFrame, precision: float) -> tuple[float, dict]:
    """From which chance on links are right often enough, and the report."""
    held = held.sort("chance", descending=True)
    right = held["same"].to_numpy()
    count = np.arange(1, len(right) + 1)
    share = right.cumsum() / count
    lower = (share + Z**2 / (2 * count) - Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))) / (1 + Z**2 / count)
    enough = np.flatnonzero((lower >= precision) & (count >= FEWEST))
    if not len(enough):
        return np.inf, {"held_out": len(held), "said": f"no chance shows links that are right in {precision:.1%} or more"}
    last = enough[-1]
    return float(held["chance"][int(last)]), {
        "held_out": len(held), "from_chance": round(float(held["chance"][int(last)]), 4), "precision": round(float(share[last]), 4),
        "lower_bound": round(float(lower[last]), 4), "decided": round(float((last + 1) / len(held)), 4),
    }  # fmt: skip
