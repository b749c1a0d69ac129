"""compress: smaller versions of the exported graph, measured; the smallest within the allowed NDCG loss wins.

In:  data/model, data/export, data/prepared, settings `compress`, `train`, `serve`.
Out: data/compressed/model.onnx (the winner), reports/compression.json and .csv (every candidate).

Candidates are chosen on the validation part and reported on the test part too. Steps: `int8` keeps the item table in int8,
once, for lookup and scoring, and quantises the weights of the layers (onnxruntime's dynamic quantisation, a scale a column);
`pruned` removes the feed-forward units of smallest magnitude (L2 norm of what goes in times what comes out; structured
magnitude pruning, Li et al. 2017, so that bytes really go) and fine-tunes what is left to answer as the whole network does.
A candidate must also answer much as fp32 does (the top 10 shared): validation NDCG alone flatters a network that was tuned on.
"""

import logging
from copy import deepcopy
from pathlib import Path

import numpy as np
import polars as pl
import pytorch_lightning as lightning
from onnx import TensorProto
from onnx import load as load_graph
from onnx import save as save_graph
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from models.batches import Histories, HistoryData
from models.learner import Distilled
from models.sasrec import SelfAttention
from models.sequence import NextItemNetwork
from pipelines import histories, onnx
from pipelines.histories import Prepared
from pipelines.ranking import Model
from pipelines.stage import StageError, log, output, params, run, write_json
from pipelines.train import load

RECIPES = {"none": ["fp32"], "int8": ["fp32", "int8"], "int8+pruned": ["fp32", "int8", "pruned", "pruned+int8"]}


def main() -> None:
    settings, train, serve = params("compress", "train", "serve")
    if settings["recipe"] not in RECIPES:
        raise StageError(f"compress.recipe is {settings['recipe']!r}; it must be one of {', '.join(RECIPES)}")
    data = histories.load()
    network = load("data/model")
    pruned = reference = None
    rows = []
    with output("data/candidates") as folder:
        for name in RECIPES[settings["recipe"]]:
            if not applies(name, network):
                continue
            if "pruned" in name and pruned is None:
                pruned = finetune(prune(network, settings["prune_share"]), network, data, train, settings["finetune_epochs"])
            chosen = pruned if "pruned" in name else network
            path = folder / f"{name}.onnx"
            if name == "fp32":
                path.write_bytes(Path("data/export/model.onnx").read_bytes())
            else:
                onnx.export(chosen, len(data.items), serve["max_k"], path, int8_table="int8" in name)
            if "int8" in name:
                quantise_layers(path)
            row, answers = measure(path, data, network.max_len, reference)
            reference = answers if reference is None else reference
            rows.append({"candidate": name} | row)
            log.info(
                "compress: %-11s %9s bytes, valid NDCG@10 %.4f, %.2f ms",
                name,
                f"{rows[-1]['bytes']:,}",
                rows[-1]["valid_ndcg@10"],
                rows[-1]["ms_batch_1"],
            )
        winner = choose(rows, settings["max_ndcg_loss"], settings["min_overlap"])
        with output("data/compressed") as compressed:
            (folder / f"{winner['candidate']}.onnx").rename(compressed / "model.onnx")
    fp32 = rows[0]
    kept = {part: winner[f"{part}_ndcg@10"] / max(fp32[f"{part}_ndcg@10"], 1e-12) for part in ("valid", "test")}
    report = {"chosen": winner["candidate"], "fp32_bytes": fp32["bytes"], "bytes": winner["bytes"], "ndcg_kept": kept["test"],
              "valid_ndcg_kept": kept["valid"], "candidates": rows}  # fmt: skip
    write_json("reports/compression.json", report)
    pl.DataFrame(rows).write_csv("reports/compression.csv")
    log.info(
        "compress: %s wins: %.2f x the bytes, %.1f %% of the NDCG@10",
        winner["candidate"],
        winner["bytes"] / fp32["bytes"],
        100 * kept["test"],
    )


def choose(rows: list[dict], max_loss: float, min_overlap: float) -> dict:
    """The smallest candidate that loses no more than allowed against fp32, the first row.

    Of the validation NDCG@10 it may lose the share `max_loss`, give or take one standard error of the shoppers' paired
    differences (in a small shop a single shopper's rank moves the mean by more than quantisation does); and at least the
    share `min_overlap` of its top 10 must be fp32's.
    """
    allowed = max_loss * rows[0]["valid_ndcg@10"]
    fit = [r for r in rows if r["valid_loss"] - r["valid_loss_se"] <= allowed and r["overlap@10"] >= min_overlap]
    return min(fit, key=lambda r: r["bytes"])


def applies(candidate: str, network: Model) -> bool:
    """Can it be made of this model? Feed-forward layers are the transformer's alone."""
    return "pruned" not in candidate or (isinstance(network, NextItemNetwork) and isinstance(network.encoder, SelfAttention))


def prune(network: NextItemNetwork, share: float) -> NextItemNetwork:
    """A copy without the `share` of each layer's feed-forward units that have the smallest magnitude."""
    smaller = deepcopy(network)
    for block in smaller.encoder.blocks:
        magnitude = block.up.weight.norm(dim=1) * block.down.weight.norm(dim=0)
        keep = magnitude.topk(max(1, round(len(magnitude) * (1 - share)))).indices.sort().values
        up, down = nn.Linear(block.up.in_features, len(keep)), nn.Linear(len(keep), block.down.out_features)
        up.load_state_dict({"weight": block.up.weight[keep], "bias": block.up.bias[keep]})
        down.load_state_dict({"weight": block.down.weight[:, keep], "bias": block.down.bias})
        block.up, block.down = up, down
    return smaller


def finetune(network: NextItemNetwork, teacher: NextItemNetwork, data: Prepared, train: dict, epochs: int) -> NextItemNetwork:
    """Trains the pruned network for `epochs` to answer as the whole one does, at a quarter of the learning rate."""
    lightning.seed_everything(train["seed"], workers=True, verbose=False)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    learner = Distilled(network, deepcopy(teacher), train["learning_rate"] / 4, train["weight_decay"])
    module = HistoryData(Histories(data.train, network.max_len), data.valid, network.max_len, train["batch_users"], train["seed"])
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator=train["accelerator"], devices=1, precision=train["precision"], gradient_clip_val=1.0,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(learner.train(), module.train_dataloader())
    return network.cpu().eval()


def quantise_layers(path: Path) -> None:
    """The layers' weights to int8, in place; the item table, which is int8 already, stays one table."""
    float_path = path.with_suffix(".float.onnx")
    graph = load_graph(path)
    del graph.graph.value_info[:]  # onnxruntime turns weights round and would trip over the shapes noted before
    save_graph(graph, float_path)
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's advice to pre-process, once a model
    quantize_dynamic(float_path, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8,
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})  # where shapes cannot be inferred  # fmt: skip
    float_path.unlink()


def measure(path: Path, data: Prepared, max_len: int, reference: np.ndarray | None) -> tuple[dict, np.ndarray]:
    """A candidate's row of the table, and its answers (N, k) on the validation part; `reference` are those of fp32."""
    graph = onnx.session(path)
    items = len(data.items)
    valid, test = (onnx.answers(graph, part, max_len, items) for part in (data.valid, data.test))
    reference = valid if reference is None else reference
    before, now = (onnx.ndcg_at_10(found, data.valid.targets) for found in (reference, valid))
    shared = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(valid[:, :10], reference[:, :10], strict=True)])
    return {
        "bytes": path.stat().st_size,
        "valid_ndcg@10": float(now.mean()),
        "valid_loss": float((before - now).mean()),
        "valid_loss_se": float((before - now).std() / len(now) ** 0.5),
        "test_ndcg@10": float(onnx.ndcg_at_10(test, data.test.targets).mean()),
        "overlap@10": float(shared),
        "ms_batch_1": round(onnx.latency_ms(onnx.session(path, 1), data.test, max_len, items, 1), 3),
        "ms_batch_32": round(onnx.latency_ms(graph, data.test, max_len, items, 32), 3),
    }, valid


if __name__ == "__main__":
    run(main)
