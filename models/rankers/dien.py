"""Deep Interest Evolution Network (Zhou et al., 2019): interests drawn out of a history by a recurrent network, and how those that
speak to the candidate evolve. Tensors only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.batches import Candidates
from models.rankers.din import HIDDEN, Activation
from models.rankers.ranker import Events, HistoryEncoder, histories_of


class Augru(nn.Module):
    """A GRU whose update gate is scaled by how much each interest speaks to the candidate.

    Args:
        width: in and out. max_len: longest history.
    """

    def __init__(self, width: int, max_len: int):
        super().__init__()
        self.max_len = max_len
        self.enter, self.carry = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, interests: Tensor, row: Tensor, weight: Tensor, steps: int | None = None) -> Tensor:
        """interests (B, L, D), row (N,) int64, the history of each candidate, weight (N, L) -> the last state (N, D).

        steps: how many of the L to take; None: all.
        """
        entered = self.enter(interests)
        state = entered.new_zeros(row.shape[0], interests.shape[2])
        carry = self.carry.weight.T  # one product's operand: in a graph, one tensor for all steps
        for step in range(interests.shape[1] if steps is None else steps):
            update, reset, new = entered[:, step].index_select(0, row).chunk(3, 1)
            of_update, of_reset, of_new = (state @ carry + self.carry.bias).chunk(3, 1)
            gate = torch.sigmoid(update + of_update) * weight[:, step, None]  # zero: the state stays
            state = state + gate * (torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new) - state)
        return state


class Dien(HistoryEncoder):
    """A GRU over the events, and an AUGRU over its states.

    Args:
        width: in and out. max_len: longest history.
    """

    parts = 1

    def __init__(self, width: int, max_len: int):
        super().__init__()
        self.interests = nn.GRU(width, width, batch_first=True)
        self.activation = Activation(width, max_len)
        self.evolution = Augru(width, max_len)
        self.agrees = nn.Sequential(nn.Linear(2 * width, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, 1))

    def forward(self, events: Events, candidates: Candidates, vector: Tensor, money: Tensor) -> list[tuple[Tensor, Tensor]]:
        read = self.interests(events.items + events.done)[0]
        interests, real = histories_of(read, candidates)
        speaks = self.activation(read, interests, candidates, vector).masked_fill(~real, -torch.inf)
        weight = torch.where(real, speaks.softmax(1), 0.0)  # where nothing is known, all are -inf
        return [(self.evolution(read, candidates.row, weight), vector)]

    def auxiliary(self, events: Events, real: Tensor) -> Tensor:
        """Each interest should tell the event that came next from one of another shopper (binary cross-entropy)."""
        state, follows = self.interests(events.items + events.done)[0][:, :-1], events.items[:, 1:]
        other = follows.roll(1, 0)
        both = real[:, 1:] & real[:, 1:].roll(1, 0)
        yes, no = (self.agrees(torch.cat([state, item], -1)).squeeze(-1) for item in (follows, other))
        loss = F.softplus(-yes) + F.softplus(no)
        return (loss * both).sum() / both.sum().clamp(min=1)
