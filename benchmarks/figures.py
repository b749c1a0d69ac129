"""A figure beside what it should be, as reports/training.json and reports/gpu.json hold it, and the machine it was taken on."""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.stage import write_json


def row(
    name: str, value: float | None, at_least: float, aim: float, device: str, less: bool = False, reason: str | None = None
) -> dict:
    """A row, printed too. less: it should be at most `at_least`. reason: why there is no value."""
    value = None if value is None else float(value)
    met = None if value is None else value <= at_least if less else value >= at_least
    said = f"not taken: {reason}" if value is None else f"{value:.3g}"
    print(f"{name}: {said} ({'at most' if less else 'at least'} {at_least:g}, aim {aim:g})", flush=True)
    found = {"name": name, "value": value, "at_least": at_least, "aim": aim, "met": met, "device": device}
    return found | ({"reason": reason} if reason else {})


def cpu() -> str:
    """The CPU's name, where the system tells it."""
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return next((line.split(": ")[1] for line in told.splitlines() if line.startswith("model name")), platform.machine())


def take_rows(
    told: str, rows: dict[str, tuple[Callable[[Path, bool], list[float | None]], list[tuple[str, float, float, bool]]]], file: str
) -> None:
    """A program that takes rows, or with --row one of them, and writes them to a file of reports/.

    rows: by name: how it is taken, of an empty folder and whether it is to be small; and of each figure its name, what is asked for at least, the aim, and whether less is better.
    """
    cli = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--row", choices=rows, help="one row alone; the others stay as they were taken")
    cli.add_argument("--tiny", action="store_true")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen, report = cli.parse_args(), {}
    if chosen.row and (chosen.out / file).exists():
        report = {one["name"]: one for one in json.loads((chosen.out / file).read_text(encoding="utf-8"))["rows"]}
    for name, (take, figures) in rows.items():
        if chosen.row in (None, name):
            with TemporaryDirectory() as scratch:
                values = take(Path(scratch), chosen.tiny)
            for value, (said, at_least, aim, less) in zip(values, figures, strict=True):
                report[said] = row(
                    said, value, at_least, aim, cpu(), less, None if value is not None else "what it is measured on is not here"
                )
            write_json(chosen.out / file, {"rows": list(report.values())})
