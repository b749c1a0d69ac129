"""The graph that is served: history in, the k best items out, everything between inside it. Tensors only.

One item table serves both lookup and scoring, in float32 or in int8 with a scale a row.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.sasrec import SASRec, last


class TopK(nn.Module):
    """Wraps a trained network for export.

    Args:
        network: the network. k: length of the answer (at most the number of items).
        int8: keep the item table as int8, one symmetric scale a row: row = int8 * scale, |error| <= scale / 2.
    """

    def __init__(self, network: SASRec, k: int, int8: bool = False):
        super().__init__()
        self.network, self.k, self.int8 = network, k, int8
        table = network.table.weight.detach()
        self.norm_scale = nn.Buffer(network.log_temperature.detach().exp() / table.norm(dim=1).clamp(min=1e-12))
        self.bias = nn.Buffer(network.bias.detach().clone())
        if int8:
            scale = table.abs().amax(1).clamp(min=1e-12) / 127
            self.table = nn.Buffer((table / scale[:, None]).round().to(torch.int8))
            self.lookup_scale = nn.Buffer(scale)
            self.norm_scale.mul_(scale)
        else:
            self.table = nn.Buffer(table.clone())

    def forward(self, history: Tensor, exclude: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """The k best allowed items after each history.

        Args:
            history: (B, L) int64 item numbers, oldest first, padded with 0 on the right, 1 <= L <= max_len.
            exclude: (B, S) int64 item numbers never to answer (those already seen), padded with 0.
            allowed: (B, items + 1) bool, true where the request's filters let the item through.

        Returns:
            items (B, k) int64 and scores (B, k) float32, best first; a score of -inf marks that no item was left.
        """
        embedded = F.embedding(history, self.table).float()
        table = self.table
        if self.int8:
            embedded = embedded * self.lookup_scale[history][:, :, None]
            table = self.table.float()
        query = last(self.network.encode(embedded), history)
        scores = query @ table.T * self.norm_scale + self.bias
        scores = torch.where(allowed, scores, -torch.inf)
        nothing = torch.zeros_like(exclude[:, :1])  # padding (item 0) is excluded always
        excluded = torch.cat([exclude, nothing], 1)
        scores = scores.scatter(1, excluded, torch.full_like(excluded, -torch.inf, dtype=scores.dtype))
        values, items = scores.topk(self.k)
        return items, values
