"""What a network forgets and counts remember: which items followed which. Tensors only."""

import math

import torch
from torch import Tensor, nn

from models.retrieval.sparse_item_model import SparseItemModel


class TransitionPrior(nn.Module):
    """weight * ln(evidence + FLOOR), to be added to a network's logits.

    A network says what shoppers like these tend to do; counts say what happened. The sum of logarithms is a product of experts
    (Hinton 2002), and the floor is what an item without any evidence gets.

    Args:
        counts: which items followed which (item_to_item.transitions). weight: of the counts beside the network.
    """

    FLOOR = 1e-3

    def __init__(self, counts: SparseItemModel, weight: float = 1.0):
        super().__init__()
        self.counts, self.weight = counts, nn.Buffer(torch.tensor(float(weight)))

    def forward(self, history: Tensor) -> Tensor:
        """history (B, L) int64 -> (B, V) float."""
        return self.weight * torch.log(self.counts.evidence(history) + self.FLOOR)

    def floor(self) -> Tensor:
        """What every item without evidence gets: a scalar."""
        return self.weight * math.log(self.FLOOR)

    def above_floor(self, evidence: Tensor) -> Tensor:
        """evidence (...) -> (...) float, what it adds to floor()."""
        return self.weight * torch.log(evidence / self.FLOOR + 1)
