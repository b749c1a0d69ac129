"""A trained model as a folder: weights.npz and model.json (its shape), from which it is made again. Nothing is pickled."""

from pathlib import Path

import numpy as np
import torch

from models.families import RANKERS, build, build_ranker
from models.rankers.two_stage import SecondStage, TwoStage
from models.retrieval.blend import Blend
from models.retrieval.evidence import Evidence
from models.retrieval.network import NextItemNetwork
from models.retrieval.sparse_item_model import SparseItemModel
from pipelines.learning.prepared import KINDS
from pipelines.stage import output, read_json, write_json

Model = NextItemNetwork | SparseItemModel | Blend | TwoStage
ITEM_MODELS = ("popularity", "transitions", "transitions_back", "two_hops", "item_knn", "ease", "content", *KINDS)


def save(folder: str | Path, shape: dict, model: Model) -> None:
    """Writes the model; `shape` is what `rebuild` needs beside the weights."""
    with output(folder) as path:
        np.savez(path / "weights.npz", **{k: v.cpu().numpy() for k, v in model.state_dict().items()})
        write_json(path / "model.json", shape)


def load(folder: str | Path, device: torch.device | str = "cpu") -> Model:
    """The model saved in `folder`, on the device, ready to predict."""
    with np.load(Path(folder, "weights.npz"), allow_pickle=False) as arrays:
        state = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
    return rebuild(read_json(Path(folder, "model.json")), state).eval().to(device)


def rebuild(shape: dict, state: dict[str, torch.Tensor]) -> Model:
    """The model of this shape with these weights."""
    if shape["model"] in ITEM_MODELS:
        return _item_model(state)
    if shape["model"] == "blend":
        parts = {name: _evidence(_below(f"parts.{name}", state), mean=True) for name in shape["parts"]}
        network = shape["network"] and rebuild(shape["network"], _below("network", state))
        model = Blend(parts, state["bias"], network, shape["max_len"], state["groups"])
    elif shape["model"] in RANKERS:
        retriever, own = rebuild(shape["retriever"], _below("retriever", state)), shape["ranker"]
        of_ranker = _below("second.ranker", state)
        ranker = build_ranker(
            shape["model"], len(of_ranker["numbers"]) - 1, own, of_ranker.get("items.known"), of_ranker["numbers"]
        )
        model = TwoStage(retriever, SecondStage(ranker, shape["candidates"], shape["rank_by"]))
    else:
        model = build(shape["model"], shape["items"], shape, state.get("known"))
        if "prior.weight" in state:
            model.prior = _evidence(_below("prior", state), mean=False)
    model.load_state_dict(state)
    return model


def _below(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(name + "."): v for k, v in state.items() if k.startswith(name + ".")}


def _evidence(state: dict[str, torch.Tensor], mean: bool) -> Evidence:
    return Evidence(_item_model(_below("counts", state)), state["weight"], state["floor"], mean)


def _item_model(state: dict[str, torch.Tensor]) -> SparseItemModel:
    return SparseItemModel(state["items"], state["weights"], state["bias"], state["decay"].item(), state["half_life"].item())
