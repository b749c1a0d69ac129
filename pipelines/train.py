"""train: the recommender that `train.model` names, on the prepared histories; networks with Lightning.

In:  data/prepared, settings `train`.
Out: data/model/weights.npz and model.json (the network's shape), reports/train (DVCLive metrics and plots).

A ranker is trained after its retriever (`train.retriever`), and both together are the model. Killed at any moment and run again, it goes
on from the last finished epoch: checkpoints stand outside the outputs, under data/.checkpoints/<hash of inputs and settings>, and are
removed when training is done.
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
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_only

from models.baselines import Memory, Neighbours, ease, incidence, item_knn, transitions
from models.batches import Histories, HistoryData, Sequences, Shown
from models.families import FAMILIES, RANKERS, build, build_ranker, loss_of
from models.fusion import BRANCHES
from models.learner import NextItem
from models.rank_learner import RankShown
from models.ranker import TASKS, Ranker
from models.sequence import NextItemNetwork
from models.two_stage import SecondStage, TwoStage
from pipelines import histories
from pipelines.histories import Prepared
from pipelines.ranking import SAMPLE, Model, best_popularity, ndcg_by_memory, ndcg_by_trust, valid_ndcg
from pipelines.stage import StageError, log, output, params, read_json, run, write_json

SHAPE = ("width", "layers", "heads", "dropout", "max_len", "gated", "unnamed", "event_dropout")
BASELINES = ("popularity", "item_knn", "transitions", "ease")
RATES = ("learning_rate", "weight_decay")
OF_RANKER = ("batch_users", "learning_rate", "epochs")
MEMORY_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TRUST = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    settings, data = params("train"), histories.load()
    if settings["model"] in BASELINES:
        solve(settings["model"], data)
    else:
        learn(settings, data)


def learn(settings: dict, data: Prepared, *watching: Callback) -> None:
    """Trains a network, or a ranker after its retriever; `watching` are called back as the next-item network's training goes on."""
    check(settings)
    torch.set_float32_matmul_precision("high")
    checkpoints = Path("data/.checkpoints") / fingerprint(settings)
    model = next_item(settings, data, checkpoints / "next-item", *watching)
    if settings["model"] in RANKERS:
        model = two_stage(settings, data, model, checkpoints / "ranker")
    if not leads():
        return  # of several processes training together, the first alone writes
    save("data/model", shape(settings, data), model)
    with output("reports/train") as reports:
        last = "ranker" if isinstance(model, TwoStage) else "next-item"
        shutil.copytree(checkpoints / last / "curves", reports, dirs_exist_ok=True)
    shutil.rmtree(checkpoints)


def shape(settings: dict, data: Prepared) -> dict:
    """What `load` needs beside the weights."""
    own = {k: settings[k] for k in SHAPE}
    if settings["model"] not in RANKERS:
        return {"model": settings["model"], "items": len(data.items)} | own
    retriever = shape(settings | {"model": settings["retriever"]}, data)
    ranker = own | {"branches": settings["branches"], "money": data.numbers()[1], "platforms": len(data.platforms)}
    return {"model": settings["model"], "retriever": retriever, "ranker": ranker} | {
        k: settings[k] for k in ("candidates", "rank_by")
    }


def next_item(settings: dict, data: Prepared, checkpoints: Path, *watching: Callback) -> NextItemNetwork:
    """The trained next-item network (a ranker's retriever); trained already, it is read."""
    done = checkpoints / "done"
    name = settings["retriever"] if settings["model"] in RANKERS else settings["model"]
    known = attributes(settings, data)

    def new() -> NextItemNetwork:
        return build(name, len(data.items), settings, known)

    if not done.exists():
        pl.seed_everything(settings["seed"], workers=True, verbose=False)
        loss, rates = loss_of(name, settings["loss"]), [settings[r] for r in RATES]
        learner = NextItem(new(), loss, data.popularity(), settings["negatives"], *rates)
        best = fit(learner, Histories(data.train, settings["max_len"]), data.valid, checkpoints, settings, *watching)
        if leads():
            network = restored(new(), best, "network.")
            finish(network, data, settings["memory"])
            save(done, shape(settings | {"model": name}, data), network)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the other processes wait until the first has written it
    return load(done)


def two_stage(settings: dict, data: Prepared, retriever: NextItemNetwork, checkpoints: Path) -> TwoStage:
    """The retriever with a trained ranker."""
    settings = settings | settings["ranker"] | {"epochs": min(settings["epochs"], settings["ranker"]["epochs"])}
    numbers, own = torch.from_numpy(data.numbers()[0]), shape(settings, data)["ranker"]
    known = attributes(settings, data)

    def new() -> Ranker:
        return build_ranker(settings["model"], len(data.items), own, known, numbers)

    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    ranker = new()
    ranker.start_from(retriever)
    learner = RankShown(ranker, retriever, settings["candidates"], data.popularity(), *(settings[r] for r in RATES))
    shown = Shown(data.train, data.impressions("train"), settings["max_len"])
    best = fit(learner, shown, data.valid.sample(SAMPLE), checkpoints, settings)
    ranker = restored(new(), best, "network.second.ranker.")
    model = TwoStage(retriever, SecondStage(ranker, settings["candidates"], settings["rank_by"]))
    if leads() and settings["rank_by"] == "next":
        weigh_ranker(model, data)
    return model


def restored(network: torch.nn.Module, checkpoint: Path, prefix: str) -> torch.nn.Module:
    """The network with the weights of a checkpoint of this program, ready to predict."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return network.eval()


def leads() -> bool:
    """Is this the first of the processes that train together, or the only one?"""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def check(settings: dict) -> None:
    """Raises: StageError: settings that cannot be; the message names them."""
    models = (*BASELINES, *FAMILIES, *RANKERS)
    if settings["model"] not in models:
        raise StageError(f"train.model is {settings['model']!r}; it must be one of {', '.join(models)}")
    ranker = settings["model"] in RANKERS
    named = "retriever" if ranker else "model"
    try:
        loss_of(settings[named], settings["loss"])
    except ValueError as error:
        raise StageError(f"train.{named}: {error}" if ranker else f"train.{error}") from error
    if settings["width"] % settings["heads"]:
        raise StageError(f"train.width ({settings['width']}) must be a multiple of train.heads ({settings['heads']})")
    if settings["rank_by"] not in TASKS:
        raise StageError(f"train.rank_by is {settings['rank_by']!r}; it must be one of {', '.join(TASKS)}")
    if settings["strategy"] == "fsdp" and not (isinstance(settings["devices"], int) and settings["devices"] > 1):
        raise StageError(f"train.devices is {settings['devices']!r}; with train.strategy fsdp it must be a number above 1")
    if not settings["branches"] or set(settings["branches"]) - set(BRANCHES):
        raise StageError(f"train.branches is {settings['branches']}; it must hold some of {', '.join(BRANCHES)}")
    own = settings["ranker"]
    if set(own) != set(OF_RANKER) or not all(isinstance(v, int | float) and v > 0 for v in own.values()):
        raise StageError(f"train.ranker is {own}; it must give {', '.join(OF_RANKER)}, numbers above 0 (0.003, not 3e-3)")


def attributes(settings: dict, data: Prepared) -> torch.Tensor | None:
    known = data.attributes() if settings["side_information"] else None
    return None if known is None else torch.from_numpy(known)


def fit(
    learner: NextItem, train: Histories | Shown, valid: Sequences, checkpoints: Path, settings: dict, *watching: Callback
) -> Path:
    """Trains until validation no longer gets better; goes on where it was stopped. Returns the checkpoint of the best epoch."""
    best = ModelCheckpoint(checkpoints, filename="best", monitor="valid/ndcg@10", mode="max", enable_version_counter=False)
    latest = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    resume = checkpoints / "last.ckpt"
    if resume.exists():
        log.info("train: going on from %s", resume)
    strategy = settings["strategy"]
    if strategy == "fsdp":  # the newer one, which runs on CPUs too
        strategy = ModelParallelStrategy(settings["devices"], 1, save_distributed_checkpoint=False)
    shown = [TQDMProgressBar()] if sys.stderr.isatty() else [PlainProgress(settings["epochs"])]
    trainer = pl.Trainer(
        max_epochs=settings["epochs"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        strategy=strategy,
        precision=settings["precision"],
        accumulate_grad_batches=settings["accumulate"],
        gradient_clip_val=1.0,
        callbacks=[EarlyStopping("valid/ndcg@10", patience=settings["patience"], mode="max"), best, latest, *shown, *watching],
        logger=DVCLiveLogger(
            dir=str(checkpoints / "curves"), resume=resume.exists(), dvcyaml=None, save_dvc_exp=False, report=None
        ),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = HistoryData(train, valid, settings["max_len"], settings["batch_users"], settings["seed"])
    # Our own checkpoint, just written by this program on this machine: Lightning's state needs full loading.
    trainer.fit(learner, module, ckpt_path=str(resume) if resume.exists() else None, weights_only=False)
    if trainer.interrupted:
        raise StageError("interrupted; run again to go on from the last finished epoch")
    log.info("train: best valid NDCG@10 %.4f after %s epochs", float(best.best_model_score), trainer.current_epoch)
    return Path(best.best_model_path)


def finish(network: NextItemNetwork, data: Prepared, memory: bool) -> None:
    """What a trained network gets on top: a place for items that training never showed, and a memory."""
    some = data.valid.sample(1024)
    shoppers = Histories(some, network.max_len)[range(len(some))][0]
    device = network.table.weight.device
    network.admit(torch.from_numpy(data.popularity()).to(device), shoppers.history.to(device), shoppers.times.to(device))
    if memory:
        remember(network, data)


def remember(network: NextItemNetwork, data: Prepared) -> None:
    """Gives the network a memory of which item followed which in training, weighed as validation likes best; none if it does not."""
    evidence = transitions(data.train.items, len(data.items) + 1)
    found = ndcg_by_memory(network, Memory(evidence), data.valid.sample(SAMPLE), MEMORY_WEIGHTS)
    best = max(found, key=found.get)
    network.memory = Memory(evidence, best) if best else None
    log.info("train: with memory weighing %s, valid NDCG@10 %.4f (%.4f without)", best, found[best], found[0.0])


def weigh_ranker(model: TwoStage, data: Prepared) -> None:
    """Trusts the ranker beside the retriever as much as validation likes best."""
    found = ndcg_by_trust(model, data.valid.sample(SAMPLE), TRUST)
    best = max(found, key=found.get)
    model.second.trust.fill_(best)
    log.info("train: ranker trusted %s, valid NDCG@10 %.4f (%.4f by the retriever)", best, found[best], found[0.0])


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


def save(folder: str | Path, shape: dict, network: torch.nn.Module) -> None:
    """Writes weights.npz and model.json, from which `load` makes the network again. Nothing is pickled."""
    with output(folder) as path:
        np.savez(path / "weights.npz", **{k: v.cpu().numpy() for k, v in network.state_dict().items()})
        write_json(path / "model.json", shape)


def load(folder: str | Path) -> Model:
    """The model saved in `folder`, ready to predict."""
    with np.load(Path(folder, "weights.npz"), allow_pickle=False) as arrays:
        state = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
    return made(read_json(Path(folder, "model.json")), state).eval()


def made(shape: dict, state: dict[str, torch.Tensor]) -> Model:
    """The model of this shape with these weights."""
    if shape["model"] in BASELINES:
        return _neighbours(state)
    if shape["model"] in RANKERS:
        retriever, own = made(shape["retriever"], _below("retriever", state)), shape["ranker"]
        of_ranker = _below("second.ranker", state)
        ranker = build_ranker(shape["model"], shape["retriever"]["items"], own, of_ranker.get("known"), of_ranker["numbers"])
        network = TwoStage(retriever, SecondStage(ranker, shape["candidates"], shape["rank_by"]))
    else:
        network = build(shape["model"], shape["items"], shape, state.get("known"))
        if "memory.weight" in state:
            network.memory = Memory(_neighbours(_below("memory.neighbours", state)))
    network.load_state_dict(state)
    return network


def _below(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(name + "."): v for k, v in state.items() if k.startswith(name + ".")}


def _neighbours(state: dict[str, torch.Tensor]) -> Neighbours:
    return Neighbours(state["items"], state["weights.floats"], state["bias"], state["decay"].item())


def fingerprint(settings: dict) -> str:
    """Names a training by what goes in: the settings and the bytes of histories and impressions."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in ("histories", "impressions"):
        digest.update((histories.PREPARED / f"{name}.parquet").read_bytes())
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
