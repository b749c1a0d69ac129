"""The bento that one would write first: the same network in torch, the catalogue in lists and dicts. Reads $PUSHCART_TORCH_MODEL,
a folder of model.pt, shape.json, catalogue.json and histories.json.
"""

import json
import os
from pathlib import Path

import bentoml
import torch

from models.families import build


@bentoml.service(name="in_torch", workers="cpu_count", traffic={"timeout": 2}, logging={"access": {"enabled": False}})
class InTorch:
    def __init__(self) -> None:
        folder = Path(os.environ["PUSHCART_TORCH_MODEL"])
        shape = json.loads((folder / "shape.json").read_text())
        self.items = json.loads((folder / "catalogue.json").read_text())
        self.histories = json.loads((folder / "histories.json").read_text())
        self.network = build("sasrec", len(self.items), shape, None).eval()
        self.network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))

    @bentoml.api(route="/recommend")
    def recommend(self, user_id: str, k: int) -> dict:
        history = torch.tensor([self.histories[user_id]])
        with torch.inference_mode():
            scores = self.network.scores(history, torch.zeros_like(history)).scatter(1, history, -torch.inf)
            values, items = scores.topk(k)
        found = zip(items[0].tolist(), values[0].tolist(), strict=True)
        return {"items": [self.items[i - 1] | {"score": score} for i, score in found]}
