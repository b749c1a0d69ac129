"""Metrics against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import metrics

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

    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
    def test_auc_by_counting_pairs(self, rows: list[tuple[int, bool]]):
        score, label = (np.array(column, float) for column in zip(*rows, strict=True))
        pairs = [(p > n) + 0.5 * (p == n) for p in score[label > 0] for n in score[label == 0]]
        found = metrics.auc(score, label)
        assert found == pytest.approx(np.mean(pairs)) if pairs else math.isnan(found)

    def test_probabilities_by_definition(self):
        p, y = np.array([0.9, 0.2, 0.6]), np.array([1.0, 0.0, 0.0])
        assert metrics.log_loss(p, y) == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3)
        assert metrics.calibration_error(p, y, bins=1) == pytest.approx(abs(p.mean() - 1 / 3))
        assert metrics.calibration_error(p, y, bins=3) == pytest.approx((0.1 + 0.2 + 0.6) / 3)

    def test_interval_holds_the_mean(self):
        values = np.random.default_rng(0).random(500)
        low, high = metrics.interval(values, 500, 1)
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(500), rel=0.15)

    def test_coverage_and_novelty(self):
        assert metrics.coverage(np.array([[1, 2], [2, 3]]), 6) == 0.5
        assert metrics.coverage(np.array([[1, 0], [0, 0]]), 6) == 1 / 6  # 0 is where no item was left
        assert metrics.novelty(np.array([[1]]), np.array([0, 1, 7])) == 3.0
