"""What does each part of the blend know, and what does the blend lose without it?

    python -m benchmarks.blend --data ../shared/data/amazon-beauty --titles titles.csv.gz
    python -m benchmarks.blend --data ../shared/data/amazon-office --source files --mapping office.yaml --seeds 1

Data is collected, checked and prepared by the stages. Every part by itself, the untrained blend (all but the network), the network and the
blend rank all items for every test shopper; where a network is in it, figures are means over the seeds. Then the blend is fitted again
without each of its parts; and, with a tenth of the items hidden from training, how often the untrained blend finds them, beside what their
category (or brand) alone would. Networks stand in data/blend/<name>/runs and are not trained again while settings, data and code stay the same.

Prints two tables; writes reports/blend.json, in which other data's rows stay: {"rows": [{"data", "part", "ndcg@10", "recall@10", "interval"}],
"without": [...], "hidden": [{"data", "found@50", "category_alone", "chance", "shoppers"}]}, and of the untrained blend the seconds of fitting and exporting it.
"""

import argparse
import logging
import time
from contextlib import chdir
from pathlib import Path

import numpy as np

from benchmarks.quality import OUT, dataset, link_code, prepared, run_folder
from pipelines.settings import mapping_of
from pipelines.stage import read_json, write_json

REPORT = OUT / "reports" / "blend.json"
log = logging.getLogger("pushcart")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True, help="file or folder, as make demo's DATA")
    cli.add_argument("--source", help="as make demo's SOURCE; told from the files if left out")
    cli.add_argument("--mapping", type=Path, help="of source files: which column is what")
    cli.add_argument("--titles", help="of source sequences: the file of titles beside the data")
    cli.add_argument("--name", help="what to call the data; the folder's name if left out")
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--epochs", type=int, help="at most, to try things out")
    cli.add_argument("--no-texts", action="store_true", help="as if nothing were written of the items")
    cli.add_argument("--shop", type=int, nargs=2, metavar=("SHOPPERS", "ITEMS"), help="size of the simulated shop")
    chosen = cli.parse_args()
    if not chosen.data.exists():
        cli.error(f"--data {chosen.data} is not there")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    source, title = dataset(chosen.data, chosen.source)
    title = chosen.name or title
    own = {"titles": chosen.titles} if chosen.titles else {}
    own |= {"mapping": mapping_of(chosen.mapping)} if chosen.mapping else {}
    shop = dict(zip(("shoppers", "items"), chosen.shop, strict=True)) if chosen.shop else None
    folder = OUT / "data" / "blend" / title
    prepare = {"content": []} if chosen.no_texts else {}
    base = prepared(folder, source, chosen.data.resolve(), "leave_one_out", shop, prepare, **own)
    link_code(base)
    with chdir(base):
        rows, without, hidden = measured(chosen.seeds, chosen.epochs)
    report = read_json(REPORT) if REPORT.exists() else {}
    for key, found in (("rows", rows), ("without", without), ("hidden", [hidden])):
        report[key] = [row for row in report.get(key, []) if row["data"] != title] + [{"data": title} | row for row in found]
    write_json(REPORT, report)
    show("part", rows)
    show("the blend without ...", without)
    print(
        "hidden from training: found among the first 50 {found@50:.4f} (by category or brand alone {category_alone:.4f}, by chance "
        "{chance:.4f}) of {shoppers} shoppers".format(**hidden)
    )


def measured(seeds: int, epochs: int | None) -> tuple[list[dict], list[dict], dict]:
    """The rows of the report for the data prepared in the working directory."""
    from pipelines.artefact import graph
    from pipelines.learning import blending, choices, device
    from pipelines.learning import prepared as histories
    from pipelines.learning.saved import ITEM_MODELS
    from pipelines.stage import params, scratch

    data, train = histories.load(), params("train") | ({"epochs": epochs} if epochs else {})
    names, rows, place = train["blend"]["parts"], [], device.choose(train["accelerator"])
    part, counted = blending.asked_of(data), blending.counted(names, data)[0]
    alone = {"popularity": choices.best_popularity(data)} | {n: blending.remembering(m, part, data) for n, m in counted.items()}
    rows += [row(name, [model.to(place)], data)[0] for name, model in alone.items()]

    def blend(parts: list[str], seed: int, network: tuple | None):
        settings = train | {"seed": seed, "blend": train["blend"] | {"parts": parts}}
        model, shape, _ = blending.choose(settings, data, network)
        return model, shape

    untrained = [n for n in names if n in ITEM_MODELS]
    started = time.perf_counter()
    model, shape = blend(untrained, train["seed"], None)
    with scratch("data/export") as folder:
        graph.export(model, data.items, 100, folder / "model.onnx")
        seconds, size = time.perf_counter() - started, (folder / "model.onnx").stat().st_size
    made = {"made_of": shape["recipe"].get("parts", {}), "model": shape["model"]}
    rows.append(row("untrained", [model], data)[0] | {"seconds": round(seconds, 1), "fp32_bytes": size} | made)
    networks, blends, shapes = [], [], []
    for seed in range(train["seed"], train["seed"] + seeds):
        network = trained(train | {"model": blending.network_name(names), "seed": seed, "transition_prior": False}, data)
        networks.append(network)
        model, shape = blend(names, seed, network)
        blends.append(model)
        shapes.append(shape)
        log.info("blend: seed %s is measured", seed)
    rows.append(row("network", [network for network, _ in networks], data)[0] | {"seeds": seeds})
    rows.append(row("blend", blends, data)[0] | {"seeds": seeds, "made_of": [s["recipe"].get("parts", {}) for s in shapes]})
    whole, without = row("blend", blends[:1], data)[1], []
    for name in (n for n in names if n in alone or n not in ITEM_MODELS):
        rest = [n for n in names if n != name]
        model, _ = blend(rest, train["seed"], networks[0] if name in ITEM_MODELS else None)
        measures, gains = row(name, [model], data)
        without.append(measures | {"lost": difference(whole, gains)})
    return rows, without, hidden_items(train | {"blend": train["blend"] | {"parts": untrained}}, data)


def hidden_items(settings: dict, data) -> dict:
    """How often an item that no training history shows is among the first 50 of the shoppers who met it next."""
    from dataclasses import replace

    from pipelines.learning import blending
    from pipelines.learning.ranking import rank_all

    hidden = np.zeros(data.items + 1, bool)
    hidden[1 + np.random.default_rng(0).permutation(data.items)[: data.items // 10]] = True
    train = data.train.only(~hidden)
    model, _, _ = blending.choose(settings, replace(data, train=train).learning_from(train, data.impressions))
    asked = data.test.rows(np.flatnonzero(hidden[data.test.targets]))
    ranks, _ = rank_all(model, asked, 50)
    alone = of_the_same(data, asked)
    return {"found@50": float((ranks < 50).mean()), "category_alone": alone, "chance": 50 / data.items, "shoppers": len(asked)}


def of_the_same(data, asked) -> float:
    """How often the target is among the first 50 of items of the categories that the history holds most often, of equal ones any; brands where
    there is no category.
    """
    import polars as pl

    items = pl.read_parquet("data/prepared/items.parquet")
    column = next((name for name in ("category", "brand") if name in items.columns), None)
    if column is None or not len(asked):
        return 0.0
    label = np.concatenate([[0], items[column].cast(pl.Categorical).to_physical().cast(pl.Int64).fill_null(-2).to_numpy() + 2])
    sizes = np.bincount(label, minlength=label.max() + 1)
    chances = []
    for history, target in zip(asked.items, asked.targets, strict=True):
        met = np.bincount(label[history], minlength=len(sizes))
        met[0] = 0  # of these nothing is known
        own = met[label[target]]
        before, equal = sizes[met > own].sum(), sizes[met == own].sum()
        chances.append(np.clip((50 - before) / equal, 0, 1))
    return float(np.mean(chances))


def trained(settings: dict, data):
    """A network that is trained and kept; with its shape."""
    from pipelines.learning import device, fitting, saved

    folder = run_folder("network", settings)
    if not (folder / "model.json").exists():
        model, shape, _ = fitting.learn(settings, data)
        saved.save(folder, shape, model)
        fitting.forget()
    return saved.load(folder, device.choose(settings["accelerator"])), read_json(folder / "model.json")


def row(name: str, models: list, data) -> tuple[dict, np.ndarray]:
    """Means over the models, and the interval of the mean over shoppers, by targets that training shows rarely or never too; and NDCG@10 of
    each test shopper.
    """
    from models import metrics
    from pipelines.evaluate import RARE
    from pipelines.learning.ranking import rank_all

    ranks = [rank_all(model, data.test, 10)[0] for model in models]
    ndcg = np.mean([metrics.ndcg(rank, 10) for rank in ranks], axis=0)
    seen = data.popularity[data.test.targets]
    parts = {"new": seen == 0, "rare": (seen > 0) & (seen < RARE)}
    report = {
        "part": name,
        "ndcg@10": float(ndcg.mean()),
        "recall@10": float(np.mean([metrics.recall(rank, 10).mean() for rank in ranks])),
    }
    report["interval"] = metrics.interval(ndcg, 1000, 0)
    report |= {f"ndcg@10_{kind}": float(ndcg[here].mean()) for kind, here in parts.items() if here.any()}
    return report | {"shoppers": len(ndcg)}, ndcg


def difference(one: np.ndarray, other: np.ndarray) -> list[float]:
    """The mean of paired differences and its standard error."""
    lost = one - other
    return [round(float(lost.mean()), 5), round(float(lost.std() / len(lost) ** 0.5), 5)]


def show(title: str, rows: list[dict]) -> None:
    print(title)
    for one in rows:
        low, high = one["interval"]
        lost = f"  lost {one['lost'][0]:+.4f} (standard error {one['lost'][1]:.4f})" if "lost" in one else ""
        print(
            f"  {one['part']:<18} NDCG@10 {one['ndcg@10']:.4f} ({low:.4f} to {high:.4f})  Recall@10 {one['recall@10']:.4f}{lost}"
        )


if __name__ == "__main__":
    main()
