"""What is tried to make a model smaller, and which of it is taken."""

from pathlib import Path

import onnx
import pytest
import torch
import yaml

from models.families import build
from models.served import pruning
from pipelines import compress
from pipelines.artefact.candidates import name
from pipelines.learning import prepared, saved
from pipelines.stage import StageError, read_json
from tests.conftest import run_stages

ONE_STEP = [{"table": "fp16"}, {"table": "int8"}, {"table": "int4"}, {"table": "int8+fp32"}, {"table": "int4+fp32"}, {"rank": 0.75}, {"neighbours": 0.9},
            {"units": 0.5}, {"sparsity": 0.5}, {"sparsity": "2:4"},
            *({"layers": kind} for kind in ("dynamic8", "static8", "weight8", "weight4", "fp16")),
            {"table": "int4", "layers": "static8", "units": 0.5, "sparsity": "2:4"}]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(finished: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        whole = Path("data/export/model.onnx").resolve()
        made = compress.Workshop(tmp_path_factory.mktemp("candidates"), saved.load("data/model"), whole, prepared.load(), 20)
        made.fp32 = made.candidate({})
        yield made


@pytest.mark.parametrize("steps", ONE_STEP, ids=name)
def test_every_candidate_answers_much_as_fp32(workshop: compress.Workshop, steps: dict):
    row = workshop.candidate(steps)
    pruned = "units" in steps or "sparsity" in steps
    assert row["overlap"] > (0.75 if pruned or "rank" in steps else 0.9)
    # Factors are for tables longer than this.
    if not steps.get("table", "").endswith("+fp32") and not {"rank", "sparsity"} & steps.keys():
        assert row["bytes"] < workshop.fp32["bytes"]


def test_the_compressed_table_stands_once(workshop: compress.Workshop):
    workshop.candidate({"table": "int8", "layers": "dynamic8"})
    weights = onnx.load(workshop.path({"table": "int8", "layers": "dynamic8"})).graph.initializer
    items = workshop.data.items + 1
    codes = [t for t in weights if t.dims and t.dims[0] == items and t.dims[-1] == 32 and "parts" not in t.name]
    assert [t.data_type for t in codes] == [onnx.TensorProto.UINT8]
    assert not [t.name for t in weights if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2 and t.dims[0] == 32]


def sasrec():
    torch.manual_seed(0)
    shape = {"width": 8, "layers": 2, "heads": 2, "dropout": 0.0, "max_len": 6, "gated": False, "id_dropout": 0.0, "event_dropout": 0.0}  # fmt: skip
    return build("sasrec", 20, shape, None).eval()


def test_units_that_say_nothing_are_the_ones_removed():
    network, history = sasrec(), torch.tensor([[1, 5, 7]])
    with torch.no_grad():
        for block in network.encoder.blocks:
            block.down.weight[:, ::2] = 0  # half of the units
            block.out.weight[:, :4] = 0  # the first of two heads
    smaller = pruning.narrowed(network, 0.5).eval()
    assert [(b.up.out_features, b.attention.heads, b.qkv.out_features) for b in smaller.encoder.blocks] == [
        (16, 1, 12),
        (16, 1, 12),
    ]
    torch.testing.assert_close(smaller.scores(history, history), network.scores(history, history))
    with pytest.raises(ValueError, match="self-attention"):
        pruning.narrowed(
            build(
                "gru", 20, {"width": 8, "layers": 1, "dropout": 0.0, "max_len": 6, "id_dropout": 0.0, "event_dropout": 0.0}, None
            ),
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


@pytest.mark.e2e
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
