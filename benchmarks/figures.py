"""A figure beside what it should be, as reports/training.json and reports/gpu.json hold it."""


def row(
    name: str, value: float | None, at_least: float, aim: float, device: str, less: bool = False, reason: str | None = None
) -> dict:
    """A row, printed too. less: it should be at most `at_least`. reason: why there is no value."""
    met = None if value is None else value <= at_least if less else value >= at_least
    said = f"not taken: {reason}" if value is None else f"{value:.3g}"
    print(f"{name}: {said} ({'at most' if less else 'at least'} {at_least:g}, aim {aim:g})", flush=True)
    found = {"name": name, "value": value, "at_least": at_least, "aim": aim, "met": met, "device": device}
    return found | ({"reason": reason} if reason else {})
