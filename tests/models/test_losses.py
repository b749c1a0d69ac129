"""Losses and their gradients against slow reference formulas."""

import math

import numpy as np
import pytest
import torch

from models import losses
from models.families import loss_of


class TestLosses:
    QUERY, VECTORS, BIAS = torch.randn(5, 16), torch.randn(31, 16), torch.randn(31)
    TARGET = torch.tensor([1, 5, 30, 2, 2])

    @pytest.mark.parametrize("chunk", [1, 70, 1 << 20])
    def test_full_softmax_and_its_gradients_by_autograd(self, chunk: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(losses, "CHUNK", chunk)
        inputs = [t.clone().requires_grad_() for t in (self.QUERY, self.VECTORS, self.BIAS)]
        plain = [t.detach().clone().requires_grad_() for t in inputs]
        slow = torch.nn.functional.cross_entropy(plain[0] @ plain[1].T + plain[2], self.TARGET)
        fast = losses.full_softmax(*inputs, self.TARGET)
        (3 * slow).backward()
        (3 * fast).backward()
        torch.testing.assert_close(fast, slow)
        for one, other in zip(inputs, plain, strict=True):
            torch.testing.assert_close(one.grad, other.grad)

    def test_full_softmax_learns_nothing_from_padding(self):
        target = torch.tensor([1, 0, 30, 0, 2])
        found = []
        for rows in (slice(None), target > 0):
            inputs = [t.clone().requires_grad_() for t in (self.QUERY, self.VECTORS, self.BIAS)]
            teachers = [(self.QUERY.flip(0)[rows], self.VECTORS.flip(0), self.BIAS.flip(0))]
            loss = losses.full_softmax(inputs[0][rows], *inputs[1:], target[rows], teachers=teachers)
            found.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
        torch.testing.assert_close(*found)

    def test_full_softmax_learns_from_teachers_as_well(self):
        inputs = [t.clone().requires_grad_() for t in (self.QUERY, self.VECTORS, self.BIAS)]
        teachers = [(torch.randn(5, 16), torch.randn(31, 16), torch.randn(31)) for _ in range(2)]
        loss = losses.full_softmax(*inputs, self.TARGET, teachers=teachers)
        said = torch.stack([(q @ v.T + b).softmax(1) for q, v, b in teachers]).mean(0)
        wanted = losses.TAUGHT * said + (1 - losses.TAUGHT) * torch.nn.functional.one_hot(self.TARGET, 31)
        logits = inputs[0] @ inputs[1].T + inputs[2]
        expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, wanted), inputs)
        torch.testing.assert_close(torch.autograd.grad(loss, inputs), expected)

    def test_full_softmax_in_bf16_is_near_that_in_full(self):
        grads = []
        for kind in (torch.float32, torch.bfloat16):
            inputs = [t.clone().requires_grad_() for t in (self.QUERY, self.VECTORS, self.BIAS)]
            loss = losses.full_softmax(*inputs, self.TARGET, kind)
            grads.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
        for full, short in zip(*grads, strict=True):
            torch.testing.assert_close(short, full, rtol=0.05, atol=0.01)

    def test_full_softmax_leaves_out_what_has_no_bias(self):
        bias = self.BIAS.clone()
        bias[7] = -torch.inf
        left = [i for i in range(31) if i != 7]
        logits = self.QUERY @ self.VECTORS.T + bias
        slow = -np.mean([logits[n, t] - torch.logsumexp(logits[n, left], 0) for n, t in enumerate(self.TARGET)])
        assert losses.full_softmax(self.QUERY, self.VECTORS, bias, self.TARGET).item() == pytest.approx(slow, rel=1e-5)

    @pytest.mark.parametrize("draws", ["uniform", "batch"])
    def test_sampled_softmax_nears_the_full_one(self, draws: str):
        torch.manual_seed(0)
        query, share = torch.randn(4000, 16), torch.linspace(0, 1, 31) / torch.linspace(0, 1, 31).sum()
        target = torch.multinomial(share, 4000, replacement=True)
        bias = torch.cat([torch.tensor([-torch.inf]), self.BIAS[1:]])
        full = losses.full_softmax(query, self.VECTORS, bias, target)
        drawn, log_draws = (
            losses.batch_draws(target, share) if draws == "batch" else losses.uniform_draws(4000, torch.arange(1, 31))
        )
        positive = (query * self.VECTORS[target]).sum(1) + bias[target]
        negative = (query @ self.VECTORS[drawn].T + bias[drawn]).masked_fill(drawn == target[:, None], -torch.inf)
        assert losses.sampled_softmax(positive, negative, log_draws, 30).mean().item() == pytest.approx(full.item(), rel=0.02)

    @pytest.mark.parametrize(
        ("name", "slow"),
        [
            ("bce", lambda p, ns: math.log(1 + math.exp(-p)) + np.mean([math.log(1 + math.exp(n)) for n in ns])),
            ("bpr", lambda p, ns: np.mean([-math.log(1 / (1 + math.exp(n - p))) for n in ns])),
            ("mse", lambda p, ns: (1 - p) ** 2 + np.mean([n**2 for n in ns])),
        ],
    )
    def test_pairwise_losses_by_the_formula(self, name: str, slow):
        positive, negative = torch.randn(6), torch.randn(6, 4)
        expected = np.mean([slow(p, ns) for p, ns in zip(positive.tolist(), negative.tolist(), strict=True)])
        assert losses.SAMPLED[name](positive, negative, torch.zeros(4), 30).mean().item() == pytest.approx(expected, rel=1e-5)

    def test_gbce_by_the_formula(self):
        positive, negative = torch.randn(6), torch.randn(6, 4)
        rate = 4 / 29
        beta = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
        sigmoid = torch.sigmoid
        slow = -(torch.log(sigmoid(positive) ** beta) + torch.log(1 - sigmoid(negative)).sum(1)).mean() / 5
        assert losses.gbce(positive, negative, torch.zeros(4), 30).mean().item() == pytest.approx(slow.item(), rel=1e-5)

    @pytest.mark.parametrize("name", losses.SAMPLED)
    def test_a_draw_of_the_target_itself_changes_nothing(self, name: str):
        positive, negative = torch.randn(3), torch.randn(3, 4)
        negative[:, 2] = -torch.inf
        positive.requires_grad_()
        value = losses.SAMPLED[name](positive, negative, torch.zeros(4), 30)
        value.mean().backward()
        assert value.isfinite().all()
        assert positive.grad.isfinite().all()

    def test_a_loss_that_makes_no_sense_is_refused(self):
        with pytest.raises(ValueError, match="ncf"):
            loss_of("ncf", "full_softmax")
        with pytest.raises(ValueError, match="must be auto or one of"):
            loss_of("gru", "hinge")
        with pytest.raises(ValueError, match="must be one of"):
            loss_of("bert", "auto")
