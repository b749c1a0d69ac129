"""embed: what items read, look and sound like, as vectors, by encoders whose weights come with their packages.

In:  data/prepared (texts of items, and the columns `image` and `sound`, each a file beside source.data, a data URI or an address), settings `embed`, `source.data`.
Out: data/embedded/{text,look,sound}.npy ((items + 1, width) float16, zeros where nothing is known; a file alone of what the shop has), encoders.json (name, licence, hash and width of each),
     near.parquet (pairs of items so alike that a list shows one of them at a time), refused.parquet (pictures and sounds that could not be used, and why); reports/embedded.json.

A picture that is broken, too large or not there is no reason to stop: its item is known by its texts. What was encoded before is taken from `embed.cache`, by the hash of the content and of the encoder.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from models.retrieval.neighbours import nearest
from pipelines.data.embeddings import Embeddings
from pipelines.data.media import MediaError, Source, picture, sound
from pipelines.learning.prepared import EMBEDDED, PREPARED
from pipelines.stage import checkout, log, output, params, run, write_json

LETTERS = 300  # of a description, that are read beside the title
REPORTED = 20  # refusals of a kind that the report names
PROGRESS = 10.0  # seconds between two lines
BESIDE = 20  # neighbours of an item among which near-duplicates are looked for


@dataclass
class Kind:
    """How one side of items becomes vectors."""

    encoder: Any  # a module of models/content, or service/meaning.py
    column: str | None  # that names the content; None: the texts
    decode: Callable[[bytes], Any]  # raises MediaError
    at_once: int


def main() -> None:
    settings, source = params("embed", "source")
    items = pl.read_parquet(PREPARED / "items.parquet").sort("item")
    limits, report = settings["limits"], {}
    media = Source(folder_of(Path(source["data"]).expanduser()), settings["hosts"], limits["bytes"])
    with output(EMBEDDED) as folder:
        encoders, refused, vectors = {}, [], {}
        for name, kind in kinds(settings, limits).items():
            contents = texts(items) if kind.column is None else cells(items, kind.column)
            if not any(contents):
                continue
            found, why, facts = encoded(name, kind, contents, media, checkout() / settings["cache"])
            np.save(folder / f"{name}.npy", found)
            vectors[name], encoders[name] = found, facts["encoder"]
            log.info("embed: %s of %s items, %s of them from before; %s refused", name, f"{facts['items']:,}", f"{facts['kept']:,}", f"{len(why):,}")  # fmt: skip
            refused += [{"item_id": items["item_id"][row], "kind": name, "reason": reason} for row, reason in why]
            such_as = refused[len(refused) - len(why) :][:REPORTED]
            report[name] = {"items": facts["items"], "refused": len(why), "such_as": such_as}
        pairs = near_duplicates(vectors, settings["duplicate"])
        pl.DataFrame(pairs, schema={"item": pl.UInt32, "other": pl.UInt32, "alike": pl.Float32}, orient="row").write_parquet(
            folder / "near.parquet"
        )
        pl.DataFrame(refused, schema={"item_id": pl.String, "kind": pl.String, "reason": pl.String}).write_parquet(
            folder / "refused.parquet"
        )
        write_json(folder / "encoders.json", encoders)
        write_json("reports/embedded.json", {"kinds": report, "near_duplicates": len(pairs)})
    if not report:
        log.info("embed: nothing is written or shown of the items")


def kinds(settings: dict, limits: dict) -> dict[str, Kind]:
    """What there is to encode by, of what settings name; a module is imported when its kind is there."""
    found = {}
    if settings["text"]:
        found["text"] = Kind(import_module("service.meaning"), None, bytes.decode, 2000)
    if settings["look"]:
        encoder = import_module("models.content.pictures")
        found["look"] = Kind(encoder, "image", lambda content: picture(content, encoder.SIDE, limits["pixels"]), 64)
    if settings["sound"]:
        heard = import_module("models.content.sounds")
        found["sound"] = Kind(heard, "sound", lambda content: sound(content, heard.RATE, limits["seconds"]), 64)
    return found


def texts(items: pl.DataFrame) -> list[str | None]:
    """Title and the beginning of the description of each item."""
    told = [
        pl.col(c).str.slice(0, LETTERS) for c in ("title", "description") if c in items.columns and items.schema[c] == pl.String
    ]
    return items.select(pl.concat_str(told, separator=". ", ignore_nulls=True)).to_series().to_list() if told else []


def cells(items: pl.DataFrame, column: str) -> list[str | None]:
    return items[column].to_list() if column in items.columns and items.schema[column] == pl.String else []


def folder_of(data: Path) -> Path:
    """Where names of files start: the folder of the shop's data."""
    return data if data.is_dir() else data.parent


def encoded(
    name: str, kind: Kind, contents: list[str | None], media: Source, cache: Path
) -> tuple[np.ndarray, list[tuple[int, str]], dict]:
    """Vectors (V, D) float16, row 0 of padding; rows that were refused, with the reason; and facts for manifest, report and log."""
    sha256 = hashlib.sha256(kind.encoder.weights()).hexdigest()
    vectors = np.zeros((len(contents) + 1, kind.encoder.WIDTH), np.float16)
    refused, before, told = [], 0, time.monotonic()
    rows = [row for row, content in enumerate(contents) if content]
    with closing(Embeddings(cache, sha256)) as kept:
        for start in range(0, len(rows), kind.at_once):
            content_of = {}
            for row in rows[start : start + kind.at_once]:
                try:
                    content_of[row] = contents[row].encode() if kind.column is None else media.read(contents[row])
                except MediaError as error:
                    refused.append((row, str(error)))
            key_of = {content: kept.key(content) for content in content_of.values()}
            known = kept.known(list(key_of.values()))
            wrong, new = {}, {}
            for content, key in key_of.items():
                try:
                    if key not in known:
                        new[key] = kind.decode(content)
                except MediaError as error:
                    wrong[key] = str(error)
            if new:
                given = np.stack(list(new.values())) if name == "look" else list(new.values())
                made = dict(zip(new, kind.encoder.encode(given).astype(np.float16), strict=True))
                kept.keep(made)
            for row, content in content_of.items():
                key = key_of[content]
                if key in wrong:
                    refused.append((row, wrong[key]))
                    continue
                before += key in known
                vectors[row + 1] = known[key] if key in known else made[key]
            if time.monotonic() - told > PROGRESS:
                told = time.monotonic()
                log.info("embed: %s: %s of %s", name, f"{start + kind.at_once:,}", f"{len(rows):,}")
    facts = {"name": kind.encoder.NAME, "licence": kind.encoder.LICENCE, "sha256": sha256, "width": kind.encoder.WIDTH}
    return vectors, sorted(refused), {"encoder": facts, "items": len(rows) - len(refused), "kept": before}


def near_duplicates(vectors: dict[str, np.ndarray], least: float) -> list[tuple[int, int, float]]:
    """Pairs of items, the first the smaller number, whose texts, and pictures where both have one, are alike by a cosine of at least `least`."""
    if "text" not in vectors and "look" not in vectors:
        return []
    first = vectors.get("text", vectors.get("look"))
    known, look, found = first.any(1), vectors.get("look"), []
    numbers, cosines = nearest(first.astype(np.float32), min(BESIDE, len(first) - 1), known)
    row, place = np.nonzero((cosines >= least) & known[:, None] & (np.arange(len(first))[:, None] < numbers))
    for item, other, alike in zip(row, numbers[row, place], cosines[row, place], strict=True):
        if look is not None and look[item].any() and look[other].any():
            alike = min(alike, float(look[item].astype(np.float32) @ look[other].astype(np.float32)))
        if alike >= least:
            found.append((int(item), int(other), float(alike)))
    return found


if __name__ == "__main__":
    run(main)
