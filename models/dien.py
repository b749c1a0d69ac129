"""Deep Interest Evolution Network (Zhou et al., 2019): interests drawn out of a history by a recurrent network, and how those that
speak to the candidate evolve. Tensors only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.batches import Asked
from models.din import HIDDEN, Activation
from models.gru import run
from models.ranker import Events, Reader, known


class Dien(Reader):
    """A GRU over the events; then a GRU whose update gate is scaled by how much an interest speaks to the candidate (AUGRU).

    Args:
        width: in and out. max_len: longest history; the second network always takes so many steps when exported.
    """

    parts = 1

    def __init__(self, width: int, max_len: int):
        super().__init__()
        self.max_len = max_len
        self.interests = nn.GRU(width, width, batch_first=True)
        self.activation = Activation(width, max_len)
        self.enter, self.carry = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.agrees = nn.Sequential(nn.Linear(2 * width, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, 1))

    def forward(self, events: Events, asked: Asked, candidate: Tensor, money: Tensor) -> list[tuple[Tensor, Tensor]]:
        read = run(self.interests, events.items + events.done)
        interests, real = known(read, asked)
        speaks = self.activation(read, interests, asked, candidate).masked_fill(~real, -torch.inf)
        weight = torch.where(real, speaks.softmax(1), 0.0)  # where nothing is known, all are -inf
        entered, steps = self.enter(read), read.shape[1]
        if torch.compiler.is_exporting():  # a loop of a length that is not known has no place in a graph
            steps = self.max_len
            entered = F.pad(entered, (0, 0, 0, steps - read.shape[1]))
            weight = F.pad(weight, (0, steps - read.shape[1]))
        state, carry = (
            torch.zeros_like(candidate),
            self.carry.weight.T,
        )  # one product's operand: in a graph, one tensor for all steps
        for step in range(steps):
            update, reset, new = entered[:, step].index_select(0, asked.row).chunk(3, 1)
            of_update, of_reset, of_new = (state @ carry + self.carry.bias).chunk(3, 1)
            gate = torch.sigmoid(update + of_update) * weight[:, step, None]  # zero: the state stays
            state = state + gate * (torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new) - state)
        return [(state, candidate)]

    def auxiliary(self, events: Events, real: Tensor) -> Tensor:
        """Each interest should tell the event that came next from one of another shopper (binary cross-entropy)."""
        state, follows = run(self.interests, events.items + events.done)[:, :-1], events.items[:, 1:]
        other = follows.roll(1, 0)
        both = real[:, 1:] & real[:, 1:].roll(1, 0)
        yes, no = (self.agrees(torch.cat([state, item], -1)).squeeze(-1) for item in (follows, other))
        loss = F.softplus(-yes) + F.softplus(no)
        return (loss * both).sum() / both.sum().clamp(min=1)
