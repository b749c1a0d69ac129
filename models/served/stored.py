"""Copies of trained models in the form in which they are served: tables in few bits, what is known of items folded into them.
Tensors only.
"""

from copy import deepcopy

from torch import Tensor, nn

from models.encoders.items import ItemTable
from models.rankers.two_stage import SecondStage
from models.retrieval.evidence import Evidence
from models.retrieval.sparse_item_model import SparseItemModel
from models.served.table import Table


class StoredItemModel(SparseItemModel):
    """A sparse item model whose weights are a Table.

    Args:
        model: what is stored. form: of the weights (table.FORMS); codes of 4 bits are too coarse for them.
        share: of each item's neighbours that is kept, the strongest.
    """

    def __init__(self, model: SparseItemModel, form: str, share: float = 1.0):
        items, weights = model.strongest(share)
        super().__init__(items, weights, model.bias, model.decay.item(), model.half_life.item())
        whole = form.endswith("fp32") or not weights.shape[1]
        self.weights, self.table = None, Table(weights, "fp32" if whole else {"int4": "int8"}.get(form, form))

        self.by_time = model.timed

    @property
    def timed(self) -> bool:
        """See SparseItemModel; known before the graph is exported."""
        return self.by_time

    def lookup(self, history: Tensor) -> Tensor:
        return self.table.lookup(history)


class StoredEvidence(Evidence):
    """Evidence whose counts are a StoredItemModel; the arguments are those of StoredItemModel."""

    def __init__(self, evidence: Evidence, form: str, share: float = 1.0):
        counts = StoredItemModel(evidence.counts, form, share)
        super().__init__(counts, evidence.weight, evidence.floor, evidence.mean)

    def added(self, scores: Tensor, items: Tensor, evidence: Tensor, group: Tensor | None) -> Tensor:
        """Scores (B, V) and what was found adds to them, computed for the neighbours alone, which are few: (B, V) float."""
        return scores.scatter(1, items, scores.gather(1, items) + self.worth(evidence.gather(1, items), group))


class StoredItems(nn.Module):
    """What a ranker knows of items, folded into one Table; it stands where an ItemTable stood."""

    def __init__(self, items: ItemTable, form: str, rank: int | None = None):
        super().__init__()
        self.table = Table(items.embeddings().detach(), form, rank)

    def embed(self, items: Tensor) -> Tensor:
        """Items (...) int64 -> (..., D) float."""
        return self.table.lookup(items)


def stored_second_stage(stage: SecondStage, k: int, form: str, rank: int | None = None) -> SecondStage:
    """A second stage that answers at least k items; its item table in a form (table.Table)."""
    ranker = deepcopy(stage.ranker).eval()
    ranker.items = StoredItems(ranker.items, form, rank)
    return SecondStage(ranker, max(stage.candidates, k), stage.rank_by, stage.blend.item())
