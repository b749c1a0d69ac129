"""Next-item losses, interchangeable: what an event's query scores for the item that came next, and for items that did not. Tensors
only.

full_softmax holds the target against the whole catalogue; the others against items drawn for the batch. A target of 0 is padding, of which
nothing is learnt: where shapes must not follow the data (see models.training.learner), padding stays among the rows.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 23  # logits that stand in memory at a time, where nothing else is said
ROWS = 64  # of which a batch is made a multiple: products of few shapes, as oneDNN compiles a program for each
ALIGNED = 8  # of which a GPU's fast products want the items to be a multiple
TAUGHT = 0.7  # of what is to be said, what teachers say
Scorer = tuple[Tensor, Tensor, Tensor]  # query (N, D), vectors (V, D), bias (V,)


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of query @ vectors.T + bias, `chunk` logits at a time, so that (N, V) logits never stand in memory.

    The gradient is taken in the same pass, while a chunk's logits are at hand (as in Hsu et al., "Liger Kernel", 2024).
    """

    @staticmethod
    def forward(
        ctx,
        query: Tensor,
        vectors: Tensor,
        bias: Tensor,
        target: Tensor,
        kind: torch.dtype | None,
        teachers: list[Scorer],
        chunk: int,
    ) -> Tensor:
        device = query.device.type
        kind = kind or (torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype)
        rows = max(1, chunk // len(vectors))
        rows -= rows % ROWS if rows > ROWS else 0
        filled, items = _multiple(len(query), ROWS), len(vectors) if device == "cpu" else _multiple(len(vectors), ALIGNED)
        target = F.pad(target, (0, filled - len(target)))
        real = target > 0
        of_query, of_vectors, of_bias = query.new_empty(filled, query.shape[1]), torch.zeros_like(vectors), torch.zeros_like(bias)
        loss = torch.zeros((), device=query.device)
        with torch.autocast(device, enabled=False):
            asked = (_filled(query, filled) * real[:, None]).to(kind)  # rows of zeros add nothing to the items' gradient
            counts, table, height = real.to(kind), _filled(vectors.to(kind), items), _absent(bias.to(kind), items)
            teachers = [
                (_filled(q, filled).to(kind), _filled(v.to(kind), items), _absent(b.to(kind), items)) for q, v, b in teachers
            ]
            for start in range(0, filled, rows):
                some = slice(start, start + rows)
                wanted, error = target[some], _logits(asked[some], table, height).softmax(1)
                row = torch.arange(len(wanted), device=query.device)
                said = error[row, wanted].float().clamp(min=torch.finfo(torch.float32).tiny).log()
                loss -= said.where(real[some], 0).sum()
                for other, known, above in teachers:  # less what was to be said, the gradient of the logits
                    error.sub_(_logits(other[some], known, above).softmax(1), alpha=TAUGHT / len(teachers))
                error[row, wanted] -= 1 - TAUGHT if teachers else 1
                of_bias += torch.mv(error.T, counts[some])[: len(bias)]
                of_query[some] = error @ table
                of_vectors += (error.T @ asked[some])[: len(bias)]
        count = real.sum()
        ctx.save_for_backward((of_query * real[:, None])[: len(query)], of_vectors, of_bias, count)
        return loss / count

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_query, of_vectors, of_bias, count = ctx.saved_tensors
        gradient = gradient / count
        return gradient * of_query, gradient * of_vectors, gradient * of_bias, None, None, None, None


def _multiple(number: int, of: int) -> int:
    """The least multiple that is not below."""
    return -(-number // of) * of


def _filled(query: Tensor, rows: int) -> Tensor:
    """(N, D) with rows of zeros below, (rows, D)."""
    return F.pad(query, (0, 0, 0, rows - len(query)))


def _absent(bias: Tensor, items: int) -> Tensor:
    """(V,) with items that take no part at its end, (items,)."""
    return F.pad(bias, (0, items - len(bias)), value=-torch.inf)


def _logits(query: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
    """query (N, D), vectors (V, D), bias (V,) -> (N, V)."""
    if query.dtype == torch.float32:  # where torch's sum with a bias first writes the bias to all rows
        return (query @ vectors.T).add_(bias)
    return F.linear(query, vectors, bias)


def full_softmax(
    query: Tensor,
    vectors: Tensor,
    bias: Tensor,
    target: Tensor,
    kind: torch.dtype | None = None,
    teachers: Sequence[Scorer] = (),
    chunk: int | None = None,
) -> Tensor:
    """Cross-entropy over the whole catalogue.

    query (N, D), vectors (V, D), bias (V,), target (N,) int64 -> scalar, the mean over what is not padding. An item whose bias is -inf takes no
    part. kind: in which products with the catalogue are computed; None: as autocast or the query have it. teachers: query, vectors, bias of
    trained networks, whose mean distribution counts TAUGHT in what is to be said, the target the rest (Hinton et al. 2015); the value is of
    the target alone. chunk: logits that stand in memory at a time; None: CHUNK.
    """
    return CrossEntropy.apply(query, vectors, bias, target, kind, list(teachers), chunk or CHUNK)


def sampled_softmax(positive: Tensor, negative: Tensor, log_draws: Tensor, items: int) -> Tensor:
    """Cross-entropy over the target and the drawn items, corrected so that it estimates the full softmax (Bengio & Senécal 2003).

    positive (N,) logits of the targets; negative (N, K) logits of the drawn, -inf where a draw is the row's target;
    log_draws (K,): ln of how often each drawn item is expected among the K draws, inf of one that takes no part; items: in the catalogue.
    -> (N,), as all of these losses.
    """
    logits = torch.cat([positive[:, None], negative - log_draws], 1)
    return torch.logsumexp(logits, 1) - positive


def bce(positive: Tensor, negative: Tensor, log_draws: Tensor, items: int) -> Tensor:
    """Binary cross-entropy, the drawn together weighing as much as the target. Shapes as in sampled_softmax."""
    return F.softplus(-positive) + F.softplus(negative).mean(1)


def gbce(positive: Tensor, negative: Tensor, log_draws: Tensor, items: int, calibration: float = 0.75) -> Tensor:
    """Generalised BCE (Petrov & Macdonald, gSASRec, 2023): sigmoid(positive) ** beta undoes the overconfidence of few negatives.

    beta = a (t (1 - 1/a) + 1/a), a = K / (items - 1), t = calibration: 0 is BCE summed over the draws, 1 is calibrated.
    """
    rate = min(negative.shape[1] / max(items - 1, 1), 1.0)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    return (beta * F.softplus(-positive) + F.softplus(negative).sum(1)) / (negative.shape[1] + 1)


def bpr(positive: Tensor, negative: Tensor, log_draws: Tensor, items: int) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): the target above each drawn item. Shapes as in sampled_softmax."""
    return F.softplus(negative - positive[:, None]).mean(1)


def mse(positive: Tensor, negative: Tensor, log_draws: Tensor, items: int) -> Tensor:
    """Squared error of logits that should be 1 for the target and 0 for the drawn. Shapes as in sampled_softmax."""
    return (positive - 1) ** 2 + torch.where(negative.isfinite(), negative, 0.0).square().mean(1)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence from the teacher's distribution over the catalogue (Hinton et al. 2015, temperature 1).

    logits, teacher (N, V) -> (N,). Column 0, padding, takes no part.
    """
    said, wanted = F.log_softmax(logits[:, 1:], 1), F.log_softmax(teacher[:, 1:], 1)
    return F.kl_div(said, wanted, reduction="none", log_target=True).sum(1)


def uniform_draws(count: int, pool: Tensor) -> tuple[Tensor, Tensor]:
    """`count` items drawn uniformly from the pool (P,), and ln of how often each is expected: both (count,)."""
    drawn = pool[torch.randint(len(pool), (count,), device=pool.device)]
    return drawn, torch.full((count,), math.log(count / len(pool)), device=pool.device)


def batch_draws(target: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The batch's own targets (N,) as draws, of which padding takes no part; share (V,): of each item in all training targets (logQ correction,
    Yi et al. 2019).
    """
    real = target > 0
    return target, torch.log(real.sum() * share[target]).where(real, torch.inf)


def mean_over(values: Tensor, real: Tensor) -> Tensor:
    """The mean of values (N,) that are real (N,) bool -> scalar."""
    return values.where(real, 0).sum() / real.sum()


Sampled = Callable[[Tensor, Tensor, Tensor, int], Tensor]
SAMPLED: dict[str, Sampled] = {
    "sampled_softmax": sampled_softmax,
    "in_batch_softmax": sampled_softmax,
    "bce": bce,
    "gbce": gbce,
    "bpr": bpr,
    "mse": mse,
}
LOSSES = ("full_softmax", *SAMPLED)
