"""`train.privacy`: a blend of which no part tells whether any one shopper was among those it was learnt from: (epsilon, delta)-differential privacy, the unit is the shopper.

Popularity and transitions are counted with noise (models/retrieval/private_counts.py); what is written of items is public; the network, where `privacy.steps` asks for it, learns by clipped gradients of
each shopper, with noise (models/training/private.py). All other parts are left out, as are validation's choices: weights and floors are constants, found on a simulated shop of another seed. The noise is
drawn anew each time, from the system's own randomness: a seed in a file would take it off again.
"""

import math
import secrets
import warnings

import numpy as np
import torch
from opacus.accountants import PRVAccountant
from opacus.optimizers import DPOptimizer
from scipy.optimize import brentq
from scipy.stats import norm

from models.batches import Histories
from models.families import build
from models.retrieval.blend import Blend
from models.retrieval.evidence import Evidence
from models.retrieval.network import NextItemNetwork
from models.retrieval.private_counts import LARGEST, noised_popularity, noised_transitions
from models.training.private import NextItemLoss, step
from pipelines.learning import blending, choices, device
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import valid_ndcg
from pipelines.stage import StageError, log

# Of each part its weight, its floor, and by how much more noise its counts get than those of transitions: popularity needs little.
PARTS = {
    "popularity": (0.05, 0.003, 3.0),
    "transitions": (2.0, 0.003, 1.0),
    "transitions_back": (2.0, 0.01, None),  # of the same noised counts
    "content": (0.5, 0.1, None),
}
SHOPPERS_A_STEP, CLIPPED, RATE, WIDTH = (
    512,
    1.0,
    0.01,
    32,
)  # of the network: expected, norm of a gradient, Adam's rate, small on purpose
UNCOVERED = [
    "figures of the validation and test parts in the reports and the manifest",
    "how many events and items there were, and on which platforms",
]
ERRORS = 2e-3, 1e-2  # of epsilon, by the second accountant: of whole releases, of sampled ones
Release = tuple[float, float, int]  # noise over what one shopper changes, share of the shoppers that are drawn, times


def learn(settings: dict, data: Prepared) -> tuple[Blend, dict, list[dict]]:
    """The private blend, as fitting.learn returns it; shape["privacy"] is what the manifest states.

    Raises:
        StageError: none of the parts that are asked for can be had privately.
    """
    asked, names, why = settings["blend"]["parts"], *had(settings, data)
    releases = budgeted(settings["privacy"], names, min(SHOPPERS_A_STEP / max(len(data.train), 1), 0.5))
    rng, items, train = np.random.default_rng(secrets.randbits(256)), data.items + 1, data.train.items
    popular = noised_popularity(train, items, releases["popularity"][0], rng) if "popularity" in names else np.zeros(items)
    both = noised_transitions(train, items, releases["transitions"][0], rng) if "transitions" in names else ()
    pairs, parts, network = dict(zip(("transitions", "transitions_back"), both, strict=False)), {}, None
    for name in names:
        if name in pairs:
            parts[name] = Evidence(pairs[name], *PARTS[name][:2], mean=True)
        elif name == "content":
            parts[name] = Evidence(choices.item_model("content", data)[0], *PARTS[name][:2], mean=True)
        elif name != "popularity":
            network = private_network(name, settings, data, releases[name], rng)
    weight, floor, _ = PARTS["popularity"]
    share = torch.from_numpy(np.maximum(popular, 0.0) / max(popular.max(), 1e-9)).float()
    bias = (weight * torch.log(floor + share))[None]
    blend = Blend(parts, bias, network and network[0], settings["max_len"], torch.zeros(items))
    blend = blend.to(device.choose(settings["accelerator"]))
    stated = statement(settings["privacy"], releases, names, [name for name in asked if name not in names])
    log.info("train: private: epsilon %.2f, delta %g, of %s", max(stated["epsilon"].values()), stated["delta"], ", ".join(names))
    reason = f"train.privacy: {' and '.join(names)}, with noise where shoppers are counted"
    valid = {name: valid_ndcg(_alone(blend, name, names), data.valid) for name in names} | {
        "blend": valid_ndcg(blend, data.valid)
    }
    weights = {
        name: {"weight": [PARTS[name][0] if name in PARTS else 1.0], "floor": [PARTS[name][1] if name in PARTS else 0.0]}
        for name in names
    }
    shape = {
        "model": "blend",
        "parts": list(parts),
        "network": network and network[1],
        "max_len": settings["max_len"],
        "recipe": {"parts": weights},
        "privacy": stated,
    }
    chosen = {"model": "blend", "reason": "; ".join([reason, *why]), "valid_ndcg@10": valid}
    return blend, shape | {"chosen": chosen}, [{"valid/ndcg@10": valid["blend"]}]


def had(settings: dict, data: Prepared) -> tuple[list[str], list[str]]:
    """Of the parts that are asked for those that can be had privately, and why others that could are left out.

    Raises:
        StageError: none can.
    """
    asked, why = settings["blend"]["parts"], []
    names = [name for name in PARTS if name in asked]
    if data.items >= LARGEST or "transitions" not in names:
        names = [name for name in names if not name.startswith("transitions")]
    if data.items >= LARGEST:
        why.append(f"transitions are left out: noise on all pairs has room for catalogues of under {LARGEST:,} items")
    if "content" in names and data.content is None:
        names.remove("content")
    if settings["privacy"]["steps"] and (network := blending.network_name(asked)):
        names.append(network)
    if not names:
        raise StageError(
            f"train.privacy: of train.blend.parts ({', '.join(asked)}) none can be had privately; there are {', '.join(PARTS)}"
        )
    return names, why


def private_network(
    name: str, settings: dict, data: Prepared, release: Release, rng: np.random.Generator
) -> tuple[NextItemNetwork, dict]:
    """A network of a family and its shape, learnt on Poisson samples of shoppers; knows no attributes. On a CPU."""
    noise, share, steps = release
    own = {k: settings[k] for k in ("layers", "heads", "max_len", "gated")} | {
        "width": WIDTH,
        "dropout": 0.0,
        "id_dropout": 0.0,
        "event_dropout": 0.0,
    }
    torch.manual_seed(secrets.randbits(63))
    network = build(name, data.items, own, None)
    loss, histories = NextItemLoss(network), Histories(data.train, settings["max_len"])
    optimiser = DPOptimizer(
        torch.optim.Adam(loss.parameters(), RATE),
        noise_multiplier=noise,
        max_grad_norm=CLIPPED,
        expected_batch_size=share * len(data.train),
    )
    for number in range(1, steps + 1):
        drawn = np.flatnonzero(rng.random(len(histories)) < share)
        shoppers, target = histories[drawn] if len(drawn) else (None, None)
        step(optimiser, loss, iter([(shoppers.history, shoppers.times, target)] if len(drawn) else []))
        if number % 50 == 0:
            log.info("train: private step %s of %s", number, steps)
    return network, {"model": name, "items": data.items} | own


def statement(asked: dict, releases: dict[str, Release], names: list[str], off: list[str]) -> dict:
    """What is promised, how it was reached, and what is not promised."""
    done = list(releases.values())
    exact = (
        {}
        if any(share < 1 for _, share, _ in done)
        else {"gaussian": gaussian_epsilon([noise for noise, *_ in done], asked["delta"])}
    )
    return {
        "unit": "the shopper",
        "epsilon": exact | {"prv": prv_epsilon(done, asked["delta"])},
        "delta": asked["delta"],
        "noise_multipliers": {name: noise for name, (noise, *_) in releases.items()},
        "noised": list(releases),
        "public": [name for name in names if name == "content"] + ["the catalogue", "weights and floors"],
        "off": [*off, "refit", "teachers", "the search for a smaller graph", "histories, offers and attributes of shoppers in the artefact"],
        "uncovered": UNCOVERED,
    }  # fmt: skip


def budgeted(asked: dict, names: list[str], share: float) -> dict[str, Release]:
    """The noise of each part that looks at shoppers, the least with which all together keep epsilon and delta. A network gets about as much of it as all counts together.

    share: of the shoppers, drawn a step.
    """
    counts = {name: PARTS[name][2] for name in names if name in PARTS and PARTS[name][2]}
    network, steps = next((name for name in names if name not in PARTS), None), asked["steps"]

    def releases(noise: float) -> dict[str, Release]:
        found = {name: (noise * ratio, 1.0, 1) for name, ratio in counts.items()}
        if network:  # the central limit of sampled Gaussians (Bu et al. 2020): mu = q sqrt(T (exp(1 / z^2) - 1))
            mu = math.sqrt(sum((noise * ratio) ** -2 for ratio in counts.values())) or 1 / noise
            found[network] = (1 / math.sqrt(math.log1p(mu**2 / (share**2 * steps))), share, steps)
        return found

    def over(noise: float) -> float:
        done = list(releases(noise).values())
        return (
            prv_epsilon(done, asked["delta"]) if network else gaussian_epsilon([z for z, *_ in done], asked["delta"])
        ) - asked["epsilon"]

    if not counts and not network:
        return {}
    return releases(float(brentq(over, 0.05, 100.0, rtol=1e-3 if network else 1e-9)) * (1 + (2e-3 if network else 1e-6)))


def gaussian_epsilon(noise: list[float], delta: float) -> float:
    """Epsilon of Gaussian releases together, exactly (Balle & Wang 2018, theorem 8; Dong, Roth & Su 2022, corollary 3.3). noise: standard deviations of each over what one shopper changes."""
    if not noise:
        return 0.0
    mu = math.sqrt(sum(1 / one**2 for one in noise))

    def beyond(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) - delta

    return float(brentq(beyond, 0.0, mu * (mu + 20) + 1)) if beyond(0.0) > 0 else 0.0


def prv_epsilon(releases: list[Release], delta: float) -> float:
    """The same by Opacus' numerical composition of privacy loss random variables (Gopi, Lee & Wutschitz 2021), of sampled ones too."""
    accountant = PRVAccountant()
    accountant.history = list(releases)
    sampled = any(share < 1 for _, share, _ in releases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=ERRORS[sampled])) if releases else 0.0


def _alone(blend: Blend, name: str, names: list[str]) -> Blend:
    """One part by itself."""
    for other in names:
        blend = blend if other == name else blend.without(other)
    return blend
