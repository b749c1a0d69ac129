"""Answers from an artefact, against brute force; and artefacts that were tampered with."""

import hashlib
import json
import shutil
from contextlib import chdir
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.serving import graphs
from deploy.serving.artefact import ArtefactError, large, version_of
from deploy.serving.catalogue import Column, Ids
from deploy.serving.histories import NOTHING, History, Known
from deploy.serving.reasons import REFERENCE
from deploy.serving.recommender import SHOWN, BadFilter, Recommender, UnknownItem, UnknownWay
from pipelines.artefact.catalogue import catalogue
from pipelines.artefact.catalogue import ids as id_columns
from pipelines.artefact.manifest import seal
from pipelines.bundle import write_graphs
from pipelines.stage import StageError, read_json
from tests.conftest import run_stages


@pytest.fixture(scope="module")
def indexed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with an index, of the same model."""
    folder = tmp_path_factory.mktemp("indexed")
    for entry in finished.iterdir():
        if entry.name not in ("artefact", "bento", "params.yaml", "data"):
            (folder / entry.name).symlink_to(entry)
    (folder / "data").mkdir()
    for entry in (finished / "data").iterdir():
        (folder / "data" / entry.name).symlink_to(entry)
    params = yaml.safe_load((finished / "params.yaml").read_text())
    params["serve"]["index_recall"] = 0.9
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with chdir(folder):
        run_stages("bundle")
    return folder / "artefact"


@pytest.fixture(scope="module", params=["exact", "index"])
def recommender(request: pytest.FixtureRequest, finished: Path) -> Recommender:
    return Recommender(finished / "artefact" if request.param == "exact" else request.getfixturevalue("indexed"))


@pytest.fixture(scope="module")
def items(finished: Path) -> dict[str, dict]:
    """The catalogue as it was prepared, without what left it."""
    rows = pl.read_parquet(finished / "data/prepared/items.parquet").filter("listed").sort("item")
    return {row.pop("item_id"): row for row in rows.select("item_id", *SHOWN).to_dicts()}


@pytest.fixture(scope="module")
def ids(items: dict) -> list[str]:
    return list(items)


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
@given(data=st.data(), filters=FILTERS, k=st.integers(1, 30), exclude=st.sampled_from(["seen", "nothing", None]))
def test_filters_against_brute_force(
    recommender: Recommender, items: dict, ids: list[str], data: st.DataObject, filters: dict, k: int, exclude: str | None
):
    history = data.draw(st.lists(st.sampled_from(ids), max_size=30))
    blocked = data.draw(st.lists(st.sampled_from(ids), max_size=5))

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

    fit = {i for i, item in items.items() if passes(item)} - set(blocked) - (set() if exclude == "nothing" else set(history))
    answer = recommender.recommend(history=history, k=k, filters=filters | {"exclude": blocked}, exclude=exclude)
    found = [item["item_id"] for item in answer.items]
    assert set(found) <= fit
    assert len(found) == len(set(found)) == min(k, len(fit))
    assert [i["score"] for i in answer.items] == sorted((i["score"] for i in answer.items), reverse=True)
    assert answer.fallback == (None if history else "popular")


def test_known_shoppers_are_answered_from_their_history(recommender: Recommender, ids: list[str], finished: Path):
    stored = recommender.histories
    [user] = stored.users[np.array([7])]
    met = recommender.items[stored.of(user, recommender.items).history.items - 1]
    answer = recommender.recommend(user_id=user, k=20, exclude="seen")
    assert answer.fallback is None
    assert not set(met) & {i["item_id"] for i in answer.items}
    assert recommender.recommend(history=met, k=20).items == answer.items
    prepared = pl.read_parquet(finished / "data/prepared/histories.parquet").row(
        by_predicate=pl.col("user_id") == user, named=True
    )
    assert stored.of(user, recommender.items).history.items.tolist() == prepared["items"]
    assert not len(stored.of(user + "x", recommender.items).history.items)


def test_answers_show_what_is_known_of_items(recommender: Recommender, items: dict, ids: list[str]):
    for item in recommender.recommend(history=ids[:3], k=100).items + recommender.recommend(k=100).items:
        assert {name: item[name] for name in SHOWN} == items[item["item_id"]]


def test_what_grows_with_items_and_shoppers_is_mapped_and_not_copied(recommender: Recommender):
    of = recommender
    for array in (
        of.items._text,
        of.histories.users._hashes,
        *of.histories._columns,
        *of._similar[None],
        of.catalogue.columns["price"].values,
    ):
        assert isinstance(array.base, np.memmap)


def test_graphs_of_an_artefact_share_their_tensors(finished: Path, tmp_path: Path):
    served, other = finished / "data/served/model.onnx", tmp_path / "other.onnx"
    shutil.copy(served, other)
    sizes = []
    for name, graphs_of in (("alone", [served]), ("together", [served, other])):
        (tmp_path / name).mkdir()
        write_graphs(tmp_path / name, graphs_of)
        sizes.append((tmp_path / name / "model.data").stat().st_size)
    assert sizes[0] == sizes[1] > 0
    assert (tmp_path / "together/other.onnx").stat().st_size < other.stat().st_size


def test_a_model_is_large_by_its_bytes():
    assert large({"model_bytes": 65 << 20})
    assert not large({"model_bytes": 63 << 20})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=20), st.lists(st.text(max_size=8), max_size=10))
def test_ids_are_found_as_in_a_dict(tmp_path: Path, known: list[str], wanted: list[str]):
    for name, array in id_columns("ids", pl.Series(known)).items():
        np.save(tmp_path / f"{name}.npy", array)
    found, place = Ids(tmp_path, "ids"), {i: at for at, i in enumerate(known)}
    wanted = wanted + known[::2]
    assert found.places(wanted).tolist() == [place.get(i, -1) for i in wanted]
    assert found[np.arange(len(known))] == known


def test_one_long_id_does_not_widen_all():
    columns = id_columns("ids", pl.Series(["x" * 20_000, *map(str, range(20_000))]))
    assert sum(c.nbytes for c in columns.values()) < 2e6


def test_a_catalogue_with_gaps(tmp_path: Path):
    rows = {"item_id": ["a", "b", "é"], "title": [None, "Tea, 茶", ""], "category": ["x > y", None, "x"], "brand": [None] * 3,
            "price": [1.5, None, 0.0], "in_stock": [None, True, False]}  # fmt: skip
    arrays, names = catalogue(pl.DataFrame(rows, schema_overrides={"brand": pl.String}).with_columns(listed=True))
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    for name, document in names.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    for name in SHOWN:
        assert Column(tmp_path, name)[np.array([2, 0, 1])] == [
            rows[name][i] or (None if name == "title" else rows[name][i]) for i in (2, 0, 1)
        ]


def test_context_adds_what_is_looked_at_and_chooses_the_fallback(recommender: Recommender, ids: list[str]):
    item = ids[3]
    assert recommender.recommend(context={"item_id": item}) == recommender.recommend(history=[item])
    assert recommender.recommend(context={"platform": "app"}).scope == "platform:app"
    assert recommender.recommend(context={"platform": "fax"}).scope == "all"
    assert recommender.recommend(context={"platform": "fax"}).fallback == "popular"


def test_an_index_finds_what_the_exact_graph_answers(finished: Path, indexed: Path, ids: list[str]):
    exact, approximate = Recommender(finished / "artefact"), Recommender(indexed)
    assert approximate.manifest["index"]["recall"] >= 0.9
    assert approximate.manifest["index"]["probes"] < approximate.manifest["index"]["lists"]
    shared = []
    for start in range(0, len(ids) - 5, 3):
        answers = [r.recommend(history=ids[start : start + 5], k=10).items for r in (exact, approximate)]
        scores = [{i["item_id"]: i["score"] for i in answer} for answer in answers]
        both = scores[0].keys() & scores[1].keys()
        assert all(abs(scores[0][i] - scores[1][i]) < 0.5 for i in both)  # the exact graph's layers have fewer bits
        shared.append(len(both) / 10)
    assert np.mean(shared) >= 0.85


@pytest.mark.e2e
def test_only_products_can_be_indexed(workspace):
    workspace(serve__index_recall=0.9, train__model="popularity")
    run_stages(
        "collect", "link", "check", "prepare", "check_prepared", "train", "evaluate", "export", "compress", "refit", "replay"
    )
    with pytest.raises(StageError, match=r"serve\.index_recall"):
        run_stages("bundle")


def test_unknown_items_are_named_and_passed_over(recommender: Recommender, ids: list[str]):
    answer = recommender.recommend(history=["nope", ids[0]])
    assert answer.unknown_items == ["nope"]
    assert answer.fallback is None
    with pytest.raises(UnknownItem):
        recommender.similar("nope")


def test_similar_items_do_not_hold_the_item_itself(recommender: Recommender, ids: list[str]):
    found = recommender.similar(ids[0], 10)
    assert len(found) == 10
    assert ids[0] not in {i["item_id"] for i in found}


def test_items_are_similar_by_what_is_asked_for(recommender: Recommender, ids: list[str]):
    found = {by: [i["item_id"] for i in recommender.similar(ids[0], 5, by)] for by in (None, "text", "behaviour")}
    assert all(len(items) == 5 and ids[0] not in items for items in found.values())
    assert found["text"] != found["behaviour"]
    with pytest.raises(UnknownWay, match="look like; of these it is: text, behaviour"):
        recommender.similar(ids[0], 5, "look")


def test_of_items_that_look_the_same_a_list_shows_one(finished: Path, recommender: Recommender, ids: list[str], tmp_path: Path):
    first = [i["item_id"] for i in recommender.recommend(history=ids[:5], k=4).items]
    folder = tmp_path / "a"
    shutil.copytree(finished / "artefact", folder)
    same = np.zeros(recommender.manifest["items"] + 1, np.int32)
    numbers = recommender.items.places(first[:3]) + 1
    same[numbers] = numbers.min()
    np.save(folder / "looks_the_same.npy", same)
    told = read_json(folder / "manifest.json")
    (folder / "manifest.json").unlink()
    seal(folder, {k: v for k, v in told.items() if k not in ("schema", "version", "model_bytes", "files")})
    answers = [i["item_id"] for i in Recommender(folder).recommend(history=ids[:5], k=4).items]
    assert answers[:2] == [first[0], first[3]]
    assert len(answers) == 4


def test_a_filter_without_its_column_is_refused(recommender: Recommender, finished: Path, tmp_path: Path):
    folder = tmp_path / "a"
    shutil.copytree(finished / "artefact", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("brand.npy", "brand.json"):
        (folder / name).unlink()
        del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": version_of(manifest)}))
    with pytest.raises(BadFilter, match="no brand"):
        Recommender(folder).recommend(filters={"brand": "x"})


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.data", "item_ids_text.npy", "price.npy", "brand.json", "user_ids_hashes.npy", "popular.json"]
)
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


def test_an_item_that_left_the_catalogue_is_never_answered_and_one_without_events_is_known(
    recommender: Recommender, items: dict, finished: Path
):
    listed = pl.read_parquet(finished / "data/prepared/items.parquet").select("item_id", "listed", "popularity")
    [gone] = listed.filter(~pl.col("listed"))["item_id"].to_list()
    answers = [recommender.recommend(history=[gone], k=100, exclude="nothing").items, recommender.recommend(k=100).items]
    answers += [recommender.similar(i, 100) for i in list(items)[:20]]
    assert all(item["item_id"] != gone for answer in answers for item in answer)
    assert recommender.recommend(history=[gone]).unknown_items == []


def test_what_was_bought_comes_back_when_it_is_due_and_not_before(recommender: Recommender, finished: Path):
    bought = pl.read_parquet(finished / "data/segments/repeats.parquet")
    again = bought.filter(pl.col("due_from").is_not_null()).row(0, named=True)
    user, item = again["user_id"], again["item_id"]
    others = set(bought.filter(user_id=user)["item_id"]) - {item}
    soon, due, late = (again[c] + timedelta(seconds=s) for c, s in (("last_bought", 60), ("due_from", 60), ("due_until", 60)))
    for at, is_due in ((soon, False), (due, True), (late, False)):
        answer = recommender.recommend(user_id=user, k=100, context={"at": at})
        shown = {i["item_id"] for i in answer.items}
        told = {i["item_id"]: i["score"] for i in answer.repeats}
        assert (item in told) == is_due
        assert not is_due or 0 < told[item] < 1
        if not is_due:
            assert item not in shown
        never = set(bought.filter(pl.col("due_from").is_null(), user_id=user)["item_id"])
        assert not shown & never
        assert not told.keys() & never
    assert not {i["item_id"] for i in recommender.recommend(user_id=user, k=100, exclude="bought", context={"at": due}).items} & (
        others | {item}
    )
    blocked = recommender.recommend(user_id=user, context={"at": due}, filters={"exclude": [item]})
    assert item not in {i["item_id"] for i in [*blocked.items, *blocked.repeats]}


def test_chances_of_repeats_are_those_that_marketing_told(finished: Path):
    recommender = Recommender(finished / "artefact")
    bought = pl.read_parquet(finished / "data/segments/repeats.parquet")
    at = pl.read_parquet(finished / "data/checked/events.parquet", columns=["timestamp"])["timestamp"].max()
    user = bought.filter(pl.col("due_from").is_not_null())["user_id"][0]
    told = dict(bought.filter(pl.col("due_from").is_not_null(), user_id=user).select("item_id", "chance").iter_rows())
    stored = recommender.histories.of(user, recommender.items).bought
    found = dict(zip(recommender.items[stored.items - 1], stored.chances(at.timestamp()), strict=True))
    assert {i: found[i] for i in told} == pytest.approx(told, rel=1e-2)


def test_histories_may_come_from_elsewhere(finished: Path, ids: list[str]):
    class Live:
        def of(self, user_id: str, items: Ids) -> Known:
            numbers = items.places(ids[:3]) + 1
            history = History(numbers, np.zeros_like(numbers), np.ones_like(numbers))
            return NOTHING._replace(history=history) if user_id == "now" else NOTHING

    live = Recommender(finished / "artefact", Live())
    assert live.recommend(user_id="now", k=5, exclude="seen").items == live.recommend(history=ids[:3], k=5).items
    assert live.recommend(user_id="u000001", k=5).fallback == "popular"


def test_a_machine_that_answers_otherwise_refuses(finished: Path, tmp_path: Path):
    folder = tmp_path / "a"
    shutil.copytree(finished / "artefact", folder)
    probe = json.loads((folder / "probe.json").read_text())
    probe["cases"][0]["scores"] = [s + 1 for s in probe["cases"][0]["scores"]]
    (folder / "probe.json").write_text(json.dumps(probe))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["probe.json"] = hashlib.sha256((folder / "probe.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": version_of(manifest)}))
    with pytest.raises(ArtefactError, match="answers the artefact's probe otherwise"):
        Recommender(folder)


def test_an_artefact_of_another_schema_is_refused_in_one_sentence(finished: Path, tmp_path: Path):
    folder = tmp_path / "a"
    shutil.copytree(finished / "artefact", folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"schema": 5}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"schema 5, this server reads 7; bundle the model again"):
        Recommender(folder)


def test_a_gpu_that_is_there_and_unused_is_told(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", logger="bentoml.pushcart"):
        Recommender(finished / "artefact")
        assert "model.onnx is answered by CPUExecutionProvider" in caplog.text
        assert "there is a GPU" not in caplog.text
        monkeypatch.setattr(graphs, "gpu_is_there", lambda: True)
        Recommender(finished / "artefact")
    assert "there is a GPU, but onnxruntime answers on the CPU" in caplog.text


def test_popular_on_a_platform_is_what_was_met_there(finished: Path):
    popular = json.loads((finished / "artefact/popular.json").read_text())
    prepared = json.loads((finished / "data/prepared/prepared.json").read_text())
    histories = pl.read_parquet(finished / "data/prepared/histories.parquet")  # no impressions, no bots, no removed rows
    rows = histories.select("items", "timestamps", "platforms").explode("items", "timestamps", "platforms")
    listed = pl.read_parquet(finished / "data/prepared/items.parquet").filter("listed")["item"]
    age = (pl.col("timestamps").max() - pl.col("timestamps")).dt.total_seconds() / 86400
    rows = rows.with_columns(weight=0.5 ** (age / 30)).filter(pl.col("items").is_in(listed.implode()))
    for number, name in enumerate(prepared["platforms"], 1):
        counts = rows.filter(platforms=number).group_by("items").agg(pl.col("weight").sum()).sort("weight", descending=True)
        assert popular[name][:5] == counts["items"].head(5).to_list()


def test_a_reason_is_the_event_that_adds_most_to_an_items_score(finished: Path):
    recommender = Recommender(finished / "artefact")
    histories = pl.read_parquet(finished / "data/prepared/histories.parquet").sort(pl.col("items").list.len(), descending=True)
    user, history = histories["user_id"][0], histories["items"][0].to_numpy()[-recommender.max_len :]
    plain, told = recommender.recommend(user, k=30), recommender.recommend(user, k=30, explain=True)
    assert [item["item_id"] for item in told.items] == [item["item_id"] for item in plain.items]
    names = recommender.items[history - 1]
    for item in told.items:
        shares = [reason["share"] for reason in item["reasons"]]
        assert shares == sorted(shares, reverse=True)
        assert all(reason["item_id"] in names for reason in item["reasons"])
        assert item["because"]["en"].startswith("Because you ")
        assert item["because"]["zh"].startswith("因为您")
    number = recommender.items.places([told.items[0]["item_id"]])[0] + 1
    actions = histories["actions"][0].to_numpy()[-len(history) :]
    seconds = histories["timestamps"][0].dt.epoch("s").to_numpy()[-len(history) :]
    asked = graphs.Asked(
        history.astype(np.int64), seconds, actions.astype(np.int64), None, np.zeros(1, np.int64), recommender.catalogue.open
    )

    def ahead(kept: np.ndarray) -> float:
        """By the model itself, over all items."""
        columns = {name: getattr(asked, name)[kept] for name in ("numbers", "times", "actions")}
        inputs = {"history": columns["numbers"], "times": columns["times"], "actions": columns["actions"]}
        inputs = {name: column[None] if len(column) else np.zeros((1, 1), np.int64) for name, column in inputs.items()}
        inputs |= {"platform": np.zeros(1, np.int64), "exclude": np.zeros((1, 1), np.int64)}
        scores = {}
        for items in np.array_split(np.arange(1, len(recommender.items) + 1), 4):  # no more than the graph answers at once
            allowed = np.isin(np.arange(len(recommender.items) + 1), items)[None]
            found, said, *_ = recommender._session.run(
                None, {n: v for n, v in (inputs | {"allowed": allowed}).items() if n in recommender._read}
            )
            scores |= {int(i): float(x) for i, x in zip(found[0], said[0], strict=True) if np.isfinite(x)}
        reference = [int(i) for i in recommender._popular["all"][:REFERENCE] if i != number]
        reference = reference[: min(recommender.max_k, len(recommender.items)) // 2]
        return scores[int(number)] - np.mean([scores[i] for i in reference])

    places = np.arange(len(history))
    by_hand = [(ahead(places >= 0) - ahead(places != p) + ahead(places == p) - ahead(places < 0)) / 2 for p in places]
    added = recommender._explainer.added(asked, np.array([number]))[:, 0]
    np.testing.assert_allclose(added, by_hand, atol=0.1 * np.abs(by_hand).max())


def test_what_is_sensitive_carries_an_item_and_is_never_named(finished: Path, tmp_path: Path):
    shutil.copytree(finished / "artefact", tmp_path / "artefact")
    recommender = Recommender(tmp_path / "artefact")
    column = recommender.catalogue.columns["category"]
    user = recommender.histories.users[np.arange(1)][0]
    recommender._explainer.leave_unnamed(sorted({name.split(" > ")[0] for name in column.names}))
    for item in recommender.recommend(user, explain=True).items:
        assert [reason["item_id"] for reason in item["reasons"]] == [None] * len(item["reasons"])
        assert item["because"]["en"] == "Because it fits what you did here."


def test_a_stranger_is_told_that_many_choose_it(finished: Path):
    for item in Recommender(finished / "artefact").recommend("nobody", explain=True).items:
        assert [reason["kind"] for reason in item["reasons"]] == ["popular"]
