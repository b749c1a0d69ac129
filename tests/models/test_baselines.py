"""Recommenders of linear algebra against counting by hand."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from models.retrieval.item_to_item import ease, incidence, item_knn, transitions
from models.retrieval.popularity import popularity
from models.retrieval.sparse_item_model import SparseItemModel
from models.served.stored import StoredItemModel

MET = incidence([np.array([1, 2]), np.array([1, 2, 3]), np.array([3])], 4)


def test_item_knn_against_cosine_by_hand():
    knn = item_knn(MET, neighbours=3, shrink=0.0)
    np.testing.assert_allclose(knn.scores(torch.tensor([[1, 2]]))[0], [-np.inf, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(knn.scores(torch.tensor([[1, 0]]))[0], [-np.inf, 0, 1, 1 / 2], atol=1e-6)


def test_ease_against_ridge_regression_column_by_column():
    rng = np.random.default_rng(0)
    met = sp.csr_matrix((rng.random((40, 6)) < 0.4).astype(np.float32) * (np.arange(6) > 0))
    model = ease(met, neighbours=5, regularisation=3.0)
    dense = met.toarray()
    for j in range(1, 6):
        others = [i for i in range(1, 6) if i != j]
        x = dense[:, others]
        weights = np.linalg.solve(x.T @ x + 3.0 * np.eye(4), x.T @ dense[:, j])
        for i, expected in zip(others, weights, strict=True):
            assert model.scores(torch.tensor([[i]]))[0, j].item() == pytest.approx(expected, abs=1e-4)


def test_transitions_against_counting_by_hand():
    made = transitions([np.array([1, 2, 3]), np.array([1, 3])], 4, neighbours=3)
    after_1 = {2: 1.0, 3: 0.9 + 1.0}
    total = 5 + sum(after_1.values())
    scores = made.scores(torch.tensor([[1, 2]]))[0]
    of_2 = 1.0 / 6.0
    np.testing.assert_allclose(scores[1:], [0, 0.8 * after_1[2] / total, 0.8 * after_1[3] / total + of_2], atol=1e-6)


def test_fewer_neighbours_are_the_strongest():
    whole = SparseItemModel(torch.tensor([[0, 0, 0], [4, 2, 3]]), torch.tensor([[0.0, 0, 0], [0.1, -0.9, 0.5]]), torch.zeros(5))
    half = StoredItemModel(whole, "fp32", 0.5)
    assert half.items.tolist() == [[0, 0], [2, 3]]
    torch.testing.assert_close(half.table.all()[1], torch.tensor([-0.9, 0.5]))


def test_ease_refuses_a_catalogue_too_large_for_it():
    with pytest.raises(ValueError, match="too many"):
        ease(sp.csr_matrix((1, 30_000)))


def test_popularity_is_what_most_met():
    assert popularity(np.array([0, 1, 2])).scores(torch.tensor([[1]])).tolist() == [[-np.inf, 1, 2]]
