"""All that is known of a shop in one score: what followed what, who met what, what reads alike, what is popular, a network. Tensors only."""

import torch
from torch import Tensor, nn

from models.retrieval.evidence import Evidence
from models.retrieval.network import NextItemNetwork


class Blend(nn.Module):
    """A log-linear blend: the network's logits, a bias an item, and weight_k * ln(1 + evidence_k / floor_k) of each part k.

    A logarithmic opinion pool (Genest & Zidek 1986): an item must be likely by all of the parts, and each part's floor says how much its
    silence weighs. The scale of a score is free, so a network, where there is one, has weight 1. Weights and floors are those of the
    shopper's group: counts know little of an item that is rare, and texts as much as of any other.

    Args:
        parts: by name. bias: (G, V) float32, of each item, such as its popularity. network: or None. max_len: most recent items of a history
            that are read. groups: (V,) integers under G, of shoppers by the newest item of their history.
    """

    def __init__(self, parts: dict[str, Evidence], bias: Tensor, network: NextItemNetwork | None, max_len: int, groups: Tensor):
        super().__init__()
        self.parts, self.bias, self.network, self.max_len = nn.ModuleDict(parts), nn.Buffer(bias), network, max_len
        self.groups = nn.Buffer(groups.to(torch.int8))

    def scores(self, history: Tensor, times: Tensor) -> Tensor:
        """(B, L) int64 both -> (B, V) float; padding scores -inf."""
        group = group_of(history, self.groups)
        scores = self.bias[group]
        if self.network is not None:
            scores = scores + self.network.scores(history, times)
        for part in self.parts.values():
            scores = scores + part(history, times, group)
        return scores.index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), -torch.inf)

    def without(self, name: str) -> "Blend":
        """The same without one of its parts, "popularity" (the bias), or, by any other name, the network; the others as they are."""
        parts = {k: part for k, part in self.parts.items() if k != name}
        bias = torch.zeros_like(self.bias) if name == "popularity" else self.bias
        network = self.network if name in (*self.parts, "popularity") else None
        return Blend(parts, bias, network, self.max_len, self.groups)


def group_of(history: Tensor, groups: Tensor) -> Tensor:
    """The group of each shopper (B,) int64, by the newest item of history (B, L) int64, padded with 0 on the right; groups (V,)."""
    newest = history.gather(1, ((history > 0).sum(1, keepdim=True) - 1).clamp(min=0)).squeeze(1)
    return groups[newest].long()
