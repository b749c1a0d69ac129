"""Deep Interest Network (Zhou et al., 2018): of a history, what speaks to the candidate. Tensors only."""

import torch
from torch import Tensor, nn

from models.batches import Candidates
from models.rankers.ranker import Events, HistoryEncoder, histories_of

HIDDEN = 36  # units of the activation unit, as in the paper


class Activation(nn.Module):
    """How much each event speaks to the candidate: a dense network over event, candidate and their product (their difference too in the
    paper, which a linear layer over both can make), and how many events ago it was: the paper's network knows no order, and what is met
    next follows from the newest. What the first layer makes of events is made once, whatever the number of candidates.
    """

    def __init__(self, width: int, max_len: int):
        super().__init__()
        self.ago = nn.Embedding(max_len, HIDDEN)
        nn.init.zeros_(self.ago.weight)
        self.event, self.of_candidate, self.both = (nn.Linear(width, HIDDEN, bias=i == 0) for i in range(3))
        self.speaks = nn.Sequential(nn.PReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, events: Tensor, history: Tensor, candidates: Candidates, vector: Tensor) -> Tensor:
        """events (B, L, D), those of each candidate's row (N, L, D), vector of each candidate (N, D) -> (N, L)."""
        both = history @ (vector[:, :, None] * self.both.weight.T)
        ago = (candidates.at[:, None] - 1 - torch.arange(history.shape[1], device=history.device)).clamp(min=0)
        first = self.event(events)[candidates.row] + self.of_candidate(vector)[:, None] + both + self.ago(ago)
        return self.speaks(first).squeeze(-1)


class Din(HistoryEncoder):
    """The events' sum, each weighing as much as it speaks to the candidate (no softmax: how strong an interest is, is kept)."""

    parts = 1

    def __init__(self, width: int, max_len: int):
        super().__init__()
        self.activation = Activation(width, max_len)

    def forward(self, events: Events, candidates: Candidates, vector: Tensor, money: Tensor) -> list[tuple[Tensor, Tensor]]:
        read = events.items + events.done
        history, real = histories_of(read, candidates)
        weight = self.activation(read, history, candidates, vector).masked_fill(~real, 0.0)
        interest = (weight[:, None] @ history).squeeze(1)
        return [(interest, vector)]
