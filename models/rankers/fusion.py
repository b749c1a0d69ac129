"""R = f(X, Y, H, G): behaviour X and shopper history H through three branches, a convolution over the history (interest), a recurrent
network (preference) and self-attention over prices considered and paid (purchasing power), held against item features Y and item
history G in the ranker's gated towers. Tensors only.
"""

import torch
from torch import Tensor, nn

from models.batches import Candidates
from models.encoders.cnn import Cnn
from models.encoders.gru import Gru
from models.encoders.sasrec import SelfAttention
from models.rankers.ranker import Events, HistoryEncoder, state_at

BRANCHES = ("interest", "preference", "purchasing_power")
EMPTY_EVENTS = 5  # events without any taste that stand before the first: few events say little


class Branch(nn.Module):
    """A history (B, L, D) -> what it says after each event (B, L, D): events and what an encoder adds to them, at first nothing
    (Bachlechner et al., "ReZero is All You Need", 2020), so that what every event says by itself is learnt first.

    Args:
        encoder: causal. lasting: the mean of the history so far, not its newest event.
    """

    def __init__(self, encoder: nn.Module, width: int, lasting: bool):
        super().__init__()
        self.encoder, self.lasting = encoder, lasting
        self.share, self.out = nn.Parameter(torch.zeros(())), nn.Linear(width, width)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        x = x + self.share * self.encoder(x, times)
        if self.lasting:
            x = x.cumsum(1) / (EMPTY_EVENTS + 1 + torch.arange(x.shape[1], device=x.device))[:, None]
        return self.out(x)


class Fusion(HistoryEncoder):
    """Each branch reads the history once, whatever the number of candidates, and is held against each of them: interest and
    purchasing power with all of the history, preference with where it now stands.

    Args:
        width, layers, heads, dropout, max_len: of the branches. branches: those to have, of BRANCHES.
        money: how many numbers tell a price; 0: purchasing power is left out.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_len: int, branches: list[str], money: int):
        super().__init__()
        encoders = {
            "interest": lambda: Cnn(width, layers, dropout),
            "preference": lambda: Gru(width, layers, dropout),
            "purchasing_power": lambda: SelfAttention(width, layers, heads, dropout, max_len, gated=False),
        }
        having = [b for b in branches if b != "purchasing_power" or money]
        self.branches = nn.ModuleDict({b: Branch(encoders[b](), width, lasting=b != "preference") for b in having})
        if "purchasing_power" in self.branches:
            # Not linear: a price may be too high and too low.
            self.price, self.candidate_price = (
                nn.Sequential(nn.Linear(money, width), nn.GELU(), nn.Linear(width, width)) for _ in range(2)
            )
        self.of_candidate = nn.ModuleDict({b: nn.Linear(width, width) for b in self.branches})
        self.parts = len(self.branches)

    def forward(self, events: Events, candidates: Candidates, vector: Tensor, money: Tensor) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for name, branch in self.branches.items():
            power = name == "purchasing_power"
            read = events.done + (self.price(events.money) if power else events.items)
            state = state_at(branch(read, events.times), candidates)
            pairs.append((state, self.of_candidate[name](self.candidate_price(money) if power else vector)))
        return pairs
