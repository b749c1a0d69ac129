"""A figure beside what it should be, as reports/training.json and reports/gpu.json hold it, and the machine it was taken on."""

import platform
from pathlib import Path


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
