"""The artefact's graphs in onnxruntime: the exact one, and the two halves around an index."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.serving import operators

log = logging.getLogger("bentoml.pushcart")


class Asked(NamedTuple):
    """What the model is asked: a history (L,), oldest first, and what may be answered.

    Attributes:
        numbers, times, actions: see histories.History. exclude: item numbers. allowed: (1, V + 1) bool.
    """

    numbers: np.ndarray
    times: np.ndarray
    actions: np.ndarray
    platform: str | None
    exclude: np.ndarray
    allowed: np.ndarray


def session(path: Path, threads: int):
    """An onnxruntime session: on the GPU where there is one that works, else on the CPU. The log says which provider answers.

    Raises:
        deploy.serving.artefact.ArtefactError: the graph holds what no recommender needs (operators.py).
    """
    import onnxruntime as ort  # by the workers alone: the process that starts them only reads how many

    operators.check(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    gpu = gpu_is_there()
    wanted = ["CUDAExecutionProvider"] if gpu and "CUDAExecutionProvider" in ort.get_available_providers() else []
    made = ort.InferenceSession(str(path), options, providers=[*wanted, "CPUExecutionProvider"])
    answering = made.get_providers()[0]
    log.info("%s is answered by %s", path.name, answering)
    if gpu and answering != "CUDAExecutionProvider":
        log.warning("there is a GPU, but onnxruntime answers on the CPU: its CUDA libraries are missing or do not fit")
    return made


def gpu_is_there() -> bool:
    """Is there a GPU of NVIDIA's, whether or not it can be used?"""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


class Index:
    """Finds the best items without scoring all of them: candidates from inverted lists and from what the prior has evidence of, scored as the
    exact graph scores.

    Args:
        folder: the artefact, with query.onnx, items.faiss and among.onnx. facts: `index` of its manifest.
    """

    def __init__(self, folder: Path, facts: dict):
        import faiss

        self._faiss, self._probes, self._shortlist = faiss, facts["probes"], facts["shortlist"]
        faiss.omp_set_num_threads(1)
        self._lists = faiss.read_index(str(folder / "items.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self._query, self._among = (session(folder / name, 1) for name in ("query.onnx", "among.onnx"))
        self._read = [i.name for i in self._query.get_inputs()]

    def nearest(self, inputs: dict[str, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The inputs of the exact graph, of one shopper -> items and scores (k,), best first; None where fewer than k were found."""
        allowed, exclude = inputs["allowed"][0].copy(), inputs["exclude"][0]
        allowed[exclude] = False
        query, neighbours, weights = self._query.run(None, {name: inputs[name] for name in self._read})
        search = self._faiss.SearchParametersIVF(
            nprobe=self._probes, sel=self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        )
        near = self._lists.search(query, self._shortlist * k, params=search)[1][0]
        candidates, at = np.unique(np.concatenate([neighbours[0], near[near > 0]]), return_inverse=True)
        evidence = np.bincount(at[: neighbours.shape[1]], weights[0], len(candidates))
        kept = allowed[candidates]
        if kept.sum() < k:
            return None
        candidates, evidence = candidates[kept], evidence[kept].astype(np.float32)
        scores = self._among.run(None, {"query": query, "candidates": candidates[None], "evidence": evidence[None]})[0][0]
        best = np.argsort(-scores, kind="stable")[:k]
        return candidates[best], scores[best]
