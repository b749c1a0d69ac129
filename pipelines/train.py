"""train: a next-item recommender on the prepared histories, with Lightning.

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
from dvclive.lightning import DVCLiveLogger
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar

from models.batches import HistoryData
from models.learner import NextItem
from models.losses import LOSSES
from models.sasrec import SASRec
from pipelines import histories
from pipelines.stage import StageError, log, output, params, run, write_json


def main() -> None:
    settings = params("train")
    if settings["loss"] not in LOSSES:
        raise StageError(f"train.loss is {settings['loss']!r}; it must be one of {', '.join(LOSSES)}")
    if settings["width"] % settings["heads"]:
        raise StageError(f"train.width ({settings['width']}) must be a multiple of train.heads ({settings['heads']})")
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    data = histories.load()
    shape = {"items": histories.vocabulary_size()} | {k: settings[k] for k in ("width", "layers", "heads", "dropout", "max_len")}
    network = SASRec(**shape)
    learner = NextItem(network, settings["loss"], settings["negatives"], settings["learning_rate"], settings["weight_decay"])
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
        gradient_clip_val=1.0,
        callbacks=[EarlyStopping("valid/ndcg@10", patience=settings["patience"], mode="max"), best, latest, *shown],
        logger=DVCLiveLogger(dir=str(curves), resume=resume.exists(), dvcyaml=None, save_dvc_exp=False, report=None),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = HistoryData(
        data.train, data.valid.histories, data.valid.targets, settings["max_len"], settings["batch_users"], settings["seed"]
    )
    # Our own checkpoint, just written by this program on this machine: Lightning's state needs full loading.
    trainer.fit(learner, module, ckpt_path=str(resume) if resume.exists() else None, weights_only=False)
    if trainer.interrupted:
        raise StageError("interrupted; run again to go on from the last finished epoch")
    if not trainer.is_global_zero:
        return  # of several processes training together, the first alone writes
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=False)["state_dict"]
    log.info("train: best valid NDCG@10 %.4f after %s epochs", float(best.best_model_score), trainer.current_epoch)
    save("data/model", {k.removeprefix("network."): v for k, v in state.items()}, shape)
    with output("reports/train") as reports:
        shutil.copytree(curves, reports, dirs_exist_ok=True)
    shutil.rmtree(checkpoints)


def save(folder: str, state: dict[str, torch.Tensor], shape: dict) -> None:
    """Writes weights.npz and model.json, from which `load` makes the network again. Nothing is pickled."""
    with output(folder) as path:
        np.savez(path / "weights.npz", **{k: v.cpu().numpy() for k, v in state.items()})
        write_json(path / "model.json", shape)


def load(folder: str) -> SASRec:
    """The network saved in `folder`, ready to predict."""
    network = SASRec(**json.loads(Path(folder, "model.json").read_text(encoding="utf-8")))
    with np.load(Path(folder, "weights.npz"), allow_pickle=False) as weights:
        network.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
    return network.eval()


def fingerprint(settings: dict) -> str:
    """Names a training by what goes in: the settings and the bytes of the histories."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update((histories.PREPARED / "histories.parquet").read_bytes())
    return digest.hexdigest()[:16]


class PlainProgress(Callback):
    """A line an epoch, for logs."""

    def __init__(self, epochs: int):
        self.epochs, self.started = epochs, time.monotonic()

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
