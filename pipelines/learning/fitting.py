"""Training networks with Lightning: the loop, going on where a killed process was, what names a training.

A training that is killed at any moment and run again ends in the same weights, bit for bit on a CPU: checkpoints are whole or absent, every
step draws from a seed of its own, and curves are kept in the checkpoints. They stand in data/.checkpoints/<fingerprint> until the model
is saved.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.strategies import ModelParallelStrategy

from models.batches import Gathered, Histories, HistoryData, ImpressionData
from models.families import RANKERS, build, build_ranker, loss_of
from models.rankers.ranker import Ranker
from models.rankers.two_stage import SecondStage, TwoStage, network_of
from models.retrieval.blend import Blend
from models.retrieval.network import NextItemNetwork
from models.sequences import Sequences
from models.training.learner import Distilled, NextItem
from models.training.rank_learner import RankImpressions
from pipelines.learning import choices, device, saved
from pipelines.learning.callbacks import Curves, Patience, PlainProgress, StepSeed, StopAfter
from pipelines.learning.captured import CapturedSteps
from pipelines.learning.prepared import EMBEDDED, PREPARED, Prepared
from pipelines.learning.ranking import SAMPLE
from pipelines.learning.saved import Model
from pipelines.stage import StageError, log, read_json, write_json

SHAPE = ("width", "layers", "heads", "dropout", "max_len", "gated", "id_dropout", "event_dropout")
RATES = ("learning_rate", "weight_decay")
CHECKPOINTS = Path("data/.checkpoints")
# What a training's outcome depends on beside data and settings: not how a graph is served.
CODE = (
    "models/*.py",
    *(f"models/{part}/*.py" for part in ("encoders", "rankers", "retrieval", "training")),
    "pipelines/learning/*.py",
)
DATA = ("histories.parquet", "flat/*.npy", "impressions.parquet", "items.parquet", "content.parquet")
FINISHED: list[Path] = []  # checkpoints of trainings that this process ended, until their models are saved
SCORES_VALIDATED = 300_000_000  # scores that an epoch's validation computes, about
FEWEST_VALIDATED = 2000  # shoppers that it has at least
WAIT = 60  # seconds for another process that trains the same to end

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


class CheckpointsInUse(Exception):
    """Another process trains the same in this folder."""


def learn(
    settings: dict, data: Prepared, *watching: Callback, recipe: dict | None = None, retriever: tuple[Model, dict] | None = None
) -> tuple[Model, dict, list[dict]]:
    """Trains a network, or a ranker after its retriever.

    Args:
        settings: `train`. watching: called back as the next-item network's training goes on. recipe: of a model that was trained before
            (shape["recipe"]): so many epochs, such weights of prior and ranker; None: what validation likes best. retriever: of a ranker,
            learnt already, with its shape; None: the network that train.retriever names is trained first.

    Returns:
        The model on the device that it was trained on, its shape (for saved.save), and the curves, a row an epoch, of what was trained last.
    """
    torch.set_float32_matmul_precision("high")
    place = device.choose(settings["accelerator"])
    folder = CHECKPOINTS / fingerprint(settings | ({"retriever": retriever[1]["recipe"]} if retriever else {}), recipe)
    with exclusive(folder):
        settings = settings | {"precision": decided(settings, folder, place, recipe)}
        if recipe:
            settings |= {"teachers": len(recipe["epochs"].get("teachers", []))}
        if retriever:
            model, followed = retriever[0].to(place), {"epochs": {}}
        else:
            model, last = next_item(settings, data, folder / "next-item", place, *watching, recipe=recipe), folder / "next-item"
            taught = [best_epoch(last / f"teacher-{n}") for n in range(settings["teachers"])]
            followed = {
                "epochs": {"next-item": best_epoch(last), "teachers": taught},
                "prior": float(model.prior.weight) if model.prior else 0.0,
            }
        if settings["model"] in RANKERS:
            last = folder / "ranker"
            model = two_stage(settings, data, model, last, place, recipe)
            followed["epochs"]["ranker"] = best_epoch(last)
            followed["blend"] = float(model.second.blend)
        followed["precision"] = settings["precision"]
        FINISHED.append(folder)
        own = shape(settings, data, retriever and retriever[1])
        return model, own | {"recipe": followed}, read_json(last / "curves.json")["epochs"] if leads() else []


def decided(settings: dict, folder: Path, place: torch.device, recipe: dict | None) -> str:
    """The precision of a training: that of the model made again, that with which it began, or what `train.precision` stands for here."""
    note = folder / "precision.json"
    if recipe:
        return recipe["precision"]
    if note.exists():
        return read_json(note)
    chosen = device.precision(settings["precision"], place)
    if leads():
        write_json(note, chosen)
    return chosen


def forget() -> None:
    """Removes the checkpoints of what this process trained: its models are saved."""
    while FINISHED:
        shutil.rmtree(FINISHED.pop(), ignore_errors=True)


def best_epoch(folder: Path) -> int:
    """How many epochs it took to the one that was kept."""
    rows = read_json(folder / "curves.json")["epochs"]
    values = [row.get("valid/ndcg@10", float(i)) for i, row in enumerate(rows)]
    return values.index(max(values)) + 1


def shape(settings: dict, data: Prepared, retriever: dict | None = None) -> dict:
    """What saved.rebuild needs beside the weights; retriever: the shape of a ranker's, where it is not a network of these settings."""
    own = {k: settings[k] for k in SHAPE}
    if settings["model"] not in RANKERS:
        return {"model": settings["model"], "items": data.items} | own
    retriever = retriever or shape(settings | {"model": settings["retriever"]}, data)
    ranker = own | {"branches": settings["branches"], "money": data.money, "platforms": len(data.platforms)}
    return {"model": settings["model"], "retriever": retriever, "ranker": ranker} | {
        k: settings[k] for k in ("candidates", "rank_by")
    }


def next_item(
    settings: dict, data: Prepared, folder: Path, place: torch.device, *watching: Callback, recipe: dict | None = None
) -> NextItemNetwork:
    """The trained next-item network (a ranker's retriever); where it was trained already, it is read."""
    done = folder / "done"
    name = settings["retriever"] if settings["model"] in RANKERS else settings["model"]
    settings = settings | {"model": name}
    known = attributes(settings, data)

    def new() -> NextItemNetwork:
        return build(name, data.items, settings, known)

    if not done.exists():
        loss, rates = loss_of(name, settings["loss"], data.items), [settings[r] for r in RATES]
        if settings["teachers"] and loss != "full_softmax":
            raise StageError(f"train.teachers: what they say is learnt by loss full_softmax; {name} is trained by {loss} here")
        softmax = torch.bfloat16 if settings["precision"] == "bf16-softmax" else None
        teachers = [teacher(settings, data, folder / f"teacher-{n}", place, n, recipe) for n in range(settings["teachers"])]
        lightning.seed_everything(settings["seed"], workers=True, verbose=False)
        learner = NextItem(new(), loss, data.popularity, settings["negatives"], *rates, softmax, teachers)
        epochs = recipe and recipe["epochs"]["next-item"]
        train, valid = Histories(data.train, settings["max_len"]), validated(data)
        best = fit(learner, train, valid, folder, settings, place, *watching, stop_after=epochs)
        if leads():
            network = restored(new(), best, "network.").to(place)
            choices.finish(network, data, settings["transition_prior"], recipe and recipe["prior"])
            saved.save(done, shape(settings, data), network)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the other processes wait until the first has written it
    return saved.load(done, place)


def teacher(
    settings: dict, data: Prepared, folder: Path, place: torch.device, number: int, recipe: dict | None
) -> NextItemNetwork:
    """A network of another seed, from which the one that is served learns."""
    log.info("train: teacher %s of %s", number + 1, settings["teachers"])
    own = settings | {"seed": settings["seed"] + number + 1, "teachers": 0, "transition_prior": False}
    recipe = recipe and recipe | {"epochs": {"next-item": recipe["epochs"]["teachers"][number]}, "prior": 0.0}
    return next_item(own, data, folder, place, recipe=recipe)


def two_stage(
    settings: dict,
    data: Prepared,
    retriever: NextItemNetwork | Blend,
    folder: Path,
    place: torch.device,
    recipe: dict | None = None,
) -> TwoStage:
    """The retriever with a trained ranker."""
    settings = settings | settings["ranker"] | {"epochs": min(settings["epochs"], settings["ranker"]["epochs"])}
    numbers, own = torch.from_numpy(data.numbers), shape(settings, data)["ranker"]
    known = attributes(settings, data)

    def new() -> Ranker:
        return build_ranker(settings["model"], data.items, own, known, numbers)

    lightning.seed_everything(settings["seed"], workers=True, verbose=False)
    ranker = new()
    if network := network_of(retriever.cpu()):
        ranker.start_from(network)
    learner = RankImpressions(ranker, retriever, settings["candidates"], data.popularity, *(settings[r] for r in RATES))
    shown = ImpressionData(data.train, data.impressions("train"), settings["max_len"])
    best = fit(
        learner, shown, data.valid.sample(SAMPLE), folder, settings, place, stop_after=recipe and recipe["epochs"]["ranker"]
    )
    ranker = restored(new(), best, "network.second.ranker.")
    model = TwoStage(retriever, SecondStage(ranker, settings["candidates"], settings["rank_by"])).to(place)
    if recipe:
        model.second.blend.fill_(recipe["blend"])
    elif leads() and settings["rank_by"] == "next":
        choices.fit_blend(model, data)
    return model


def validated(data: Prepared) -> Sequences:
    """The shoppers of the validation part that every epoch looks at: so many that scoring all items for them stays cheap."""
    part = data.valid.sample(max(FEWEST_VALIDATED, SCORES_VALIDATED // data.items))
    if len(part) < len(data.valid):
        log.info("train: validation looks at %s of %s shoppers", f"{len(part):,}", f"{len(data.valid):,}")
    return part


def restored(network: torch.nn.Module, checkpoint: Path, prefix: str) -> torch.nn.Module:
    """The network with the weights of a checkpoint, ready to predict."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return network.eval()


def leads() -> bool:
    """Is this the first of the processes that train together, or the only one?"""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def attributes(settings: dict, data: Prepared) -> torch.Tensor | None:
    use = settings["side_information"] and data.attributes is not None
    return torch.from_numpy(data.attributes) if use else None


def fit(
    learner: NextItem,
    train: Gathered,
    valid: Sequences,
    folder: Path,
    settings: dict,
    place: torch.device,
    *watching: Callback,
    stop_after: int | None = None,
) -> Path:
    """Trains until validation no longer gets better, from the last finished epoch on; returns the checkpoint of the best epoch.

    stop_after: epochs after which to stop, without looking at the validation part; the last one is then the best.
    Writes curves.json into the folder when done.

    Raises:
        StageError: the loss is not finite in any epoch that could be kept.
    """
    if (folder / "curves.json").exists():
        return folder / ("last.ckpt" if stop_after else "best.ckpt")
    best = ModelCheckpoint(folder, filename="best", monitor="valid/ndcg@10", mode="max", enable_version_counter=False)
    latest = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    resume = folder / "last.ckpt"
    if resume.exists():
        log.info("train: going on from %s", resume)
    strategy = settings["strategy"]
    if strategy == "fsdp":  # the newer one, which runs on CPUs too
        strategy = ModelParallelStrategy(settings["devices"], 1, save_distributed_checkpoint=False)
    strategy = captured(learner, train, settings, place) or strategy
    progress = [TQDMProgressBar()] if sys.stderr.isatty() else [PlainProgress(settings["epochs"])]
    curves = Curves()
    until = (
        [StopAfter(stop_after)] if stop_after else [Patience("valid/ndcg@10", patience=settings["patience"], mode="max"), best]
    )
    trainer = lightning.Trainer(
        max_epochs=settings["epochs"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        strategy=strategy,
        precision=throughout(settings["precision"]),
        accumulate_grad_batches=settings["accumulate"],
        gradient_clip_val=1.0,
        callbacks=[StepSeed(settings["seed"]), curves, *until, latest, *progress, *watching],
        limit_val_batches=0 if stop_after else None,
        logger=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    asked = device.asked_together(place, len(learner.share) - 1)
    module = HistoryData(train, valid, settings["max_len"], settings["batch_users"], settings["seed"], device.room(place), asked)
    try:
        trainer.fit(learner, module, ckpt_path=str(resume) if resume.exists() else None, weights_only=True)
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from error
    if not curves.finite():
        raise StageError(
            f"train: the loss is not finite from epoch {len(curves.rows)} on and no earlier epoch can be kept; lower train.learning_rate "
            f"({settings['learning_rate']:g}) or set train.precision to 32-true"
        )
    if leads():
        write_json(folder / "curves.json", {"epochs": curves.rows})
    if stop_after:
        return folder / "last.ckpt"
    log.info("train: best valid NDCG@10 %.4f after %s epochs", float(best.best_model_score), trainer.current_epoch)
    return folder / "best.ckpt"


def captured(learner: NextItem, train: Gathered, settings: dict, place: torch.device) -> CapturedSteps | None:
    """The strategy under which each step is one launch, where the device, the learner and the settings allow it."""
    learner.chunk = device.logits_at_a_time(place)
    if not (learner.capturable and device.captures(place, settings)):
        return None
    learner.static_shapes = train.static_shapes = True
    return CapturedSteps(torch.device(place.type, 0))


def throughout(precision: str) -> str:
    """The precision of all but the products with the catalogue, as Lightning names it."""
    return "32-true" if precision == "bf16-softmax" else precision


def distil(network: NextItemNetwork, teacher: NextItemNetwork, data: Prepared, settings: dict, epochs: int) -> NextItemNetwork:
    """Trains a smaller network for so many epochs to answer as the teacher does, at a quarter of the learning rate; on the CPU afterwards.

    settings: `train`.
    """
    lightning.seed_everything(settings["seed"], workers=True, verbose=False)
    place = device.meant(settings["accelerator"])
    precision = throughout(device.precision(settings["precision"], place))
    learner = Distilled(network, deepcopy(teacher), settings["learning_rate"] / 4, settings["weight_decay"])
    histories = Histories(data.train, network.max_len)
    strategy = captured(learner, histories, settings | {"devices": 1, "accumulate": 1, "precision": precision}, place) or "auto"
    module = HistoryData(histories, data.valid, network.max_len, settings["batch_users"], settings["seed"], device.room(place))
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator=settings["accelerator"], devices=1, strategy=strategy, precision=precision, gradient_clip_val=1.0,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StepSeed(settings["seed"])],
    )  # fmt: skip
    trainer.fit(learner.train(), datamodule=module)
    return network.cpu().eval()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the folder's lock while the block runs, so that no two processes write its checkpoints.

    Raises:
        CheckpointsInUse: another process holds it for longer than WAIT; trying again later may help.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("LOCAL_RANK", 0)):  # started by the first of several processes, which holds it
        yield
        return
    with (folder / "lock").open("w") as lock:
        deadline = time.monotonic() + WAIT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CheckpointsInUse(f"another process trains in {folder}; wait for its end, or end it") from None
                time.sleep(0.5)
        yield


def fingerprint(settings: dict, recipe: dict | None = None) -> str:
    """Names a training by all that goes in: settings and recipe, the bytes of the prepared data and of the code."""
    digest = hashlib.sha256(json.dumps([settings, recipe], sort_keys=True).encode())
    for folder, patterns in ((PREPARED, DATA), (EMBEDDED, ("*.npy",)), (Path(), CODE)):
        for path in sorted(p for pattern in patterns for p in folder.glob(pattern)):
            digest.update(path.as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
