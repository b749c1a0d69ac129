"""What each event of one history adds to an item: by leaving it out, by gradients, by attention. And what is left of the item's score as events go.

All of it is of an item's score beside the mean of a reference of other items: what raises all of them says nothing of one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from captum.attr import IntegratedGradients, ShapleyValueSampling
from torch import Tensor, nn

from models.encoders.sasrec import SelfAttention
from models.rankers.two_stage import first_stage, network_of

STEPS = 32  # of the integral
AT_ONCE = 64  # sets of events that are asked of together


class Question(nn.Module):
    """How far ahead of a reference an item is, by a model's first stage, as events are kept or left out.

    Args:
        model: any that has `scores`. history, times: (L,) int64, of one shopper, oldest first. item: its number. reference: (R,) int64.
    """

    def __init__(self, model: nn.Module, history: Tensor, times: Tensor, item: int, reference: Tensor):
        super().__init__()
        self.model, self.history, self.times, self.item = first_stage(model), history, times, item
        self.reference = reference[reference != item]

    @torch.no_grad()
    def ahead(self, kept: Tensor) -> Tensor:
        """kept (B, L) bool -> (B,) float."""
        return self.of_scores(self.scores(kept))

    def scores(self, kept: Tensor) -> Tensor:
        """kept (B, L) bool -> (B, V) float."""
        place = (~kept).to(torch.int8).argsort(dim=1, stable=True)
        there = kept.gather(1, place)
        history, times = (column[place].masked_fill(~there, 0) for column in (self.history, self.times))
        longest = max(1, int(kept.sum(1).max()))
        return self.model.scores(history[:, :longest], times[:, :longest])

    def of_scores(self, scores: Tensor) -> Tensor:
        """scores (B, V) -> (B,)."""
        return scores[:, self.item] - scores[:, self.reference].mean(1)


def leave_one_out(question: Question) -> Tensor:
    """(L,) float: how much less the item is ahead without each event (occlusion; Zeiler & Fergus 2014)."""
    length = len(question.history)
    ahead = question.ahead(torch.cat([torch.ones(1, length, dtype=torch.bool), ~torch.eye(length, dtype=torch.bool)]))
    return ahead[0] - ahead[1:]


def both_ends(question: Question) -> Tensor:
    """(L,) float: the mean of leave_one_out and of how much further the item is ahead with an event alone than with none, the first and the last of the marginal contributions whose mean is Shapley's value (1953).

    Of two events that say the same, leaving one out says nothing. What servers name (deploy/serving/reasons.py).
    """
    length = len(question.history)
    alone = question.ahead(torch.cat([torch.zeros(1, length, dtype=torch.bool), torch.eye(length, dtype=torch.bool)]))
    return (leave_one_out(question) + alone[1:] - alone[0]) / 2


def searched(question: Question, most: int) -> Tensor:
    """(L,) float: the events that are to go, one after the other, so that the item falls furthest; others 0. What no way to name events can be much better than."""
    length = len(question.history)
    kept, found = torch.ones(length, dtype=torch.bool), torch.zeros(length)
    for place in range(min(most, length)):
        ahead = question.ahead(kept & ~torch.eye(length, dtype=torch.bool)).masked_fill(~kept, torch.inf)
        least = int(ahead.argmin())
        kept[least], found[least] = False, most - place
    return found


def shapley(question: Question, orders: int, seed: int) -> Tensor:
    """(L,) float: what each event adds to those before it, the mean over so many random orders of the events (Shapley 1953; sampled as by Castro et al. 2009; Captum)."""
    everything = torch.ones(1, len(question.history))
    torch.manual_seed(seed)

    def ahead(kept: Tensor) -> Tensor:
        return question.ahead(kept > 0)

    return ShapleyValueSampling(ahead).attribute(everything, n_samples=orders, perturbations_per_eval=AT_ONCE)[0]


@contextmanager
def silenced(branch: nn.Module) -> Iterator[None]:
    """While this is entered a branch says nothing, whatever it reads."""
    hook = branch.register_forward_hook(lambda module, read, said: torch.zeros_like(said))
    try:
        yield
    finally:
        hook.remove()


def integrated_gradients(question: Question) -> Tensor | None:
    """(L,) float, of the network alone, from a history of no vectors (Sundararajan et al. 2017; Captum). None: there is no network."""
    network = network_of(question.model)
    if network is None:
        return None
    vectors, bias = network.head.vectors(network.embeddings()).detach(), network.head.bias.detach()

    def ahead(embedded: Tensor) -> Tensor:
        rows = (column.expand(len(embedded), -1) for column in (question.history, question.times))
        return question.of_scores(network.head.scores(network.newest(embedded, *rows), vectors, bias))

    embedded = network.embed(question.history[None]).detach()
    return IntegratedGradients(ahead).attribute(embedded, n_steps=STEPS, internal_batch_size=STEPS).sum(-1)[0].float()


@torch.no_grad()
def attention(question: Question) -> Tensor | None:
    """(L,) float: how much the newest position looks at each event in the last block, the mean of its heads. None: the network has no attention."""
    network = network_of(question.model)
    if network is None or not isinstance(network.encoder, SelfAttention):
        return None
    encoder = network.encoder
    x = encoder.with_positions(network.embed(question.history[None]) * network.table.embedding_dim**0.5)
    for block in encoder.blocks[:-1]:
        x = block(x)
    last = encoder.blocks[-1]
    q, k, _ = last.qkv(last.attention_norm(x)).chunk(3, -1)
    q, k = (t.unflatten(2, (last.attention.heads, -1)).transpose(1, 2) for t in (q[:, -1:], k))
    return (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1).mean(1)[0, 0]


def recency(question: Question) -> Tensor:
    """(L,) float: the newest first."""
    return torch.arange(len(question.history)).float()


def deletion(question: Question, importance: Tensor, most: int) -> Tensor:
    """(most,) float: how much less the item is ahead without the first, the first two, ... of the most important events (Samek et al. 2017)."""
    return question.ahead(torch.ones(1, len(importance), dtype=torch.bool)) - question.ahead(~_first(importance, most))


def insertion(question: Question, importance: Tensor, most: int) -> Tensor:
    """(most,) float: how far ahead the item is with the first, the first two, ... alone, over a history without events."""
    return question.ahead(_first(importance, most)) - question.ahead(torch.zeros(1, len(importance), dtype=torch.bool))


def counterfactual(question: Question, importance: Tensor) -> int | None:
    """The fewest of the most important events, one after the other, without which another item that was not met comes first; None: no number of them.

    At least one event is kept.
    """
    length = len(importance)
    scores = question.scores(torch.cat([torch.ones(1, length, dtype=torch.bool), ~_first(importance, length - 1)]))
    scores[:, question.history] = -torch.inf
    best = scores.argmax(1)
    others = (best[1:] != best[0]).nonzero()
    return int(others[0]) + 1 if len(others) else None


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """The model with the values of each of its weights in a random order: what is said of it is true of another (Adebayo et al. 2018). In place."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            if weight.is_floating_point() and weight.ndim and weight.layout == torch.strided:
                weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=draw)].view_as(weight))
    return model


def _first(importance: Tensor, most: int) -> Tensor:
    """(most, L) bool: which are the first, the first two, ... of the most important."""
    rank = importance.argsort(dim=0, descending=True, stable=True).argsort()
    return rank[None] < torch.arange(1, most + 1)[:, None]
