"""Deep Interest Network (Zhou et al., 2018): of a history, what speaks to the candidate. Tensors only."""

import torch
from torch import Tensor, nn

from models.batches import Asked
from models.ranker import Events, Reader, known

HIDDEN = 36  # units of the activation unit, as in the paper


class Activation(nn.Module):
    """How much each event speaks to the candidate: a dense network over event, candidate, difference and product."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(4 * width, HIDDEN), nn.PReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, events: Tensor, candidate: Tensor) -> Tensor:
        """events (N, L, D), candidate (N, D) -> (N, L)."""
        asked = candidate[:, None].expand_as(events)
        return self.dense(torch.cat([events, asked, events - asked, events * asked], -1)).squeeze(-1)


class Din(Reader):
    """The events' sum, each weighing as much as it speaks to the candidate (no softmax: how strong an interest is, is kept)."""

    parts = 1

    def __init__(self, width: int):
        super().__init__()
        self.activation = Activation(width)

    def forward(self, events: Events, asked: Asked, candidate: Tensor, money: Tensor) -> list[tuple[Tensor, Tensor]]:
        history, real = known(events.items + events.done, asked)
        weight = self.activation(history, candidate).masked_fill(~real, 0.0)
        interest = (weight[:, None] @ history).squeeze(1)
        return [(interest, candidate)]
