"""Dropout whose masks cost little on a CPU. Tensors only."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 256  # of a random byte: on a CPU the share that is dropped is a multiple of 1 / LEVELS


class Dropout(nn.Module):
    """Sets a share of the numbers to zero while training and scales the others up, so that the mean stays (Srivastava et al. 2014).

    On a CPU a byte is drawn for each number, eight at once: torch draws a number each, which takes as long as a product of matrices.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        dropped = round(self.share * LEVELS)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(1 << 63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))

    def extra_repr(self) -> str:
        return f"{self.share}"
