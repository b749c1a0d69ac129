"""Every next-item family, and the graph that is served, against slow definitions."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from models import metrics
from models.batches import Histories, HistoryData
from models.encoders import hstu
from models.encoders.dropout import Dropout
from models.encoders.sasrec import Attention
from models.families import FAMILIES, build, loss_of
from models.rankers.two_stage import unseen
from models.retrieval.evidence import Evidence
from models.retrieval.item_to_item import transitions
from models.retrieval.network import Directions, NextItemNetwork
from models.sequences import Sequences
from models.served.topk import TopK
from models.training.learner import NextItem

SHAPE = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "dropout": 0.0,
    "max_len": 12,
    "gated": False,
    "id_dropout": 0.0,
    "event_dropout": 0.0,
}
ITEMS = 30
KNOWN = torch.cat(
    [torch.zeros(1, 2, dtype=torch.long), torch.randint(0, 6, (ITEMS, 2), generator=torch.Generator().manual_seed(0))]
)


def made(family: str, known: torch.Tensor | None = KNOWN) -> NextItemNetwork:
    torch.manual_seed(0)
    network = build(family, ITEMS, SHAPE, known).eval()
    torch.nn.init.normal_(network.head.bias)
    for name, parameter in network.named_parameters():  # those that start at zero would hide what they do
        if name.endswith(("position_bias", "time_bias")):
            torch.nn.init.normal_(parameter)
    return network


@pytest.fixture(params=FAMILIES)
def network(request: pytest.FixtureRequest) -> NextItemNetwork:
    return made(request.param)


HISTORY = torch.tensor([[3, 7, 9, 2, 5]])
TIMES = torch.tensor([[0, 50, 60, 4000, 90000]])
UNTOLD = (None, None)  # actions and platform, which next-item networks do not read


class TestEveryFamily:
    def test_a_later_event_changes_no_earlier_query(self, network: NextItemNetwork):
        changed, later = HISTORY.clone(), TIMES.clone()
        changed[0, 3], later[0, 3] = 11, 5000
        one, other = network(HISTORY, TIMES), network(changed, later)
        torch.testing.assert_close(one[:, :3], other[:, :3], rtol=0, atol=0)
        assert not torch.allclose(one[:, 3:], other[:, 3:])

    def test_padding_and_company_change_no_score(self, network: NextItemNetwork):
        alone = network.scores(HISTORY, TIMES)
        companions = pad_sequence([HISTORY[0], torch.arange(1, 12), torch.tensor([2])], batch_first=True)
        times = pad_sequence([TIMES[0], torch.arange(11), torch.tensor([0])], batch_first=True)
        padded = network.scores(companions, times)
        torch.testing.assert_close(alone[0], padded[0], rtol=1e-5, atol=1e-5)

    def test_the_newest_query_is_that_after_the_last_item(self, network: NextItemNetwork):
        newest, all_of_them = network.newest(network.embed(HISTORY), HISTORY, TIMES), network(HISTORY, TIMES)
        for row, history in enumerate(HISTORY):
            torch.testing.assert_close(newest[row], all_of_them[row, (history > 0).sum() - 1], rtol=1e-5, atol=1e-6)

    def test_scores_while_nothing_changes_are_the_same(self, network: NextItemNetwork):
        with torch.no_grad():
            scores = network.scores(HISTORY, TIMES)
            with network.unchanged():
                assert torch.equal(network.scores(HISTORY, TIMES), scores)
            network.table.weight *= torch.rand_like(network.table.weight)
            assert not torch.equal(network.scores(HISTORY, TIMES), scores)

    def test_pairs_are_entries_of_all_scores(self, network: NextItemNetwork):
        query, vectors = network.newest(network.embed(HISTORY), HISTORY, TIMES), network.head.vectors(network.embeddings())
        everything = network.head.scores(query, vectors, network.head.bias)
        one = network.head.pairs(query, vectors[[4]], network.head.bias[[4]])
        torch.testing.assert_close(everything[:, 4], one)

    def test_every_parameter_learns(self, network: NextItemNetwork):
        history = torch.randint(1, ITEMS + 1, (8, 6), generator=torch.Generator().manual_seed(1))
        learner = NextItem(network, loss_of(self.family(network), "auto"), np.ones(ITEMS + 1), 10, 1e-3, 0.0)
        learner.objective(history[:, :-1], history[:, :-1] * 100, history[:, 1:]).backward()
        assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_overfits_ten_shoppers(self, network: NextItemNetwork):
        pl.seed_everything(1, verbose=False)
        rng = np.random.default_rng(0)
        histories = [rng.permutation(np.arange(1, ITEMS + 1))[:6] for _ in range(10)]
        train = Sequences(histories, [np.arange(6) * 1000] * 10)
        asked = Sequences([h[:-1] for h in histories], [np.arange(5) * 1000] * 10, np.array([h[-1] for h in histories]))
        counts = np.bincount(np.concatenate(histories), minlength=ITEMS + 1)
        learner = NextItem(network, loss_of(self.family(network), "auto"), counts, 30, 1e-2, 0.0)
        module = HistoryData(Histories(train, 12), asked, 12, 10, 0)
        pl.Trainer(max_epochs=200, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                   limit_val_batches=0, accelerator="cpu").fit(learner, module.train_dataloader())  # fmt: skip
        shoppers, target, seen = module.valid[range(10)]
        assert (metrics.ranks(unseen(network.eval(), shoppers, seen), target) == 0).mean(dtype=float) >= 0.9

    def test_an_item_with_features_and_no_history_is_shown_as_often_as_a_rare_one(self, network: NextItemNetwork):
        popularity = torch.arange(ITEMS + 1)
        popularity[30] = 0
        with torch.no_grad():
            network.table.weight[1] = 0  # item 1 is nothing but its attributes, as item 30 will be
            network.known[30] = network.known[1]
        history, times = torch.cat([HISTORY, HISTORY + 3]), torch.cat([TIMES, TIMES])
        network.initialise_cold_items(popularity, history, times)
        odds = network.scores(history, times).exp().sum(0)
        rare = popularity[1:30].float().quantile(0.1).int()  # items are numbered by popularity here
        torch.testing.assert_close(odds[30], odds[1 : rare + 1].mean(), rtol=1e-4, atol=0)
        without_bias = network.scores(history, times) - network.head.bias
        torch.testing.assert_close(without_bias[:, 1], without_bias[:, 30])

    @staticmethod
    def family(network: NextItemNetwork) -> str:
        return next(f for f in FAMILIES if str(build(f, ITEMS, SHAPE, KNOWN)) == str(network))


@pytest.mark.parametrize("known", [None, KNOWN * (torch.arange(ITEMS + 1) != 30)[:, None]])
def test_items_without_features_or_history_are_not_recommended(known: torch.Tensor | None):
    network = made("sasrec", known)
    popularity = torch.arange(ITEMS + 1)
    popularity[30] = 0
    network.initialise_cold_items(popularity, HISTORY, TIMES)
    assert network.head.bias[30] == network.head.bias[1:30].min()


def test_scores_are_cosines_times_temperature_plus_bias():
    network = made("sasrec")
    query = network.newest(network.embed(HISTORY), HISTORY, TIMES)[0]
    table, head = network.table.weight + network.attributes(network.known), network.head
    slow = [head.log_temperature.exp() * torch.cosine_similarity(query, table[i], dim=0) + head.bias[i] for i in range(1, 31)]
    torch.testing.assert_close(network.scores(HISTORY, TIMES)[0, 1:], torch.stack(slow))
    assert network.scores(HISTORY, TIMES)[0, 0] == -torch.inf


def test_attributes_add_their_mean():
    network = made("mlp")
    for item in (1, 9):
        known = [a for a in KNOWN[item].tolist() if a]
        mean = sum(network.attributes.weight[a] for a in known) / max(len(known), 1)
        torch.testing.assert_close(network.embeddings()[item], network.table.weight[item] + mean)
    torch.testing.assert_close(network.embed(HISTORY), network.embeddings()[HISTORY])


def test_hstu_attention_by_the_formula():
    block = made("hstu").encoder.blocks[0]
    x = torch.randn(1, 4, 16)
    back = torch.arange(4)[:, None] - torch.arange(4)[None, :]
    gap = back.clamp(min=0)[None] * 3
    u, v, q, k = torch.nn.functional.silu(block.uvqk(block.norm(x)))[0].view(4, 4, 2, 8).unbind(1)  # (L, heads, 8) each
    mixed = torch.zeros(4, 2, 8)
    for head in range(2):
        for i in range(4):
            for j in range(i + 1):
                bias = block.position_bias[head, i - j] + block.time_bias[head, gap[0, i, j]]
                mixed[i, head] += torch.nn.functional.silu(q[i, head] @ k[j, head] + bias) / 12 * v[j, head]
    slow = x + block.out(block.mixed_norm(mixed.reshape(1, 4, 16)) * u.reshape(1, 4, 16))
    torch.testing.assert_close(block.eval()(x, gap), slow)
    torch.testing.assert_close(block.train()(x, gap), slow)


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_hstu_learns_by_the_gradient_of_its_formula(length: int, kind: torch.dtype):
    q, k, v = (torch.randn(9, 2, length, 8).to(kind).requires_grad_() for _ in range(3))
    biases = [torch.randn(2, 12, requires_grad=True), torch.randn(2, hstu.TIME_BUCKETS, requires_grad=True)]
    gap, weight = torch.randint(0, hstu.TIME_BUCKETS, (9, length, length)), torch.randn(9, 2, length, 8)
    found = []
    for way in (hstu.attention, hstu.PointwiseAttention.apply):
        mixed = way(q, k, v, *biases, gap)
        found.append([mixed, *torch.autograd.grad((mixed * weight).sum(), [q, k, v, *biases])])
    exact = kind == torch.float32
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4 if exact else 2e-2, atol=1e-5 if exact else 2e-2)


@pytest.mark.parametrize("shape", [(64, 50, 128), (3, 5), (0, 4)])
def test_dropout_drops_its_share_and_keeps_the_mean(shape: tuple[int, ...]):
    dropout, x = Dropout(0.3), torch.ones(shape)
    torch.manual_seed(1)
    once = dropout(x)
    torch.manual_seed(1)
    assert torch.equal(once, dropout(x))
    assert dropout.eval()(x) is x
    if x.numel() > 1000:
        assert (once == 0).float().mean() == pytest.approx(0.3, abs=0.01)
        assert once.mean() == pytest.approx(1, abs=0.01)
        assert (once.flatten()[::8] == 0).float().mean() == pytest.approx(
            0.3, abs=0.01
        )  # no byte of a word is another than the rest


def test_attention_that_drops_is_the_same_attention():
    attention, parts = Attention(2, 1e-9), [torch.randn(3, 6, 8) for _ in range(3)]
    torch.testing.assert_close(attention.train()(*parts, None), attention.eval()(*parts, None))


def test_what_is_known_of_items_is_the_same_while_training():
    table = made("sasrec")
    weights = [table.table.weight, table.attributes.weight]
    found = []
    for training in (True, False):
        vectors = table.train(training).embeddings()
        found.append(
            [vectors, *torch.autograd.grad((vectors * torch.arange(vectors.numel()).view(vectors.shape)).sum(), weights)]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one[1:], other[1:])


def test_directions_by_autograd():
    rows, length = torch.randn(7, 5, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    weight = torch.randn(7, 5)
    plain = torch.nn.functional.normalize(rows, dim=-1) * length
    expected = torch.autograd.grad((plain * weight).sum(), [rows, length])
    scaled = Directions.apply(rows, length)[0]
    torch.testing.assert_close(scaled, plain)
    torch.testing.assert_close(torch.autograd.grad((scaled * weight).sum(), [rows, length]), expected)
    assert not Directions.apply(torch.zeros(2, 3), length)[0].any()


def test_sums_by_bucket_are_the_same_on_every_device(monkeypatch: pytest.MonkeyPatch):
    x, bucket = torch.randn(20, 5, 5), torch.randint(0, 32, (20, 5, 5))
    expected = torch.stack([x[bucket == i].sum() for i in range(32)])
    torch.testing.assert_close(hstu.counted(x, bucket, 32), expected)
    torch.testing.assert_close(hstu.spread(x, bucket, 32), expected)


class TestTopK:
    @pytest.mark.parametrize("family", FAMILIES)
    @settings(max_examples=15, deadline=None)
    @given(data=st.data())
    def test_against_sorting_by_hand(self, family: str, data: st.DataObject):
        network = made(family)
        history = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
        exclude = data.draw(st.lists(st.integers(1, 30), max_size=10))
        allowed = np.array([True, *data.draw(st.lists(st.booleans(), min_size=30, max_size=30))])
        times = torch.arange(len(history))[None] * 1000
        items, values = TopK(network, 10)(
            torch.tensor([history]), times, *UNTOLD, torch.tensor([[0, *exclude]]), torch.tensor(allowed)[None]
        )
        scores = network.scores(torch.tensor([history]), times)[0].detach().numpy()
        left = [i for i in range(1, 31) if allowed[i] and i not in exclude]
        expected = sorted(left, key=lambda i: -scores[i])[:10]
        found = items[0][torch.isfinite(values[0])].tolist()
        assert found == expected

    def test_a_short_list_scored_again_is_what_fp32_answers(self):
        network = made("sasrec")
        network.prior = Evidence(transitions([np.array([5, 8]), np.array([2, 9])], ITEMS + 1), 0.5)
        allowed = (torch.arange(ITEMS + 1) > 0)[None]
        asked = (HISTORY, TIMES, *UNTOLD, torch.zeros(1, 1, dtype=torch.long), allowed)
        items, scores = TopK(network, 7)(*asked)
        again, rescored = TopK(network, 7, form="int8+fp32")(*asked)
        assert again.tolist() == items.tolist()
        torch.testing.assert_close(rescored, scores)


def test_memory_adds_what_was_seen_to_what_the_network_says():
    network = made("sasrec")
    before = network.scores(HISTORY, TIMES)
    network.prior = Evidence(transitions([np.array([5, 8]), np.array([2, 9])], ITEMS + 1), 0.5)
    evidence = network.prior.counts.evidence(HISTORY)[0]
    assert evidence[8] > evidence[9] > 0  # item 5 is the newest of the history
    expected = before[0] + 0.5 * torch.log(evidence / Evidence.FLOOR + 1)
    torch.testing.assert_close(network.scores(HISTORY, TIMES)[0], expected)
    exclude, allowed = torch.zeros(1, 1, dtype=torch.long), (torch.arange(ITEMS + 1) > 0)[None]
    items, scores = TopK(network, 5)(HISTORY, TIMES, *UNTOLD, exclude, allowed)
    torch.testing.assert_close(scores, expected[items])
    rounded = TopK(network, 5, form="int8").first.parts[0](HISTORY) - network.prior(HISTORY)
    assert rounded.abs().max() < 0.05
