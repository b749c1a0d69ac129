"""How well is it understood what customers want?

    python -m benchmarks.intents --train FILE --test FILE     # columns utterance, intent; CSV, also gzipped

Prints the figures and writes reports/intents.json: {"accuracy", "accuracy_10_examples", "ece", "ms_p99"}. accuracy: of the head trained on the one file, on the other; accuracy_10_examples: the same of heads that learnt from ten
examples an intent, the mean of five draws; ece: the expected calibration error in 15 bins; ms_p99: of one message after the other on this machine.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from pipelines.stage import write_json

DRAWS, EXAMPLES, ASKED = 5, 10, 500


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--train", type=Path, required=True)
    cli.add_argument("--test", type=Path, required=True)
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen = cli.parse_args()
    tables = []
    for file in (chosen.train, chosen.test):
        try:
            tables.append(table(file))
        except ValueError as error:
            cli.error(str(error))
    report = figures(*tables)
    for name, value in report.items():
        print(f"{name}: {value:.4f}")
    write_json(chosen.out / "intents.json", report)


def table(file: Path) -> tuple[list[str], np.ndarray]:
    """Messages and their intents.

    Raises:
        ValueError: the file is not there, or lacks a column or rows.
    """
    import polars as pl

    if not file.is_file():
        raise ValueError(f"{file} is not there")
    read = pl.read_csv(file, infer_schema=False)
    if missing := {"utterance", "intent"} - set(read.columns):
        raise ValueError(f"{file} has no column {', '.join(sorted(missing))}; there are {', '.join(read.columns)}")
    read = read.drop_nulls(["utterance", "intent"])
    if read.is_empty():
        raise ValueError(f"{file} holds no messages")
    return read["utterance"].to_list(), read["intent"].to_numpy()


def figures(train: tuple[list[str], np.ndarray], test: tuple[list[str], np.ndarray]) -> dict[str, float]:
    from pipelines.learning.intents import fit

    head = fit(*train)
    accuracy, ece = measured(head, *test)
    few = [measured(fit(*some(*train, EXAMPLES, seed)), *test)[0] for seed in range(DRAWS)]
    return {"accuracy": accuracy, "accuracy_10_examples": float(np.mean(few)), "ece": ece, "ms_p99": slowest(head, test[0])}


def measured(head, messages: list[str], intents: np.ndarray) -> tuple[float, float]:
    """Accuracy and expected calibration error."""
    from pipelines.learning.intents import calibration_error

    chances, _ = head.chances(messages)
    right = np.array(head.names)[chances.argmax(1)] == intents
    return float(right.mean()), calibration_error(right, chances.max(1))


def some(messages: list[str], intents: np.ndarray, each: int, seed: int) -> tuple[list[str], np.ndarray]:
    """So many of each intent."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(np.flatnonzero(intents == name))[:each] for name in np.unique(intents)])
    return [messages[row] for row in rows], intents[rows]


def slowest(head, messages: list[str]) -> float:
    """The 99th percentile of milliseconds a message, asked one by one."""
    took = []
    for message in messages[:ASKED]:
        started = time.perf_counter()
        head.chances([message])
        took.append(1000 * (time.perf_counter() - started))
    return float(np.quantile(took, 0.99))


if __name__ == "__main__":
    main()
