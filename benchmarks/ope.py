"""What would the other policy have brought? Told from one log, held against what it did bring in another.

    python -m benchmarks.ope --data ../shared/data/open-bandit

--data: a folder with NAME_random.csv.gz (logged under random choice) and NAME_bts.csv.gz (under Thompson sampling) for each campaign, as the Open Bandit Dataset has them:
item_id, position, click, propensity_score. The target's chances are how often it chose each item at each position; the average of its logged propensities would be
biased (a choice is there because it was likely), which is tried too, and must be refused.

Prints a line a campaign and estimator; writes reports/ope.json.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl

from marketing import off_policy
from pipelines.stage import write_json

FOLDS = 5


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True)
    cli.add_argument("--out", type=Path, default=Path("reports/ope.json"))
    chosen = cli.parse_args()
    campaigns = sorted(path.name.removesuffix("_random.csv.gz") for path in chosen.data.glob("*_random.csv.gz"))
    if not campaigns:
        sys.exit(f"error: --data {chosen.data} holds no NAME_random.csv.gz")
    write_json(chosen.out, {"campaigns": [told(chosen.data, name) for name in campaigns]})


def told(data: Path, name: str) -> dict:
    """What is told of Thompson sampling from the random log of a campaign, beside what it did; printed too."""
    logged, target = (pl.read_csv(data / f"{name}_{policy}.csv.gz") for policy in ("random", "bts"))
    truth, log = float(target["click"].mean()), of_frequencies(logged, target)
    overlap = off_policy.overlap(log.weight)
    print(
        f"{name}: {len(logged):,} random choices, which say as much as {overlap.effective:,.0f} of the target; mean weight {overlap.mean_weight:.3f} "
        f"(standard error {overlap.error:.3f}); it did bring {truth:.5f} clicks a choice"
    )
    rows = []
    for found in off_policy.values(log):
        low, high = found.interval
        error = abs(found.value - truth) / truth
        rows.append({"estimator": found.estimator, "value": found.value, "interval": [low, high], "relative_error": error})
        print(f"  {found.estimator:<10}{found.value:.5f}  ({low:.5f} to {high:.5f})  off by {error:.0%}")
    try:
        off_policy.overlap(of_propensities(logged, target))
        refused = None
    except off_policy.NoValue as error:
        refused = str(error)
    print(f"  by the average of its logged propensities: {refused or 'NOT refused'}")
    return {
        "campaign": name,
        "truth": truth,
        "mean_weight": overlap.mean_weight,
        "effective": overlap.effective,
        "estimates": rows,
        "biased_refused": refused,
    }


def of_frequencies(logged: pl.DataFrame, target: pl.DataFrame) -> off_policy.Log:
    """The random log, weighed by how often the target chose; its rewards as a model by item and position, that did not see the choice, expects them."""
    size = max(logged["item_id"].max(), target["item_id"].max()) + 1, max(logged["position"].max(), target["position"].max()) + 1
    at, there = (tuple(table[c].to_numpy() for c in ("item_id", "position")) for table in (logged, target))
    chances = counted(there, size)
    chances /= np.maximum(chances.sum(0), 1)
    reward, fold = logged["click"].to_numpy().astype(float), np.arange(len(logged)) % FOLDS
    expected, of_target = np.empty(len(reward)), np.empty(len(reward))
    for n in range(FOLDS):
        seen, held = fold != n, fold == n
        rates = drawn_rates([column[seen] for column in at], reward[seen], size)
        expected[held] = rates[at[0][held], at[1][held]]
        of_target[held] = (chances * rates).sum(0)[at[1][held]]
    return off_policy.Log(reward, chances[at] / logged["propensity_score"].to_numpy(), expected, of_target)


def drawn_rates(at: list[np.ndarray], reward: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rates by item and position, drawn to the item's, and that to the mean, by as many choices as their spread beyond chance says (beta-binomial, by moments)."""
    wins, tries = counted(at, size, reward), counted(at, size)
    mean = wins.sum() / tries.sum()
    of_item, of_all = wins.sum(1), tries.sum(1)
    there = of_all > 0
    spread = np.average((of_item[there] / of_all[there] - mean) ** 2, weights=of_all[there])
    beyond = spread - mean * (1 - mean) * there.sum() / of_all.sum()
    prior = min(mean * (1 - mean) / beyond - 1, 1e6) if beyond > 0 else 1e6
    items = (of_item + prior * mean) / (of_all + prior)
    return (wins + prior * items[:, None]) / (tries + prior)


def counted(at: tuple | list, size: tuple[int, int], value: np.ndarray | float = 1.0) -> np.ndarray:
    table = np.zeros(size)
    np.add.at(table, tuple(at), value)
    return table


def of_propensities(logged: pl.DataFrame, target: pl.DataFrame) -> np.ndarray:
    """Weights by the average of the propensities that the target logged with what it chose."""
    average = target.group_by("item_id", "position").agg(chance=pl.col("propensity_score").mean())
    joined = logged.join(average, on=["item_id", "position"], how="left")
    return (joined["chance"].fill_null(0.0) / joined["propensity_score"]).to_numpy()


if __name__ == "__main__":
    main()
