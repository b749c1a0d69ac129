"""The network, its losses and metrics against slow definitions."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import losses, metrics
from models.baselines import ItemKNN, Popularity, incidence
from models.batches import ByLength, Histories, HistoryData, pad
from models.learner import NextItem, held_out_ranks
from models.sasrec import SASRec
from models.topk import TopK

SHAPE = {"items": 30, "width": 16, "layers": 2, "heads": 2, "dropout": 0.0, "max_len": 12}


@pytest.fixture
def network() -> SASRec:
    torch.manual_seed(0)
    made = SASRec(**SHAPE).eval()
    torch.nn.init.normal_(made.bias)
    return made


class TestSASRec:
    def test_a_later_event_changes_no_earlier_query(self, network: SASRec):
        history = torch.tensor([[3, 7, 9, 2, 5]])
        changed = history.clone()
        changed[0, 3] = 11
        one, other = network(history), network(changed)
        assert torch.equal(one[:, :3], other[:, :3])
        assert not torch.allclose(one[:, 3:], other[:, 3:])

    def test_padding_and_company_change_no_score(self, network: SASRec):
        alone = network.scores(torch.tensor([[4, 8, 1]]))
        padded = network.scores(pad([np.array([4, 8, 1]), np.arange(1, 12), np.array([2])]))
        torch.testing.assert_close(alone[0], padded[0], rtol=1e-5, atol=1e-5)

    def test_scores_are_cosines_times_temperature_plus_bias(self, network: SASRec):
        history = torch.tensor([[4, 8, 1]])
        query = network.last_query(history)[0]
        table, temperature = network.table.weight, network.log_temperature.exp()
        slow = [temperature * torch.cosine_similarity(query, table[i], dim=0) + network.bias[i] for i in range(1, 31)]
        torch.testing.assert_close(network.scores(history)[0, 1:], torch.stack(slow))
        assert network.scores(history)[0, 0] == -torch.inf

    def test_overfits_ten_shoppers(self):
        pl.seed_everything(1, verbose=False)
        rng = np.random.default_rng(0)
        histories = [rng.permutation(np.arange(1, 31))[:6] for _ in range(10)]
        network = SASRec(**SHAPE)
        learner = NextItem(network, "full_softmax", 0, 5e-3, 0.0)
        module = HistoryData(histories, [h[:-1] for h in histories], np.array([h[-1] for h in histories]), 12, 10, 0)
        pl.Trainer(max_epochs=150, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                   limit_val_batches=0, accelerator="cpu").fit(learner, module.train_dataloader())  # fmt: skip
        history, target, seen = module.valid[list(range(10))]
        assert (held_out_ranks(network.eval(), history, target, seen) == 0).all()


class TestTopK:
    @settings(max_examples=30, deadline=None)
    @given(st.data())
    def test_against_sorting_by_hand(self, data: st.DataObject):
        torch.manual_seed(0)
        network = SASRec(**SHAPE).eval()
        history = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
        exclude = data.draw(st.lists(st.integers(1, 30), max_size=10))
        allowed = np.array([True, *data.draw(st.lists(st.booleans(), min_size=30, max_size=30))])
        items, values = TopK(network, 10)(torch.tensor([history]), torch.tensor([[0, *exclude]]), torch.tensor(allowed)[None])
        scores = network.scores(torch.tensor([history]))[0].detach().numpy()
        left = [i for i in range(1, 31) if allowed[i] and i not in exclude]
        expected = sorted(left, key=lambda i: -scores[i])[:10]
        found = items[0][torch.isfinite(values[0])].tolist()
        assert found == expected

    def test_int8_table_is_within_half_a_step(self, network: SASRec):
        small = TopK(network, 5, int8=True)
        restored = small.table.float() * small.lookup_scale[:, None]
        assert ((restored - network.table.weight).abs() <= small.lookup_scale[:, None] / 2 + 1e-7).all()
        assert small.table.dtype == torch.int8


class TestLosses:
    def test_full_softmax_by_the_formula(self, network: SASRec):
        query, vectors, bias = torch.randn(5, 16), network.item_vectors(), network.bias
        target = torch.tensor([1, 5, 30, 2, 2])
        slow = [-(s := [(query[n] @ vectors[i] + bias[i]).item() for i in range(1, 31)])[t - 1] + math.log(sum(map(math.exp, s)))
                for n, t in enumerate(target.tolist())]  # fmt: skip
        assert losses.full_softmax(query, vectors, bias, target).item() == pytest.approx(np.mean(slow), rel=1e-4)

    def test_sampled_softmax_nears_the_full_one(self, network: SASRec):
        torch.manual_seed(0)
        query, vectors, bias = torch.randn(64, 16), network.item_vectors().detach(), network.bias.detach()
        target = torch.randint(1, 31, (64,))
        full = losses.full_softmax(query, vectors, bias, target)
        sampled = torch.stack([losses.sampled_softmax(query, vectors, bias, target, 3000) for _ in range(20)]).mean()
        assert sampled.item() == pytest.approx(full.item(), rel=0.02)

    def test_sampled_softmax_never_punishes_the_target(self, network: SASRec):
        query, vectors, bias = torch.randn(1, 16), network.item_vectors()[:2], network.bias[:2]
        assert losses.sampled_softmax(query, vectors, bias, torch.tensor([1]), 50).item() == 0.0


RANKS = hnp.arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 40))


class TestMetrics:
    @given(RANKS, st.integers(1, 20))
    def test_by_definition(self, rank: np.ndarray, k: int):
        for f, gain in (
            (metrics.recall, lambda r: 1),
            (metrics.ndcg, lambda r: 1 / math.log2(r + 2)),
            (metrics.mrr, lambda r: 1 / (r + 1)),
        ):
            np.testing.assert_allclose(f(rank, k), [gain(r) if r < k else 0 for r in rank])

    @given(RANKS)
    def test_more_places_never_hurt_and_all_stay_between_0_and_1(self, rank: np.ndarray):
        for f in metrics.METRICS.values():
            values = [f(rank, k).mean() for k in (1, 5, 10, 50)]
            assert values == sorted(values)
            assert 0 <= values[0] <= values[-1] <= 1
        assert metrics.recall(rank, 50).mean() == 1

    @given(
        hnp.arrays(np.float32, (4, 12), elements=st.sampled_from(np.arange(5, dtype=np.float32))),
        st.lists(st.integers(0, 11), min_size=4, max_size=4),
    )
    def test_ranks_count_ties_against(self, scores: np.ndarray, target: list[int]):
        found = metrics.ranks(torch.tensor(scores), torch.tensor(target)).tolist()
        assert found == [sum(s >= row[t] for s in row) - 1 for row, t in zip(scores, target, strict=True)]

    def test_interval_holds_the_mean(self):
        values = np.random.default_rng(0).random(500)
        low, high = metrics.interval(values, 500, 1)
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(500), rel=0.15)

    def test_coverage_and_novelty(self):
        assert metrics.coverage(np.array([[1, 2], [2, 3]]), 6) == 0.5
        assert metrics.novelty(np.array([[1]]), np.array([0, 1, 7])) == 3.0


def test_item_knn_against_cosine_by_hand():
    met = incidence([np.array([1, 2]), np.array([1, 2, 3]), np.array([3])], 4)
    knn = ItemKNN(met, neighbours=3, shrink=0.0)
    assert knn.similarity[1, 2] == pytest.approx(1.0)
    assert knn.similarity[1, 3] == pytest.approx(1 / 2)
    assert knn.similarity[1, 1] == 0
    np.testing.assert_allclose(knn.scores([np.array([1, 2])])[0], [0, 1, 1, 1], atol=1e-6)


def test_popularity_is_what_most_met():
    assert Popularity(sp.csr_matrix(np.array([[0, 1, 1], [0, 0, 1]]))).scores([np.array([1])]).tolist() == [[0, 1, 2]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 16), st.integers(0, 5))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int], size: int, epoch: int):
    sampler = ByLength(np.array(lengths), size, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(r for b in batches for r in b) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert batches == list(sampler)  # the same epoch, the same order: a resumed run sees what the killed one would have


def test_training_windows_predict_the_next_item():
    history, target = Histories([np.array([1, 2, 3, 4, 5])], max_len=3)[[0]]
    assert history.tolist() == [[2, 3, 4]]
    assert target.tolist() == [[3, 4, 5]]
