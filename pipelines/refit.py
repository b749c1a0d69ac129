"""refit: the model that is served, learnt from everything up to now by the settings that validation chose (`train.refit`).

In:  data/prepared, data/model (the honest model), data/compressed and reports/compression.json (the recipe of compression), settings
     `train`, `compress`, `serve`.
Out: data/refit/model (weights.npz, model.json), data/refit/model.onnx, reports/refit.json.

All choices were made on the honest model, which never saw the validation and test parts: epochs, weights, compression. Here they are
repeated on all of the data. The graph is held against torch, and the compressed one against the whole one by their answers; where those
differ too much, the whole one is served. With `train.refit: false` the honest model is served as it is.
"""

import shutil
from pathlib import Path

import numpy as np

from pipelines.artefact import graph
from pipelines.artefact.candidates import Workshop, steps_of
from pipelines.export import refuse_if_different
from pipelines.learning import choices, fitting, prepared, saved
from pipelines.learning.prepared import Prepared
from pipelines.learning.saved import Model
from pipelines.stage import log, output, params, read_json, run, scratch, write_json

COMPARED = 1024  # shoppers whose answers are compared


def main() -> None:
    train, compress, serve = params("train", "compress", "serve")
    report = {"refit": train["refit"], "parity": read_json("reports/parity.json"), "overlap": None, "compressed": True}
    if not train["refit"]:
        with output("data/refit") as folder:
            shutil.copytree("data/model", folder / "model")
            shutil.copy("data/compressed/model.onnx", folder)
        write_json("reports/refit.json", report)
        return
    data, shape = prepared.load().everything(), read_json("data/model/model.json")
    model, again = learn(train | {"model": shape["model"]}, data, shape["recipe"])
    steps = steps_of(read_json("reports/compression.json"))
    with scratch("data/refit") as work, output("data/refit") as folder:
        saved.save(folder / "model", again, model)
        whole = work / "whole.onnx"
        graph.export(model, data.items, serve["max_k"], whole)
        report["parity"] = graph.parity(model, whole, data.test, data.items, serve["max_k"])
        refuse_if_different(report["parity"])
        workshop = Workshop(work, model, whole, data, serve["max_k"])
        workshop.build(steps)
        report["overlap"] = overlap(workshop.path(steps), whole, data, model)
        report["compressed"] = report["overlap"] >= compress["min_overlap"]
        if not report["compressed"]:
            log.warning("refit: compressed as the honest model was, only %.0f %% of the answers stay; the whole graph is served",
                        100 * report["overlap"])  # fmt: skip
        shutil.copy(workshop.path(steps) if report["compressed"] else whole, folder / "model.onnx")
    write_json("reports/refit.json", report)
    fitting.forget()
    log.info("refit: learnt from all %s events; %.0f %% of the whole graph's answers stay compressed",
             f"{sum(map(len, data.full.items)):,}", 100 * report["overlap"])  # fmt: skip


def learn(settings: dict, data: Prepared, recipe: dict) -> tuple[Model, dict]:
    """The model of this recipe on all of the data, and its shape."""
    if settings["model"] in saved.ITEM_MODELS:
        model, recipe = choices.item_model(settings["model"], data, recipe.get("recent"))
        return model, {"model": settings["model"], "recipe": recipe}
    return fitting.learn(settings, data, recipe=recipe)[:2]


def overlap(path: Path, whole: Path, data: Prepared, model: Model) -> float:
    """The share of the whole graph's answers that the graph at `path` gives."""
    part = data.test.sample(COMPARED)
    found, expected = (graph.answers(graph.session(p), part, model.max_len, data.items) for p in (path, whole))
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(found, expected, strict=True)]))


if __name__ == "__main__":
    run(main)
