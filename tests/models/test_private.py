"""What is learnt privately: gradients of each shopper are the batch's, sums change by a bounded vector, and the noise is what is said."""

import math

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer

from models.families import FAMILIES, build
from models.retrieval.private_counts import BOUND, FADING, REACH, noised_popularity, noised_transitions
from models.sequences import Ragged
from models.training.private import NextItemLoss, shopper_gradients, step
from pipelines.learning import private
from pipelines.learning.private import budgeted, gaussian_epsilon, prv_epsilon

SHAPE = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "dropout": 0.3,
    "max_len": 12,
    "gated": False,
    "id_dropout": 0.1,
    "event_dropout": 0.1,
}


def some_shoppers() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    history, target = (torch.randint(1, 21, (6, 8), generator=draw) for _ in range(2))
    history[0, 5:], target[0, 5:] = 0, 0
    return history, (100 * torch.arange(8)).expand(6, 8), target


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_shoppers_sum_to_the_batchs(family: str):
    torch.manual_seed(0)
    loss, shoppers = NextItemLoss(build(family, 20, SHAPE, None)), some_shoppers()
    found = shopper_gradients(loss, *shoppers)
    sum(loss(*(column[row] for column in shoppers)) for row in range(6)).backward()
    largest = max(float(weight.grad.abs().max()) for weight in loss.parameters())
    for name, weight in loss.named_parameters():
        torch.testing.assert_close(found[name].sum(0), weight.grad, atol=1e-5 * largest, rtol=1e-5)


def test_a_step_moves_by_at_most_what_shoppers_are_clipped_to_and_an_empty_one_by_noise():
    torch.manual_seed(0)
    loss = NextItemLoss(build("sasrec", 20, SHAPE, None))

    def moved(noise: float, batches: list) -> float:
        before = [weight.detach().clone() for weight in loss.parameters()]
        optimiser = DPOptimizer(
            torch.optim.SGD(loss.parameters(), 1.0), noise_multiplier=noise, max_grad_norm=0.01, expected_batch_size=1
        )
        step(optimiser, loss, iter(batches))
        return math.sqrt(sum(float((b - w).pow(2).sum()) for b, w in zip(before, loss.parameters(), strict=True)))

    assert moved(0.0, [some_shoppers()]) <= 6 * 0.01 + 1e-6
    assert moved(0.0, []) == 0.0
    assert moved(1.0, []) > 0.0


def test_a_shopper_changes_sums_by_at_most_the_bound():
    rng = np.random.default_rng(0)
    others = [rng.permutation(np.arange(1, 40))[:n] for n in (3, 30, 39)]
    for one in (np.arange(1, 40), np.array([5]), np.array([7, 8, 9, 10])):
        with_one, without = Ragged.of([*others, one]), Ragged.of(others)
        draws = [noised_popularity(h, 40, 1e-9, np.random.default_rng(1)) for h in (with_one, without)]
        assert np.linalg.norm(draws[0] - draws[1]) <= BOUND + 1e-6
    pairs = [(gap, count) for gap in range(1, REACH + 1) if (count := 20 - gap) > 0]
    raw = math.sqrt(sum(count * FADING ** (2 * gap - 2) for gap, count in pairs))
    assert raw > BOUND  # so that clipping is tried


def test_the_noise_of_transitions_hides_a_pair_that_one_shopper_made():
    rows = [np.arange(1, 11)] * 400
    seen = [
        noised_transitions(Ragged.of([*rows, np.array([20, 30])]), 40, 1.0, np.random.default_rng(seed))[0] for seed in range(30)
    ]
    strength = [float(model.weights[20][model.items[20] == 30].sum()) for model in seen]
    assert np.mean([s > 0 for s in strength]) < 0.95
    followed = seen[0].items[1][seen[0].weights[1].argmax()]
    assert int(followed) == 2  # what many did stands out


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_both_accountants_say_what_was_asked_for(epsilon: float):
    releases = budgeted({"epsilon": epsilon, "delta": 1e-6, "steps": 0}, ["popularity", "transitions", "content"], 0.1)
    noise = [z for z, *_ in releases.values()]
    assert set(releases) == {"popularity", "transitions"}
    assert gaussian_epsilon(noise, 1e-6) == pytest.approx(epsilon, rel=1e-4)
    assert gaussian_epsilon(noise, 1e-6) <= epsilon
    assert prv_epsilon(list(releases.values()), 1e-6) == pytest.approx(epsilon, rel=0.02)


def test_a_network_gets_a_share_of_the_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(private, "ERRORS", (0.1, 0.1))  # sooner
    releases = budgeted({"epsilon": 8.0, "delta": 1e-6, "steps": 100}, ["popularity", "transitions", "sasrec"], 0.05)
    assert releases["sasrec"][1:] == (0.05, 100)
    assert 7.5 < prv_epsilon(list(releases.values()), 1e-6) <= 8.0
