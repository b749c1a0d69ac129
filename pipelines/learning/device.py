"""The one device that a model is trained, ranked, measured and fine-tuned on; chosen here and nowhere else."""

from itertools import chain

import torch
from torch import nn

from pipelines.stage import StageError, log


def choose(accelerator: str) -> torch.device:
    """The device that `train.accelerator` stands for: of auto the GPU, where there is one.

    Raises:
        StageError: a GPU is asked for and torch finds none.
    """
    there = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not there:
        raise StageError(f"train.accelerator is {accelerator}, but torch finds no GPU here; set it to auto or cpu")
    chosen = torch.device("cuda" if there and accelerator != "cpu" else "cpu")
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    log.info("device: %s (train.accelerator is %s)", name, accelerator)
    return chosen


def device_of(model: nn.Module) -> torch.device:
    """Where the model is; what is asked of it goes there."""
    return next(chain(model.parameters(), model.buffers())).device
