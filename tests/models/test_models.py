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
from models.baselines import Memory, Neighbours, ease, incidence, item_knn, popularity, transitions
from models.batches import ByLength, Histories, HistoryData, Sequences, pad
from models.families import FAMILIES, build, loss_of
from models.learner import NextItem
from models.sequence import NextItemNetwork, last
from models.table import Table
from models.topk import TopK
from models.two_stage import unseen

SHAPE = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "dropout": 0.0,
    "max_len": 12,
    "gated": False,
    "unnamed": 0.0,
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
        companions = pad([HISTORY[0].numpy(), np.arange(1, 12), np.array([2])])
        padded = network.scores(companions, pad([TIMES[0].numpy(), np.arange(11), np.array([0])]))
        torch.testing.assert_close(alone[0], padded[0], rtol=1e-5, atol=1e-5)

    def test_pairs_are_entries_of_all_scores(self, network: NextItemNetwork):
        query, vectors = last(network(HISTORY, TIMES), HISTORY), network.head.vectors(network.embeddings())
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
        network.admit(popularity, history, times)
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
    network.admit(popularity, HISTORY, TIMES)
    assert network.head.bias[30] == network.head.bias[1:30].min()


def test_scores_are_cosines_times_temperature_plus_bias():
    network = made("sasrec")
    query = last(network(HISTORY, TIMES), HISTORY)[0]
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
    torch.testing.assert_close(block(x, back, gap), slow)


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
        network.memory = Memory(transitions([np.array([5, 8]), np.array([2, 9])], ITEMS + 1), 0.5)
        allowed = torch.ones(1, ITEMS + 1, dtype=torch.bool)
        asked = (HISTORY, TIMES, *UNTOLD, torch.zeros(1, 1, dtype=torch.long), allowed)
        items, scores = TopK(network, 7)(*asked)
        again, rescored = TopK(network, 7, form="int8+fp32")(*asked)
        assert again.tolist() == items.tolist()
        torch.testing.assert_close(rescored, scores)


class TestTable:
    @pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("int4", 4)])
    @pytest.mark.parametrize("width", [8, 24, 64, 128, 256])
    def test_codes_are_within_half_a_step_and_products_are_of_the_codes(self, form: str, bits: int, width: int):
        rows, query, items = torch.randn(30, width), torch.randn(3, width), torch.tensor([[1, 0], [29, 7]])
        table = Table(rows, form)
        assert table.codes.numel() * 8 // bits >= rows.numel()
        assert table.codes.dtype == torch.uint8
        step = table.scale.repeat_interleave(table.block, 1)[:, :width]
        assert ((table.all() - rows).abs() <= step / 2 + 1e-6).all()
        torch.testing.assert_close(table.lookup(items), table.all()[items])
        scale, bias = torch.rand(30), torch.randn(30)
        expected = query @ table.all().T * scale + bias
        of_query = query.abs().amax(1, keepdim=True) / 254 * table.all().abs().sum(1) * scale
        assert ((table.product(query, scale, bias) - expected).abs() <= of_query + 1e-5).all()
        torch.testing.assert_close(table.exact(query[:2], items), (query[:2, None] * table.all()[items]).sum(2))

    def test_halves_and_factors(self):
        rows, one = torch.randn(30, 5) @ torch.randn(5, 16), torch.ones(30)
        query = torch.randn(3, 16)
        for table in (Table(rows, "fp16"), Table(rows, rank=5)):
            torch.testing.assert_close(table.all(), rows, atol=1e-2, rtol=1e-3)
            torch.testing.assert_close(table.product(query, one, 0 * one), query @ rows.T, atol=5e-2, rtol=1e-3)
        assert Table(rows, rank=5).floats.shape == (30, 5)


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
        assert losses.sampled_softmax(positive, negative, log_draws, 30).item() == pytest.approx(full.item(), rel=0.02)

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
        assert losses.SAMPLED[name](positive, negative, torch.zeros(4), 30).item() == pytest.approx(expected, rel=1e-5)

    def test_gbce_by_the_formula(self):
        positive, negative = torch.randn(6), torch.randn(6, 4)
        rate = 4 / 29
        beta = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
        sigmoid = torch.sigmoid
        slow = -(torch.log(sigmoid(positive) ** beta) + torch.log(1 - sigmoid(negative)).sum(1)).mean() / 5
        assert losses.gbce(positive, negative, torch.zeros(4), 30).item() == pytest.approx(slow.item(), rel=1e-5)

    @pytest.mark.parametrize("name", losses.SAMPLED)
    def test_a_draw_of_the_target_itself_changes_nothing(self, name: str):
        positive, negative = torch.randn(3), torch.randn(3, 4)
        negative[:, 2] = -torch.inf
        positive.requires_grad_()
        value = losses.SAMPLED[name](positive, negative, torch.zeros(4), 30)
        value.backward()
        assert value.isfinite()
        assert positive.grad.isfinite().all()

    def test_a_loss_that_makes_no_sense_is_refused(self):
        with pytest.raises(ValueError, match="ncf"):
            loss_of("ncf", "full_softmax")
        with pytest.raises(ValueError, match="must be auto or one of"):
            loss_of("gru", "hinge")
        with pytest.raises(ValueError, match="must be one of"):
            loss_of("bert", "auto")


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
        assert metrics.novelty(np.array([[1]]), np.array([0, 1, 7])) == 3.0


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


def test_memory_adds_what_was_seen_to_what_the_network_says():
    network = made("sasrec")
    before = network.scores(HISTORY, TIMES)
    network.memory = Memory(transitions([np.array([5, 8]), np.array([2, 9])], ITEMS + 1), 0.5)
    evidence = network.memory.neighbours.evidence(HISTORY)[0]
    assert evidence[8] > evidence[9] > 0  # item 5 is the newest of the history
    expected = before[0] + 0.5 * torch.log(evidence + Memory.FLOOR)
    torch.testing.assert_close(network.scores(HISTORY, TIMES)[0], expected)
    exclude, allowed = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, ITEMS + 1, dtype=torch.bool)
    items, scores = TopK(network, 5)(HISTORY, TIMES, *UNTOLD, exclude, allowed)
    torch.testing.assert_close(scores, expected[items])
    rounded = TopK(network, 5, form="int8").first.memory(HISTORY) - network.memory(HISTORY)
    assert rounded.abs().max() < 0.05


def test_fewer_neighbours_are_the_strongest():
    whole = Neighbours(torch.tensor([[0, 0, 0], [4, 2, 3]]), torch.tensor([[0.0, 0, 0], [0.1, -0.9, 0.5]]), torch.zeros(5))
    half = whole.stored("fp32", 0.5)
    assert half.items.tolist() == [[0, 0], [2, 3]]
    torch.testing.assert_close(half.weights.all()[1], torch.tensor([-0.9, 0.5]))


def test_ease_refuses_a_catalogue_too_large_for_it():
    with pytest.raises(ValueError, match="too many"):
        ease(sp.csr_matrix((1, 30_000)))


def test_popularity_is_what_most_met():
    assert popularity(np.array([0, 1, 2])).scores(torch.tensor([[1]])).tolist() == [[-np.inf, 1, 2]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 16), st.integers(0, 5))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int], size: int, epoch: int):
    sampler = ByLength(np.array(lengths), size, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(r for b in batches for r in b) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert batches == list(sampler)  # the same epoch, the same order: a resumed run sees what the killed one would have


def test_training_windows_predict_the_next_item():
    shoppers, target = Histories(Sequences([np.array([1, 2, 3, 4, 5])], [np.arange(5) * 10]), max_len=3)[[0]]
    assert shoppers.history.tolist() == [[2, 3, 4]]
    assert shoppers.times.tolist() == [[10, 20, 30]]
    assert target.tolist() == [[3, 4, 5]]
