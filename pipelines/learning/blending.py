"""`train.model: auto`: one blend of all that is known of a shop. Its few numbers, and which parts it needs, are fitted on the validation part.

Every part scores the items near a history; of each shopper the items that any part names are candidates, among which the held-out one is looked
for. Weights and floors are those by which the held-out items are likeliest (a listwise loss), of all shoppers together or by how popular the
newest item of a history is. What is claimed of a blend, and which parts it keeps, is cross-validated over shoppers by NDCG@10, so that a small
validation part is not learnt by heart.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from models import metrics
from models.retrieval.blend import Blend
from models.retrieval.content import alike, lent
from models.retrieval.evidence import Evidence
from models.retrieval.item_to_item import as_matrix
from models.retrieval.network import NextItemNetwork
from models.retrieval.sparse_item_model import SparseItemModel
from models.sequences import Sequences
from pipelines.learning import choices, device, fitting
from pipelines.learning.prepared import KINDS, Prepared
from pipelines.learning.ranking import batches
from pipelines.learning.saved import ITEM_MODELS, Model
from pipelines.stage import log

SHOPPERS = 10_000  # of the validation part that a blend is fitted on, at most
NEAR, POPULAR = 50, 50  # candidates that each part, and popularity, name for a shopper
DECAYS = (0.2, 0.4, 0.6, 0.8, 1.0)
HALF_LIVES = (1, 7, 30)  # days, tried where times tell time
START, FLOOR = 0.5, 0.03  # the weight and the floor from which the fit begins
FLOORS, LEAST = (1e-4, 10.0), 0.02  # within which floors are looked for; the network's share in the likelihood, at least
STIFF = 1e-3  # by which floors are held near where they begin: of parts that hardly speak any floor would do
FITTED = 1e-6  # share by which a step must raise the likelihood
GROUPS = 3  # of shoppers, by how popular the newest item of their history is
SHOWN = 1.0  # standard errors that weights by group must bring
SURE = 2.0  # ... that vectors of items must: words mostly say the same, and what chance lets in costs
FOLDS = 2
COMPARED = ("content", *KINDS)  # parts that no history changes
SURE = 2.6  # standard errors by which a model must be ahead of popularity to be more than luck (one side in 200)
# What the blend may lose with all the parts that it is served without: standard errors of the paired differences, or a share of its NDCG@10.
HURTS, SLIGHT = 0.25, 0.002
CLEAR = 1.0  # standard errors by which a part by itself must be ahead of the blend
SMALL = 5000  # items up to which EASE is a part
TRIED = 1024  # rows of the product by which the machine's speed is measured


@dataclass
class Asked:
    """Candidates of N shoppers, M in all, ordered by shopper."""

    row: np.ndarray  # (M,) whose
    item: np.ndarray  # (M,)
    wanted: np.ndarray  # (M,) bool: is it the held-out item?
    reached: np.ndarray  # (N,) bool: does any part name the held-out item? Else no weights bring it to the top
    group: np.ndarray  # (N,) int64, of each shopper
    columns: dict[str, np.ndarray]  # (M,) float32: evidence of parts, popularity as a share of the largest, the network's logit

    def __post_init__(self) -> None:
        self.shoppers = len(self.reached)
        self.counts = np.bincount(self.row, minlength=self.shoppers)

    def of(self, kept: np.ndarray) -> "Asked":
        """Those of some shoppers (N,) bool."""
        here = kept[self.row]
        number = np.cumsum(kept) - 1
        columns = {name: column[here] for name, column in self.columns.items()}
        return Asked(number[self.row[here]], self.item[here], self.wanted[here], self.reached[kept], self.group[kept], columns)

    def gains(self, scores: np.ndarray) -> np.ndarray:
        """NDCG@10 (N,) of scores (M,); of equal ones the held-out item is the last."""
        own = np.full(self.shoppers, -np.inf, scores.dtype)
        own[self.row[self.wanted]] = scores[self.wanted]
        rank = np.bincount(self.row[scores >= np.repeat(own, self.counts)], minlength=self.shoppers) - 1
        return metrics.ndcg(np.where(np.isneginf(own), len(scores), rank), 10)


# Of each part its weights and its floors, (G,) float32 both, of one group or of GROUPS; of the network 1 and 0.
Weights = dict[str, tuple[np.ndarray, np.ndarray]]


def choose(settings: dict, data: Prepared, network: tuple[NextItemNetwork, dict] | None = None) -> tuple[Model, dict, list[dict]]:
    """The blend of `blend.parts`, as fitting.learn returns it; shape["chosen"] says of what it is made, and why.

    Popularity alone is chosen where nothing is ahead of it by SURE standard errors of the shoppers' paired differences, so that noise ends in
    popularity. A network that would cost more than `blend.budget` (epochs x events x items) is not trained.

    network: trained already without a prior, with its shape; None: it is trained here.
    """
    started = time.perf_counter()
    earlier = data.without_newest()  # as the test will find what is counted
    parts, popular, left_out = counted(settings["blend"]["parts"], earlier)
    part = asked_of(data)
    for name, model in parts.items():
        parts[name] = remembering(model, part, data)
    log.info("train: %s are counted in %.1f s", ", ".join(parts) or "no parts", time.perf_counter() - started)
    network, curves, why = (network, [], []) if network else _network(settings, data)
    started = time.perf_counter()
    asked, vectors_help = worth_asking(parts, popular, network, earlier, part, settings)
    names = [name for name in settings["blend"]["parts"] if name in asked.columns] or ["popularity"]
    weights, gains, report = fitted(asked, names)
    report["valid_ndcg@10"] |= vectors_help
    log.info("train: the blend is fitted on %s shoppers in %.1f s", f"{len(part):,}", time.perf_counter() - started)
    ahead = _errors(gains - asked.gains(asked.columns["popularity"]))
    if ahead <= SURE:
        model, recipe = choices.item_model("popularity", data)
        shape = {"model": "popularity", "recipe": recipe}
        reason = f"nothing beats popularity for sure on the validation part (NDCG@10: {_listed(report['valid_ndcg@10'])})"
    else:
        model, shape = built(settings, data, _recipe(weights, parts, network), network, parts)
        reason = _reason(weights, report, ahead)
        proposed = [name for name in settings["blend"]["parts"] if name in weights]
        if proposed != settings["blend"]["parts"]:
            report["proposed"] = {"train.blend.parts": proposed}
            reason += f"; train.blend.parts: [{', '.join(proposed)}] would do as well here"
    chosen = {"model": shape["model"], "reason": "; ".join([reason, *left_out, *why])}
    log.info("train: %s: %s", chosen["model"], chosen["reason"])
    return model, shape | {"chosen": chosen | report}, curves or [{"valid/ndcg@10": float(gains.mean())}]


def built(
    settings: dict,
    data: Prepared,
    recipe: dict,
    network: tuple[NextItemNetwork, dict] | None = None,
    compared: dict[str, SparseItemModel] | None = None,
) -> tuple[Blend, dict]:
    """The blend of a recipe, learnt from these data, and its shape, which holds the recipe.

    network: trained already, with its shape; None: it is trained by the recipe, where the blend has one. compared: parts that are there already, of
    which those of COMPARED no history changes.
    """
    models, popular, _ = counted(recipe["parts"], data, compared)
    parts = {}
    for name, model in models.items():
        one = recipe["parts"][name]
        model.decay.fill_(one["decay"])
        model.half_life.fill_(one["half_life"] or np.inf)
        parts[name] = Evidence(model, torch.tensor(one["weight"]), torch.tensor(one["floor"]), mean=True)
    bias = torch.zeros(recipe["groups"], data.items + 1)
    if one := recipe["parts"].get("popularity"):
        weight, floor = (torch.tensor(one[key])[:, None] for key in ("weight", "floor"))
        bias = weight * torch.log(floor + torch.from_numpy(popular))
    if recipe["network"] and network is None:
        own = settings | {"model": recipe["network"]["model"], "transition_prior": False}
        network = fitting.learn(own, data, recipe=recipe["network"])[:2]
    network = network if recipe["network"] else None
    groups = torch.from_numpy(newest_groups(data, recipe["groups"]))
    blend = Blend(parts, bias, network and network[0], settings["max_len"], groups).to(device.choose(settings["accelerator"]))
    shape = {
        "model": "blend",
        "parts": list(parts),
        "network": network and network[1],
        "max_len": settings["max_len"],
        "recipe": recipe,
    }
    return blend, shape


def _recipe(weights: Weights, parts: dict[str, SparseItemModel], network: tuple[NextItemNetwork, dict] | None) -> dict:
    """How a blend is made again: of each part its numbers, and the network's own recipe."""
    recipe = {"parts": {}, "groups": groups_of(weights), "network": None}
    for name, (weight, floor) in weights.items():
        recipe["parts"][name] = {"weight": weight.tolist(), "floor": floor.tolist()}
        if name in parts:
            decay, half_life = parts[name].decay.item(), parts[name].half_life.item()
            recipe["parts"][name] |= {"decay": decay, "half_life": half_life if np.isfinite(half_life) else None}
    if network is not None and network[1]["model"] in weights:
        recipe["network"] = network[1]["recipe"] | {"model": network[1]["model"]}
    return recipe


def network_name(names: Iterable[str]) -> str | None:
    """The network among the names of parts."""
    return next((name for name in names if name not in ITEM_MODELS), None)


def newest_groups(data: Prepared, groups: int) -> np.ndarray:
    """The group (V,) int64 of shoppers whose newest item is this one: by how many training histories hold it, groups of about one size."""
    items = data.train.items
    newest = data.popularity[items.last()[items.lengths > 0]]
    cuts = np.quantile(newest, np.arange(1, groups) / groups) if len(newest) else []
    return np.searchsorted(cuts, data.popularity).astype(np.int64)


def groups_of(weights: Weights) -> int:
    """Of how many groups of shoppers these are the weights."""
    return len(next(iter(weights.values()))[0])


# The parts


def asked_of(data: Prepared) -> Sequences:
    """The shoppers of the validation part that a blend is fitted on, evenly spaced."""
    count = min(SHOPPERS, len(data.valid), max(500, 400_000_000 // (data.items + 1)))
    return data.valid.rows(np.linspace(0, len(data.valid) - 1, count).astype(int))


def counted(
    names: Collection[str], data: Prepared, compared: dict[str, SparseItemModel] | None = None
) -> tuple[dict[str, SparseItemModel], np.ndarray, list[str]]:
    """The parts that are neither popularity nor a network; recent popularity (V,) float32 as a share of the largest; why some parts are left out.

    What nobody has met takes after what it is like, in what is counted and in popularity. compared: see built.
    """
    left_out, parts, new = [], {}, not data.popularity[1:].all()
    there = [name for name in COMPARED if (data.content is not None if name == "content" else name in data.embedded)]
    compared = {name: (compared or {}).get(name) or choices.item_model(name, data)[0] for name in there if new or name in names}
    for name in names:
        if name == "content" and name not in there:
            left_out.append("nothing is written of the items, so there is no content")
        elif name == "ease" and data.items > SMALL:
            left_out.append(f"ease is for catalogues of up to {SMALL:,} items")
        elif name in COMPARED:
            parts |= {name: compared[name]} if name in compared else {}
        elif name in ITEM_MODELS and name != "popularity":
            parts[name] = choices.item_model(name, data)[0]
    popular = (data.recency / max(data.recency.max(), 1e-9)).astype(np.float32)
    if compared and new:
        near = alike(compared.values(), data.popularity > 0)
        parts = {name: part if name in compared else lent(part, near) for name, part in parts.items()}
        popular += near @ popular
    return parts, popular, left_out


def _network(settings: dict, data: Prepared) -> tuple[tuple[NextItemNetwork, dict] | None, list[dict], list[str]]:
    """The trained network with its shape, its curves, and why there is none."""
    name = network_name(settings["blend"]["parts"])
    if name is None:
        return None, [], []
    cost = fitting_cost(settings, data)
    if cost > settings["blend"]["budget"]:
        return None, [], [f"{name} was not tried: {cost:.1e} epochs x events x items are over train.blend.budget"]
    log.info("train: %s may take about %.0f s", name, cost / speed(settings, data))
    model, shape, curves = fitting.learn(settings | {"model": name, "transition_prior": False}, data)
    return (model, shape), curves, []


def remembering(model: SparseItemModel, part: Sequences, data: Prepared) -> SparseItemModel:
    """The model with the decay, by place and by time, with which it does best by itself."""
    few, matrix = part.sample(1500), as_matrix(model)

    def tried(decay: float, half_life: float) -> float:
        model.decay.fill_(decay)
        model.half_life.fill_(half_life)
        return float(_gains_of(_event_weights(model, few, model.max_len) @ matrix, few).mean())

    decay = max(DECAYS, key=lambda decay: tried(decay, np.inf))
    lives = [np.inf] if data.ordered_only else [np.inf, *(86400.0 * days for days in HALF_LIVES)]
    half_life = max(lives, key=lambda half_life: tried(decay, half_life))
    model.decay.fill_(decay)
    model.half_life.fill_(half_life)
    return model


def _event_weights(model: SparseItemModel, part: Sequences, max_len: int):
    """What each shopper's events count, as shares of 1: sparse (N, V) float32. Times the model's matrix it is the evidence of
    Evidence(model, mean=True).
    """
    import scipy.sparse as sp

    part = part.newest(max_len)
    row = part.items.owners()
    after = part.lengths.cumsum()[row] - 1 - np.arange(len(row))
    age = part.times.last()[row] - part.times.flat()
    weights = model.decay.item() ** after * 0.5 ** (age / model.half_life.item())
    total = np.bincount(row, weights, len(part))
    weights = (weights / np.maximum(total[row], 1e-6)).astype(np.float32)
    return sp.csr_matrix((weights, (row, part.items.flat())), shape=(len(part), len(model.bias)))


def _met(part: Sequences, width: int):
    import scipy.sparse as sp

    row, flat = part.items.owners(), part.items.flat()
    return sp.csr_matrix((np.ones(len(flat), np.float32), (row, flat)), shape=(len(part), width))


def _gains_of(evidence, part: Sequences) -> np.ndarray:
    """NDCG@10 (N,) of sparse evidence (N, V); a target without any counts 0."""
    evidence = (evidence - evidence.multiply(_met(part, evidence.shape[1]) > 0)).tocsr()
    own = np.asarray(evidence[np.arange(len(part)), part.targets]).ravel()
    found = evidence.tocoo()
    rank = np.bincount(found.row[found.data > own[found.row]], minlength=len(part))
    return metrics.ndcg(np.where(own > 0, rank, evidence.shape[1]), 10)


def candidates(
    parts: dict[str, SparseItemModel], popular: np.ndarray, network: tuple | None, data: Prepared, part: Sequences, max_len: int
) -> Asked:
    """Of each shopper of the part what any part names, popularity and the held-out item, without what was met before."""
    from sparse_dot_topn import sp_matmul_topn

    rows, width = np.arange(len(part)), data.items + 1
    found, pairs = {}, []
    for name, model in parts.items():
        weights, matrix = _event_weights(model, part, max_len), as_matrix(model)
        found[name] = weights @ matrix
        pairs.append(sp_matmul_topn(weights, matrix, top_n=min(NEAR, width), n_threads=torch.get_num_threads()).nonzero())
    best = np.argsort(-popular, kind="stable")[: min(POPULAR, data.items)]
    pairs.append((np.repeat(rows, len(best)), np.tile(best, len(rows))))
    if network is not None:
        pairs.append(_named_by(network[0], part))
    row, column = (np.concatenate(side).astype(np.int64) for side in zip(*pairs, strict=True))
    reached = np.zeros(len(rows), bool)
    reached[row[column == part.targets[row]]] = True
    named = np.sort(np.concatenate([row * width + column, rows * width + part.targets]))
    met = np.sort(part.items.owners() * width + part.items.flat())
    new = np.append(True, named[1:] != named[:-1]) & (named % width > 0)
    if len(met):
        new &= met[np.searchsorted(met, named).clip(max=len(met) - 1)] != named
    row, column = np.divmod(named[new], width)
    columns = {name: np.asarray(evidence[row, column]).ravel().clip(min=0) for name, evidence in found.items()}
    columns["popularity"] = popular[column]
    if network is not None:
        columns[network[1]["model"]] = _logits(network[0], part, row, column)
    group = newest_groups(data, GROUPS)[part.items.last()]
    return Asked(row, column, column == part.targets[row], reached, group, columns)


def worth_asking(
    parts: dict[str, SparseItemModel], popular: np.ndarray, network: tuple | None, data: Prepared, part: Sequences, settings: dict
) -> tuple[Asked, dict[str, float]]:
    """Candidates, with vectors of items among the parts only where they are shown to help, as words mostly say the same; and the NDCG@10 with and without."""
    plain = {name: model for name, model in parts.items() if name not in KINDS}
    asked = candidates(plain, popular, network, data, part, settings["max_len"])
    if plain.keys() == parts.keys():
        return asked, {}
    more = candidates(parts, popular, network, data, part, settings["max_len"])
    without, gains = (
        crossed(a, [name for name in settings["blend"]["parts"] if name in a.columns] or ["popularity"]) for a in (asked, more)
    )
    shown = {"with vectors": round(float(gains.mean()), 4), "without vectors": round(float(without.mean()), 4)}
    return (more if _errors(gains - without) > SURE else asked), shown


def _named_by(network: NextItemNetwork, part: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """The items that a network names for each shopper."""
    rows, columns = [], []
    for chosen, shoppers, _, seen in batches(network, part):
        with torch.inference_mode():
            scores = network.scores(shoppers.history, shoppers.times).scatter(1, seen, -torch.inf)
            best = scores.topk(min(NEAR, scores.shape[1])).indices.cpu().numpy()
        rows.append(np.repeat(chosen, best.shape[1]))
        columns.append(best.ravel())
    return np.concatenate(rows), np.concatenate(columns)


def _logits(network: NextItemNetwork, part: Sequences, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The network's logits of candidates, above each shopper's largest."""
    logits, first = np.zeros(len(row), np.float32), np.searchsorted(row, np.arange(len(part) + 1))
    for chosen, shoppers, _, _ in batches(network, part):
        with torch.inference_mode():
            scores = network.scores(shoppers.history, shoppers.times)
            scores = (scores - scores.amax(1, keepdim=True)).cpu().numpy()
        for i, shopper in enumerate(chosen):
            here = slice(first[shopper], first[shopper + 1])
            logits[here] = scores[i, column[here]]
    return np.nan_to_num(logits, nan=-1e9, posinf=-1e9, neginf=-1e9)  # what is no number can never win


# The fit


def fitted(asked: Asked, names: list[str]) -> tuple[Weights, np.ndarray, dict]:
    """The weights of the parts that are worth their place; the cross-validated NDCG@10 (N,) of that blend; and what was measured.

    Weights differ by the shopper's group where that is shown to help. Parts go one by one, the least missed first, as long as the blend without
    all of those loses next to nothing against the best blend so far; and where a part by itself is clearly ahead of any blend, it alone stays.
    Where they are near, the blend is taken: what many parts say changes less from one day to the next.
    """
    alone = {name: asked.gains(asked.columns[name]) for name in names}
    whole, by_group, groups = crossed(asked, names), crossed(asked, names, GROUPS), 1
    report = {"valid_ndcg@10": {name: round(float(g.mean()), 4) for name, g in alone.items()}, "without": {}}
    if _errors(by_group - whole) > SHOWN:
        whole, groups = by_group, GROUPS
    report["valid_ndcg@10"]["blend"] = round(float(whole.mean()), 4)
    kept, gains, best = names, whole, whole
    untrained = [name for name in names if name in ITEM_MODELS]
    if untrained and untrained != names:
        without = crossed(asked, untrained, groups)
        report["valid_ndcg@10"]["untrained"] = round(float(without.mean()), 4)
        if without.mean() >= whole.mean():
            kept, gains, best = untrained, without, without
    weights = searched(asked, kept, groups)
    needed: set[str] = set()
    while len(kept) > 1 and (tried := [name for name in kept if name not in needed]):
        now = asked.gains(blended(asked, weights))
        losses = {name: _lost_without(asked, weights, name, now) for name in tried}
        report["without"] = report["without"] or {name: round(loss, 4) for name, loss in losses.items()}
        least = min(losses, key=losses.get)
        fewer = [name for name in kept if name != least]
        without = crossed(asked, fewer, groups, weights)
        if _errors(best - without) > HURTS and (best - without).mean() > SLIGHT * best.mean():
            needed.add(least)
            continue
        kept, gains, weights = fewer, without, searched(asked, fewer, groups, weights)
        best = max(best, without, key=np.mean)
    first = max(names, key=lambda name: alone[name].mean())
    if len(kept) > 1 and _errors(alone[first] - gains) > CLEAR:
        gains, weights = alone[first], searched(asked, [first])
    return weights, gains, report


def crossed(asked: Asked, names: list[str], groups: int = 1, start: Weights | None = None) -> np.ndarray:
    """NDCG@10 (N,) of each shopper by weights fitted on the others."""
    if len(names) == 1:
        return asked.gains(asked.columns[names[0]])
    gains, fold = np.zeros(asked.shoppers), np.arange(asked.shoppers) % FOLDS
    for i in range(FOLDS):
        there = asked.of(fold == i)
        gains[fold == i] = there.gains(blended(there, searched(asked.of(fold != i), names, groups, start)))
    return gains


def searched(asked: Asked, names: list[str], groups: int = 1, start: Weights | None = None) -> Weights:
    """Weights and floors by which the held-out items are likeliest, for all shoppers or for each group. A part that never gets a weight is left
    out.

    start: where to begin; None: at START and FLOOR.
    """
    found = []
    for g in range(groups):
        first = {name: (weight[g], floor[g]) for name, (weight, floor) in (start or {}).items()}
        found.append(likeliest(asked.of(asked.reached & ((asked.group == g) | (groups == 1))), names, first))
    weights = {name: tuple(np.array(part, np.float32) for part in zip(*(w[name] for w in found), strict=True)) for name in names}
    return {name: one for name, one in weights.items() if one[0].any()} or {names[0]: weights[names[0]]}


def likeliest(asked: Asked, names: list[str], first: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Of each part the weight and the floor by which the held-out items are likeliest among their candidates: a conditional logit (McFadden 1974),
    by L-BFGS-B. The network's weight is 1.
    """
    from scipy.optimize import minimize

    counted, network = [n for n in names if n in ITEM_MODELS], network_name(names)
    if not counted or not asked.shoppers:
        return dict.fromkeys(counted, (START, FLOOR)) | ({network: (1.0, 0.0)} if network else {})
    row, wanted = torch.from_numpy(asked.row), torch.from_numpy(np.flatnonzero(asked.wanted))
    columns = torch.from_numpy(np.stack([asked.columns[name] for name in counted]))
    of_network = torch.from_numpy(asked.columns[network]) if network else None
    count, none = len(counted), torch.zeros(asked.shoppers)

    def unlikeliness(point: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.from_numpy(point).float()
        weights, floors = numbers[:count, None], numbers[count : 2 * count, None]
        above = floors.exp() + columns
        logs = above.log()
        scores = (weights * logs).sum(0)
        if network:
            scores += numbers[-1] * of_network
        most = none.scatter_reduce(0, row, scores, "amax", include_self=False)
        odds = torch.exp(scores - most[row])
        total = none.scatter_add(0, row, odds)
        off = floors - np.log(FLOOR)
        loss = (total.log() + most - scores[wanted]).mean() + STIFF * off.square().sum()
        error = odds / total[row]  # less one-hot, the gradient of the scores
        error[wanted] -= 1
        error /= asked.shoppers
        slopes = [
            (logs * error).sum(1),
            ((weights * floors.exp() / above * error).sum(1, keepdim=True) + 2 * STIFF * off).flatten(),
        ]
        if network:
            slopes.append((of_network * error).sum()[None])
        return loss.item(), torch.cat(slopes).double().numpy()

    begun = [first.get(name, (START, FLOOR)) for name in counted]
    start = [*(weight for weight, _ in begun), *(np.log(floor) for _, floor in begun), *([START] if network else [])]
    within = [*[(0, None)] * count, *[tuple(np.log(FLOORS))] * count, *([(LEAST, None)] if network else [])]
    found = minimize(unlikeliness, start, jac=True, method="L-BFGS-B", bounds=within, options={"ftol": FITTED}).x
    share = found[-1] if network else 1.0
    weights = {name: (found[i] / share, float(np.exp(found[count + i]))) for i, name in enumerate(counted)}
    return weights | ({network: (1.0, 0.0)} if network else {})


def blended(asked: Asked, weights: Weights) -> np.ndarray:
    """The scores of candidates (M,) float32."""
    group = asked.group[asked.row] if groups_of(weights) > 1 else np.zeros(len(asked.row), np.int64)
    scores = np.zeros(len(asked.row), np.float32)
    for name, (weight, floor) in weights.items():
        column = asked.columns[name]
        scores += weight[group] * np.log(floor[group] + column) if name in ITEM_MODELS else column
    return scores


def _lost_without(asked: Asked, weights: Weights, name: str, now: np.ndarray) -> float:
    """What NDCG@10 falls by without a part, the others as they are; now: with it (N,)."""
    if name not in weights:
        return 0.0
    rest = {n: one for n, one in weights.items() if n != name}
    return float((now - asked.gains(blended(asked, rest))).mean()) if rest else 1.0


def _errors(differences: np.ndarray) -> float:
    """The mean of paired differences (N,) in standard errors."""
    error = differences.std() / max(len(differences), 1) ** 0.5
    return float(differences.mean() / error) if error > 0 else 0.0


def _listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {score:.4f}" for name, score in scores.items())


def _reason(weights: Weights, report: dict, ahead: float) -> str:
    made = ", ".join(f"{name} {' / '.join(f'{w:.2g}' for w in weight)}" for name, (weight, _) in weights.items())
    groups = " (weights after a newest item that is rare / usual / popular)" if groups_of(weights) > 1 else ""
    return (
        f"a blend of {made}{groups}: by cross-validation {ahead:.1f} standard errors ahead of popularity (NDCG@10 on the validation part: "
        f"{_listed(report['valid_ndcg@10'])})"
    )


# What a network costs


def fitting_cost(settings: dict, data: Prepared) -> float:
    """Epochs x events x items of a network's training."""
    return float(settings["epochs"] * data.train.lengths.sum() * data.items)


def speed(settings: dict, data: Prepared) -> float:
    """Epochs x events x items that this machine trains in a second, by the product that costs most."""
    place = device.meant(settings["accelerator"])
    query = torch.randn(TRIED, settings["width"], device=place)
    table = torch.randn(min(data.items + 1, 20_000), settings["width"], device=place)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        (query @ table.T).sum().item()
        times.append(time.perf_counter() - started)
    return TRIED * len(table) / (4 * float(np.median(times)))  # forward, two backward, and the softmax
