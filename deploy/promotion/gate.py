"""What a bento must show to be promoted: a list of figures, each with its limit. Knows manifests, nothing of stores or people.

A figure that is absent or no number has not passed: nothing gets in by what it does not say.
"""

import math
from typing import NamedTuple


class Row(NamedTuple):
    """One figure of the gate."""

    name: str
    figure: float | None
    limit: float | None
    passed: bool
    setting: str | None  # of params.yaml, that the limit follows from
    note: str  # in words


class GateError(Exception):
    """A bento may not be promoted: `rows` says what was looked at, `reasons` what did not pass."""

    def __init__(self, rows: list[Row]):
        self.rows = rows
        self.reasons = [row.note for row in rows if not row.passed]
        super().__init__("the gate refuses this bento: " + "; ".join(self.reasons))


def rows(manifest: dict, served: dict | None, problem: str | None, gate: dict) -> list[Row]:
    """The gate's figures for a bento with this manifest.

    Args:
        served: the manifest of what the environment serves; None: nothing, or it cannot be read, which `problem` says.
        gate: settings `gate` of params.yaml.
    """
    metrics, compression = manifest["metrics"], manifest["compression"]
    ndcg = _product(metrics["test"]["ndcg@10"], compression["ndcg_kept"])
    needed = _product(metrics["popularity"]["ndcg@10"], 1 + gate["min_gain_over_popularity"])
    found = [
        _at_least("NDCG@10 beside popularity", ndcg, needed, "gate.min_gain_over_popularity", "popularity's"),
        _beside_production(ndcg, manifest, served, problem, gate),
        _at_most(
            "ONNX beside torch, score error",
            manifest["parity"]["max_score_error"],
            gate["max_parity_error"],
            "gate.max_parity_error",
        ),
    ]
    if (assist := manifest.get("assist")) is not None:
        least = gate["min_intent_accuracy"]
        name = "messages of customers that are understood"
        found.append(_at_least(name, _number(assist["accuracy"]), least, "gate.min_intent_accuracy", "the least share,", "share"))
    for name, key in (("raw data passed its checks", "passed"), ("prepared data passed its checks", "verified")):
        passed = manifest["quality"][key] is True
        found.append(Row(name, float(passed), 1.0, passed, None, name if passed else "its data did not pass the checks"))
    return found


def _beside_production(ndcg: float | None, manifest: dict, served: dict | None, problem: str | None, gate: dict) -> Row:
    name, setting = "NDCG@10 beside what is served", "gate.max_drop_from_production"
    if problem:
        return Row(name, ndcg, None, True, setting, f"not compared: what is served cannot be read ({problem})")
    if served is None:
        return Row(name, ndcg, None, True, setting, "not compared: nothing is served yet")
    if served["shop"] != manifest["shop"]:
        return Row(
            name, ndcg, None, True, setting, f"not compared: what is served is of another shop, {served['shop']!r} (shop_name)"
        )
    before = _product(served["metrics"]["test"]["ndcg@10"], served["compression"]["ndcg_kept"])
    floor = _product(before, 1 - gate["max_drop_from_production"])
    return _at_least(name, ndcg, floor, setting, "what is served has, less the drop allowed,")


def _at_least(name: str, figure: float | None, limit: float | None, setting: str, whose: str, of: str = "NDCG@10") -> Row:
    if figure is None or limit is None:
        return Row(name, figure, limit, False, setting, f"{name}: a figure is missing")
    passed = figure >= limit
    return Row(
        name,
        figure,
        limit,
        passed,
        setting,
        f"{of} {figure:.4f} is {'not under' if passed else 'under'} {whose} {limit:.4f} ({setting})",
    )


def _at_most(name: str, figure: float | None, limit: float, setting: str) -> Row:
    figure = _number(figure)
    if figure is None:
        return Row(name, None, limit, False, setting, f"{name}: the figure is missing")
    passed = figure <= limit
    return Row(
        name, figure, limit, passed, setting, f"{name} {figure:.2g} is {'at most' if passed else 'above'} {limit:g} ({setting})"
    )


def _product(one: float | None, other: float | None) -> float | None:
    return None if _number(one) is None or _number(other) is None else one * other


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
