"""Trains any next-item network with any loss: the Lightning module. Knows no files."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from models.batches import ShopperBatch
from models.encoders.items import ItemTable
from models.losses import SAMPLED, batch_draws, distillation, full_softmax, mean_over, uniform_draws
from models.metrics import ndcg, ranks
from models.rankers.two_stage import unchanged, unseen
from models.retrieval.network import NextItemNetwork


class NextItem(lightning.LightningModule):
    """Learns, from each position of a history, the item that came next; validated by NDCG@10 over all unseen items.

    Args:
        network: models.retrieval.network.NextItemNetwork. loss: one of models.losses.LOSSES.
        popularity: (items + 1,) how often each item stands in training; items at 0 take no part in the loss.
        negatives: items drawn a batch by losses that draw (in_batch_softmax takes the batch's own targets).
        learning_rate, weight_decay: of AdamW; the rate warms up over the first 5 % of the steps and falls with a cosine.
        softmax: dtype of full_softmax's products with the catalogue; None: that of all else.
        teachers: trained networks over the same items, from which full_softmax learns as well.

    Attributes:
        capturable: do shapes within a step follow from those of the batch alone, where static_shapes says that they should?
        static_shapes: padding stays among what is learnt from and is weighed by 0, so that shapes follow from those of the batch alone, as a
            graph of launches needs them; else it is picked out first, which costs a CPU less.
        chunk: logits of full_softmax that stand in memory at a time; None: its own.
    """

    capturable = True
    static_shapes = False
    chunk: int | None = None

    def __init__(
        self,
        network: NextItemNetwork,
        loss: str,
        popularity: np.ndarray,
        negatives: int,
        learning_rate: float,
        weight_decay: float,
        softmax: torch.dtype | None = None,
        teachers: Sequence[NextItemNetwork] = (),
    ):
        super().__init__()
        self.teachers = nn.ModuleList(teacher.eval().requires_grad_(False) for teacher in teachers)
        self._taught: list[tuple[Tensor, Tensor]] = []
        self.network, self.loss, self.negatives, self.softmax = network, loss, negatives, softmax
        counts = torch.as_tensor(popularity, dtype=torch.float32)
        self.share = nn.Buffer(counts / counts.sum(), persistent=False)
        self.pool = nn.Buffer(counts.nonzero().squeeze(1), persistent=False)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.validation_ranks: list[np.ndarray] = []
        self._validation = ExitStack()

    def configure_model(self) -> None:
        """Where processes share a mesh (FSDP), each holds its part of the rows of item tables, of their gradients and moments."""
        tables = [m.table for m in self.modules() if isinstance(m, ItemTable) and m.table.weight.requires_grad]
        for table in tables if self.device_mesh is not None else []:
            if not isinstance(table.weight, DTensor):
                fully_shard(table, mesh=self.device_mesh["data_parallel"])

    def on_after_backward(self) -> None:
        if self.device_mesh is None:
            return
        for parameter in self.parameters():  # FSDP sees to the tables; all else is the same everywhere and stays it
            if parameter.grad is not None and not isinstance(parameter, DTensor):
                all_reduce(parameter.grad.div_(self.trainer.world_size))

    def configure_gradient_clipping(self, optimizer, gradient_clip_val: float, gradient_clip_algorithm: str) -> None:
        if self.device_mesh is None:
            return super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        gradients = [p.grad for p in self.parameters() if p.grad is not None]  # torch's own takes all sharded or none
        squares = [(g.pow(2).sum().full_tensor() if isinstance(g, DTensor) else g.pow(2).sum()) for g in gradients]
        factor = gradient_clip_val / (float(torch.stack(squares).sum().sqrt()) + 1e-6)
        for gradient in gradients if factor < 1 else []:
            gradient.mul_(factor)

    def training_step(self, batch: tuple[ShopperBatch, Tensor], index: int) -> Tensor:
        shoppers, target = batch
        loss = self.objective(shoppers.history, shoppers.times, target)
        self.count_loss(loss, (target > 0).sum())
        return loss

    def count_loss(self, loss: Tensor, weight: Tensor | int) -> None:
        """Takes a step's loss into the epoch's mean, on the device: nothing waits for it before the epoch ends."""
        self._losses += torch.stack([loss.detach() * weight, torch.as_tensor(weight, device=loss.device)])

    def on_train_start(self) -> None:
        self._losses = torch.zeros(2, dtype=torch.float64, device=self.device)  # their sum, and their weight

    def on_train_batch_end(self, outputs: dict, batch: tuple, index: int) -> None:
        if self.trainer.is_last_batch:
            mean = (self._losses[0] / self._losses[1]).float()
            self.log("train/loss", mean, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)

    def objective(self, history: Tensor, times: Tensor, target: Tensor) -> Tensor:
        network, head, chosen = self.network, self.network.head, self.learnt_from(target)
        target = target[chosen].flatten()
        if self.loss == "full_softmax":
            table = network.embeddings()
            query = network.encode(F.embedding(history, table), times)[chosen].flatten(0, -2)
            bias = head.bias.masked_fill(self.share == 0, -torch.inf)
            taught = self.taught(history, times, chosen)
            return full_softmax(query, head.vectors(table), bias, target, self.softmax, taught, self.chunk)
        query = network(history, times)[chosen].flatten(0, -2)
        drawn, log_draws = (
            batch_draws(target, self.share) if self.loss == "in_batch_softmax" else uniform_draws(self.negatives, self.pool)
        )
        positive = head.pairs(query, head.vectors(network.embed(target)), head.bias[target])
        negative = head.scores(query, head.vectors(network.embed(drawn)), head.bias[drawn])
        negative = negative.masked_fill(drawn == target[:, None], -torch.inf)
        return mean_over(SAMPLED[self.loss](positive, negative, log_draws, len(self.pool)), target > 0)

    def learnt_from(self, target: Tensor) -> Tensor | slice:
        """Which positions of target (B, L) are learnt from, padding among them where shapes are static."""
        return slice(None) if self.static_shapes else target > 0

    @torch.no_grad()
    def taught(self, history: Tensor, times: Tensor, chosen: Tensor | slice) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Query, item vectors and bias of each teacher; what does not change is computed once."""
        if len(self._taught) < len(self.teachers):
            none = self.share == 0
            self._taught = [(t.head.vectors(t.embeddings()), t.head.bias.masked_fill(none, -torch.inf)) for t in self.teachers]
        return [(t(history, times)[chosen].flatten(0, -2), *known) for t, known in zip(self.teachers, self._taught, strict=True)]

    def on_train_epoch_start(self) -> None:
        self._losses.zero_()
        for teacher in self.teachers:  # Lightning puts all of the module into training mode
            teacher.eval()

    def on_validation_epoch_start(self) -> None:
        self._validation.enter_context(unchanged(self.network))

    def validation_step(self, batch: tuple[ShopperBatch, Tensor, Tensor], index: int) -> None:
        shoppers, target, seen = batch
        self.validation_ranks.append(ranks(unseen(self.network, shoppers, seen), target).cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        self._validation.close()
        gains = ndcg(np.concatenate(self.validation_ranks), 10)
        self.validation_ranks.clear()
        # Of several processes each has other shoppers, and not as many.
        here = torch.tensor([gains.sum(), len(gains)], dtype=torch.float32, device=self.device)
        total, count = self.all_gather(here).view(-1, 2).sum(0)
        self.log("valid/ndcg@10", total / count, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> dict:
        # Tables, biases and norms do not shrink: an item met rarely would fade with every step of the others. Sharded ones stand apart.
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                shrinks = parameter.ndim > 1 and id(parameter) not in tables
                groups.setdefault((self.weight_decay if shrinks else 0.0, isinstance(parameter, DTensor)), []).append(parameter)
        # Lightning clips no gradients that a fused optimiser unscales; where shapes are static, it is not Lightning that clips.
        fused = self.static_shapes or "mixed" not in self.trainer.precision
        settings = [{"params": parameters, "weight_decay": decay} for (decay, _), parameters in groups.items()]
        optimiser = torch.optim.AdamW(settings, lr=self.learning_rate, fused=fused)
        steps = int(self.trainer.estimated_stepping_batches)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=max(steps, 2), pct_start=0.05, cycle_momentum=False
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


class Distilled(NextItem):
    """Learns to answer as a larger network does, from each position of a history.

    Args:
        teacher: a trained network over the same items. The rest as for NextItem.
    """

    def __init__(self, network: NextItemNetwork, teacher: NextItemNetwork, learning_rate: float, weight_decay: float):
        counts = np.ones(network.table.num_embeddings)
        super().__init__(network, "full_softmax", counts, 0, learning_rate, weight_decay, teachers=[teacher])

    def objective(self, history: Tensor, times: Tensor, target: Tensor) -> Tensor:
        chosen, network, [teacher] = self.learnt_from(target), self.network, self.teachers
        query = network(history, times)[chosen].flatten(0, -2)
        logits = network.head.scores(query, network.head.vectors(network.embeddings()), network.head.bias)
        [wanted] = (teacher.head.scores(*known) for known in self.taught(history, times, chosen))
        return mean_over(distillation(logits, wanted), target[chosen].flatten() > 0)
