"""Smaller and sparser copies of trained networks, by magnitude; what is left is to be fine-tuned. Tensors only."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from models.encoders.sasrec import Block, SelfAttention
from models.retrieval.network import NextItemNetwork


def narrowed(network: NextItemNetwork, share: float) -> NextItemNetwork:
    """A copy without the `share` of each block's attention heads and feed-forward units that have the smallest magnitude.

    Structured magnitude pruning (Li et al., "Pruning Filters for Efficient ConvNets", 2017): the magnitude of a unit is the L2 norm
    of what goes in times that of what comes out; of a head, of its values in and out. At least one of each stays.

    Raises:
        ValueError: the network's encoder is no stack of self-attention.
    """
    if not isinstance(network.encoder, SelfAttention):
        raise ValueError(f"only self-attention has heads and feed-forward units to remove, not {type(network.encoder).__name__}")
    smaller = deepcopy(network)
    for block in smaller.encoder.blocks:
        magnitude = block.up.weight.norm(dim=1) * block.down.weight.norm(dim=0)
        units = largest(magnitude, share)
        block.up, block.down = cut(block.up, rows=units), cut(block.down, columns=units)
        remove_heads(block, share)
    return smaller


def remove_heads(block: Block, share: float) -> None:
    """Removes heads of smallest magnitude, in place."""
    size = block.out.in_features // block.attention.heads
    values = block.qkv.weight.view(3, block.attention.heads, -1)[2]
    out = block.out.weight.view(-1, block.attention.heads, size).transpose(0, 1).flatten(1)
    heads = largest(values.norm(dim=1) * out.norm(dim=1), share)
    columns = (heads[:, None] * size + torch.arange(size)).flatten()
    rows = torch.cat([part * block.attention.heads * size + columns for part in range(3)])
    block.qkv, block.out, block.attention.heads = cut(block.qkv, rows=rows), cut(block.out, columns=columns), len(heads)


def largest(magnitude: Tensor, share: float) -> Tensor:
    """Places, in order, of what stays when the `share` of smallest magnitude (N,) goes; at least one."""
    return magnitude.topk(max(1, round(len(magnitude) * (1 - share)))).indices.sort().values


def cut(layer: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """A layer of these outputs (rows of the weight) and inputs (columns) alone."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    smaller = nn.Linear(weight.shape[1], weight.shape[0])
    smaller.load_state_dict({"weight": weight, "bias": bias})
    return smaller


def sparse(network: NextItemNetwork, pattern: float | str) -> NextItemNetwork:
    """A copy in which weights of smallest magnitude in the encoder's dense layers are held at zero until `settled`.

    Args:
        pattern: the share of each layer that goes (Han et al., "Learning both Weights and Connections", 2015), or "2:4": two of each
            four inputs in a row, which GPUs skip (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021).
    """
    sparser = deepcopy(network)
    for layer in dense_layers(sparser):
        if pattern != "2:4":
            prune.l1_unstructured(layer, "weight", amount=float(pattern))
        elif layer.in_features % 4 == 0:
            fours = layer.weight.detach().abs().view(layer.out_features, -1, 4)
            mask = torch.zeros_like(fours).scatter(2, fours.topk(2, 2).indices, 1.0)
            prune.custom_from_mask(layer, "weight", mask.view_as(layer.weight))
    return sparser


def settled(network: NextItemNetwork) -> NextItemNetwork:
    """Writes the zeros that `sparse` held into the weights, in place."""
    for layer in dense_layers(network):
        if prune.is_pruned(layer):
            prune.remove(layer, "weight")
    return network


def dense_layers(network: NextItemNetwork) -> list[nn.Linear]:
    return [m for m in network.encoder.modules() if isinstance(m, nn.Linear)]
