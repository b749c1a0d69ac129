"""The one device that a model is trained, ranked, measured and fine-tuned on; chosen here and nowhere else."""

from itertools import chain

import torch
from torch import nn

from pipelines.machine import multiplies_bf16
from pipelines.stage import StageError, log


def choose(accelerator: str) -> torch.device:
    """The device that `train.accelerator` stands for, which is told in the log.

    Raises:
        StageError: a GPU is asked for and torch finds none.
    """
    chosen = meant(accelerator)
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    log.info("device: %s (train.accelerator is %s)", name, accelerator)
    return chosen


def meant(accelerator: str) -> torch.device:
    """The device that `train.accelerator` stands for: of auto the GPU, where there is one.

    Raises:
        StageError: a GPU is asked for and torch finds none.
    """
    there = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not there:
        raise StageError(f"train.accelerator is {accelerator}, but torch finds no GPU here; set it to auto or cpu")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")


def precision(wanted: str, place: torch.device) -> str:
    """What `train.precision` stands for: auto is bf16-softmax on a CPU that multiplies bf16, else 32-true (on a GPU TF32 makes bf16 no faster at
    the sizes shipped).
    """
    if wanted != "auto":
        return wanted
    return "bf16-softmax" if place.type == "cpu" and multiplies_bf16() else "32-true"


def captures(place: torch.device, settings: dict) -> bool:
    """Can a step of training be launched there as one? settings: `train`."""
    alone = settings["devices"] == 1 or (settings["devices"] == "auto" and torch.cuda.device_count() == 1)
    return place.type == "cuda" and alone and settings["accumulate"] == 1 and settings["precision"] != "16-mixed"


def logits_at_a_time(place: torch.device) -> int | None:
    """How many logits may stand in memory: a hundredth of what is free on a GPU, 4 bytes each; None: it need not be said."""
    return int(torch.cuda.mem_get_info(place)[0] / 400) if place.type == "cuda" else None


def asked_together(place: torch.device, items: int) -> int:
    """How many shoppers are scored at a time: on a GPU so many that it is filled, and its memory is not."""
    return 256 if place.type == "cpu" else min(2048, max(256, int(room(place) / (32 * items))))


def seed(place: torch.device, number: int) -> None:
    """Seeds what is drawn on the CPU and there. torch.manual_seed also notes it, with a trace of who asked, for every kind of device that there
    might be, which takes longer than a small step.
    """
    if place.type in ("cpu", "cuda"):
        torch.default_generator.manual_seed(number)
        if place.type == "cuda":
            torch.cuda.manual_seed(number)
    else:
        torch.manual_seed(number)


def room(place: torch.device) -> float:
    """Bytes of data that may be kept on a device: a quarter of what is free there."""
    return torch.cuda.mem_get_info(place)[0] / 4 if place.type == "cuda" else float("inf")


def device_of(model: nn.Module) -> torch.device:
    """Where the model is; what is asked of it goes there."""
    return next(chain(model.parameters(), model.buffers())).device
