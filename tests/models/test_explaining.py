"""What each event adds to an item, held against scores by hand; and what must fail does."""

import itertools

import pytest
import torch

from models.explaining.attributions import (
    Question,
    attention,
    both_ends,
    counterfactual,
    deletion,
    insertion,
    integrated_gradients,
    leave_one_out,
    recency,
    searched,
    shapley,
    shuffled,
    silenced,
)
from models.families import FAMILIES, build
from models.retrieval.item_to_item import transitions
from models.retrieval.sparse_item_model import SparseItemModel

SHAPE = {
    "width": 16,
    "layers": 1,
    "heads": 2,
    "dropout": 0.0,
    "max_len": 12,
    "gated": False,
    "id_dropout": 0.0,
    "event_dropout": 0.0,
}
HISTORY, REFERENCE = torch.tensor([3, 7, 1, 9]), torch.tensor([2, 5, 8])


def question(name: str = "sasrec", item: int = 4) -> Question:
    torch.manual_seed(0)
    return Question(build(name, 10, SHAPE, None).eval(), HISTORY, 100 * HISTORY, item, REFERENCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_leaving_out_is_scoring_the_shorter_history(family: str):
    asked = question(family)
    fall = leave_one_out(asked)
    for place in range(4):
        kept = torch.arange(4) != place
        with torch.no_grad():
            whole, rest = (asked.model.scores(h[None], 100 * h[None])[0] for h in (HISTORY, HISTORY[kept]))
        by_hand = (whole[4] - whole[REFERENCE].mean()) - (rest[4] - rest[REFERENCE].mean())
        assert fall[place] == pytest.approx(float(by_hand), abs=1e-5)


def test_shapley_is_the_mean_over_the_orders_of_events():
    asked = question()
    exact = torch.zeros(4)
    for order in itertools.permutations(range(4)):
        kept = torch.zeros(5, 4, dtype=torch.bool)
        for step, place in enumerate(order, 1):
            kept[step:, place] = True
        exact[list(order)] += asked.ahead(kept).diff() / 24
    found = shapley(asked, 200, 0)
    assert found.sum() == pytest.approx(float(exact.sum()), abs=1e-4), "each order hands out all that the events add"
    assert torch.allclose(found, exact, atol=0.1 * float(exact.abs().max()))
    assert torch.equal(found, shapley(asked, 200, 0))


def test_a_silenced_branch_says_nothing_and_speaks_again():
    branch = torch.nn.Linear(2, 3)
    with silenced(branch):
        assert not branch(torch.ones(1, 2)).any()
    assert branch(torch.ones(1, 2)).any()


def test_gradients_sum_to_what_all_events_add():
    asked = question()
    network = asked.model
    with torch.no_grad():
        vectors, bias = network.head.vectors(network.embeddings()), network.head.bias
        embedded = network.embed(HISTORY[None])
        ahead = [
            asked.of_scores(network.head.scores(network.newest(e, HISTORY[None], HISTORY[None]), vectors, bias))[0]
            for e in (embedded, 0 * embedded)
        ]
    assert float(integrated_gradients(asked).sum()) == pytest.approx(float(ahead[0] - ahead[1]), abs=0.05)
    assert float(attention(asked).sum()) == pytest.approx(1.0)
    assert attention(question("gru")) is None


def test_a_planted_rule_is_named_and_shuffled_weights_do_not_name_it():
    """After 3 always comes 4, after 7 and 1 and 9 comes anything."""
    from models.sequences import Ragged

    rows = [[3, 4]] * 50 + [[7, other] for other in (2, 5, 6, 8, 10)] * 5
    rule = transitions(Ragged.of(rows), 11)
    assert isinstance(rule, SparseItemModel)
    asked = Question(rule, HISTORY, 100 * HISTORY, 4, REFERENCE)
    assert int(leave_one_out(asked).argmax()) == 0
    curve, by_recency = deletion(asked, leave_one_out(asked), 3), deletion(asked, recency(asked), 3)
    assert curve[0] > 0
    assert (curve >= by_recency - 1e-6).all()
    assert insertion(asked, leave_one_out(asked), 1)[0] > 0
    assert int(both_ends(asked).argmax()) == int(searched(asked, 2).argmax()) == 0
    assert counterfactual(asked, leave_one_out(asked)) == 1
    before = {name: value.clone() for name, value in question().model.state_dict().items()}
    after = shuffled(question().model, 1).state_dict()
    assert all(torch.equal(before[name].flatten().sort()[0], after[name].flatten().sort()[0]) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
