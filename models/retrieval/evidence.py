"""What counts and texts remember and a network forgets: which items stand near those of a history. Tensors only."""

import torch
from torch import Tensor, nn

from models.retrieval.sparse_item_model import SparseItemModel


class Evidence(nn.Module):
    """weight * ln(1 + evidence / floor), to be added to other scores.

    A network says what shoppers like these tend to do; counts say what happened. The sum of logarithms is a product of experts
    (Hinton 2002): up to a constant this is weight * ln(floor + evidence), in which the floor is what an item without any evidence gets.

    Args:
        counts: what speaks for which item (item_to_item, content). weight: beside the other scores. floor: of the evidence. Both one number
            for all shoppers, or (G,), one for each group of shoppers.
        mean: is the evidence a mean over the events of the history, or a sum?
    """

    FLOOR = 1e-3

    def __init__(self, counts: SparseItemModel, weight: float | Tensor = 1.0, floor: float | Tensor = FLOOR, mean: bool = False):
        super().__init__()
        self.counts, self.mean = counts, mean
        self.weight, self.floor = (nn.Buffer(torch.as_tensor(part, dtype=torch.float32).reshape(-1)) for part in (weight, floor))

    def neighbours_of(self, history: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """history, times (B, L) int64 -> neighbours of its items (B, T) int64, possibly repeated, and the evidence for each, float."""
        items, evidence = self.counts.neighbours_of(history, times)
        if self.mean:
            evidence = evidence / self.counts.event_weights(history, times).sum(1, keepdim=True).clamp(min=1e-6)
        return items, evidence

    def forward(self, history: Tensor, times: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        """history, times (B, L) int64, group (B,) int64 -> (B, V) float, 0 where there is no evidence."""
        return self.worth(self.found(history, times)[1], group)

    def found(self, history: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """history, times (B, L) int64 -> the neighbours (B, T) int64, possibly repeated, and the evidence for all items (B, V) float."""
        items, weights = self.neighbours_of(history, times)
        return items, torch.zeros_like(self.counts.bias).repeat(history.shape[0], 1).scatter_add(1, items, weights)

    def worth(self, evidence: Tensor, group: Tensor | None = None) -> Tensor:
        """What evidence (B, ...) float adds to the score; group (B,) int64, of each shopper, None: there is one. -> (B, ...) float."""
        if group is None:
            weight, floor = self.weight, self.floor
        else:
            weight, floor = (part[group].view(-1, *[1] * (evidence.ndim - 1)) for part in (self.weight, self.floor))
        return weight * torch.log(evidence.clamp(min=0) / floor + 1)
