"""Operators that ONNX and onnxruntime have and torch's exporter does not write, put in the place of torch's own while a graph is exported."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.encoders.sasrec import Attention
from models.rankers.dien import Augru
from models.retrieval.ncf import NeuMF


class OnnxAttention(nn.Module):
    """Attention as one node, onnxruntime's MultiHeadAttention: at batch 1 the tens of nodes of its parts cost more than their arithmetic."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads = attention.heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None) -> Tensor:
        bias = None
        if at is not None:
            bias = torch.where(torch.arange(k.shape[1], device=k.device) <= at.view(-1, 1, 1, 1), 0.0, -torch.inf)
        return torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention", (q, k, v, None, None, bias), {"num_heads": self.heads, "unidirectional": int(at is None)},
            dtype=q.dtype, shape=q.shape, version=1,
        )  # fmt: skip


class OnnxGru(nn.Module):
    """A recurrent layer as ONNX's own GRU: torch's exporter would unroll it for one length only."""

    def __init__(self, layer: nn.GRU):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x (B, L, D) -> (B, L, D), and None where nn.GRU has its last state."""
        layer = self.layer
        weights = (_in_onnx_order(p) for p in (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0))
        w, r, w_bias, r_bias = weights
        inputs = (x.transpose(0, 1), w[None], r[None], torch.cat([w_bias, r_bias])[None])
        batch, length, width = x.shape
        attributes = {"hidden_size": width, "linear_before_reset": 1}
        out = torch.onnx.ops.symbolic("GRU", inputs, attributes, dtype=x.dtype, shape=(length, 1, batch, width), version=14)
        return out.squeeze(1).transpose(0, 1), None


class UnrolledAugru(nn.Module):
    """DIEN's second network over a fixed number of steps: a loop of unknown length has no place in a graph. Steps beyond the history
    leave the state as it is.
    """

    def __init__(self, augru: Augru):
        super().__init__()
        self.augru = augru

    def forward(self, interests: Tensor, row: Tensor, weight: Tensor) -> Tensor:
        missing = self.augru.max_len - interests.shape[1]
        padded = nn.functional.pad(interests, (0, 0, 0, missing))
        return self.augru(padded, row, nn.functional.pad(weight, (0, missing)), self.augru.max_len)


class WholeNeuMF(nn.Module):
    """NeuMF that scores all shoppers of a batch at once: a split into a number of parts that depends on the batch cannot be exported."""

    dot, tied = False, False

    def __init__(self, head: NeuMF):
        super().__init__()
        self.head, self.bias, self.query, self.vectors = head, head.bias, head.query, head.vectors

    def scores(self, query: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        return self.head.scores(query, vectors, bias, at_once=None)


OPERATORS = {Attention: OnnxAttention, nn.GRU: OnnxGru, Augru: UnrolledAugru, NeuMF: WholeNeuMF}


@contextmanager
def onnx_operators(model: nn.Module) -> Iterator[None]:
    """Replaces torch's modules in `model` by their ONNX counterparts while the block runs."""
    found = [
        (parent, name, child) for parent in model.modules() for name, child in parent.named_children() if type(child) in OPERATORS
    ]
    for parent, name, child in found:
        setattr(parent, name, OPERATORS[type(child)](child))
    try:
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)


def _in_onnx_order(parameter: Tensor) -> Tensor:
    reset, update, new = parameter.chunk(3)
    return torch.cat([update, reset, new])
