"""`train.privacy`: a blend of which no part tells whether any one shopper was among those it was learnt from: (epsilon, delta)-differential privacy, the unit is the shopper.

Popularity and transitions are counted with noise (models/retrieval/private_counts.py); what is written of items is public; all other parts are left out, as are validation's choices: weights and floors are
constants, found on a simulated shop of another seed. The noise is drawn anew each time, from the system's own randomness: a seed in a file would take it off again.
"""

import math
import secrets

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from models.retrieval.blend import Blend
from models.retrieval.evidence import Evidence
from models.retrieval.private_counts import noised_popularity, noised_transitions
from pipelines.learning import choices, device
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import valid_ndcg
from pipelines.stage import StageError, log

# Of each part its weight, its floor, and by how much more noise its counts get than those of transitions: popularity needs little.
PARTS = {"popularity": (0.15, 0.003, 3.0), "transitions": (1.5, 0.003, 1.0), "content": (0.5, 0.03, None)}
UNCOVERED = ["figures of the validation and test parts in the reports and the manifest", "the newest event's time"]


def learn(settings: dict, data: Prepared) -> tuple[Blend, dict, list[dict]]:
    """The private blend, as fitting.learn returns it; shape["privacy"] is what the manifest states.

    Raises:
        StageError: none of the parts that are asked for can be had privately.
    """
    asked, why = settings["blend"]["parts"], []
    names = [name for name in PARTS if name in asked]
    if "transitions" in names and data.items + 1 > 10_000:
        names.remove("transitions")
        why.append("transitions are left out, as noise on all pairs of so many items has no room")
    if "content" in names and data.content is None:
        names.remove("content")
    if not names:
        raise StageError(
            f"train.privacy: of train.blend.parts ({', '.join(asked)}) none can be had privately; there are {', '.join(PARTS)}"
        )
    ratios = {name: PARTS[name][2] for name in names if PARTS[name][2]}
    noise = {name: ratio * multiplier(settings["privacy"], list(ratios.values())) for name, ratio in ratios.items()}
    rng, items, train = np.random.default_rng(secrets.randbits(256)), data.items + 1, data.train.items
    popular = noised_popularity(train, items, noise["popularity"], rng) if "popularity" in noise else np.zeros(items)
    parts = {}
    for name in names:
        weight, floor, _ = PARTS[name]
        if name == "transitions":
            parts[name] = Evidence(noised_transitions(train, items, noise[name], rng), weight, floor, mean=True)
        elif name == "content":
            parts[name] = Evidence(choices.item_model("content", data)[0], weight, floor, mean=True)
    weight, floor, _ = PARTS["popularity"]
    share = torch.from_numpy(popular / max(popular.max(), 1e-9)).float()
    bias = (weight * torch.log(floor + share))[None]
    blend = Blend(parts, bias, None, settings["max_len"], torch.zeros(items)).to(device.choose(settings["accelerator"]))
    stated = statement(settings["privacy"], noise, names, [name for name in asked if name not in names])
    log.info("train: private: epsilon %.2f (%.2f by a second accountant), delta %g, of %s", *stated["epsilon"].values(), stated["delta"], ", ".join(names))  # fmt: skip
    reason = f"train.privacy: {' and '.join(names)}, with noise where shoppers are counted"
    valid = {name: valid_ndcg(_alone(blend, name, names), data.valid) for name in names} | {
        "blend": valid_ndcg(blend, data.valid)
    }
    recipe = {"parts": {name: {"weight": [PARTS[name][0]], "floor": [PARTS[name][1]]} for name in names}}
    shape = {
        "model": "blend",
        "parts": list(parts),
        "network": None,
        "max_len": settings["max_len"],
        "recipe": recipe,
        "privacy": stated,
    }
    chosen = {"model": "blend", "reason": "; ".join([reason, *why]), "valid_ndcg@10": valid}
    return blend, shape | {"chosen": chosen}, [{"valid/ndcg@10": valid["blend"]}]


def _alone(blend: Blend, name: str, names: list[str]) -> Blend:
    """One part by itself."""
    for other in names:
        blend = blend if other == name else blend.without(other)
    return blend


def statement(asked: dict, noise: dict[str, float], names: list[str], off: list[str]) -> dict:
    """What is promised, how it was reached, and what is not promised."""
    return {
        "unit": "the shopper",
        "epsilon": {"gaussian": gaussian_epsilon(list(noise.values()), asked["delta"]), "prv": prv_epsilon(list(noise.values()), asked["delta"])},
        "delta": asked["delta"],
        "noise_multipliers": noise,
        "noised": list(noise),
        "public": [name for name in names if name not in noise] + ["the catalogue", "weights and floors"],
        "off": [*off, "refit", "teachers", "the search for a smaller graph", "histories, offers and attributes of shoppers in the artefact"],
        "uncovered": UNCOVERED,
    }  # fmt: skip


def multiplier(asked: dict, ratios: list[float]) -> float:
    """Standard deviations of noise over the bound, times which ratios each release has, so that all together keep epsilon and delta."""

    def over(noise: float) -> float:
        return gaussian_epsilon([noise * ratio for ratio in ratios], asked["delta"]) - asked["epsilon"]

    return float(brentq(over, 1e-2, 1e4)) * (1 + 1e-6) if ratios else 0.0


def gaussian_epsilon(noise: list[float], delta: float) -> float:
    """Epsilon of Gaussian releases together, exactly (Balle & Wang 2018, theorem 8; Dong, Roth & Su 2022, corollary 3.3). noise: standard deviations of each over what one shopper changes."""
    if not noise:
        return 0.0
    mu = math.sqrt(sum(1 / one**2 for one in noise))

    def beyond(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) - delta

    return float(brentq(beyond, 0.0, mu * (mu + 20) + 1)) if beyond(0.0) > 0 else 0.0


def prv_epsilon(noise: list[float], delta: float) -> float:
    """The same by Opacus' numerical composition of privacy loss random variables (Gopi, Lee & Wutschitz 2021)."""
    import warnings

    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(one, 1.0, 1) for one in noise]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta)) if noise else 0.0
