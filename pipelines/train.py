"""train: the recommender that `train.model` names, or a blend of all that is known (`auto`), on the prepared histories; networks with Lightning.

In:  data/prepared, reports/verified.json (that the data may be trained on), settings `train`.
Out: data/model/weights.npz and model.json (the network's shape), reports/train (DVCLive metrics and plots).

A ranker is trained after its retriever (`train.retriever`, a network or the blend), and both together are the model. Killed at any moment and
run again, it goes on from the last finished epoch (pipelines/learning/fitting.py).
"""

from models.families import RANKERS
from pipelines.learning import blending, choices, fitting, prepared, private, saved
from pipelines.learning.prepared import Prepared
from pipelines.learning.ranking import valid_ndcg
from pipelines.learning.saved import Model
from pipelines.stage import output, params, run


def main() -> None:
    settings, data = params("train"), prepared.load()
    model, shape, curves = learn(settings, data)
    if not fitting.leads():
        return  # of several processes training together, the first alone writes
    saved.save("data/model", shape, model)
    write_curves(curves)
    fitting.forget()


def learn(settings: dict, data: Prepared) -> tuple[Model, dict, list[dict]]:
    """The model of `train`, as fitting.learn returns it; shape["chosen"] says which and why."""
    if settings["privacy"]:
        return private.learn(settings, data)
    if settings["model"] == "auto":
        return blending.choose(settings, data)
    if settings["model"] in RANKERS and settings["retriever"] == "auto":
        return ranked(settings, data)
    if settings["model"] in saved.ITEM_MODELS:
        model, recipe = choices.item_model(settings["model"], data)
        shape, curves = {"model": settings["model"], "recipe": recipe}, [{"valid/ndcg@10": valid_ndcg(model, data.valid)}]
    else:
        model, shape, curves = fitting.learn(settings, data)
    return model, {"chosen": {"model": settings["model"], "reason": "train.model names it"}} | shape, curves


def ranked(settings: dict, data: Prepared) -> tuple[Model, dict, list[dict]]:
    """A ranker on top of the blend; where the blend ends in popularity, that alone: there is nothing to order."""
    model, shape, curves = blending.choose(settings, data)
    if shape["model"] != "blend":
        shape["chosen"]["reason"] += f"; so no {settings['model']} is trained"
        return model, shape, curves
    model, both, curves = fitting.learn(settings, data, retriever=(model, shape))
    reason = f"train.model names it; it orders what is proposed by {shape['chosen']['reason']}"
    return model, both | {"chosen": {"model": settings["model"], "reason": reason}}, curves


def write_curves(rows: list[dict]) -> None:
    """Writes reports/train as DVCLive does: metrics.json and a plot a metric."""
    from dvclive import Live

    with output("reports/train") as folder, Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None) as live:
        for row in rows:
            for name, value in row.items():
                live.log_metric(name, value)
            live.next_step()


if __name__ == "__main__":
    run(main)
