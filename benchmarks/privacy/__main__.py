"""Is what privacy promises so? Rows on checkouts that are made for it, with real runs.

    python -m benchmarks.privacy                      # all rows (make bench-privacy)
    python -m benchmarks.privacy --row forgetting     # one of them
    python -m benchmarks.privacy --tiny               # small sizes: does it run?

Prints a line a row and writes reports/privacy.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import take_rows
from benchmarks.privacy.forgetting import forget_one

# By name: how it is taken, and of each figure its name, what is asked for at least, the aim, and whether less is better.
ROWS: dict[str, tuple[Callable[[Path, bool], list[float]], list[tuple[str, float, float, bool]]]] = {
    "forgetting": (forget_one, [
        ("a shopper forgotten: places where their id, pseudonym or history still stands", 0, 0, True),
        ("... places where they stand again after another import", 0, 0, True),
        ("... seconds", 60, 60, True),
    ]),
}  # fmt: skip


if __name__ == "__main__":
    take_rows(__doc__, ROWS, "privacy.json")
