"""Smaller versions of an exported graph: made by steps, measured against fp32.

A candidate is named by its steps, {step: option}; pipelines/compress.py says which there are. Knows the trained model and the prepared
histories; the choice is the stage's.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from models.rankers.two_stage import network_of
from models.retrieval.blend import Blend
from models.sequences import Sequences
from models.served.pruning import narrowed, settled, sparse
from pipelines.artefact import graph
from pipelines.artefact.quantise import quantise
from pipelines.learning.fitting import distil
from pipelines.learning.prepared import Prepared
from pipelines.learning.saved import Model
from pipelines.stage import log, params

SAMPLE = 20_000  # shoppers that candidates are measured on
CALIBRATED = 1024  # of them, whose histories (not what came next) calibrate static quantisation


class Workshop:
    """Makes candidates of one trained model and measures them.

    Args:
        folder: where their graphs go. network: the trained model. whole: its exported graph, fp32. data: what it was trained on.
        max_k: length of an answer.
    """

    def __init__(self, folder: Path, network: Model, whole: Path, data: Prepared, max_k: int):
        self.folder, self.network, self.whole, self.data, self.k = folder, network, whole, data, min(max_k, data.items)
        chosen = np.random.default_rng(0).permutation(len(data.valid))[:SAMPLE]
        self.sample = data.valid.rows(np.sort(chosen).tolist())
        self.reference: np.ndarray | None = None
        self.smaller = cache(self._smaller)

    def path(self, steps: dict) -> Path:
        return self.folder / f"{name(steps)}.onnx"

    def candidate(self, steps: dict) -> dict:
        """Builds the candidate of these steps; its row of the table."""
        path = self.build(steps)
        row = {"candidate": path.stem, "steps": steps} | self.measure(path)
        log.info("compress: %-44s %10s bytes, valid NDCG@10 %.4f, overlap %.3f", row["candidate"], f"{row['bytes']:,}",
                 row["valid_ndcg@10"], row["overlap"])  # fmt: skip
        return row

    def build(self, steps: dict) -> Path:
        """Writes the graph of these steps; its path."""
        path = self.path(steps)
        if not steps:
            path.write_bytes(self.whole.read_bytes())
            return path
        network = self.smaller(steps.get("units"), steps.get("sparsity"))
        stored = {"form": steps.get("table", "fp32"), "neighbours": steps.get("neighbours", 1.0)}
        if "rank" in steps:
            stored["rank"] = max(1, round(network_of(network).table.embedding_dim * steps["rank"]))
        graph.export(network, self.data.items, self.k, path, **stored)
        if "layers" in steps:
            whole = path.rename(path.with_suffix(".whole.onnx"))
            quantise(whole, path, steps["layers"], self.calibration(whole))
            whole.unlink()
        return path

    def latency(self, steps: dict) -> dict[str, float]:
        """Median milliseconds of one call of the candidate, for one shopper on one core and for 32 on all."""
        path, (part, length, items) = self.path(steps), (self.sample, self.network.max_len, self.data.items)
        return {
            "ms_batch_1": round(graph.latency_ms(graph.session(path, 1), part, length, items, 1), 3),
            "ms_batch_32": round(graph.latency_ms(graph.session(path), part, length, items, 32), 3),
        }

    def calibration(self, path: Path) -> Iterator[dict[str, np.ndarray]]:
        session, count = graph.session(path), min(CALIBRATED, len(self.sample))
        for start in range(0, count, 64):
            part = self.sample.rows(range(start, min(start + 64, count)))
            yield graph.read(session, graph.feed(part, self.network.max_len, self.data.items))

    def _smaller(self, units: float | None, sparsity: float | str | None) -> Model:
        """The network with units removed and weights held at zero, fine-tuned."""
        network = whole = network_of(self.network)
        if units:
            network = narrowed(network, units)
        if sparsity:
            network = sparse(network, sparsity)
        if network is whole:
            return self.network
        train, compress = params("train", "compress")
        network = settled(distil(network, whole, self.data, train, compress["finetune_epochs"]))
        blend = self.network
        return Blend(dict(blend.parts), blend.bias, network, blend.max_len, blend.groups) if isinstance(blend, Blend) else network

    def measure(self, path: Path) -> dict:
        session, items = graph.session(path), self.data.items
        found = graph.answers(session, self.sample, self.network.max_len, items)
        self.reference = found if self.reference is None else self.reference
        before, now = (graph.ndcg_at_10(answers, self.sample.targets) for answers in (self.reference, found))
        shared = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(found, self.reference, strict=True)])
        return {
            "bytes": path.stat().st_size,
            "valid_ndcg@10": float(now.mean()),
            "valid_loss": float((before - now).mean()),
            "valid_loss_se": float((before - now).std() / len(now) ** 0.5),
            "overlap": float(shared),
        }

    def kept(self, best: dict, part: Sequences) -> float:
        """The share of fp32's NDCG@10 that the winner has, on all of the part."""

        def quality(steps: dict) -> float:
            session = graph.session(self.path(steps))
            answers = graph.answers(session, part, self.network.max_len, self.data.items)
            return float(graph.ndcg_at_10(answers, part.targets).mean())

        return quality(best["steps"]) / max(quality({}), 1e-12)


def steps_of(report: dict) -> dict:
    """The steps of the candidate that a compression report chose."""
    return next(row["steps"] for row in report["candidates"] if row["candidate"] == report["chosen"])


def name(steps: dict) -> str:
    """What the candidate of these steps is called, in reports and as a file."""
    said = {}
    for step, option in steps.items():
        parts = [f"{part} {share}" for part, share in option.items() if share < 1] if isinstance(option, dict) else [str(option)]
        said[step] = ", ".join(parts)
    return " ".join(f"{step}={option}" for step, option in said.items()) or "fp32"
