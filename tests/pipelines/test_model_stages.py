"""The stages from training to the bento, on one small run of the whole chain."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

from models import pruning
from models.baselines import Memory, transitions
from models.batches import Sequences
from models.families import build
from models.metrics import ndcg
from models.topk import TopK
from models.two_stage import SecondStage, TwoStage
from pipelines import compress, histories, train
from pipelines import onnx as graphs
from pipelines.ranking import ndcg_by_memory, ndcg_by_trust, rank_all
from pipelines.stage import StageError, read_json
from tests.conftest import run_stages
from tests.models.test_models import ITEMS, made
from tests.models.test_rankers import ranker_of


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished workspace that a test may change."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_reports_say_what_readers_need(finished: Path):
    metrics = read_json(finished / "reports/metrics.json")
    for model in ("test", "popularity", "item_knn"):
        low, high = metrics[model]["ndcg@10_interval"]
        assert 0 <= low <= metrics[model]["ndcg@10"] <= high <= metrics[model]["recall@10_interval"][1] <= 1
    assert set(metrics["segments"]) == {"new shoppers", "regular shoppers", "head items", "tail items"}
    assert (finished / "reports/plots/at_k.csv").read_text().startswith("model,k,ndcg,recall")
    assert (finished / "reports/train/metrics.json").exists()


STORED = [
    {},
    {"form": "fp16"},
    {"form": "int8"},
    {"form": "int4"},
    {"form": "int8+fp32"},
    {"form": "int4+fp32"},
    {"form": "int8", "rank": 24, "neighbours": 0.5},
]


@pytest.mark.parametrize("stored", STORED, ids=str)
def test_the_graph_agrees_with_torch_on_real_histories(run: Path, tmp_path: Path, stored: dict):
    network, data = train.load("data/model"), histories.load()
    path = tmp_path / "m.onnx"
    graphs.export(network, len(data.items), 20, path, **stored)
    inputs = graphs.feed(data.test, network.max_len, len(data.items))
    rng = np.random.default_rng(0)
    inputs["allowed"] &= rng.random(inputs["allowed"].shape) < 0.5
    with torch.inference_mode():
        expected_items, expected = TopK(network, 20, **stored)(*(torch.from_numpy(v) for v in inputs.values()))
    items, scores = graphs.call(graphs.session(path), inputs)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)
    assert (items == expected_items.numpy())[np.isfinite(scores)].mean() > 0.999
    assert b".py" not in path.read_bytes()  # no source paths of the machine that exported it


ONE_STEP = [{"table": "fp16"}, {"table": "int8"}, {"table": "int4"}, {"table": "int8+fp32"}, {"table": "int4+fp32"}, {"rank": 0.75}, {"neighbours": 0.9},
            {"units": 0.5}, {"sparsity": 0.5}, {"sparsity": "2:4"},
            *({"layers": kind} for kind in ("dynamic8", "static8", "weight8", "weight4", "fp16")),
            {"table": "int4", "layers": "static8", "units": 0.5, "sparsity": "2:4"}]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(finished: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        made = compress.Workshop(tmp_path_factory.mktemp("candidates"), train.load("data/model"), histories.load(), 20)
        made.whole = made.candidate({})
        yield made


@pytest.mark.parametrize("steps", ONE_STEP, ids=compress.name)
def test_every_candidate_answers_much_as_fp32(workshop: compress.Workshop, steps: dict):
    row = workshop.candidate(steps)
    pruned = "units" in steps or "sparsity" in steps
    assert row["overlap"] > (0.75 if pruned or "rank" in steps else 0.9)
    # Factors are for tables longer than this.
    if not steps.get("table", "").endswith("+fp32") and not {"rank", "sparsity"} & steps.keys():
        assert row["bytes"] < workshop.whole["bytes"]


def test_the_compressed_table_stands_once(workshop: compress.Workshop):
    workshop.candidate({"table": "int8", "layers": "dynamic8"})
    weights = onnx.load(workshop.path({"table": "int8", "layers": "dynamic8"})).graph.initializer
    items = len(workshop.data.items) + 1
    codes = [t for t in weights if t.dims and t.dims[0] == items and t.dims[-1] == 32 and "memory" not in t.name]
    assert [t.data_type for t in codes] == [onnx.TensorProto.UINT8]
    assert not [t.name for t in weights if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2 and t.dims[0] == 32]


def sasrec():
    torch.manual_seed(0)
    shape = {"width": 8, "layers": 2, "heads": 2, "dropout": 0.0, "max_len": 6, "gated": False, "unnamed": 0.0, "event_dropout": 0.0}  # fmt: skip
    return build("sasrec", 20, shape, None).eval()


def test_units_that_say_nothing_are_the_ones_removed():
    network, history = sasrec(), torch.tensor([[1, 5, 7]])
    with torch.no_grad():
        for block in network.encoder.blocks:
            block.down.weight[:, ::2] = 0  # half of the units
            block.out.weight[:, :4] = 0  # the first of two heads
    smaller = pruning.narrowed(network, 0.5).eval()
    assert [(b.up.out_features, b.heads, b.qkv.out_features) for b in smaller.encoder.blocks] == [(16, 1, 12), (16, 1, 12)]
    torch.testing.assert_close(smaller.scores(history, history), network.scores(history, history))
    with pytest.raises(ValueError, match="self-attention"):
        pruning.narrowed(
            build("gru", 20, {"width": 8, "layers": 1, "dropout": 0.0, "max_len": 6, "unnamed": 0.0, "event_dropout": 0.0}, None),
            0.5,
        )


@pytest.mark.parametrize("pattern", [0.5, "2:4"])
def test_zeros_are_the_smallest_weights_and_stay_zero(pattern: float | str):
    network = sasrec()
    sparser = pruning.sparse(network, pattern)
    optimiser = torch.optim.SGD(sparser.parameters(), 0.1)
    sparser(torch.tensor([[1, 5, 7]]), torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    optimiser.step()
    for layer, whole in zip(pruning.dense_layers(pruning.settled(sparser)), pruning.dense_layers(network), strict=True):
        gone, old = layer.weight == 0, whole.weight
        if pattern == "2:4":
            assert (gone.view(-1, 4).sum(1) == 2).all()
        else:
            assert gone.float().mean() == 0.5
            assert old[gone].abs().max() <= old[~gone].abs().min()


def test_the_smallest_within_the_constraints_wins():
    figures = (("fp32", 100, 0.10, 1.0), ("int8", 30, 0.0995, 0.97), ("pruned", 20, 0.09, 0.7))
    rows = [
        {"candidate": c, "bytes": b, "valid_ndcg@10": n, "valid_loss": 0.1 - n, "valid_loss_se": 0.0, "overlap": o}
        for c, b, n, o in figures
    ]

    def chosen(max_ndcg_loss: float, min_overlap: float) -> str:
        return compress.choose(rows, {"max_ndcg_loss": max_ndcg_loss, "min_overlap": min_overlap})["candidate"]

    assert chosen(0.01, 0.5) == "int8"
    assert chosen(0.2, 0.5) == "pruned"
    assert chosen(0.2, 0.8) == "int8"
    assert chosen(0.0, 0.0) == "fp32"


def test_constraints_choose_and_refuse_with_the_nearest_named(run: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    steps = {"table": ["int8"], "layers": ["weight4"]}

    def compressed(**constraints: object) -> dict:
        params["compress"] |= {"steps": steps} | constraints
        Path("params.yaml").write_text(yaml.safe_dump(params))
        run_stages("compress")
        return read_json("reports/compression.json")

    small = compressed(max_ndcg_loss=0.05, min_overlap=0.5)
    strict = compressed(max_ndcg_loss=0.0, min_overlap=1.0)
    assert (small["chosen"], strict["chosen"]) == ("table=int8 layers=weight4", "fp32")
    assert Path("data/compressed/model.onnx").stat().st_size == strict["bytes"] > small["bytes"]
    with pytest.raises(StageError, match=rf"nearest is table=int8 layers=weight4 \({small['bytes']:,} bytes\)") as refused:
        compressed(max_ndcg_loss=0.05, min_overlap=0.5, max_bytes=small["bytes"] - 1)
    assert f"set compress.max_bytes to {small['bytes']}" in str(refused.value)
    tried = min(strict["candidates"], key=lambda c: c["bytes"])
    with pytest.raises(StageError, match=rf"raise compress.max_ndcg_loss or lower compress.min_overlap for {tried['candidate']}"):
        compressed(max_ndcg_loss=0.0, min_overlap=1.0, max_bytes=tried["bytes"])
    for wrong, named in (({"target": "tpu"}, "target"), ({"steps": {"table": ["int2"]}}, "int2"), ({"steps": {"units": [3]}}, "share"), ({"steps": {"magic": [1]}}, "magic")):  # fmt: skip
        with pytest.raises(StageError, match=named):
            compress.check(params["compress"] | wrong)


def test_training_goes_on_after_being_killed_and_ends_as_if_it_had_not(run: Path, monkeypatch: pytest.MonkeyPatch):
    undisturbed = np.load("data/model/weights.npz")
    epochs = []

    def killed(self, trainer, module):
        epochs.append(trainer.current_epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt  # the second epoch is trained but not saved

    with monkeypatch.context() as patch:
        patch.setattr(train.PlainProgress, "on_train_epoch_end", killed)
        with pytest.raises(BaseException, match=r"interrupted|1"):
            run_stages("train")
    assert epochs == [0, 1]
    assert list(Path("data/.checkpoints").glob("*/*/last.ckpt"))
    with monkeypatch.context() as patch:
        patch.setattr(
            train.PlainProgress, "on_train_epoch_end", lambda self, trainer, module: epochs.append(trainer.current_epoch)
        )
        run_stages("train")
    assert epochs in ([0, 1, 1, 2], [0, 1, 2])
    curve = Path("reports/train/plots/metrics/valid/ndcg@10.tsv").read_text().splitlines()[1:]
    assert len(curve) >= 3  # the epochs before the kill stand in the plot too
    resumed = np.load("data/model/weights.npz")
    for name in undisturbed.files:
        np.testing.assert_allclose(resumed[name], undisturbed[name], atol=2e-2)
    assert not list(Path("data/.checkpoints").iterdir())


def test_a_ranker_killed_goes_on_without_training_its_retriever_again(run: Path, monkeypatch: pytest.MonkeyPatch):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= {"model": "din", "epochs": 2, "memory": False}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    epochs = []

    def killed(self, trainer, module):
        epochs.append(type(module).__name__)
        if len(epochs) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.PlainProgress, "on_train_epoch_end", killed)
        with pytest.raises(BaseException, match=r"interrupted|1"):
            run_stages("train")
    run_stages("train")
    assert epochs[:4] == ["NextItem", "NextItem", "RankShown", "RankShown"]
    assert set(epochs[4:]) <= {"RankShown"}
    assert read_json("data/model/model.json")["model"] == "din"
    run_stages("evaluate")
    report = read_json("reports/metrics.json")
    assert 0 < report["retriever"]["ndcg@10"] < 1
    for task in ("click", "cart", "purchase"):
        assert 0 < report["impressions"][task]["auc"] < 1
        assert report["impressions"][task]["positives"] > 0


def test_a_ranker_orders_by_what_it_is_asked_to(run: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= {"model": "din", "epochs": 1, "memory": False, "rank_by": "purchase"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("train", "export")
    model, data = train.load("data/model"), histories.load()
    inputs = graphs.feed(data.test.rows(range(5)), model.max_len, len(data.items))
    scores = graphs.call(graphs.session(Path("data/export/model.onnx")), inputs)[1]
    assert (np.exp(scores[np.isfinite(scores)]) <= 1).all()  # logarithms of probabilities


def test_outputs_appear_whole_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch):
    before = sorted(p.name for p in Path("artefact").iterdir())
    monkeypatch.setattr("pipelines.bundle.similar", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_stages("bundle")
    assert sorted(p.name for p in Path("artefact").iterdir()) == before


def test_same_inputs_same_bento(run: Path):
    before = {p.relative_to(run): p.read_bytes() for p in Path("bento").resolve().rglob("*") if p.is_file()}
    old = read_json("artefact/manifest.json")
    run_stages("bundle")
    new = read_json("artefact/manifest.json")
    assert new == old
    assert {p.relative_to(run): p.read_bytes() for p in Path("bento").resolve().rglob("*") if p.is_file()} == before


def test_a_graph_that_disagrees_with_torch_stops(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.export.TOLERANCE", -1.0)
    with pytest.raises(StageError, match="differ"):
        run_stages("export")
    assert json.loads(Path("reports/parity.json").read_text())["max_score_error"] < 1e-3


def test_evaluation_holds_the_model_against_production(run: Path):
    import yaml

    params = yaml.safe_load(Path("params.yaml").read_text())
    source = f"{params['source']['name']}:{params['source']['data']}"
    params["baseline"] |= {"source": source, "ndcg": 0.5}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("evaluate")
    report = read_json("reports/metrics.json")
    assert report["production"]["gain"] == pytest.approx(report["test"]["ndcg@10"] / 0.5 - 1)


def held_out() -> Sequences:
    rng = np.random.default_rng(0)
    histories = [rng.permutation(np.arange(1, ITEMS + 1))[: rng.integers(2, 6)] for _ in range(40)]
    before = [h[:-1] for h in histories]
    return Sequences(before, [np.arange(len(h)) for h in before], np.array([h[-1] for h in histories]))


def test_trust_in_a_ranker_is_measured_as_rank_all_does():
    part, candidates = held_out(), 12
    model = TwoStage(made("sasrec"), SecondStage(ranker_of("fusion"), candidates, "next", 0.5)).eval()
    found = ndcg_by_trust(model, part, (0.0, 0.4, 1.0))
    assert model.second.trust == 0.5
    for trust, told in found.items():
        model.second.trust.fill_(trust)
        assert told == pytest.approx(ndcg(rank_all(model, part, 10)[0], 10).mean())
    assert len(set(found.values())) == 3


def test_weights_of_a_memory_are_measured_as_rank_all_does():
    part, network = held_out(), made("sasrec").eval()
    evidence = transitions(part.items, ITEMS + 1)
    found = ndcg_by_memory(network, Memory(evidence), part, (0.0, 0.4, 2.0))
    assert network.memory is None
    for weight, told in found.items():
        network.memory = Memory(evidence, weight)
        assert told == pytest.approx(ndcg(rank_all(network, part, 10)[0], 10).mean())
    assert len(set(found.values())) == 3


def test_wrong_settings_are_named(run: Path):
    import yaml

    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, key, value, message in (
        ("train", "model", "fuson", "train.model"),
        ("train", "loss", "hinge", "train.loss"),
        ("train", "heads", 3, "multiple of train.heads"),
        ("train", "rank_by", "profit", "train.rank_by"),
        ("train", "branches", ["luck"], "train.branches"),
        ("train", "ranker", {"batch_user": 16, "learning_rate": 0.003, "epochs": 5}, "train.ranker"),
        ("train", "ranker", {"batch_users": 16, "learning_rate": "3e-3", "epochs": 5}, "train.ranker"),
        ("train", "strategy", "fsdp", "train.devices"),
    ):
        changed = params | {section: params[section] | {key: value}}
        Path("params.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(StageError, match=message):
            run_stages("train")


@pytest.mark.e2e
@pytest.mark.parametrize(("model", "strategy"), [("sasrec", "ddp"), ("sasrec", "fsdp"), ("fusion", "ddp")])
def test_two_processes_train_one_network(run: Path, model: str, strategy: str):
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["train"] |= {"model": model, "accelerator": "cpu", "devices": 2, "strategy": strategy, "memory": False}
    shutil.rmtree("data/model")
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    subprocess.run([sys.executable, "-m", "pipelines.train"], check=True, timeout=300)
    epochs = Path("reports/train/plots/metrics/valid/ndcg@10.tsv").read_text().splitlines()[1:]
    assert 1 <= len(epochs) <= settings["train"]["epochs"]
    # What both found together on their shares of the shoppers is what one finds on all.
    trained = train.load("data/model")
    if model == "fusion":
        trained.second.trust.fill_(1.0)
    alone = ndcg(rank_all(trained, histories.load().valid, 10)[0], 10).mean()
    assert max(float(line.split("\t")[1]) for line in epochs) == pytest.approx(alone, abs=1e-3)
    assert not list(Path("data/.checkpoints").iterdir())


SHARDED = """
import torch
from pytorch_lightning.callbacks import Callback
from torch.distributed.tensor import DTensor
from pipelines import histories, train
from pipelines.stage import params

class Look(Callback):
    def on_train_end(self, trainer, module):
        table = module.network.table.weight
        moments = trainer.optimizers[0].state[table]["exp_avg"]
        here = [tuple(t.to_local().shape) if isinstance(t, DTensor) else tuple(t.shape) for t in (table, moments)]
        print(trainer.global_rank, *here, flush=True)

train.learn(params("train"), histories.load(), Look())
"""


@pytest.mark.e2e
@pytest.mark.parametrize("loss", ["sampled_softmax", "full_softmax"])
def test_a_sharded_table_learns_what_a_whole_one_does(run: Path, loss: str):
    settings = yaml.safe_load(Path("params.yaml").read_text())
    Path("look.py").write_text(SHARDED)
    found, rows = {}, len(histories.load().items) + 1
    for strategy in ("ddp", "fsdp"):
        settings["train"] |= {"accelerator": "cpu", "devices": 2, "strategy": strategy, "memory": False, "loss": loss, "dropout": 0.0,
                              "unnamed": 0.0, "epochs": 2}  # fmt: skip
        Path("params.yaml").write_text(yaml.safe_dump(settings))
        done = subprocess.run(
            [sys.executable, "look.py"],
            check=True,
            timeout=300,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": "."},
        )
        shapes = sorted(line for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 "))
        parts = (rows, rows) if strategy == "ddp" else (-(-rows // 2), rows // 2)
        assert shapes == [f"{rank} {(part, 32)} {(part, 32)}" for rank, part in enumerate(parts)]
        found[strategy] = np.load("data/model/weights.npz")["table.weight"]
    np.testing.assert_allclose(found["fsdp"], found["ddp"], atol=2e-3)
