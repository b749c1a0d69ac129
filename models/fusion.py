"""R = f(X, Y, H, G): behaviour X and shopper history H through three branches, a convolution over the history (interest), a recurrent
network (preference) and self-attention over prices considered and paid (purchasing power), held against item features Y and item
history G in the ranker's gated towers. Tensors only.
"""

from torch import Tensor, nn

from models.batches import Asked
from models.cnn import Cnn
from models.gru import Gru
from models.ranker import Events, Reader, state_at
from models.sasrec import SelfAttention

BRANCHES = ("interest", "preference", "purchasing_power")


class Fusion(Reader):
    """Each branch reads the history once, whatever the number of candidates, and meets each candidate in a product.

    Args:
        width, layers, heads, dropout, max_len: of the branches. branches: those to have, of BRANCHES.
        money: how many numbers tell a price; 0: purchasing power is left out.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_len: int, branches: list[str], money: int):
        super().__init__()
        makers = {
            "interest": lambda: Cnn(width, layers, dropout),
            "preference": lambda: Gru(width, layers, dropout),
            "purchasing_power": lambda: SelfAttention(width, layers, heads, dropout, max_len, gated=False),
        }
        self.branches = nn.ModuleDict({b: makers[b]() for b in branches if b != "purchasing_power" or money})
        if "purchasing_power" in self.branches:
            self.price, self.asked_price = nn.Linear(money, width), nn.Linear(money, width)
        self.meet = nn.ModuleDict({b: nn.Linear(width, width) for b in self.branches})
        self.parts = 2 * len(self.branches)

    def forward(self, events: Events, asked: Asked, candidate: Tensor, money: Tensor) -> list[Tensor]:
        parts = []
        for name, branch in self.branches.items():
            power = name == "purchasing_power"
            read = events.done + (self.price(events.money) if power else events.items)
            state = state_at(branch(read, events.times), asked)
            parts += [state, self.meet[name](state) * (self.asked_price(money) if power else candidate)]
        return parts
