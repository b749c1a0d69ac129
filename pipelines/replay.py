"""replay: the graph that is served, exported from the refit model and compressed as the honest one was.

In:  data/refit, data/prepared, data/compressed and reports/compression.json (the recipe), reports/parity.json, settings `train`, `compress`, `serve`.
Out: data/served/model.onnx, reports/refit.json.

The graph is held against torch, and the compressed one against the whole one by their answers; where those differ too much, the whole one is
served. With `train.refit: false` the honest graph is served as it is.
"""

import shutil
from pathlib import Path

import numpy as np

from pipelines.artefact import graph
from pipelines.artefact.candidates import Workshop, steps_of
from pipelines.export import refuse_if_different
from pipelines.learning import prepared, saved
from pipelines.learning.prepared import Prepared
from pipelines.learning.saved import Model
from pipelines.stage import log, output, params, read_json, run, scratch, write_json

COMPARED = 1024  # shoppers whose answers are compared


def main() -> None:
    train, compress, serve = params("train", "compress", "serve")
    report = {"refit": train["refit"], "parity": read_json("reports/parity.json"), "overlap": None, "compressed": True}
    if not train["refit"]:
        with output("data/served") as folder:
            shutil.copy("data/compressed/model.onnx", folder)
        write_json("reports/refit.json", report)
        return
    data, model = prepared.load().everything(), saved.load("data/refit")
    steps = steps_of(read_json("reports/compression.json"))
    with scratch("data/served") as work, output("data/served") as folder:
        whole = work / "whole.onnx"
        graph.export(model, data.items, serve["max_k"], whole)
        report["parity"] = graph.parity(model, whole, data.test, data.items, serve["max_k"])
        refuse_if_different(report["parity"])
        workshop = Workshop(work, model, whole, data, serve["max_k"])
        compressed = workshop.build(steps)
        report["overlap"] = overlap(compressed, whole, data, model)
        report["compressed"] = report["overlap"] >= compress["min_overlap"]
        if not report["compressed"]:
            log.warning("replay: compressed as the honest model was, only %.0f %% of the answers stay; the whole graph is served",
                        100 * report["overlap"])  # fmt: skip
        shutil.copy(compressed if report["compressed"] else whole, folder / "model.onnx")
    write_json("reports/refit.json", report)
    log.info("replay: %.0f %% of the whole graph's answers stay compressed", 100 * report["overlap"])


def overlap(path: Path, whole: Path, data: Prepared, model: Model) -> float:
    """The share of the whole graph's answers that the graph at `path` gives."""
    part = data.test.sample(COMPARED)
    found, expected = (graph.answers(graph.session(p), part, model.max_len, data.items) for p in (path, whole))
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(found, expected, strict=True)]))


if __name__ == "__main__":
    run(main)
