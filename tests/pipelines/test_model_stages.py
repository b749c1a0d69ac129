"""The stages from training to the bento, on one small run of the whole chain."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from models.metrics import ndcg
from models.topk import TopK
from pipelines import histories, train
from pipelines import onnx as graphs
from pipelines.ranking import rank_all
from pipelines.stage import StageError, read_json
from tests.conftest import run_stages


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
    params = yaml.safe_load(Path("params.yaml").read_text())
    source = f"{params['source']['name']}:{params['source']['data']}"
    params["baseline"] |= {"source": source, "ndcg": 0.5}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("evaluate")
    report = read_json("reports/metrics.json")
    assert report["production"]["gain"] == pytest.approx(report["test"]["ndcg@10"] / 0.5 - 1)


def test_wrong_settings_are_named(run: Path):
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
