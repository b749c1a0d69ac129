"""export: the trained network as one ONNX graph from history to top-k, checked against torch on real histories.

In:  data/model, data/prepared, settings `serve`.
Out: data/export/model.onnx, reports/parity.json. A graph that disagrees with torch stops the run.
"""

from pathlib import Path

import numpy as np
import torch

from models.topk import TopK
from pipelines import histories, onnx
from pipelines.stage import StageError, log, output, params, run, write_json
from pipelines.train import load

TOLERANCE = 1e-3  # of scores, which span about 15; the gate of promotion may ask for less
SHOPPERS = 512


def main() -> None:
    settings = params("serve")
    network = load("data/model")
    items = histories.vocabulary_size()
    with output("data/export") as folder:
        onnx.export(network, items, settings["max_k"], folder / "model.onnx")
        parity = compare(network, folder / "model.onnx", items, settings["max_k"])
        write_json("reports/parity.json", parity)
        if parity["max_score_error"] > TOLERANCE:
            raise StageError(
                f"the ONNX graph and torch differ by {parity['max_score_error']:.2g} in a score (at most {TOLERANCE:g})"
            )
        size = (folder / "model.onnx").stat().st_size
    log.info(
        "export: %s bytes, scores within %.1e of torch on %s histories",
        f"{size:,}",
        parity["max_score_error"],
        parity["shoppers"],
    )


def compare(network: torch.nn.Module, path: Path, items: int, k: int) -> dict:
    """Runs real test histories, each alone and all in one padded batch, through both."""
    test = histories.load().test
    part = test.rows(range(min(SHOPPERS, len(test))))
    inputs = onnx.feed(part, network.max_len, items)
    with torch.inference_mode():
        expected_items, expected = TopK(network, min(k, items))(*(torch.from_numpy(v) for v in inputs.values()))
    graph = onnx.session(path)
    found_items, found = onnx.call(graph, inputs)
    one = onnx.call(graph, onnx.feed(part.rows([0]), network.max_len, items))[1]
    real = np.isfinite(expected.numpy())
    error = max(np.abs(found[real] - expected.numpy()[real]).max(), np.abs(one[0][real[0]] - found[0][real[0]]).max())
    same = (found_items[:, :10] == expected_items.numpy()[:, :10]).mean()
    return {"shoppers": len(part), "max_score_error": float(error), "top_10_same": float(same)}


if __name__ == "__main__":
    run(main)
