"""Items: what pictures and texts bring where behaviour says nothing, and how fast they are encoded."""

import time
from contextlib import chdir
from pathlib import Path

import numpy as np

from benchmarks.content import texts
from benchmarks.quality import ROOT, link_code, prepared, run

SHOP = ROOT / "pipelines" / "data" / "sources" / "shop.yaml"
SAME = 10  # most similar items
ENCODED, WHOLE = 10_000, 100_000  # items that are encoded, and to which that is scaled


def simulated(scratch: Path, content: str, size: tuple[int, int, int], prepare: dict | None = None) -> Path:
    """A workspace of the simulated shop in which everything up to `embed` has run. size: shoppers, items, days."""
    told = dict(zip(("shoppers", "items", "days"), size, strict=True)) | {"content": content}
    base = prepared(scratch / "prepared", "shop", SHOP, "leave_one_out", told, prepare)
    link_code(base)
    run(base, "embed")
    return base


def look(scratch: Path, tiny: bool) -> list[float]:
    """Of the items that are most similar by their pictures, those of the same hidden look: share."""
    import polars as pl

    from models.retrieval.content import telling
    from models.retrieval.neighbours import nearest
    from pipelines.data.sources.looks import looks

    base = simulated(scratch, "looks", (300, 200 if tiny else 600, 10))
    with chdir(base):
        items = pl.read_parquet("data/prepared/items.parquet").sort("item").select("item", "item_id")
        truth = items.join(pl.read_parquet("data/truth/goods.parquet").select("item_id", "looks"), on="item_id", how="left")
        vectors = np.load("data/embedded/look.npy")
    known = truth.filter(pl.col("looks").is_not_null())
    label = np.full(len(vectors), -1)
    label[known["item"].to_numpy()] = looks(np.array(known["looks"].to_list()))
    there = vectors.any(1) & (label >= 0)
    numbers, _ = nearest(telling(vectors), SAME, there)
    return [float((label[numbers[there]] == label[there][:, None]).mean())]


def new_items(scratch: Path, tiny: bool) -> list[float]:
    """How often an item without any event is among the first 50 of those who met it next, over what category and price alone would find; and both shares."""
    from benchmarks import blend
    from pipelines.learning import prepared as histories
    from pipelines.learning.saved import ITEM_MODELS
    from pipelines.stage import params

    base = simulated(scratch, "looks", (400, 200, 20) if tiny else (3000, 600, 60))
    with chdir(base):
        data, train = histories.load(), params("train")
        untrained = [part for part in train["blend"]["parts"] if part in ITEM_MODELS]
        found = blend.hidden_items(train | {"blend": train["blend"] | {"parts": untrained}}, data)
        alone = by_category_and_price(data)
    return [found["found@50"] / max(alone, 1e-9), found["found@50"], alone]


def by_category_and_price(data) -> float:
    """What blend.hidden_items measures, of items in the order of how often their category was met and how near their price is to the category's that was paid."""
    import polars as pl

    items = pl.read_parquet("data/prepared/items.parquet").sort("item")
    label = np.append(-1, items["category"].cast(pl.Categorical).to_physical().cast(pl.Int64).fill_null(-1).to_numpy())
    price = np.append(0.0, items["log_price"].fill_null(0.0).to_numpy())
    hidden = np.zeros(data.items + 1, bool)
    hidden[1 + np.random.default_rng(0).permutation(data.items)[: data.items // 10]] = True
    asked, found = data.test.rows(np.flatnonzero(hidden[data.test.targets])), []
    for history, target in zip(asked.items, asked.targets, strict=True):
        shown = history[~hidden[history]]
        scores = np.bincount(label[shown][label[shown] >= 0], minlength=label.max() + 1)[label] * (label >= 0)
        usual = price[shown].mean() if len(shown) else 0.0
        scores = scores * np.exp(-np.abs(price - usual))
        scores[0], scores[shown] = -1, -1
        found.append((scores > scores[target]).sum() < 50)
    return float(np.mean(found)) if found else 0.0


def two_languages(scratch: Path, tiny: bool) -> list[float]:
    """NDCG@10 of the blend with an encoder over that with words, where each item's texts are in one of two languages and no labels say what they are: share above 1; and both."""
    base = simulated(
        scratch,
        "apart",
        (300, 200, 20) if tiny else (4000, 3000, 30),
        {"content": ["title", "description"], "attributes": ["words"]},
    )
    with chdir(base):
        found = texts.compared(False)["all"]
    return [found["encoder"] / max(found["words"], 1e-9) - 1, found["encoder"], found["words"]]


def public(folder: str, network: bool, scratch: Path, tiny: bool) -> list[float | None]:
    """A public shop's own figures: see texts.measured; rare targets by ids, words, encoder and both, what is served over words of rare ones, and of all."""
    data = texts.SHARED / folder
    if not data.is_dir():
        return [None] * 6
    if (data / "events.csv.gz").exists():
        file = texts.of_tables(scratch / folder, data / "events.csv.gz", data / "items.csv.gz")
    else:
        file = texts.of_sequences(scratch / folder, next(data.glob("*.txt")), None)
    found = texts.measured(scratch / folder, "sequences", file, network and not tiny, titles="titles.csv")
    rare, whole = found["rare"], found["all"]
    return [
        rare["ids"],
        rare["words"],
        rare["encoder"],
        rare["both"],
        rare["served"] / max(rare["words"], 1e-9),
        whole["served"] / max(whole["words"], 1e-9),
    ]


def rates(scratch: Path, tiny: bool) -> list[float]:
    """Minutes that texts, and pictures, of 100,000 items take here, measured on 10,000; and the second day with a hundredth new, as a share of the first."""
    from models.content import pictures
    from pipelines.embed import Kind, encoded
    from service import meaning

    count, rng = 300 if tiny else ENCODED, np.random.default_rng(0)
    words = [
        "kettle",
        "mat",
        "blue",
        "travel",
        "水壶",
        "green",
        "cotton",
        "鞋",
        "lamp",
        "soft",
        "steel",
        "经典",
        "with",
        "for",
        "large",
        "mug",
    ]
    told = [" ".join(rng.choice(words, 30)) + f" {i}" for i in range(count)]
    kind, cache = Kind(meaning, None, bytes.decode, 2000), scratch / "vectors.sqlite"
    started = time.perf_counter()
    encoded("text", kind, told, None, cache)
    first = time.perf_counter() - started
    told[: count // 100] = [text + " new" for text in told[: count // 100]]
    started = time.perf_counter()
    encoded("text", kind, told, None, cache)
    second = time.perf_counter() - started
    shown = rng.integers(0, 256, (min(count, 640), pictures.SIDE, pictures.SIDE, 3), dtype=np.uint8)
    pictures.encode(shown[:32])
    started = time.perf_counter()
    pictures.encode(shown)
    of_pictures = (time.perf_counter() - started) / len(shown)
    return [first / count * WHOLE / 60, of_pictures * WHOLE / 60, second / first]
