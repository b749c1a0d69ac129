"""`train.model: auto`: the best model on the validation part among a few, the simple ones included; with the reason in words."""

import time

import numpy as np
import torch

from models import metrics
from pipelines.learning import choices, device, fitting
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import SAMPLE, rank_all
from pipelines.learning.saved import ITEM_MODELS, Model
from pipelines.stage import log

SURE = 2.6  # standard errors by which a model must be ahead of popularity to be more than luck (one side in 200)
TRIED = 1024  # rows of the product by which the machine's speed is measured


def choose(settings: dict, data: Prepared) -> tuple[Model, dict, list[dict]]:
    """Trains `candidates_of_auto` and keeps the best, as fitting.learn returns it; shape["chosen"] says which and why.

    A model is chosen over popularity only where it is ahead by SURE standard errors of the shoppers' paired differences, so that noise ends
    in popularity. Networks that would cost more than `budget_of_auto` (epochs x events x items) are not tried.
    """
    names = ["popularity", *(n for n in settings["candidates_of_auto"] if n != "popularity")]
    part = data.valid.sample(SAMPLE)
    found: dict[str, tuple[Model, dict, list[dict], np.ndarray]] = {}
    left_out = []
    for name in names:
        cost = fitting_cost(settings, data)
        if name not in ITEM_MODELS and cost > settings["budget_of_auto"]:
            left_out.append(f"{name} was not tried: {cost:.1e} epochs x events x items are over train.budget_of_auto")
            log.info("train: %s", left_out[-1])
            continue
        if name not in ITEM_MODELS:
            log.info("train: %s may take about %.0f s", name, cost / speed(settings, data))
        model, shape, curves = _trained(name, settings, data)
        gains = metrics.ndcg(rank_all(model, part, 10)[0], 10)
        log.info("train: %-12s valid NDCG@10 %.4f", name, gains.mean())
        found[name] = (model, shape, curves, gains)
    base = found["popularity"][3]
    ahead = {n: _ahead(gains - base) for n, (*_, gains) in found.items() if n != "popularity"}
    sure = [n for n, errors in ahead.items() if errors > SURE]
    best = max(sure, key=lambda n: found[n][3].mean(), default="popularity")
    scores = {n: round(float(gains.mean()), 4) for n, (*_, gains) in found.items()}
    listed = ", ".join(f"{n} {score:.4f}" for n, score in scores.items())
    if best == "popularity":
        reason = f"nothing beats popularity for sure on the validation part (NDCG@10: {listed})"
    else:
        reason = f"best NDCG@10 on the validation part ({listed}), {ahead[best]:.1f} standard errors ahead of popularity"
    reason = "; ".join([reason, *left_out])
    log.info("train: %s is chosen: %s", best, reason)
    model, shape, curves, _ = found[best]
    return model, shape | {"chosen": {"model": best, "reason": reason, "valid_ndcg@10": scores}}, curves


def fitting_cost(settings: dict, data: Prepared) -> float:
    """Epochs x events x items of a network's training."""
    return float(settings["epochs"] * sum(map(len, data.train.items)) * data.items)


def speed(settings: dict, data: Prepared) -> float:
    """Epochs x events x items that this machine trains in a second, by the product that costs most."""
    place = device.choose(settings["accelerator"])
    query = torch.randn(TRIED, settings["width"], device=place)
    table = torch.randn(min(data.items + 1, 20_000), settings["width"], device=place)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        (query @ table.T).sum().item()
        times.append(time.perf_counter() - started)
    return TRIED * len(table) / (4 * float(np.median(times)))  # forward, two backward, and the softmax


def _trained(name: str, settings: dict, data: Prepared) -> tuple[Model, dict, list[dict]]:
    if name in ITEM_MODELS:
        model, recipe = choices.item_model(name, data)
        return model, {"model": name, "recipe": recipe}, [{"valid/ndcg@10": choices.valid_ndcg(model, data.valid)}]
    return fitting.learn(settings | {"model": name}, data)


def _ahead(differences: np.ndarray) -> float:
    """The mean of paired differences (N,) in standard errors."""
    error = differences.std() / max(len(differences), 1) ** 0.5
    return float(differences.mean() / error) if error > 0 else 0.0
