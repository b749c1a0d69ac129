"""Is what privacy promises so? Rows on checkouts that are made for it, with real runs.

    python -m benchmarks.privacy                      # all rows (make bench-privacy)
    python -m benchmarks.privacy --row forgetting     # one of them
    python -m benchmarks.privacy --tiny               # small sizes: does it run?

Prints a line a row and writes reports/privacy.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import take_rows
from benchmarks.privacy.forgetting import among_many, forget_one
from benchmarks.privacy.learning import audit, equal, quality, steps
from benchmarks.privacy.scoring import encrypted

# By name: how it is taken, and of each figure its name, what is asked for at least, the aim, and whether less is better.
ROWS: dict[str, tuple[Callable[[Path, bool], list[float | None]], list[tuple[str, float, float, bool]]]] = {
    "forgetting": (forget_one, [
        ("a shopper forgotten: places where their id, pseudonym or history still stands", 0, 0, True),
        ("... places where they stand again after another import", 0, 0, True),
        ("... seconds", 60, 60, True),
    ]),
    "many": (among_many, [("one of 10^6 shoppers leaves tables of 6 10^7 rows, a log of 10^6 lines and an artefact: seconds", 60, 60, True)]),
    "gradients": (equal, [
        ("sum of gradients of shoppers beside the batch's, of the largest, the family where it differs most", 1e-5, 1e-5, True),
        ("epsilon of two accountants apart, share", 0.02, 0.02, True),
    ]),
    "audit": (audit, [
        ("1,000 canaries, the stated noise: epsilon that is shown, over what is stated", 1, 1, True),
        ("... half the noise: over what is stated, else the audit is blind", 1, 1, False),
    ]),
    "quality": (quality, [
        ("NDCG@10 at epsilon 8 on Beauty with titles, over noised popularity's", 2, 3, False),
        ("... on 100,000 simulated shoppers, over the plain model's", 0.8, 0.9, False),
    ]),
    "encrypted": (encrypted, [
        ("4,096 items x 64, encrypted features: share of scores equal to those of integers", 1, 1, False),
        ("... server, ms", 100, 75, True),
        ("... sent up, MB", 6, 6, True),
    ]),
    "step": (steps, [("a step of private training of a network, over a plain one", 6, 4, True)]),
}  # fmt: skip


if __name__ == "__main__":
    take_rows(__doc__, ROWS, "privacy.json")
