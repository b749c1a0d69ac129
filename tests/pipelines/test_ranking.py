"""Choices between variants of a model, asked once, against asking each of them."""

import numpy as np
import pytest

from models.metrics import ndcg
from models.rankers.two_stage import SecondStage, TwoStage
from models.retrieval.evidence import Evidence
from models.retrieval.item_to_item import transitions
from models.sequences import Sequences
from pipelines.learning.ranking import ndcg_by_blend, ndcg_by_prior_weight, rank_all
from tests.models.test_models import ITEMS, made
from tests.models.test_rankers import ranker_of


def held_out() -> Sequences:
    rng = np.random.default_rng(0)
    histories = [rng.permutation(np.arange(1, ITEMS + 1))[: rng.integers(2, 6)] for _ in range(40)]
    before = [h[:-1] for h in histories]
    return Sequences(before, [np.arange(len(h)) for h in before], np.array([h[-1] for h in histories]))


def test_blend_in_a_ranker_is_measured_as_rank_all_does():
    part, candidates = held_out(), 12
    model = TwoStage(made("sasrec"), SecondStage(ranker_of("fusion"), candidates, "next", 0.5)).eval()
    found = ndcg_by_blend(model, part, (0.0, 0.4, 1.0))
    assert model.second.blend == 0.5
    for blend, told in found.items():
        model.second.blend.fill_(blend)
        assert told == pytest.approx(ndcg(rank_all(model, part, 10)[0], 10).mean())
    assert len(set(found.values())) == 3


def test_weights_of_a_memory_are_measured_as_rank_all_does():
    part, network = held_out(), made("sasrec").eval()
    evidence = transitions(part.items, ITEMS + 1)
    found = ndcg_by_prior_weight(network, Evidence(evidence), part, (0.0, 0.4, 2.0))
    assert network.prior is None
    for weight, told in found.items():
        network.prior = Evidence(evidence, weight)
        assert told == pytest.approx(ndcg(rank_all(network, part, 10)[0], 10).mean())
    assert len(set(found.values())) == 3
