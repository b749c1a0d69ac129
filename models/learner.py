"""Trains any next-item network with any loss: the Lightning module. Knows no files."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from models.losses import LOSSES, distillation
from models.metrics import ndcg, ranks


class NextItem(pl.LightningModule):
    """Learns, from each position of a history, the item that came next; validated by NDCG@10 over all unseen items.

    Args:
        network: maps history (B, L) to queries (B, L, D), with item_vectors(), bias and scores() (models.sasrec.SASRec).
        loss: a name of models.losses.LOSSES; negatives: items drawn a batch by sampled_softmax.
        learning_rate, weight_decay: of AdamW; the rate warms up over the first 5 % of the steps and falls with a cosine.
    """

    def __init__(self, network: torch.nn.Module, loss: str, negatives: int, learning_rate: float, weight_decay: float):
        super().__init__()
        self.network = network
        self.extra = {"negatives": negatives} if loss == "sampled_softmax" else {}
        self.loss = LOSSES[loss]
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.validation_ranks: list[np.ndarray] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        history, target = batch
        real = target > 0
        query = self.network(history)[real]
        loss = self.loss(query, self.network.item_vectors(), self.network.bias, target[real], **self.extra)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(query))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        self.validation_ranks.append(held_out_ranks(self.network, *batch).cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        value = ndcg(np.concatenate(self.validation_ranks), 10).mean()
        self.validation_ranks.clear()
        self.log("valid/ndcg@10", torch.tensor(value, dtype=torch.float32), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> dict:
        # Tables, biases and norms do not shrink: an item met rarely would fade with every step of the others.
        tables = {id(m.weight) for m in self.modules() if isinstance(m, torch.nn.Embedding)}
        shrinking, free = [], []
        for parameter in self.parameters():
            (shrinking if parameter.ndim > 1 and id(parameter) not in tables else free).append(parameter)
        groups = [{"params": shrinking, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=max(steps, 2), pct_start=0.05, cycle_momentum=False
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Distilled(NextItem):
    """Learns to answer as a larger network does, from each position of a history.

    Args:
        teacher: a trained network over the same items. The rest as for NextItem.
    """

    def __init__(self, network: torch.nn.Module, teacher: torch.nn.Module, learning_rate: float, weight_decay: float):
        super().__init__(network, "full_softmax", 0, learning_rate, weight_decay)
        self.teacher = teacher.eval().requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.teacher.eval()  # Lightning puts all of the module into training mode

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        history, target = batch
        real = target > 0
        logits, answers = (n(history)[real] @ n.item_vectors().T + n.bias for n in (self.network, self.teacher))
        return distillation(logits, answers)


def held_out_ranks(network: torch.nn.Module, history: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """Ranks (B,) of the held-out items among all items that the shopper has not met.

    history (B, L), target (B,), seen (B, S) int64, padded with 0.
    """
    scores = network.scores(history).float()
    return ranks(scores.scatter(1, seen, -torch.inf), target)
