"""Learning without learning any shopper: gradients of each shopper by themselves, clipped, summed, with noise (Abadi et al. 2016). Tensors only.

The gradients are taken of the whole network at once, by vmap over grad: hooks that guess them layer by layer are silently wrong where one table serves lookup and scoring. No dropout: noise regularises.
"""

from collections.abc import Iterator
from types import MethodType

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from models.retrieval.network import NextItemNetwork

AT_ONCE = 64  # shoppers whose gradients stand in memory at a time


class NextItemLoss(nn.Module):
    """The mean cross-entropy of a shopper's positions over the whole catalogue.

    network: of any family, without attributes: in evaluation mode, in which nothing is dropped.
    """

    def __init__(self, network: NextItemNetwork):
        super().__init__()
        self.network = network.eval()
        for layer in network.modules():
            if isinstance(layer, nn.GRU):
                layer.forward = MethodType(unrolled, layer)  # torch's own writes into what is shared by all shoppers

    def forward(self, history: Tensor, times: Tensor, target: Tensor) -> Tensor:
        """history, times, target (L,) int64, of one shopper, padded with 0 -> scalar."""
        head, known = self.network.head, target > 0
        query = self.network(history[None], times[None])[0]
        scores = head.scores(query, head.vectors(self.network.embeddings()), head.bias)
        losses = F.cross_entropy(scores, target, reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)


def unrolled(layer: nn.GRU, x: Tensor) -> tuple[Tensor, None]:
    """nn.GRU of one layer, an event after the other: (B, L, D) -> (B, L, D)."""
    state, states = torch.zeros_like(x[:, 0]), []
    for event in x.unbind(1):
        of_event, of_state = (
            F.linear(event, layer.weight_ih_l0, layer.bias_ih_l0),
            F.linear(state, layer.weight_hh_l0, layer.bias_hh_l0),
        )
        (r, z, n), (hr, hz, hn) = of_event.chunk(3, -1), of_state.chunk(3, -1)
        update = torch.sigmoid(z + hz)
        state = (1 - update) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + update * state
        states.append(state)
    return torch.stack(states, 1), None


def shopper_gradients(loss: NextItemLoss, history: Tensor, times: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of each weight that is learnt the gradients (B, ...) float of B shoppers; history, times, target (B, L) int64."""
    learnt = {name: weight.detach() for name, weight in loss.named_parameters() if weight.requires_grad}

    def of_one(weights: dict[str, Tensor], *shopper: Tensor) -> Tensor:
        return functional_call(loss, weights, shopper)

    return vmap(grad(of_one), in_dims=(None, 0, 0, 0), randomness="error")(learnt, history, times, target)


def step(optimiser: DPOptimizer, loss: NextItemLoss, batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> None:
    """One step on a batch that comes in parts; an empty batch gets the noise alone.

    optimiser: of Opacus; its expected_batch_size is that of the Poisson sample. batches: parts of the sample.
    """
    named = dict(loss.named_parameters())
    parts = [part for batch in batches for part in zip(*(column.split(AT_ONCE) for column in batch), strict=True)]
    for number, part in enumerate(parts):
        found = shopper_gradients(loss, *part)
        for name, gradients in found.items():
            named[name].grad_sample = gradients
        optimiser.signal_skip_step(do_skip=number < len(parts) - 1)
        optimiser.step()
        optimiser.zero_grad()
    if not parts:
        for weight in named.values():
            weight.grad_sample = weight.new_zeros(0, *weight.shape)
        optimiser.step()
        optimiser.zero_grad()
