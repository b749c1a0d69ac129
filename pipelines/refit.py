"""refit: the model that is served, learnt from everything up to now by the settings that validation chose (`train.refit`).

In:  data/prepared, data/model (the honest model), settings `train`.
Out: data/refit/weights.npz and model.json.

All choices were made on the honest model, which never saw the validation and test parts: epochs, weights of the prior and the ranker. Here they
are repeated on all of the data. With `train.refit: false` the honest model is served as it is.
"""

import shutil

from pipelines.learning import blending, choices, fitting, prepared, saved
from pipelines.learning.prepared import Prepared
from pipelines.learning.saved import Model
from pipelines.stage import log, output, params, read_json, run


def main() -> None:
    settings = params("train")
    if not settings["refit"]:
        with output("data/refit") as folder:
            shutil.copytree("data/model", folder, dirs_exist_ok=True)
        return
    data, shape = prepared.load().everything(), read_json("data/model/model.json")
    model, again = learn(settings, data, shape)
    if not fitting.leads():
        return
    saved.save("data/refit", again, model)
    fitting.forget()
    log.info("refit: learnt from all %s events", f"{data.full.lengths.sum():,}")


def learn(settings: dict, data: Prepared, honest: dict) -> tuple[Model, dict]:
    """The model of the honest one's shape on all of the data, by the same recipe; and its shape."""
    name, recipe = honest["model"], honest["recipe"]
    if name in saved.ITEM_MODELS:
        model, recipe = choices.item_model(name, data, recipe.get("recent"))
        return model, {"model": name, "recipe": recipe}
    if name == "blend":
        return blending.built(settings, data, recipe)
    first = honest.get("retriever", {})
    retriever = learn(settings, data, first) if first.get("model") == "blend" else None
    return fitting.learn(settings | {"model": name}, data, recipe=recipe, retriever=retriever)[:2]


if __name__ == "__main__":
    run(main)
