"""Next-item losses over query vectors and an item table. Tensors only."""

import torch
from torch import Tensor
from torch.nn import functional as F


def full_softmax(query: Tensor, vectors: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the whole catalogue.

    query (N, D), vectors (V, D), bias (V,), target (N,) int64 -> scalar. Row 0 of the catalogue is padding and takes no part.
    """
    return F.cross_entropy(query @ vectors[1:].T + bias[1:], target - 1)


def sampled_softmax(
    query: Tensor, vectors: Tensor, bias: Tensor, target: Tensor, negatives: int, generator: torch.Generator | None = None
) -> Tensor:
    """Cross-entropy over the target and `negatives` items drawn uniformly and shared by the batch.

    With uniform draws the logQ correction (Bengio & Senécal 2003) is the same for every negative: log((V - 1) / negatives) is
    added to their logits, so that the loss estimates the full softmax. A draw equal to a row's target is masked in that row.
    Shapes as in full_softmax.
    """
    count = vectors.shape[0] - 1
    drawn = torch.randint(1, count + 1, (negatives,), generator=generator, device=query.device)
    positive = (query * vectors[target]).sum(1, keepdim=True) + bias[target, None]
    negative = query @ vectors[drawn].T + bias[drawn] + torch.log(torch.tensor(count / negatives))
    negative = negative.masked_fill(drawn[None, :] == target[:, None], -torch.inf)
    logits = torch.cat([positive, negative], 1)
    return F.cross_entropy(logits, torch.zeros(len(target), dtype=torch.long, device=query.device))


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence from the teacher's distribution over the catalogue (Hinton et al. 2015, temperature 1).

    logits, teacher (N, V) -> scalar. Column 0, padding, takes no part.
    """
    return F.kl_div(F.log_softmax(logits[:, 1:], 1), F.log_softmax(teacher[:, 1:], 1), reduction="batchmean", log_target=True)


LOSSES = {"full_softmax": full_softmax, "sampled_softmax": sampled_softmax}
