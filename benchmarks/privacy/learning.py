"""Does private training keep what it states, and what is left of quality? On made and simulated shoppers, and on a public file where it is here."""

import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch
import yaml
from opacus.optimizers import DPOptimizer
from scipy.stats import binom

from benchmarks.checkouts import SMALL, ran, shop
from benchmarks.quality import ROOT
from models import metrics
from models.families import FAMILIES, build
from models.retrieval.popularity import popularity
from models.retrieval.private_counts import BOUND, FADING, REACH, noised_pairs, noised_popularity
from models.sequences import Ragged
from models.training.learner import NextItem
from models.training.private import NextItemLoss, shopper_gradients, step
from pipelines.learning import prepared, private, saved
from pipelines.learning.ranking import rank_all

EPSILON, DELTA = 8.0, 1e-6
CANARIES, LONG = (
    1000,
    5,
)  # shoppers whom an audit looks for; their events, of items that nobody else met: as far from nothing as one shopper may be
SURE = 1.645  # standard errors, one-sided 95 %
SHAPE = {
    "width": 64,
    "layers": 2,
    "heads": 2,
    "dropout": 0.2,
    "max_len": 50,
    "gated": False,
    "id_dropout": 0.0,
    "event_dropout": 0.0,
}


def equal(scratch: Path, tiny: bool) -> list[float]:
    """By how much the sum of shoppers' gradients differs from the batch's, of the largest, in the family where it differs most; and two accountants at epsilon 0.5 to 8, as a share."""
    shape, worst = SHAPE | {"width": 16, "max_len": 12}, 0.0
    draw = torch.Generator().manual_seed(1)
    history, target = (torch.randint(1, 31, (8, 10), generator=draw) for _ in range(2))
    shoppers = history, (60 * torch.arange(10)).expand(8, 10), target
    for family in FAMILIES:
        torch.manual_seed(0)
        loss = NextItemLoss(build(family, 30, shape, None))
        found = shopper_gradients(loss, *shoppers)
        sum(loss(*(column[row] for column in shoppers)) for row in range(8)).backward()
        largest = max(float(weight.grad.abs().max()) for weight in loss.parameters())
        worst = max(
            worst, *(float((found[name].sum(0) - weight.grad).abs().max()) / largest for name, weight in loss.named_parameters())
        )
    apart = []
    for epsilon in (0.5, 2.0, 8.0):
        releases = private.budgeted({"epsilon": epsilon, "delta": DELTA, "steps": 0}, ["popularity", "transitions"], 0.1)
        exact, other = (
            private.gaussian_epsilon([z for z, *_ in releases.values()], DELTA),
            private.prv_epsilon(list(releases.values()), DELTA),
        )
        apart.append(abs(other / exact - 1))
    return [worst, max(apart)]


def audit(scratch: Path, tiny: bool) -> list[float]:
    """Lower bounds on epsilon, by how well a thousand canaries that were in or out by a coin are told apart, over the epsilon that is stated: with the stated noise the larger of the Gaussian-DP bound and the
    one-run bound (Steinke, Nasr & Jagielski 2023), which must not be over 1; with half the noise, which must be.
    """
    releases = private.budgeted({"epsilon": EPSILON, "delta": DELTA, "steps": 0}, ["popularity", "transitions"], 0.1)
    noise = {name: z for name, (z, *_) in releases.items()}
    return [max(_told_apart(noise, seed=1)) / EPSILON, max(_told_apart({k: z / 2 for k, z in noise.items()}, seed=2)) / EPSILON]


def _told_apart(noise: dict[str, float], seed: int) -> tuple[float, float]:
    """The two bounds on epsilon, where this noise is used."""
    rng, items = np.random.default_rng(seed), CANARIES * LONG + 1
    histories = np.arange(1, items).reshape(CANARIES, LONG)
    inside = rng.random(CANARIES) < 0.5
    rows = Ragged.of(list(histories[inside]))
    shown = noised_popularity(rows, items, noise["popularity"], rng)
    weight = min(1.0, BOUND / LONG**0.5)
    scores = weight * shown[histories].sum(1) / (noise["popularity"] * BOUND) ** 2
    pairs, squares = (
        noised_pairs(rows, items, noise["transitions"], rng),
        sum(FADING ** (2 * g - 2) * max(LONG - g, 0) for g in range(1, REACH + 1)),
    )
    for gap in range(1, min(REACH, LONG - 1) + 1):
        weight = FADING ** (gap - 1) * min(1.0, BOUND / squares**0.5)
        scores += weight * pairs[histories[:, :-gap], histories[:, gap:]].sum(1) / (noise["transitions"] * BOUND) ** 2
    ins, outs = scores[inside], scores[~inside]
    spread = np.sqrt((ins.var(ddof=1) + outs.var(ddof=1)) / 2)
    mu = (ins.mean() - outs.mean()) / spread - SURE * np.sqrt(1 / len(ins) + 1 / len(outs))
    gaussian = private.gaussian_epsilon([1 / mu], DELTA) if mu > 0 else 0.0
    return gaussian, _one_run(scores, inside)


def _one_run(scores: np.ndarray, inside: np.ndarray) -> float:
    """The largest epsilon that 95 % of runs would not have shown by chance: of so many guesses, the surest, so many right."""
    order, best = np.argsort(scores), 0.0
    for guesses in (20, 50, 100, 200, 500, 1000):
        right = int(inside[order[-guesses // 2 :]].sum() + (~inside[order[: guesses // 2]]).sum())
        for epsilon in np.arange(best, 20, 0.05):
            if (
                binom.sf(right - 1, guesses, 1 / (1 + np.exp(-epsilon))) + 2 * len(scores) * DELTA > 0.05 / 6
            ):  # six numbers of guesses are tried
                break
            best = float(epsilon)
    return best


def quality(scratch: Path, tiny: bool) -> list[float | None]:
    """NDCG@10 at epsilon 8 over noised popularity's, on Beauty with titles; and over the plain model's, on a simulated shop of 100,000 shoppers."""
    beauty = ROOT.parent / "shared" / "data" / "amazon-beauty"
    over_popularity = None
    if beauty.exists():
        source = {"name": "sequences", "data": str(beauty), "titles": "titles.csv.gz"}
        checkout = ran(scratch / "beauty", "check_prepared", source=source)
        with chdir(checkout):
            data = prepared.load()
            alone = popularity(
                np.maximum(noised_popularity(data.train.items, data.items + 1, _alone(), np.random.default_rng()), 0)
            )
            over_popularity = _ndcg(_private(data), data) / _ndcg(alone, data)
    small = {"train": SMALL} if tiny else {}
    checkout = ran(scratch / "simulated", "train", source=shop(*((1000, 300, 20) if tiny else (100_000, 600, 20))), **small)
    with chdir(checkout):
        data = prepared.load()
        return [over_popularity, _ndcg(_private(data), data) / _ndcg(saved.load("data/model"), data)]


def _private(data: prepared.Prepared):
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]
    return private.learn(settings | {"privacy": {"epsilon": EPSILON, "delta": DELTA, "steps": 0}}, data)[0]


def _alone() -> float:
    """The noise with which popularity alone keeps epsilon."""
    return private.budgeted({"epsilon": EPSILON, "delta": DELTA, "steps": 0}, ["popularity"], 0.1)["popularity"][0]


def _ndcg(model, data: prepared.Prepared) -> float:
    return float(metrics.ndcg(rank_all(model, data.test.sample(10_000), 10)[0], 10).mean())


def steps(scratch: Path, tiny: bool) -> list[float]:
    """How many times as long a private step takes as a plain one of the same shoppers; 600 items, 64 histories of 50 events, medians of alternate steps."""
    items, shoppers, length = 600, 64, 50
    history, target = (torch.randint(1, items + 1, (shoppers, length)) for _ in range(2))
    times, seconds = (60 * torch.arange(length)).expand(shoppers, length), {"plain": [], "private": []}
    plain = NextItem(build("sasrec", items, SHAPE, None), "full_softmax", np.ones(items + 1), 0, 0.002, 0.05)
    adam = torch.optim.AdamW(plain.parameters(), 0.002, fused=True)
    loss = NextItemLoss(build("sasrec", items, SHAPE, None))
    own = DPOptimizer(
        torch.optim.Adam(loss.parameters(), 0.01), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=shoppers
    )
    for _ in range(4 if tiny else 25):
        started = time.perf_counter()
        adam.zero_grad()
        plain.objective(history, times, target).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        adam.step()
        seconds["plain"].append(time.perf_counter() - started)
        started = time.perf_counter()
        step(own, loss, iter([(history, times, target)]))
        seconds["private"].append(time.perf_counter() - started)
    return [float(np.median(seconds["private"]) / np.median(seconds["plain"]))]
