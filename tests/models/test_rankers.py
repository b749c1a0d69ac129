"""The rankers and the two stages against slow definitions."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from models.batches import Candidates, HistoryData, ImpressionData, ShopperBatch
from models.families import RANKERS, build, build_ranker
from models.metrics import ranks
from models.rankers.din import Activation
from models.rankers.fusion import EMPTY_EVENTS
from models.rankers.ranker import TASKS, Events, Ranker, log_probabilities
from models.rankers.two_stage import SecondStage, TwoStage, unseen
from models.sequences import Impressions, Sequences
from models.served.stored import stored_second_stage
from models.served.topk import TopK
from models.training import rank_learner
from models.training.rank_learner import RankImpressions, next_loss, task_loss
from tests.models.test_models import ITEMS, KNOWN, SHAPE, made

MONEY = [0, 1]
NUMBERS = torch.randn(ITEMS + 1, 3, generator=torch.Generator().manual_seed(3)) * (torch.arange(ITEMS + 1) > 0)[:, None]
FULL_SHAPE = SHAPE | {"branches": ["interest", "preference", "purchasing_power"], "money": MONEY, "platforms": 2}


def ranker_of(family: str) -> Ranker:
    """One in which also what starts at nothing (actions, encoders' shares) has its say."""
    torch.manual_seed(0)
    ranker = build_ranker(family, ITEMS, FULL_SHAPE, KNOWN, NUMBERS).eval()
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
                if name.startswith(("action", "emphasis")):
                    parameter[0] = 0  # padding
    return ranker


@pytest.fixture(params=RANKERS)
def ranker(request: pytest.FixtureRequest) -> Ranker:
    return ranker_of(request.param)


def shoppers(*histories: list[int]) -> ShopperBatch:
    rows = [torch.tensor(h) for h in histories]
    columns = rows, [torch.arange(len(h)) * 500 for h in rows], [(h * 7) % 4 + 1 for h in rows]
    return ShopperBatch(*(pad_sequence(c, batch_first=True) for c in columns), torch.ones(len(rows), dtype=torch.long))


def asked(row: list[int], at: list[int], item: list[int]) -> Candidates:
    return Candidates(*(torch.tensor(c) for c in (row, at, item, [1] * len(row))))


def logits(ranker: Ranker, people: ShopperBatch, wanted: Candidates) -> torch.Tensor:
    return ranker(ranker.events(people), wanted)


class TestEveryRanker:
    def test_later_events_change_nothing(self, ranker: Ranker):
        wanted = asked([0, 0, 0], [0, 2, 3], [9, 9, 8])
        one, other = (logits(ranker, shoppers(h), wanted) for h in ([3, 7, 9, 2, 5], [3, 7, 11, 4, 6]))
        torch.testing.assert_close(one[:2], other[:2], rtol=0, atol=0)
        assert not torch.allclose(one[2], other[2])

    def test_padding_and_company_change_nothing(self, ranker: Ranker):
        alone = logits(ranker, shoppers([3, 7, 9]), asked([0], [3], [8]))
        among = logits(ranker, shoppers([1], [3, 7, 9], list(range(1, 13))), asked([2, 1, 0], [5, 3, 1], [4, 8, 8]))
        torch.testing.assert_close(alone[0], among[1], rtol=1e-5, atol=1e-5)

    def test_candidate_actions_and_platform_matter(self, ranker: Ranker):
        people, wanted = shoppers([3, 7, 9]), asked([0, 0], [3, 3], [8, 10])
        before = logits(ranker, people, wanted)
        assert not torch.allclose(before[0], before[1])
        assert not torch.allclose(before, logits(ranker, people._replace(actions=people.actions % 4 + 1), wanted))
        assert not torch.allclose(before, logits(ranker, people, wanted._replace(platform=wanted.platform * 2)))

    def test_every_parameter_learns(self, ranker: Ranker):
        learner = learner_of(ranker.train())
        shown, labels = asked([0, 1, 2, 3], [2, 1, 3, 2], [4, 5, 6, 7]), torch.ones(4, 3)
        people = shoppers([3, 7, 9, 2], [1, 2, 3, 4], [8, 9, 10, 12], [2, 5, 6, 8])
        learner.training_step((people, torch.ones_like(people.history), shown, labels), 0).backward()
        assert [n for n, p in ranker.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
        assert all(p.grad is None for p in learner.network.retriever.parameters())

    def test_overfits_ten_shoppers(self, ranker: Ranker, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(rank_learner, "SHOWN", 1.0)  # half of these impressions are clicked, so their loss is not small
        pl.seed_everything(1, verbose=False)
        rng = np.random.default_rng(0)
        histories = [rng.permutation(np.arange(1, ITEMS + 1))[:6] for _ in range(10)]
        times = [np.arange(6) * 1000] * 10
        held_out = Sequences([h[:-1] for h in histories], [t[:-1] for t in times], np.array([h[-1] for h in histories]))
        labels = rng.integers(0, 2, (40, 1)).repeat(3, 1).astype(np.float32)
        shown = Impressions(
            np.repeat(np.arange(10), 4), np.tile([1, 2, 3, 4], 10), rng.integers(1, ITEMS + 1, 40), np.ones(40, int), labels
        )
        learner = learner_of(ranker.train())
        module = HistoryData(ImpressionData(Sequences(histories, times), shown, 12), held_out, 12, 10, 0)
        pl.Trainer(max_epochs=150, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                   limit_val_batches=0, accelerator="cpu").fit(learner, module.train_dataloader())  # fmt: skip
        people, target, seen = module.valid[range(10)]
        first = ranks(unseen(learner.network.eval(), people, seen), target) == 0
        assert first.mean(dtype=float) >= 0.9
        wanted = Candidates(*(torch.from_numpy(c) for c in (shown.user, shown.position, shown.item, shown.platform)))
        everyone = module.train[range(10)][0]
        said = log_probabilities(logits(ranker, everyone, wanted)).exp()
        assert (said - torch.from_numpy(labels)).abs().mean() < 0.1

    def test_what_is_stored_says_the_same(self, ranker: Ranker):
        people, wanted = shoppers([3, 7, 9], [5]), asked([0, 0, 1], [3, 3, 1], [8, 10, 8])
        expected = logits(ranker, people, wanted)
        whole, small = (stored_second_stage(SecondStage(ranker, 10, "next"), 5, form).ranker for form in ("fp32", "int8"))
        torch.testing.assert_close(logits(whole, people, wanted), expected)
        assert small.items.table.floats is None
        assert (logits(small, people, wanted) - expected).abs().max() < 0.1


def learner_of(ranker: Ranker) -> RankImpressions:
    retriever = build("sasrec", ITEMS, SHAPE, KNOWN)
    learner = RankImpressions(ranker, retriever, ITEMS, np.ones(ITEMS + 1) * (np.arange(ITEMS + 1) > 0), 1e-2, 0.0)
    learner.count_loss = lambda *_: None
    return learner


def speaks(activation: Activation, event: torch.Tensor, candidate: torch.Tensor, ago: int) -> torch.Tensor:
    """Of one event and candidate (D,), by one layer over all that is joined."""
    parts = (activation.event.weight, activation.of_candidate.weight, activation.both.weight, activation.ago.weight.T)
    joined = torch.cat([event, candidate, event * candidate, torch.eye(activation.ago.num_embeddings)[ago]])
    return activation.speaks(torch.cat(parts, 1) @ joined + activation.event.bias).squeeze()


def test_din_by_the_formula():
    ranker = ranker_of("din")
    people, wanted = shoppers([3, 7, 9, 2]), asked([0], [3], [8])
    events = ranker.events(people)
    candidate = ranker.vectors(wanted.item)
    ((interest, against),) = ranker.encoder(events, wanted, candidate, None)
    slow = torch.zeros(16)
    for ago, event in zip((2, 1, 0), (events.items + events.done)[0], strict=False):
        slow += speaks(ranker.encoder.activation, event, candidate[0], ago) * event
    torch.testing.assert_close(interest[0], slow)
    torch.testing.assert_close(against, candidate)


def test_dien_by_the_formula():
    encoder = ranker_of("dien").encoder
    x = torch.randn(1, 4, 16)
    events = Events(x, torch.zeros_like(x), torch.zeros(1, 4, 2), torch.zeros(1, 4))
    candidate = torch.randn(1, 16)
    interests = encoder.interests(x)[0][0, :3]
    told = (speaks(encoder.activation, interest, candidate[0], 2 - i) for i, interest in enumerate(interests))
    weight = torch.stack(list(told)).softmax(0)
    state = torch.zeros(16)
    for interest, a in zip(interests, weight, strict=True):
        u, r, h = encoder.evolution.enter(interest).chunk(3)
        cu, cr, ch = encoder.evolution.carry(state).chunk(3)
        gate = a * torch.sigmoid(u + cu)
        state = (1 - gate) * state + gate * torch.tanh(h + torch.sigmoid(r + cr) * ch)
    ((evolved, against),) = encoder(events, asked([0], [3], [8]), candidate, None)
    torch.testing.assert_close(evolved[0], state)
    torch.testing.assert_close(against, candidate)


def test_fusion_by_the_formula():
    ranker = ranker_of("fusion")
    people, wanted = shoppers([3, 7, 9, 2]), asked([0], [3], [8])
    events, candidate, money = ranker.events(people), ranker.vectors(wanted.item), NUMBERS[wanted.item][:, MONEY]
    pairs = dict(zip(ranker.encoder.branches, ranker.encoder(events, wanted, candidate, money), strict=True))
    for name, branch in ranker.encoder.branches.items():
        of_price = name == "purchasing_power"
        read = (events.done + (ranker.encoder.price(events.money) if of_price else events.items))[:, :3]
        said = (read + branch.share * branch.encoder(read, events.times[:, :3]))[0]
        state = branch.out(said[-1] if name == "preference" else said.sum(0) / (EMPTY_EVENTS + 3))
        torch.testing.assert_close(pairs[name][0][0], state)
        torch.testing.assert_close(
            pairs[name][1], ranker.encoder.of_candidate[name](ranker.encoder.candidate_price(money) if of_price else candidate)
        )


def test_products_of_pairs_go_straight_to_the_logits(ranker: Ranker):
    people, wanted = shoppers([3, 7, 9, 2]), asked([0], [3], [8])
    candidate, money = ranker.vectors(wanted.item), NUMBERS[wanted.item][:, MONEY]
    pairs = ranker.encoder(ranker.events(people), wanted, candidate, money)
    alone = torch.stack([reading[0] @ against[0] for reading, against in pairs])
    torch.testing.assert_close(ranker.logits_and_parts(ranker.events(people), wanted)[1][0], alone, rtol=1e-4, atol=1e-4)
    narrow = sum(
        (m.of_history.weight @ r[0]) @ (m.of_candidate.weight @ a[0])
        for m, (r, a) in zip(ranker.interactions, pairs, strict=True)
    )
    before = logits(ranker, people, wanted)[0]
    ranker.next.data += 1.0
    ranker.shown.data += 1.0
    slow = torch.stack([alone.sum(), narrow, narrow, narrow])
    torch.testing.assert_close(logits(ranker, people, wanted)[0] - before, slow, rtol=1e-4, atol=1e-4)


def test_fusion_without_prices_has_no_purchasing_power():
    ranker = build_ranker("fusion", ITEMS, FULL_SHAPE | {"money": [], "platforms": 0}, None, NUMBERS)
    assert list(ranker.encoder.branches) == ["interest", "preference"]
    assert logits(ranker, shoppers([3, 7]), asked([0], [2], [9])._replace(platform=torch.tensor([0]))).shape == (1, len(TASKS))


def test_next_items_are_learnt_by_all_pairs_and_by_each():
    together, alone = torch.randn(2 * 4), torch.randn(2 * 4, 3)
    others = torch.tensor([[False, False, True, False], [False, False, False, False]])
    slow = 0.0
    for weight, said in [(1.0, together), *((1 / 3, column) for column in alone.T)]:
        for row in range(2):
            told = [said[row * 4 + k] for k in range(4) if not others[row, k]]
            slow += weight * torch.nn.functional.cross_entropy(torch.stack(told)[None], torch.tensor([0])) / 2
    torch.testing.assert_close(next_loss(together, alone, others), slow)


def test_purchases_are_learnt_over_all_impressions():
    said, labels = torch.randn(50, 4), (torch.rand(50, 3) < 0.4).float()
    p = torch.sigmoid(said[:, 1:])
    joint = torch.stack([p[:, 0], p[:, 0] * p[:, 1], p[:, 0] * p[:, 2]], 1)
    slow = sum(torch.nn.functional.binary_cross_entropy(joint[:, t], labels[:, t]) for t in range(3))
    torch.testing.assert_close(task_loss(said, labels), slow)
    torch.testing.assert_close(log_probabilities(said).exp(), joint)
    assert torch.isfinite(task_loss(torch.full((1, 4), 200.0), torch.zeros(1, 3)))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), rank_by=st.sampled_from(TASKS), blend=st.sampled_from([0.0, 0.4, 1.0]))
def test_two_stages_against_sorting_by_hand(data: st.DataObject, rank_by: str, blend: float):
    retriever, ranker = made("sasrec"), ranker_of("fusion")
    model = TwoStage(retriever, SecondStage(ranker, 12, rank_by, blend)).eval()
    history = data.draw(st.lists(st.integers(1, ITEMS), min_size=1, max_size=12))
    exclude = data.draw(st.lists(st.integers(1, ITEMS), max_size=10))
    allowed = np.array([True, *data.draw(st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS))])
    people = shoppers(history)
    with torch.no_grad():
        first = retriever.scores(people.history, people.times)[0]
        left = [i for i in range(1, ITEMS + 1) if allowed[i] and i not in exclude]
        proposed = sorted(left, key=lambda i: -first[i])[:12]
        final = {}
        for i in proposed:
            said = logits(ranker, people, asked([0], [len(history)], [i]))
            final[i] = (
                log_probabilities(said)[0, TASKS.index(rank_by) - 1]
                if rank_by != "next"
                else (1 - blend) * first[i] + blend * said[0, 0]
            )
        inputs = (*people, torch.tensor([[0, *exclude]]), torch.tensor(allowed)[None])
        items, values = TopK(model, 10)(*inputs)
        barred = torch.tensor([[0] + [i for i in range(1, ITEMS + 1) if i not in left]])
        everything = unseen(model, people, barred)[0]
    found = items[0][torch.isfinite(values[0])].tolist()
    assert found == sorted(proposed, key=lambda i: -final[i])[:10]
    others = sorted(set(left) - set(proposed), key=lambda i: -first[i])
    ordered = everything.argsort(descending=True)[: len(left)].tolist()
    assert ordered == [*sorted(proposed, key=lambda i: -final[i]), *others]


def test_impressions_older_than_the_window_are_left_out():
    shown = Impressions(
        np.array([0, 0, 1]), np.array([1, 5, 1]), np.array([7, 8, 9]), np.zeros(3, int), np.zeros((3, 3), np.float32)
    )
    data = ImpressionData(
        Sequences([np.arange(1, 7), np.arange(1, 3), np.array([4])], [np.arange(6), np.arange(2), np.arange(1)]), shown, max_len=3
    )
    people, platforms, wanted, labels = data[[0, 1]]
    assert len(data) == 2
    assert people.history.tolist() == [[4, 5, 6], [1, 2, 0]]
    assert sorted(zip(wanted.row.tolist(), wanted.at.tolist(), wanted.item.tolist(), strict=True)) == [(0, 2, 8), (1, 1, 9)]
    assert len(labels) == 2
    assert platforms.shape == (2, 3)
