"""What happens beside the steps of a training: seeds, stopping, curves, progress. Lightning callbacks; what they know goes into checkpoints."""

import time

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities import rank_zero_only

from pipelines.learning import device
from pipelines.stage import log


class StepSeed(Callback):
    """Seeds the draws of each step (dropout, negatives) by epoch and step, so that going on from a checkpoint draws the same: between two
    epochs loaders draw, too, and not as often in a process that was started again.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: tuple, index: int
    ) -> None:
        device.seed(module.device, hash((self.seed, trainer.current_epoch, index, trainer.global_rank)) % (1 << 63))


class Patience(EarlyStopping):
    """Early stopping that, going on from a checkpoint after which it had stopped, stops there again."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class StopAfter(Callback):
    """Stops after so many epochs of a schedule that is made for more."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch >= self.epochs

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 >= self.epochs


class Curves(Callback):
    """A row an epoch of what was logged, kept in the checkpoints."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        values = {k: float(v) for k, v in sorted(trainer.callback_metrics.items())}
        self.rows = [*self.rows[: trainer.current_epoch], values]
        if not _finite(values["train/loss"]):
            log.info("train: the loss is not finite; training stops here")
            trainer.should_stop = True

    def finite(self) -> bool:
        """Is there an epoch to keep?"""
        return any(_finite(row["train/loss"]) for row in self.rows)

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]


class PlainProgress(Callback):
    """A line an epoch, for logs."""

    def __init__(self, epochs: int):
        self.epochs, self.started = epochs, time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        valid = f", valid NDCG@10 {values['valid/ndcg@10']:.4f}" if "valid/ndcg@10" in values else ""
        log.info("train: epoch %s of %s, loss %.3f%s, %.0f s", trainer.current_epoch + 1, self.epochs, values.get("train/loss", float("nan")),
                 valid, time.monotonic() - self.started)  # fmt: skip


def _finite(value: float) -> bool:
    return abs(value) < float("inf")
