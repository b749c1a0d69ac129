"""The blend: it says the same fitted, in torch and as a graph; it is no worse than its parts; nothing held out leaves a trace in any of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from deploy.serving.recommender import Recommender
from models import metrics
from models.batches import Histories
from models.retrieval.blend import Blend
from models.retrieval.item_to_item import as_matrix
from models.sequences import Sequences
from models.served.topk import TopK
from pipelines.artefact import graph
from pipelines.artefact.catalogue import similar
from pipelines.data.content import content, words
from pipelines.learning import blending, choices, prepared, saved
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import rank_all
from pipelines.stage import params, read_json
from tests.conftest import STAGES, run_stages

COUNTED = [name for name in saved.ITEM_MODELS if name not in ("popularity", "look", "sound")]  # of the plain shop


@pytest.fixture(scope="module")
def data(finished: Path) -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        return prepared.load()


@pytest.fixture(scope="module")
def settings(finished: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        return params("train")


@pytest.fixture(scope="module")
def network(finished: Path) -> tuple:
    folder = finished / "data/model"
    model = saved.load(folder)
    model.prior = None
    return model, read_json(folder / "model.json")


@pytest.fixture(scope="module")
def chosen(settings: dict, data: Prepared, network: tuple) -> tuple:
    return blending.choose(settings, data, network)


@pytest.mark.parametrize("groups", [1, blending.GROUPS])
def test_what_is_fitted_is_what_torch_scores(settings: dict, data: Prepared, network: tuple, groups: int):
    part = blending.asked_of(data)
    counted, popular, _ = blending.counted(COUNTED, data)
    counted = {name: blending.remembering(model, part, data) for name, model in counted.items()}
    asked = blending.candidates(counted, popular, network, data, part, settings["max_len"])
    more = np.arange(groups, dtype=np.float32)
    weights = {
        name: (0.3 + 0.1 * i + more, 0.02 * (i + 1 + more)) if name in saved.ITEM_MODELS else (1 + 0 * more, 0 * more)
        for i, name in enumerate(asked.columns)
    }
    if groups > 1:
        assert set(asked.group) == set(range(groups))
    model = blending.built(settings, data, blending._recipe(weights, counted, network), network)[0]
    expected = blending.blended(asked, weights)
    for row in (0, len(part) // 2, len(part) - 1):
        [shoppers, _, _] = Histories(part, settings["max_len"])[[row]]
        with torch.inference_mode():
            scores = model.scores(shoppers.history, shoppers.times)[0].numpy()
        here = asked.row == row
        found = scores[asked.item[here]]
        np.testing.assert_allclose(found - found.max(), expected[here] - expected[here].max(), atol=2e-4)


def test_a_blend_is_saved_made_again_and_served(settings: dict, data: Prepared, chosen: tuple, tmp_path: Path):
    model, shape, _ = chosen
    assert shape["model"] == "blend", shape["chosen"]["reason"]
    saved.save(tmp_path / "model", shape, model)
    again = saved.load(tmp_path / "model")
    ranks = rank_all(model, data.test, 10)[0]
    assert (rank_all(again, data.test, 10)[0] == ranks).all()
    assert (rank_all(blending.built(settings, data, shape["recipe"])[0], data.test, 10)[0] == ranks).mean() > 0.9 or shape[
        "recipe"
    ]["network"]
    for form, kept in (("fp32", 1.0), ("int8", 0.95)):
        graph.export(model, data.items, 20, tmp_path / f"{form}.onnx", form=form)
        found = graph.answers(graph.session(tmp_path / f"{form}.onnx"), data.test, model.max_len, data.items)
        gains = graph.ndcg_at_10(found, data.test.targets)
        assert gains.mean() >= kept * metrics.ndcg(ranks, 10).mean() - 1e-6
    numbers, scores = similar(model, 10, np.arange(data.items + 1) > 0)
    assert numbers.shape == (data.items + 1, 10)
    assert (scores[:, 0] >= scores[:, 1]).all()
    assert not (numbers == np.arange(data.items + 1)[:, None])[1:].any()


def test_a_blend_without_a_network_is_one_graph_too(settings: dict, data: Prepared, tmp_path: Path):
    own = settings | {"blend": settings["blend"] | {"parts": ["popularity", *COUNTED]}}
    model, shape, _ = blending.choose(own, data)
    assert isinstance(model, Blend)
    assert shape["network"] is None
    graph.export(model, data.items, 20, tmp_path / "model.onnx")
    assert graph.parity(model, tmp_path / "model.onnx", data.test, data.items, 20)["max_score_error"] < 1e-4


@pytest.mark.parametrize("kind", ["as it is", "few", "no texts", "short histories"])
def test_a_blend_is_not_worse_than_its_parts(settings: dict, data: Prepared, kind: str):
    if kind == "few":
        data = replace(data, valid=data.valid.rows(range(0, len(data.valid), 5)))
    if kind == "no texts":
        data = replace(data, content=None, embedded={})
    if kind == "short histories":
        data = replace(data, valid=data.valid.newest(1), test=data.test.newest(1))
    own = settings | {"blend": settings["blend"] | {"parts": ["popularity", *COUNTED]}}
    model, shape, _ = blending.choose(own, data)
    blend = metrics.ndcg(rank_all(model, data.test, 10)[0], 10)
    part = blending.asked_of(data)
    for name in ("popularity", *COUNTED):
        if data.content is None and name in ("content", "text"):
            continue
        one = choices.item_model(name, data)[0]
        one = one if name == "popularity" else blending.remembering(one, part, data)
        alone = metrics.ndcg(rank_all(one, data.test, 10)[0], 10)
        error = (blend - alone).std() / len(blend) ** 0.5
        assert blend.mean() >= alone.mean() - 2 * error, (name, shape["chosen"]["reason"])


def test_noise_ends_in_popularity(settings: dict, data: Prepared):
    rng = np.random.default_rng(0)
    items = [rng.permutation(data.items)[:6] + 1 for _ in range(400)]
    times = [np.arange(6) for _ in items]

    def part(end: int) -> Sequences:
        return Sequences([h[:end] for h in items], [t[:end] for t in times], np.array([h[end] for h in items]))

    train = Sequences([h[:4] for h in items], [t[:4] for t in times])
    noise = replace(data, train=train, valid=part(4), test=part(5), content=None).learning_from(train, data.impressions)
    own = settings | {"blend": settings["blend"] | {"parts": ["popularity", "transitions", "item_knn"]}}
    assert blending.choose(own, noise)[1]["chosen"]["model"] == "popularity"


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_held_out_leaves_no_trace_in_a_part(data: Prepared, name: str):
    canary, others = data.items, np.arange(1, data.items)
    kept = np.arange(data.items + 1) != canary
    held = replace(data, train=data.train.only(kept), popularity=np.where(kept, data.popularity, 0))
    matrix = as_matrix(choices.item_model(name, held)[0])
    if name in ("content", "text"):  # know what is written of an item, and no event
        assert (matrix != as_matrix(choices.item_model(name, data)[0])).nnz == 0
    else:
        assert matrix[canary].nnz == matrix[:, [canary]].nnz == 0
        assert matrix[others].nnz > 0


@pytest.mark.parametrize("names", [["transitions", "content"], ["transitions", "popularity"]])
def test_an_item_without_events_is_found_by_what_is_written_of_it(settings: dict, data: Prepared, names: list[str]):
    """By content as a part, and without it by what is counted of items that read alike."""
    matrix = as_matrix(choices.item_model("content", data)[0])
    new = int(np.argmax(np.diff(matrix.indptr) > 5))
    train = data.train.only(np.arange(data.items + 1) != new)
    held = replace(data, train=train).learning_from(train, data.impressions)
    weights = {name: (np.ones(1, np.float32), np.full(1, 0.03, np.float32)) for name in names}
    parts, popular, _ = blending.counted(names, held)
    model = blending.built(settings, held, blending._recipe(weights, parts, None))[0]
    near = matrix[[new]].tocoo()
    history = torch.tensor([[int(near.col[near.data.argmax()])]])
    scores = model.scores(history, torch.zeros_like(history))[0]
    assert scores[new] > scores[1:].median()
    lenders = near.col[np.argsort(-near.data)][:10]
    assert popular[lenders].min() <= popular[new] <= popular[lenders].max()
    counts = as_matrix(parts["transitions"])
    assert counts[[new]].nnz > 0
    assert counts[:, [new]].nnz > 0


def test_a_network_that_is_no_number_wins_nothing(settings: dict, data: Prepared, network: tuple):
    broken = saved.rebuild(network[1], dict(network[0].state_dict())).eval()
    broken.table.weight.data.fill_(float("nan"))
    shape = blending.choose(settings, data, (broken, network[1]))[1]
    assert shape.get("network") is None


def test_time_since_an_event_counts_where_times_are_told():
    from models.retrieval.sparse_item_model import SparseItemModel

    model = SparseItemModel(torch.zeros(4, 1).long(), torch.zeros(4, 1), torch.zeros(4), decay=0.5, half_life=3600)
    weights = model.event_weights(torch.tensor([[1, 2, 3, 0]]), torch.tensor([[0, 3600, 7200, 0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.25 * 0.25, 0.5 * 0.5, 1.0, 0.0]]))
    assert TopK(model, 2).first.timed


def test_words_of_texts_with_and_without_blanks():
    assert words("HP 74-Black, 2 Cartridges_XL!") == ["hp", "74", "black", "2", "cartridges", "xl"]
    assert words("蓝山不锈钢 kettle") == ["蓝山", "山不", "不锈", "锈钢", "kettle"]
    items = pl.DataFrame(
        {"item": [1, 2, 3], "title": ["red mug", "blue mug", None], "category": ["a > b", "a", "c"], "brand": ["x", None, "x"]}
    )
    rows, terms = content(items.cast({"item": pl.UInt32}), ["title", "category", "brand", "description"])
    assert terms == ["brand:x", "category:a", "mug"]
    assert rows.rows() == [(1, 0, 1), (1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 0, 1)]


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["auto", "din"])
def test_a_run_says_what_it_is_made_of(workspace, name: str):
    workspace(train__model=name, train__retriever="auto", train__epochs=1)
    run_stages(*STAGES[: STAGES.index("bundle") + 1])
    shape, manifest, report = (read_json(f) for f in ("data/model/model.json", "artefact/manifest.json", "reports/metrics.json"))
    assert shape["chosen"]["model"] == manifest["model"]["name"] == ("blend" if name == "auto" else name)
    parts = shape.get("retriever", shape)["recipe"]["parts"]
    assert set(manifest["model"]["parts"]) == set(parts) == {row["part"] for row in report["blend"]}
    assert read_json("reports/refit.json")["overlap"] >= 0.9
    recommender = Recommender(Path("artefact"))
    answer = recommender.recommend(history=recommender.items[np.array([3, 5])], k=10)
    assert answer.items
    carriers = {item.get("part") for item in answer.items}
    assert carriers <= {*parts, "popularity"} if name == "auto" else carriers == {None}


def test_which_part_carried_an_item(settings: dict, data: Prepared):
    weights = {
        "transitions": (np.ones(1, np.float32), np.full(1, 0.01, np.float32)),
        "popularity": (np.ones(1), np.full(1, 0.01)),
    }
    weights["content"] = weights["transitions"]
    parts = {name: choices.item_model(name, data)[0] for name in ("transitions", "content")}
    model = blending.built(settings, data, blending._recipe(weights, parts, None))[0]
    history = torch.tensor([[int(data.popularity.argmax())]])
    everything = torch.arange(data.items + 1)[None]
    first = TopK(model, 10).first
    carried = first.carried(everything, first.said(history, torch.zeros_like(history)))[0].numpy()
    by = {name: part(history)[0].numpy() for name, part in model.parts.items()}
    bias = (model.bias[0] - model.bias[0].mean()).numpy()
    assert (carried == np.stack([by["transitions"], by["content"], bias]).argmax(0)).all()
    assert set(carried) == {0, 1, 2}
