"""What all rankers share: (shopper, candidate, context) to what is expected of the candidate. Tensors only.

A family is a history encoder: a history, read with or without the candidate in mind, paired with what of the candidate it is held
against. The sums of the pairs' products go straight to the logits, as in factorisation machines (Rendle, 2010), and, since whole vectors only invite
learning by heart, they alone stand for the history (as in DLRM: Naumov et al., 2019) beside the candidate's own features (what it is:
embedding, category, brand, words) and its history (popularity, clicks an impression, purchases a click, price against its category)
in gated towers with a head a task over experts that all tasks share (MMoE: Ma et al., "Modeling Task Relationships in Multi-task
Learning with Multi-gate Mixture-of-Experts", 2018).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.batches import Candidates, ShopperBatch
from models.encoders.dropout import Dropout
from models.encoders.items import ItemTable

TASKS = ("next", "click", "cart", "purchase")
ACTIONS = 4  # kinds of action in a history, from seen to bought
EXPERTS = 4
PARTS = 4  # of what is joined: the interaction of history and candidate, what the candidate is, its record, where it is asked for
NARROW = 16  # numbers of a pair that impressions are told by: in whole vectors they are learnt by heart
STRENGTH = 0.25  # standard deviation of item vectors at first: large random ones are learnt by heart, from small ones grows what many share


class Events(NamedTuple):
    """Histories as history encoders get them."""

    items: Tensor  # (B, L, D) float, each as strong as what was done to it makes it
    done: Tensor  # (B, L, D) float: what was done to them
    money: Tensor  # (B, L, M) float: their prices, standardised; M may be 0
    times: Tensor  # (B, L) int64 seconds


def state_at(states: Tensor, candidates: Candidates) -> Tensor:
    """What a causal encoder (B, L, D) says after the first `at` events of each row: (N, D); zero before the first."""
    return F.pad(states, (0, 0, 1, 0))[candidates.row, candidates.at]


def histories_of(states: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Each candidate's history (N, L, D) and which of its events are known (N, L) bool."""
    position = torch.arange(states.shape[1], device=states.device)
    return states.index_select(0, candidates.row), position < candidates.at[:, None]


class HistoryEncoder(nn.Module):
    """What differs between rankers. `parts` says how many pairs forward returns."""

    parts: int

    def forward(self, events: Events, candidates: Candidates, vector: Tensor, money: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Vectors (N, D) and prices (N, M) of the candidates -> `parts` pairs of (N, D): what the history says, and what of the
        candidate it is held against.
        """
        raise NotImplementedError

    def auxiliary(self, events: Events, real: Tensor) -> Tensor | float:
        """A loss of the encoder's own on a batch of training histories; real (B, L) bool marks events."""
        return 0.0


class Interaction(nn.Module):
    """A pair, (N, D) each -> sums of their product: (N, heads) of whole vectors by heads, for the
    order of what is met next, and (N, 1) of NARROW mixtures of each, for what comes of impressions.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.of_history, self.of_candidate = (nn.Linear(width, NARROW, bias=False) for _ in range(2))

    def forward(self, history: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        whole = (history * candidate).unflatten(1, (self.heads, -1)).sum(-1)
        return whole, (self.of_history(history) * self.of_candidate(candidate)).sum(1, keepdim=True)


class Ranker(nn.Module):
    """Logits of the tasks: `next` orders candidates by which is met next; `click`, and given a click `cart` and `purchase`, are
    of a candidate that is shown.

    Args:
        encoder: see HistoryEncoder. items, width, attributes, id_dropout: of the item table. dropout: of what the experts say.
        heads: of each Interaction.
        numbers: (items + 1, F) float32, standardised features of items, row 0 zero. money: columns of it that tell prices.
        platforms: how many there are.
    """

    def __init__(
        self,
        encoder: HistoryEncoder,
        items: int,
        width: int,
        heads: int,
        dropout: float,
        attributes: Tensor | None,
        numbers: Tensor,
        money: list[int],
        platforms: int,
        id_dropout: float = 0.0,
    ):
        super().__init__()
        self.items = ItemTable(items, width, attributes, id_dropout)
        self.encoder, self.money = encoder, money
        self.numbers = nn.Buffer(numbers)
        self.action = nn.Embedding(ACTIONS + 1, width, padding_idx=0)
        self.emphasis = nn.Embedding(ACTIONS + 1, width, padding_idx=0)  # what was bought says more than what was looked at
        for actions in (self.action, self.emphasis):
            nn.init.zeros_(actions.weight)
        self.platform = nn.Embedding(platforms + 1, width, padding_idx=0)
        self.features, self.record = nn.Linear(width, width), nn.Linear(numbers.shape[1], width)
        self.interactions = nn.ModuleList(Interaction(width, heads) for _ in range(encoder.parts))
        self.next = nn.Parameter(torch.ones(encoder.parts, heads))
        self.shown = nn.Parameter(torch.ones(encoder.parts, len(TASKS) - 1))
        self.interacted, joined = nn.Linear(encoder.parts * (heads + 1), width), PARTS * width
        self.norm, self.gates, self.dropout = nn.LayerNorm(joined), nn.Linear(joined, PARTS), Dropout(dropout)
        self.experts = nn.Linear(joined, EXPERTS * (width // 2))
        self.choose = nn.Linear(joined, len(TASKS) * EXPERTS)
        self.towers = nn.Parameter(torch.randn(len(TASKS), width // 2) * width**-0.5)
        self.direct = nn.Linear(joined, len(TASKS))

    def start_from(self, other: ItemTable) -> None:
        """Takes over the item table of a trained network of the same width."""
        with torch.no_grad():
            self.items.table.weight.copy_(other.table.weight)
            if self.items.attributes is not None and other.attributes is not None:
                self.items.attributes.weight.copy_(other.attributes.weight)

    def vectors(self, items: Tensor) -> Tensor:
        """Items (...) int64 as history encoders get them: (..., D) float."""
        return self.items.embed(items) * (STRENGTH * self.width**0.5)

    def events(self, shoppers: ShopperBatch) -> Events:
        items = self.vectors(shoppers.history) * (1 + self.emphasis(shoppers.actions))
        money = F.embedding(shoppers.history, self.numbers)[..., self.money]
        return Events(items, self.action(shoppers.actions), money, shoppers.times)

    @property
    def width(self) -> int:
        return self.features.in_features

    def forward(self, events: Events, candidates: Candidates) -> Tensor:
        """-> logits (N, tasks) float: next, click, cart given a click, purchase given a click."""
        return self.logits_and_parts(events, candidates)[0]

    def logits_and_parts(self, events: Events, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """-> logits (N, tasks), and (N, parts) what each pair by itself adds to that of `next`."""
        vector = self.vectors(candidates.item)
        numbers = F.embedding(candidates.item, self.numbers)
        pairs = self.encoder(events, candidates, vector, numbers[:, self.money])
        sums = zip(*(interact(*pair) for interact, pair in zip(self.interactions, pairs, strict=True)), strict=True)
        whole, narrow = (torch.cat(s, 1) for s in sums)
        interacted = self.interacted(torch.cat([whole, narrow], 1))
        parts = [interacted, self.features(vector), self.record(numbers), self.platform(candidates.platform)]
        joined = self.norm(torch.cat(parts, 1))
        gates = torch.sigmoid(self.gates(joined))[..., None]
        joined = (joined.view(-1, PARTS, self.width) * gates).flatten(1)
        experts = self.dropout(F.gelu(self.experts(joined))).view(-1, EXPERTS, self.width // 2)
        weights = self.choose(joined).view(-1, len(TASKS), EXPERTS).softmax(-1)
        alone = (whole.unflatten(1, (len(self.interactions), -1)) * self.next).sum(-1)
        straight = torch.cat([alone.sum(1, keepdim=True), narrow @ self.shown], 1)
        return ((weights @ experts) * self.towers).sum(-1) + self.direct(joined) + straight, alone


def log_probabilities(logits: Tensor) -> Tensor:
    """logits (N, tasks) -> (N, 3): ln p of click, cart and purchase for a candidate that is shown.

    Cart and purchase are learnt over all impressions, p(purchase) = p(click) p(purchase | click) (Ma et al., "Entire Space
    Multi-Task Model", ESMM, 2018), so that what was never clicked teaches too.
    """
    click, given = F.logsigmoid(logits[:, 1:2]), F.logsigmoid(logits[:, 2:])
    return torch.cat([click, click + given], 1)
