"""The stages from training to the bento, on one small run of the whole chain."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import Callback

from models.metrics import ndcg
from models.served.topk import TopK
from pipelines.artefact import graph as graphs
from pipelines.learning import fitting, prepared, saved
from pipelines.learning.ranking import rank_all
from pipelines.stage import StageError, params, read_json
from tests.conftest import ROOT, run_stages


def test_reports_say_what_readers_need(finished: Path):
    metrics = read_json(finished / "reports/metrics.json")
    for model in ("test", "popularity", "item_knn"):
        low, high = metrics[model]["ndcg@10_interval"]
        assert 0 <= low <= metrics[model]["ndcg@10"] <= high <= metrics[model]["recall@10_interval"][1] <= 1
    assert set(metrics["segments"]) == {"new shoppers", "regular shoppers", "head items", "tail items", "new items"}
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
    network, data = saved.load("data/model"), prepared.load()
    path = tmp_path / "m.onnx"
    graphs.export(network, data.items, 20, path, **stored)
    inputs = graphs.feed(data.test, network.max_len, data.items)
    rng = np.random.default_rng(0)
    inputs["allowed"] &= rng.random(inputs["allowed"].shape) < 0.5
    with torch.inference_mode():
        expected_items, expected, *_ = TopK(network, 20, **stored)(*(torch.from_numpy(v) for v in inputs.values()))
    items, scores = graphs.call(graphs.session(path), inputs)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)
    assert (items == expected_items.numpy())[np.isfinite(scores)].mean() > 0.999
    assert b".py" not in path.read_bytes()  # no source paths of the machine that exported it


@pytest.mark.e2e
def test_training_goes_on_after_being_killed_and_ends_in_the_same_bits(run: Path, monkeypatch: pytest.MonkeyPatch):
    run_stages("train")  # by this process: another may add up in another order
    undisturbed = {
        p: p.read_bytes() for p in (*Path("data/model").iterdir(), *(f for f in Path("reports/train").rglob("*") if f.is_file()))
    }
    epochs = []

    def killed(self, trainer, module):
        epochs.append(trainer.current_epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt  # the second epoch is trained but not saved

    with monkeypatch.context() as patch:
        patch.setattr(fitting.PlainProgress, "on_train_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stages("train")
    assert epochs == [0, 1]
    assert list(Path("data/.checkpoints").glob("*/*/last.ckpt"))
    with monkeypatch.context() as patch:
        patch.setattr(
            fitting.PlainProgress, "on_train_epoch_end", lambda self, trainer, module: epochs.append(trainer.current_epoch)
        )
        run_stages("train")
    assert epochs == [0, 1, 1, 2]
    assert {p: p.read_bytes() for p in undisturbed} == undisturbed
    assert not list(Path("data/.checkpoints").iterdir())


@pytest.mark.parametrize("changed", ["data/prepared/items.parquet", "models/families.py"])
def test_what_a_training_depends_on_names_it(run: Path, changed: str):
    settings = yaml.safe_load(Path("params.yaml").read_text())["train"]
    before = fitting.fingerprint(settings)
    if changed.startswith("models"):
        Path("models").unlink()
        shutil.copytree(ROOT / "models", "models")
    Path(changed).write_bytes(Path(changed).read_bytes() + b" ")
    assert fitting.fingerprint(settings) != before


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_cannot_run_code(run: Path):
    network = saved.load("data/model")
    torch.save({"state_dict": network.state_dict(), "evil": Evil()}, "crafted.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        fitting.restored(network, Path("crafted.ckpt"), "")
    assert not Path("ran").exists()


def test_a_crafted_checkpoint_to_go_on_from_cannot_run_code(run: Path):
    settings = params("train") | {"epochs": 2}
    data = prepared.load()

    class StopOnce(Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting.learn(settings, data, StopOnce())
    [last] = Path("data/.checkpoints").glob("*/next-item/last.ckpt")
    content = torch.load(last, weights_only=True)
    torch.save(content | {"evil": Evil()}, last)
    with pytest.raises(pickle.UnpicklingError):
        fitting.learn(settings, data)
    assert not Path("ran").exists()


def test_what_is_served_has_learnt_from_everything(finished: Path):
    with chdir(finished):
        data = prepared.load()
        everything = data.everything()
        assert [h.tolist() for h in everything.train.items] == [h.tolist() for h in data.full.items]
        assert everything.popularity.sum() == sum(map(len, data.full.items)) > data.popularity.sum()
        honest, served = (read_json(folder / "model.json") for folder in (Path("data/model"), Path("data/refit")))
        assert served["recipe"]["prior"] == honest["recipe"]["prior"]
        assert saved.load("data/refit").prior.counts.evidence(torch.tensor([[1]])).shape == (1, data.items + 1)
    report = read_json(finished / "reports/refit.json")
    assert report["refit"]
    assert report["compressed"]
    assert report["overlap"] > 0.9
    assert (finished / "data/served/model.onnx").read_bytes() != (finished / "data/compressed/model.onnx").read_bytes()


def test_without_refit_the_honest_model_is_served(run: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"]["refit"] = False
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("refit", "replay")
    assert Path("data/served/model.onnx").read_bytes() == Path("data/compressed/model.onnx").read_bytes()
    assert Path("data/refit/weights.npz").read_bytes() == Path("data/model/weights.npz").read_bytes()


@pytest.mark.e2e
def test_a_ranker_killed_goes_on_without_training_its_retriever_again(run: Path, monkeypatch: pytest.MonkeyPatch):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= {"model": "din", "epochs": 2, "transition_prior": False}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    epochs = []

    def killed(self, trainer, module):
        epochs.append(type(module).__name__)
        if len(epochs) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting.PlainProgress, "on_train_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stages("train")
    run_stages("train")
    assert epochs[:4] == ["NextItem", "NextItem", "RankImpressions", "RankImpressions"]
    assert set(epochs[4:]) <= {"RankImpressions"}
    assert read_json("data/model/model.json")["model"] == "din"
    run_stages("evaluate")
    report = read_json("reports/metrics.json")
    assert 0 < report["retriever"]["ndcg@10"] < 1
    for task in ("click", "cart", "purchase"):
        assert 0 < report["impressions"][task]["auc"] < 1
        assert report["impressions"][task]["positives"] > 0


@pytest.mark.e2e
def test_a_ranker_orders_by_what_it_is_asked_to(run: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= {"model": "din", "epochs": 1, "transition_prior": False, "rank_by": "purchase"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("train", "export")
    model, data = saved.load("data/model"), prepared.load()
    inputs = graphs.feed(data.test.rows(range(5)), model.max_len, data.items)
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
    params |= {"shop_name": "mine"}
    params["baseline"] |= {"shop": "mine", "ndcg": 0.5}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("evaluate")
    report = read_json("reports/metrics.json")
    assert report["production"]["gain"] == pytest.approx(report["test"]["ndcg@10"] / 0.5 - 1)


@pytest.mark.e2e
@pytest.mark.parametrize(("model", "strategy"), [("sasrec", "ddp"), ("sasrec", "fsdp"), ("fusion", "ddp")])
def test_two_processes_train_one_network(run: Path, model: str, strategy: str):
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["train"] |= {"model": model, "accelerator": "cpu", "devices": 2, "strategy": strategy, "transition_prior": False}
    shutil.rmtree("data/model")
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    subprocess.run([sys.executable, "-m", "pipelines.train"], check=True, timeout=300)
    epochs = Path("reports/train/plots/metrics/valid/ndcg@10.tsv").read_text().splitlines()[1:]
    assert 1 <= len(epochs) <= settings["train"]["epochs"]
    # What both found together on their shares of the shoppers is what one finds on all.
    trained = saved.load("data/model")
    if model == "fusion":
        trained.second.blend.fill_(1.0)
    alone = ndcg(rank_all(trained, prepared.load().valid, 10)[0], 10).mean()
    assert max(float(line.split("\t")[1]) for line in epochs) == pytest.approx(alone, abs=1e-3)
    assert not list(Path("data/.checkpoints").iterdir())


SHARDED = """
import os
from pytorch_lightning.callbacks import Callback
from torch.distributed.tensor import DTensor
from pipelines.learning import fitting, prepared, saved
from pipelines.stage import params

class Look(Callback):
    def on_train_end(self, trainer, module):
        table = module.network.table.weight
        moments = trainer.optimizers[0].state[table]["exp_avg"]
        here = [tuple(t.to_local().shape) if isinstance(t, DTensor) else tuple(t.shape) for t in (table, moments)]
        line = " ".join(map(str, (trainer.global_rank, *here)))
        os.write(1, f"{line}\\n".encode())  # at once: the other process writes there, too

model, shape, _ = fitting.learn(params("train"), prepared.load(), Look())
if fitting.leads():
    saved.save("data/model", shape, model)
"""


@pytest.mark.e2e
@pytest.mark.parametrize("loss", ["sampled_softmax", "full_softmax"])
def test_a_sharded_table_learns_what_a_whole_one_does(run: Path, loss: str):
    settings = yaml.safe_load(Path("params.yaml").read_text())
    Path("look.py").write_text(SHARDED)
    found, rows = {}, prepared.load().items + 1
    for strategy in ("ddp", "fsdp"):
        settings["train"] |= {"accelerator": "cpu", "devices": 2, "strategy": strategy, "transition_prior": False, "loss": loss, "dropout": 0.0,
                              "id_dropout": 0.0, "epochs": 2}  # fmt: skip
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
