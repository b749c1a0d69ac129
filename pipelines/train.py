"""train: the recommender that `train.model` names, on the prepared histories; networks with Lightning.

In:  data/prepared, settings `train`.
Out: data/model/weights.npz and model.json (the network's shape), reports/train (DVCLive metrics and plots).

Killed at any moment and run again, it goes on from the last finished epoch: checkpoints stand outside the outputs, under
data/.checkpoints/<hash of inputs and settings>, and are removed when training is done.
"""

import hashlib
import json
import logging
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from dvclive import Live
from dvclive.lightning import DVCLiveLogger
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only

from models.baselines import Memory, Neighbours, ease, incidence, item_knn, transitions
from models.batches import Histories, HistoryData
from models.families import build, loss_of
from models.learner import NextItem
from models.sequence import NextItemNetwork
from pipelines import histories
from pipelines.histories import Prepared
from pipelines.ranking import best_popularity, valid_ndcg
from pipelines.stage import StageError, log, output, params, run, write_json

SHAPE = ("width", "layers", "heads", "dropout", "max_len", "gated", "unnamed", "event_dropout")
BASELINES = ("popularity", "item_knn", "transitions", "ease")
MEMORY_WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    settings, data = params("train"), histories.load()
    if settings["model"] in BASELINES:
        solve(settings["model"], data)
    else:
        learn(settings, data)


def learn(settings: dict, data: Prepared, *watching: Callback) -> None:
    """Trains a network; `watching` are called back as training goes on."""
    try:
        loss = loss_of(settings["model"], settings["loss"])
    except ValueError as error:
        raise StageError(f"train.{error}") from error
    if settings["width"] % settings["heads"]:
        raise StageError(f"train.width ({settings['width']}) must be a multiple of train.heads ({settings['heads']})")
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    shape = {k: settings[k] for k in SHAPE}
    attributes = data.attributes() if settings["side_information"] else None
    network = build(settings["model"], len(data.items), shape, None if attributes is None else torch.from_numpy(attributes))
    counts = data.popularity()
    learner = NextItem(network, loss, counts, settings["negatives"], settings["learning_rate"], settings["weight_decay"])
    checkpoints = Path("data/.checkpoints") / fingerprint(settings)
    best = ModelCheckpoint(checkpoints, filename="best", monitor="valid/ndcg@10", mode="max", enable_version_counter=False)
    latest = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    resume = checkpoints / "last.ckpt"
    if resume.exists():
        log.info("train: going on from %s", resume)
    shown = [TQDMProgressBar()] if sys.stderr.isatty() else [PlainProgress(settings["epochs"])]
    curves = checkpoints / "curves"
    trainer = pl.Trainer(
        max_epochs=settings["epochs"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        strategy=settings["strategy"],
        precision=settings["precision"],
        accumulate_grad_batches=settings["accumulate"],
        gradient_clip_val=1.0,
        callbacks=[EarlyStopping("valid/ndcg@10", patience=settings["patience"], mode="max"), best, latest, *shown, *watching],
        logger=DVCLiveLogger(dir=str(curves), resume=resume.exists(), dvcyaml=None, save_dvc_exp=False, report=None),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = HistoryData(data.train, data.valid, settings["max_len"], settings["batch_users"], settings["seed"])
    # Our own checkpoint, just written by this program on this machine: Lightning's state needs full loading.
    trainer.fit(learner, module, ckpt_path=str(resume) if resume.exists() else None, weights_only=False)
    if trainer.interrupted:
        raise StageError("interrupted; run again to go on from the last finished epoch")
    if not trainer.is_global_zero:
        return  # of several processes training together, the first alone writes
    learner.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=False)["state_dict"])
    finish(network.eval(), data, settings["memory"])
    log.info("train: best valid NDCG@10 %.4f after %s epochs", float(best.best_model_score), trainer.current_epoch)
    save("data/model", {"model": settings["model"], "items": len(data.items), **shape}, network)
    with output("reports/train") as reports:
        shutil.copytree(curves, reports, dirs_exist_ok=True)
    shutil.rmtree(checkpoints)


def finish(network: NextItemNetwork, data: Prepared, memory: bool) -> None:
    """What a trained network gets on top: a place for items that training never showed, and a memory."""
    some = data.valid.sample(1024)
    history, times = Histories(some, network.max_len)[range(len(some))][:2]
    device = network.table.weight.device
    network.admit(torch.from_numpy(data.popularity()).to(device), history.to(device), times.to(device))
    if memory:
        remember(network, data)


def remember(network: NextItemNetwork, data: Prepared) -> None:
    """Gives the network a memory of which item followed which in training, weighed as validation likes best; none if it does not."""
    evidence = transitions(data.train.items, len(data.items) + 1)
    found = {}
    for weight in (None, *MEMORY_WEIGHTS):
        network.memory = None if weight is None else Memory(evidence, weight)
        found[weight] = valid_ndcg(network, data.valid)
    best = max(found, key=found.get)
    network.memory = None if best is None else Memory(evidence, best)
    log.info("train: with memory weighing %s, valid NDCG@10 %.4f (%.4f without)", best or 0, found[best], found[None])


def solve(model: str, data: Prepared) -> None:
    """Makes a model of linear algebra, which takes no epochs."""
    items = len(data.items) + 1
    makers = {
        "popularity": lambda: best_popularity(data),
        "item_knn": lambda: item_knn(incidence(data.train.items, items)),
        "transitions": lambda: transitions(data.train.items, items),
        "ease": lambda: ease(incidence(data.train.items, items)),
    }
    try:
        made = makers[model]()
    except ValueError as error:
        raise StageError(f"train.model: {error}") from error
    save("data/model", {"model": model}, made)
    with output("reports/train") as reports, Live(str(reports), dvcyaml=None, save_dvc_exp=False, report=None) as live:
        live.log_metric("valid/ndcg@10", valid_ndcg(made, data.valid))
        live.next_step()


def save(folder: str, shape: dict, network: torch.nn.Module) -> None:
    """Writes weights.npz and model.json, from which `load` makes the network again. Nothing is pickled."""
    with output(folder) as path:
        np.savez(path / "weights.npz", **{k: v.cpu().numpy() for k, v in network.state_dict().items()})
        write_json(path / "model.json", shape)


def load(folder: str) -> NextItemNetwork | Neighbours:
    """The model saved in `folder`, ready to predict."""
    shape = json.loads(Path(folder, "model.json").read_text(encoding="utf-8"))
    with np.load(Path(folder, "weights.npz"), allow_pickle=False) as arrays:
        state = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
    if shape["model"] in BASELINES:
        return _neighbours(state)
    network = build(shape.pop("model"), shape.pop("items"), shape, state.get("known"))
    if "memory.weight" in state:
        network.memory = Memory(_neighbours({k.removeprefix("memory.neighbours."): v for k, v in state.items()}))
    network.load_state_dict(state)
    return network.eval()


def _neighbours(state: dict[str, torch.Tensor]) -> Neighbours:
    return Neighbours(state["items"], state["weights.rows"], state["bias"], state["decay"].item())


def fingerprint(settings: dict) -> str:
    """Names a training by what goes in: the settings and the bytes of the histories."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update((histories.PREPARED / "histories.parquet").read_bytes())
    return digest.hexdigest()[:16]


class PlainProgress(Callback):
    """A line an epoch, for logs."""

    def __init__(self, epochs: int):
        self.epochs, self.started = epochs, time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        log.info(
            "train: epoch %s of %s, loss %.3f, valid NDCG@10 %.4f, %.0f s",
            trainer.current_epoch + 1, self.epochs, values.get("train/loss", float("nan")),
            values.get("valid/ndcg@10", float("nan")), time.monotonic() - self.started,
        )  # fmt: skip


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    run(main)
