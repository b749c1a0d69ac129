"""Popularity, the least that any model must beat. Tensors only."""

import numpy as np
import torch

from models.retrieval.sparse_item_model import SparseItemModel


def popularity(weight: np.ndarray) -> SparseItemModel:
    """Recommends the items of largest weight (V,) to everyone: how many shoppers met them, or that with recent events counting more."""
    none = torch.zeros(len(weight), 0)
    return SparseItemModel(none.long(), none, torch.from_numpy(weight.astype(np.float32)))
