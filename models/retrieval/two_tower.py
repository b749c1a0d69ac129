"""Two towers for retrieval: dense layers over the shopper, dense layers over the item, a product at the end (Covington et al. 2016;
Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019, whose loss is in_batch_softmax).
Tensors only. The shopper's tower is models.encoders.mlp.Mlp.
"""

from torch import Tensor, nn

from models.retrieval.network import Cosine


class Tower(Cosine):
    """Head: the item, with all that is known of it, goes through dense layers of its own before the cosine is taken.

    Args:
        items: numbers run from 1 to `items`. width: in and out.
    """

    tied = False

    def __init__(self, items: int, width: int):
        super().__init__(items)
        self.dense = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def vectors(self, table: Tensor) -> Tensor:
        return super().vectors(table + self.dense(table))
