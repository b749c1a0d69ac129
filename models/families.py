"""The families by name. Next-item: which encoder, which head, and the loss each is usually trained with. Rankers: which reader."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from models.encoders.cnn import Cnn
from models.encoders.gru import Gru
from models.encoders.hstu import Hstu
from models.encoders.mlp import Mean, Mlp
from models.encoders.sasrec import SelfAttention
from models.losses import LOSSES
from models.rankers.dien import Dien
from models.rankers.din import Din
from models.rankers.fusion import Fusion
from models.rankers.ranker import HistoryEncoder, Ranker
from models.retrieval.ncf import NeuMF
from models.retrieval.network import Cosine, NextItemNetwork
from models.retrieval.two_tower import Tower

LARGE = 20_000  # items from which a softmax over all of them costs more than it brings


@dataclass(frozen=True)
class Family:
    encoder: Callable[[dict], nn.Module]  # settings -> encoder
    loss: str = "full_softmax"
    head: Callable[[int, int], nn.Module] = lambda items, width: Cosine(items)


def _stack(s: dict) -> dict:
    return {name: s[name] for name in ("width", "layers", "dropout")}


FAMILIES = {
    "mlp": Family(lambda s: Mlp(**_stack(s))),
    "ncf": Family(lambda s: Mean(), "bce", lambda items, width: NeuMF(items, width, hidden=64)),
    "two_tower": Family(lambda s: Mlp(**_stack(s)), "in_batch_softmax", Tower),
    "cnn": Family(lambda s: Cnn(**_stack(s))),
    "gru": Family(lambda s: Gru(**_stack(s))),
    "sasrec": Family(lambda s: SelfAttention(**_stack(s), heads=s["heads"], max_len=s["max_len"], gated=s["gated"])),
    "hstu": Family(lambda s: Hstu(**_stack(s), heads=s["heads"], max_len=s["max_len"])),
}

RANKERS: dict[str, Callable[[dict], HistoryEncoder]] = {  # settings -> reader
    "din": lambda s: Din(s["width"], s["max_len"]),
    "dien": lambda s: Dien(s["width"], s["max_len"]),
    "fusion": lambda s: Fusion(
        **_stack(s), heads=s["heads"], max_len=s["max_len"], branches=s["branches"], money=len(s["money"])
    ),
}


def loss_of(model: str, loss: str, items: int = 0) -> str:
    """The loss to train with; `auto` is the family's own, or, where a catalogue has over LARGE items, one that draws items.

    Raises:
        ValueError: no such family or loss, or one that makes no sense for the other; the message says which.
    """
    if model not in FAMILIES:
        raise ValueError(f"model is {model!r}; it must be one of {', '.join(FAMILIES)}")
    family = FAMILIES[model]
    if loss == "auto":
        loss = "sampled_softmax" if family.loss == "full_softmax" and items > LARGE else family.loss
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; it must be auto or one of {', '.join(LOSSES)}")
    if loss == "full_softmax" and model == "ncf":
        raise ValueError(
            "loss full_softmax needs a product of shopper and item; ncf has none, use bce or another that draws items"
        )
    return loss


def build(model: str, items: int, shape: dict, attributes: Tensor | None) -> NextItemNetwork:
    """A new network.

    Args:
        items: in the vocabulary. shape: width, layers, heads, dropout, max_len, gated, id_dropout, event_dropout.
        attributes: see NextItemNetwork.
    """
    family = FAMILIES[model]
    head = family.head(items, shape["width"])
    own = {name: shape[name] for name in ("width", "max_len", "dropout", "id_dropout", "event_dropout")}
    return NextItemNetwork(family.encoder(shape), head, items, attributes=attributes, **own)


def build_ranker(model: str, items: int, shape: dict, attributes: Tensor | None, numbers: Tensor) -> Ranker:
    """A new ranker.

    Args:
        items: in the vocabulary. shape: as for `build`, and branches, money, platforms. attributes, numbers: see Ranker.
    """
    own = {name: shape[name] for name in ("width", "heads", "dropout", "id_dropout", "money", "platforms")}
    return Ranker(RANKERS[model](shape), items, attributes=attributes, numbers=numbers, **own)
