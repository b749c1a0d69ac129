"""Answers from an artefact, against brute force; and artefacts that were tampered with."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.recommender import ArtefactError, BadFilter, Recommender, UnknownItem


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    return Recommender(finished / "artefact")


def catalogue(recommender: Recommender) -> dict[str, dict]:
    names = list(recommender.columns)
    return {
        i: dict(zip(names, values, strict=True))
        for i, *values in zip(recommender.ids, *recommender.columns.values(), strict=True)
    }


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "category": st.sampled_from(["kitchen", "kitchen > tea", "digital", "kitch", ["fashion > bags", "toys"], []]),
        "brand": st.sampled_from(["Muxin 木心", ["Baihe 白禾", "Xingye 星野"], "nobody"]),
        "price_min": st.floats(0, 500),
        "price_max": st.floats(20, 5000),
        "in_stock": st.booleans(),
    },
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), filters=FILTERS, k=st.integers(1, 30), exclude_seen=st.booleans())
def test_filters_against_brute_force(recommender: Recommender, data: st.DataObject, filters: dict, k: int, exclude_seen: bool):
    items = catalogue(recommender)
    history = data.draw(st.lists(st.sampled_from(recommender.ids), max_size=30))
    exclude = data.draw(st.lists(st.sampled_from(recommender.ids), max_size=5))

    def passes(item: dict) -> bool:
        def within(path: str) -> bool:
            return item["category"] == path or item["category"].startswith(path + " > ")

        categories = [filters["category"]] if isinstance(filters.get("category"), str) else filters.get("category")
        brands = [filters["brand"]] if isinstance(filters.get("brand"), str) else filters.get("brand")
        return (
            (categories is None or any(map(within, categories)))
            and (brands is None or item["brand"] in brands)
            and filters.get("price_min", 0) <= item["price"] <= filters.get("price_max", 1e9)
            and filters.get("in_stock", item["in_stock"]) == item["in_stock"]
        )

    fit = {i for i, item in items.items() if passes(item)} - set(exclude) - (set(history) if exclude_seen else set())
    answer = recommender.recommend(history=history, k=k, filters=filters | {"exclude": exclude}, exclude_seen=exclude_seen)
    found = [item["item_id"] for item in answer.items]
    assert set(found) <= fit
    assert len(found) == len(set(found)) == min(k, len(fit))
    assert [i["score"] for i in answer.items] == sorted((i["score"] for i in answer.items), reverse=True)
    assert answer.fallback == (None if history else "popular")


def test_known_shoppers_are_answered_from_their_history(recommender: Recommender, finished: Path):
    user = next(iter(recommender._users))
    seen = {recommender.ids[n - 1] for n in recommender.history(user)[0].tolist()}
    answer = recommender.recommend(user_id=user, k=20)
    assert answer.fallback is None
    assert not seen & {i["item_id"] for i in answer.items}
    given_the_same = recommender.recommend(history=[recommender.ids[n - 1] for n in recommender.history(user)[0].tolist()], k=20)
    assert given_the_same == answer


def test_context_adds_what_is_looked_at_and_chooses_the_fallback(recommender: Recommender):
    item = recommender.ids[3]
    assert recommender.recommend(context={"item_id": item}) == recommender.recommend(history=[item])
    assert recommender.recommend(context={"platform": "app"}).fallback == "popular on app"
    assert recommender.recommend(context={"platform": "fax"}).fallback == "popular"


def test_unknown_items_are_named_and_passed_over(recommender: Recommender):
    answer = recommender.recommend(history=["nope", recommender.ids[0]])
    assert answer.unknown_items == ["nope"]
    assert answer.fallback is None
    with pytest.raises(UnknownItem):
        recommender.similar("nope")


def test_similar_items_do_not_hold_the_item_itself(recommender: Recommender):
    found = recommender.similar(recommender.ids[0], 10)
    assert len(found) == 10
    assert recommender.ids[0] not in {i["item_id"] for i in found}


def test_a_filter_without_its_column_is_refused(recommender: Recommender, finished: Path, tmp_path: Path):
    folder = tmp_path / "a"
    shutil.copytree(finished / "artefact", folder)
    path = folder / "catalogue.json"
    document = json.loads(path.read_text())
    del document["brand"]
    path.write_text(json.dumps(document))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["catalogue.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadFilter, match="no brand"):
        Recommender(folder).recommend(filters={"brand": "x"})


@pytest.mark.parametrize("name", ["model.onnx", "catalogue.json", "histories.npz", "similar.npz", "popular.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_artefacts_are_refused_with_the_file_named(finished: Path, tmp_path: Path, name: str, damage: str):
    folder = tmp_path / "a"
    shutil.copytree(finished / "artefact", folder)
    content = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=name):
        Recommender(folder)
