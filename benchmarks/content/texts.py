"""What words and an encoder of texts bring to the blend, on a shop's own events and items."""

from contextlib import chdir
from pathlib import Path

from benchmarks.quality import link_code, prepared, run

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
RARELY = 5  # events of a target in training, at most
WAYS = {"ids": (), "words": ("content",), "encoder": ("text",), "both": ("content", "text")}  # parts that read texts


def of_tables(scratch: Path, events: Path, items: Path) -> Path:
    """Sequences from a table of user, item and position, and the items' texts beside them, as source sequences reads both; the sequences' file."""
    import polars as pl

    table = pl.read_csv(events, infer_schema=False).with_columns(pl.col("position").cast(pl.Int64))
    lines = table.sort("user", "position", maintain_order=True).group_by("user", maintain_order=True).agg("item")
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / f"{events.name.split('.')[0]}.txt"
    number = {item: i for i, item in enumerate(table["item"].unique(maintain_order=True))}  # ids may hold blanks
    file.write_text(
        "".join(f"{i} {' '.join(str(number[item]) for item in found)}\n" for i, (_, found) in enumerate(lines.iter_rows()))
    )
    told = pl.read_csv(items, infer_schema=False)
    told.filter(pl.col("item").is_in(list(number))).with_columns(
        pl.col("item").replace_strict(number, return_dtype=pl.String)
    ).write_csv(scratch / "titles.csv")
    return file


def of_sequences(scratch: Path, sequences: Path, items: Path | None) -> Path:
    """The same of a file of sequences; items: a table of their texts, or None: titles.csv or titles.csv.gz beside it."""
    import polars as pl

    scratch.mkdir(parents=True, exist_ok=True)
    items = items or next((f for f in sorted(sequences.parent.glob("titles.csv*"))), None)
    if items is None:
        raise SystemExit(f"--sequences {sequences}: there are no texts; name them with --items, or put titles.csv beside it")
    file = scratch / sequences.name
    file.write_bytes(sequences.read_bytes())
    pl.read_csv(items, infer_schema=False).write_csv(scratch / "titles.csv")
    return file


def measured(scratch: Path, source: str, data: Path, network: bool = True, **settings) -> dict[str, dict[str, float]]:
    """NDCG@10 of each of WAYS by the blend, of all test shoppers and of those whose target is rare: {"rare": {...}, "all": {...}}, and of `served`, what validation chooses among them.

    source, data, settings: as of params.yaml's source. network: whether blends have one.
    """
    base = prepared(scratch / "prepared", source, data.resolve(), "leave_one_out", **settings)
    link_code(base)
    run(base, "embed")
    with chdir(base):
        return compared(network)


def compared(network: bool) -> dict[str, dict[str, float]]:
    """See measured; in a workspace whose data are embedded."""
    from dataclasses import replace

    from models import metrics
    from pipelines.learning import blending, fitting
    from pipelines.learning import prepared as histories
    from pipelines.learning.ranking import rank_all
    from pipelines.stage import params

    data, train = histories.load(), params("train")
    rare = data.popularity[data.test.targets] <= RARELY
    found, networks = {"rare": {}, "all": {}}, {}
    for way, reads in WAYS.items():
        parts = [p for p in train["blend"]["parts"] if p not in ("content", *histories.KINDS) or p in reads]
        parts = parts if network else [p for p in parts if p != blending.network_name(parts)]
        words = "content" in reads
        own = train | {"side_information": words, "blend": train["blend"] | {"parts": parts}}
        if network and words not in networks:
            name = blending.network_name(parts)
            networks[words] = fitting.learn(own | {"model": name, "transition_prior": False}, data)[:2]
            fitting.forget()
        told = replace(
            data, content=data.content if words else None, embedded={k: v for k, v in data.embedded.items() if k in reads}
        )
        model, shape, _ = blending.choose(own, told, networks.get(words))
        gains = metrics.ndcg(rank_all(model, told.test, 10)[0], 10)
        found["all"][way], found["rare"][way] = float(gains.mean()), float(gains[rare].mean()) if rare.any() else 0.0
        print(
            f"  {way}: NDCG@10 {found['all'][way]:.4f}, of rare targets {found['rare'][way]:.4f}; {', '.join(shape.get('parts', []))}",
            flush=True,
        )
    for kind in found.values():
        kind["served"] = kind["both"]  # of words and encoder what validation keeps
    return found
