"""What the validation part decides after training: the weight of the prior, the blend of retriever and ranker, which item model."""

from functools import partial

import torch

from models.batches import Histories
from models.rankers.two_stage import TwoStage
from models.retrieval.content import content, embedded
from models.retrieval.evidence import Evidence
from models.retrieval.item_to_item import ease, incidence, item_knn, transitions, two_hops
from models.retrieval.network import NextItemNetwork
from models.retrieval.popularity import popularity
from models.retrieval.sparse_item_model import SparseItemModel
from pipelines.learning.device import device_of
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import SAMPLE, ndcg_by_blend, ndcg_by_prior_weight, valid_ndcg
from pipelines.stage import StageError, log

PRIOR_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BLENDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
NEIGHBOURS = 100  # of an item that followed it, kept
ADMISSION = 1024  # shoppers by whose queries new items are placed


def finish(network: NextItemNetwork, data: Prepared, prior: bool, weight: float | None = None) -> None:
    """What a trained network gets on top: a place for items that training never showed, and a transition prior.

    prior: is there to be one? weight: of it; None: what validation likes best.
    """
    some = data.valid.sample(ADMISSION)
    shoppers = Histories(some, network.max_len)[range(len(some))][0]
    place = device_of(network)
    counts = torch.from_numpy(data.popularity)
    network.initialise_cold_items(counts.to(place), shoppers.history.to(place), shoppers.times.to(place))
    if prior:
        fit_prior(network, data, weight)


def fit_prior(network: NextItemNetwork, data: Prepared, weight: float | None = None) -> None:
    """Gives the network the transition prior of the training part, with this weight or that which validation likes best; none if it is 0."""
    counts = transitions(data.train.items, data.items + 1).to(device_of(network))
    if weight is None:
        found = ndcg_by_prior_weight(network, Evidence(counts).to(device_of(network)), data.valid.sample(SAMPLE), PRIOR_WEIGHTS)
        weight = max(found, key=found.get)
        log.info("train: transition prior of weight %s: valid NDCG@10 %.4f (%.4f without)", weight, found[weight], found[0.0])
    network.prior = Evidence(counts, weight).to(device_of(network)) if weight else None


def fit_blend(model: TwoStage, data: Prepared) -> None:
    """Gives the ranker the weight beside the retriever that validation likes best."""
    found = ndcg_by_blend(model, data.valid.sample(SAMPLE), BLENDS)
    best = max(found, key=found.get)
    model.second.blend.fill_(best)
    log.info("train: ranker of weight %s: valid NDCG@10 %.4f (%.4f by the retriever)", best, found[best], found[0.0])


def item_model(name: str, data: Prepared, recent: bool | None = None) -> tuple[SparseItemModel, dict]:
    """An item model of the training part, which takes no epochs; and its recipe, {"recent": ...} of popularity.

    name: one of saved.ITEM_MODELS. recent: do recent events count more? None: what validation likes best.

    Raises:
        StageError: the catalogue is too large for it.
    """
    items = data.items + 1
    if name == "popularity":
        if recent is None:
            recent = valid_ndcg(popularity(data.recency), data.valid) > valid_ndcg(popularity(data.popularity), data.valid)
        return popularity(data.recency if recent else data.popularity), {"recent": bool(recent)}
    makers = {
        "item_knn": lambda: item_knn(incidence(data.train.items, items)),
        "transitions": lambda: transitions(data.train.items, items, NEIGHBOURS),
        "transitions_back": lambda: transitions([h[::-1] for h in data.train.items], items, NEIGHBOURS),
        "two_hops": lambda: two_hops(transitions(data.train.items, items, NEIGHBOURS // 2)),
        "ease": lambda: ease(incidence(data.train.items, items)),
        "content": lambda: content(data.content),
        **{kind: partial(embedded, vectors) for kind, vectors in data.embedded.items()},
    }
    if name == "content" and data.content is None:
        raise StageError("train.model: nothing is written of the items (prepare.content), so there is no content to compare")
    if name not in makers:
        raise StageError(f"train.model: there are no vectors of items for {name!r} (settings embed, reports/embedded.json)")
    try:
        return makers[name](), {}
    except ValueError as error:
        raise StageError(f"train.model: {error}") from error


def best_popularity(data: Prepared) -> SparseItemModel:
    """Recommends the most popular items to everyone; recent events count more (30-day half-life) if that improves validation NDCG@10."""
    return item_model("popularity", data)[0]
