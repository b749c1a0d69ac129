"""What counts and texts remember and a network forgets: which items stand near those of a history. Tensors only."""

import torch
from torch import Tensor, nn

from models.retrieval.sparse_item_model import SparseItemModel


class Evidence(nn.Module):
    """weight * ln(evidence + floor), to be added to other scores.

    A network says what shoppers like these tend to do; counts say what happened. The sum of logarithms is a product of experts
    (Hinton 2002), and the floor is what an item without any evidence gets.

    Args:
        counts: what speaks for which item (item_to_item, content). weight: beside the other scores. floor: of the evidence.
        mean: is the evidence a mean over the events of the history, or a sum?
    """

    FLOOR = 1e-3

    def __init__(self, counts: SparseItemModel, weight: float = 1.0, floor: float = FLOOR, mean: bool = False):
        super().__init__()
        self.counts, self.mean = counts, mean
        self.weight, self.floor = nn.Buffer(torch.tensor(float(weight))), nn.Buffer(torch.tensor(float(floor)))

    def neighbours_of(self, history: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """history, times (B, L) int64 -> neighbours of its items (B, T) int64, possibly repeated, and the evidence for each, float."""
        items, evidence = self.counts.neighbours_of(history, times)
        if self.mean:
            evidence = evidence / self.counts.event_weights(history, times).sum(1, keepdim=True).clamp(min=1e-6)
        return items, evidence

    def forward(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """history, times (B, L) int64 -> (B, V) float."""
        evidence = torch.zeros_like(self.counts.bias).repeat(history.shape[0], 1)
        return self.lowest() + self.above_lowest(evidence.scatter_add(1, *self.neighbours_of(history, times)))

    def lowest(self) -> Tensor:
        """What every item without evidence gets: a scalar."""
        return self.weight * torch.log(self.floor)

    def above_lowest(self, evidence: Tensor) -> Tensor:
        """evidence (...) -> (...) float, what it adds to lowest()."""
        return self.weight * torch.log(evidence.clamp(min=0) / self.floor + 1)
