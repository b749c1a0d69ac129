"""Does sending by uplift pay, on any randomised test?

    python -m benchmarks.uplift --data ../shared/data/hillstrom/hillstrom.csv.gz --treatment segment --outcome visit --arm "Womens E-Mail" --control "No E-Mail"

--data: CSV or Parquet, a row a person. --arm, --control: values of the treatment's column; of a column of two values they are found. --share: of the people that was to be treated, for the alarm of uneven arms. --ignore: columns that are
no features; left out besides are ids, columns that differ between the arms (they came after the treatment) and columns that tell the outcome. --cost, --value:
of a message, and of one unit of the outcome.

Prints the features used and why others are not, Qini of every learner with its interval, the decision, and the money of sending by it; writes reports/uplift.json.
"""

import argparse
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from marketing import experiments, uplift
from pipelines.stage import write_json

NOTHING = (
    "0",
    "control",
    "no",
    "none",
    "false",
    "c",
    "control group",
    "holdout",
    "hold-out",
)  # what arms without treatment are called
YES = ("1", "true", "yes", "y", "t")
TOLD_APART = 1e-3  # chance below which a column differs between the arms by more than chance
MOST = 1_000_000  # people that are looked at; of more, so many are drawn
MANY = 50  # values from which a text is no category but the rarest of it, put together


class Unusable(ValueError):
    """The file or an argument cannot be used; the message says what to do."""


def main() -> None:
    chosen = arguments()
    warnings.filterwarnings("ignore")
    try:
        report = measured(chosen)
    except (Unusable, uplift.NotRandom, experiments.SampleRatio) as error:
        sys.exit(f"error: {error}")
    write_json(chosen.out, report)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True)
    cli.add_argument("--treatment", required=True)
    cli.add_argument("--outcome", required=True)
    cli.add_argument("--arm")
    cli.add_argument("--control")
    cli.add_argument("--ignore", nargs="*", default=[])
    cli.add_argument(
        "--share",
        type=float,
        help="of these people that was to be in --arm; where it is given, arms that are not so many are an error",
    )
    cli.add_argument("--cost", type=float, default=0.0)
    cli.add_argument("--value", type=float, default=1.0)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--out", type=Path, default=Path("reports/uplift.json"))
    return cli.parse_args(given)


def measured(chosen: argparse.Namespace) -> dict:
    """The report; printed as it comes."""
    table, treated = people(chosen)
    outcome = numbers_of(table, chosen.outcome)
    features, names, left = features_of(table.drop(chosen.treatment, chosen.outcome), treated, outcome, chosen.ignore)
    print(
        f"{len(table):,} people, {int(treated.sum()):,} treated; {chosen.outcome}: {outcome[treated].mean():.5g} treated, {outcome[~treated].mean():.5g} others"
    )
    both = (experiments.Arm.of(outcome[who]) for who in (treated, ~treated))
    changed = experiments.difference(*both, chosen.share)
    low, high = changed.interval
    print(
        f"what the treatment changed, a person: {changed.value:+.5f} ({low:+.5f} to {high:+.5f}, however often it is looked at)"
    )
    print(f"features: {', '.join(names) or 'none'}")
    for name, reason in left.items():
        print(f"  not {name}: {reason}")
    if not names:
        raise Unusable("no feature is left, by which people could be told apart")
    data, auc = uplift.trial(features, treated, outcome, chosen.seed)
    weighed = " (not by chance alone: weighed by propensities)" if np.ptp(data.propensity) else ""
    print(f"who was treated, guessed from the features: area under the curve {auc:.3f}{weighed}")
    scores = uplift.out_of_fold(data, chosen.seed, lambda name: print(f"  learning: {name}", file=sys.stderr, flush=True))
    verdict = uplift.decide(data, scores, chosen.seed)
    print(f"\n{'':<10}{'Qini':>8}  {'95 % interval':<20}{'beside response':<22}{'AUUC':<30}{'uplift of the best 10 / 30 %'}")
    for r in verdict.ranked:
        beside = "" if r.beside_response is None else f"{r.beside_response[0]:+.4f} to {r.beside_response[1]:+.4f}"
        area, *tops = (f"{f:+.4f} ({low:+.4f} to {high:+.4f})" for f, (low, high) in [(r.auuc, r.auuc_interval), *((t.uplift, t.interval) for t in r.tops)])  # fmt: skip
        print(
            f"{r.name:<10}{r.qini:>8.4f}  {f'{r.interval[0]:+.4f} to {r.interval[1]:+.4f}':<20}{beside:<22}{area:<30}{' / '.join(tops)}"
        )
    print(f"\n{verdict.reason}")
    rows = worth(data, scores, verdict, chosen)
    for name, people_sent, (extra, low, high) in rows:
        print(f"{name:<44}{people_sent:>9,} people  extra money {extra:>12,.2f}  ({low:,.2f} to {high:,.2f})")
    return {
        "people": len(table), "treated": int(treated.sum()), "features": names, "left_out": left, "auc_of_treatment": auc,
        "ranked": [asdict(r) for r in verdict.ranked], "best": verdict.best, "pays": verdict.pays, "reason": verdict.reason,
        "money": [{"send_to": name, "people": count, "extra": extra, "interval": [low, high]} for name, count, (extra, low, high) in rows],
    }  # fmt: skip


def worth(data: uplift.Trial, scores: dict, verdict: uplift.Verdict, chosen: argparse.Namespace) -> list[tuple]:
    """Whom sending by it reaches, what that brings, and what response and everybody would have brought."""
    by_uplift = scores[verdict.best] * chosen.value > chosen.cost
    count = int(by_uplift.sum())
    by_response = np.zeros(len(by_uplift), bool)
    by_response[np.argsort(-scores[uplift.RESPONSE], kind="stable")[:count]] = True
    sets = {
        f"whom {verdict.best} says it helps beyond its cost": by_uplift,
        "as many, by response": by_response,
        "everybody": np.ones(len(by_uplift), bool),
    }
    return [(name, int(who.sum()), uplift.money(data, who, chosen.value, chosen.cost, chosen.seed)) for name, who in sets.items()]


def people(chosen: argparse.Namespace) -> tuple[pl.DataFrame, np.ndarray]:
    """The people of the two arms, and who of them was treated."""
    if not chosen.data.is_file():
        raise Unusable(f"--data {chosen.data} is no file")
    read = pl.read_parquet if chosen.data.suffix == ".parquet" else lambda path: pl.read_csv(path, infer_schema_length=None)
    try:
        table = read(chosen.data)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Unusable(f"--data {chosen.data} cannot be read: {error}") from error
    for option, name in (("--treatment", chosen.treatment), ("--outcome", chosen.outcome)):
        if name not in table.columns:
            raise Unusable(f"{option} {name}: there is no such column; there are {', '.join(table.columns)}")
    table = table.drop_nulls([chosen.treatment, chosen.outcome])
    told = table[chosen.treatment].cast(pl.String)
    values = sorted(told.unique())
    control, arm = chosen.control, chosen.arm
    if len(values) == 2 and (arm is None or control is None):
        control = control or next((v for v in values if v.lower() in NOTHING and v != arm), next(v for v in values if v != arm))
        arm = arm or next(v for v in values if v != control)
    if arm is None or control is None:
        raise Unusable(f"{chosen.treatment} has the values {', '.join(values[:9])}; name two of them with --arm and --control")
    for option, value in (("--arm", arm), ("--control", control)):
        if value not in values:
            raise Unusable(f"{option} {value}: {chosen.treatment} has no such value; it has {', '.join(values[:9])}")
    inside = told.is_in([arm, control])
    table = table.filter(inside)
    if len(table) > MOST:
        print(f"{len(table):,} people; {MOST:,} of them are drawn")
        table = table.sample(MOST, seed=chosen.seed)
    told = table[chosen.treatment].cast(pl.String)
    print(f"arm {arm!r} beside {control!r}")
    return table, (told == arm).to_numpy()


def numbers_of(table: pl.DataFrame, name: str) -> np.ndarray:
    """An outcome as numbers."""
    column = table[name]
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        found = column.cast(pl.Float64).to_numpy()
        if (found < 0).any():
            raise Unusable(f"--outcome {name} has negative values; it must count or sum something")
        return found
    values = sorted(column.unique())
    if len(values) != 2:
        raise Unusable(f"--outcome {name} is a text of {len(values)} values; it must be a number or one of two")
    yes = next((v for v in values if v.lower() in YES), values[1])
    return (column == yes).cast(pl.Float64).to_numpy()


def features_of(
    table: pl.DataFrame, treated: np.ndarray, outcome: np.ndarray, ignored: list[str]
) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """Features (N, F), their names, and why the other columns are none."""
    missing = [name for name in ignored if name not in table.columns]
    if missing:
        raise Unusable(f"--ignore {missing[0]}: there is no such column; there are {', '.join(table.columns)}")
    columns, names, left = [], [], {}
    for name in table.columns:
        column = table[name]
        numbers = coded(column)
        reason = "as asked" if name in ignored else no_feature(column, numbers, treated, outcome)
        if reason:
            left[name] = reason
        else:
            columns.append(numbers)
            names.append(name)
    return (np.stack(columns, 1) if columns else np.zeros((len(table), 0))), names, left


def coded(column: pl.Series) -> np.ndarray:
    """Numbers as they are, dates as days, texts as the rank of how often they occur, the rarest together."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64).to_numpy()
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("s").cast(pl.Float64).to_numpy() / 86400
    text = column.cast(pl.String).fill_null("")
    common = text.value_counts(sort=True).sort("count", column.name, descending=[True, False])[column.name].to_list()
    place = {value: min(rank, MANY) for rank, value in enumerate(common)}
    return np.array([place[value] for value in text], float)


def no_feature(column: pl.Series, numbers: np.ndarray, treated: np.ndarray, outcome: np.ndarray) -> str | None:
    """Why a column is no feature; None: it is one."""
    from scipy.stats import chi2_contingency, mannwhitneyu

    distinct = column.n_unique()
    if distinct <= 1:
        return "it says the same of everybody"
    whole = column.dtype.is_integer() or column.dtype == pl.String
    if whole and distinct > 0.95 * len(column):
        return "it names each person (an id)"
    told = np.nan_to_num(numbers, nan=-1.0)
    if distinct <= MANY:
        counts = np.stack(
            [np.bincount(np.unique(told, return_inverse=True)[1][who], minlength=distinct) for who in (treated, ~treated)]
        )
        chance = chi2_contingency(counts[:, counts.sum(0) > 0]).pvalue
    else:
        chance = mannwhitneyu(told[treated], told[~treated]).pvalue
    if chance < TOLD_APART:
        return f"it differs between the arms (p = {chance:.1e}): it came after the treatment"
    values, place = np.unique(told, return_inverse=True)
    if len(values) > MANY:
        values, place = np.unique(told != _commonest(told), return_inverse=True)
    sizes, answered = np.bincount(place), np.bincount(place, outcome > 0)
    if (outcome > 0).mean() < 0.9 and ((sizes >= 30) & (answered == sizes)).any():
        return "it tells the outcome"
    return None


def _commonest(values: np.ndarray) -> float:
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


if __name__ == "__main__":
    main()
