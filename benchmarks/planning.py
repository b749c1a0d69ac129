"""How long does a large plan take, in how much memory, how far from the best there is?

    python -m benchmarks.planning 1000000 200 10000     # shoppers, candidates of each, items

Random offers: items wanted unevenly, three channels with room for half, a third and a quarter of the shoppers, stock for a bit more than one message each, money for a part;
two messages a shopper at most, one by a channel, of a category and of a brand. Prints JSON; `gap` is by the plan's own bound. tests/marketing/test_assignment.py holds the bound against HiGHS on samples.
"""

import argparse
import json
import resource
import sys
import time

import numpy as np

from marketing.assignment import Limits, Offers, assign

AT_ONCE = 50_000  # shoppers whose offers are drawn together, so that drawing takes little memory


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("shoppers", "candidates", "items"):
        cli.add_argument(name, type=int)
    chosen = cli.parse_args()
    assign(*instance(100, 5, 20))  # compiles
    offers, limits = instance(chosen.shoppers, chosen.candidates, chosen.items)
    started = time.perf_counter()
    found = assign(offers, limits, lambda done, bound: print(f"{done} rounds, bound {bound:,.0f}", file=sys.stderr, flush=True))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_gb": peak,
                "gap": found.gap,
                "messages": len(found.rows),
                "value": found.value,
                "bound": found.bound,
            }
        )
    )


def instance(shoppers: int, candidates: int, items: int) -> tuple[Offers, Limits]:
    rng, size = np.random.default_rng(0), shoppers * candidates
    appeal = rng.lognormal(0, 0.5, items).astype(np.float32)
    value, item, channel = np.empty(size, np.float32), np.empty(size, np.int32), np.empty(size, np.int8)
    for start in range(0, size, AT_ONCE * candidates):
        part = slice(start, min(start + AT_ONCE * candidates, size))
        count = part.stop - start
        item[part] = np.minimum(items * rng.random(count, np.float32) ** 2, items - 1)
        value[part] = appeal[item[part]] * np.exp(rng.standard_normal(count, np.float32)) - 0.8
        channel[part] = rng.integers(0, 3, count, np.int8)
    limits = Limits(
        stock=np.maximum(rng.poisson(shoppers * 1.2 / items * rng.lognormal(0, 1, items)), 1).astype(np.int64),
        category=(np.arange(items) % 50).astype(np.int32),
        brand=(np.arange(items) % 97).astype(np.int32),
        capacity=np.array([shoppers // 2, shoppers // 3, shoppers // 4]),
        cost=np.array([0.1, 0.05, 0.6]),
        budget=shoppers * 0.12,
        per_shopper=2,
        per_category=1,
        per_brand=1,
        per_channel=1,
    )
    return Offers(np.arange(shoppers + 1, dtype=np.int64) * candidates, value, item, channel), limits


if __name__ == "__main__":
    main()
