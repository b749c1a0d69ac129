"""compress: smaller versions of the exported graph, searched for and measured; the smallest that fits the constraints wins.

In:  data/model, data/export, data/prepared, settings `compress`, `train`, `serve`.
Out: data/compressed/model.onnx (the winner), reports/compression.json, .csv (every candidate) and .png (NDCG@10 against bytes);
     reports/latency.json, which decides nothing and differs from run to run.

The search goes from step to step, tries each option that `compress.steps` has for it on top of the best so far, and keeps the
smallest that fits: a greedy walk, so as many candidates as options, not as combinations. The steps, in order:

    table       the item table's form: fp16, int8, int4, int8+fp32 or int4+fp32 (models/served/table.py)
    rank        of the item table, the share of its width that is kept as low-rank factors
    layers      the layers' bits (pipelines/artefact/quantise.py)
    neighbours  the share kept of the strongest neighbours of an item, where the model counts (models/retrieval/item_to_item.py), of all parts
                of a blend at once and then of one after the other
    units       the share of attention heads and feed-forward units that go (models/served/pruning.py)
    sparsity    the share of the layers' weights that are zero, or "2:4"

What `units` and `sparsity` leave is fine-tuned to answer as the whole network does. Candidates are chosen on (a sample of) the
validation part; fp32 and the winner are measured on all of the validation and test parts. A candidate must also answer much as
fp32 does: validation NDCG alone flatters a network that was tuned on it.
"""

from pathlib import Path

import polars as pl

from models.encoders.sasrec import SelfAttention
from models.rankers.two_stage import TwoStage, first_stage, network_of
from models.retrieval.blend import Blend
from models.retrieval.sparse_item_model import SparseItemModel
from models.served.pruning import dense_layers
from pipelines.artefact.candidates import Workshop
from pipelines.artefact.quantise import KINDS
from pipelines.learning import prepared, saved
from pipelines.learning.saved import Model
from pipelines.stage import StageError, chart, log, output, params, run, scratch, write_json

STEPS = ("table", "rank", "layers", "neighbours", "units", "sparsity")


def main() -> None:
    settings, serve, train = params("compress", "serve", "train")
    if train["privacy"]:  # which candidate wins would tell of the shoppers that it was measured on
        settings = settings | {"steps": {step: [] for step in STEPS}}
    data, network = prepared.load(), saved.load("data/model")
    with scratch("data/candidates") as folder:
        workshop = Workshop(folder, network, Path("data/export/model.onnx"), data, serve["max_k"])
        best = workshop.candidate({})
        rows = [best]
        for step in STEPS:
            tried = [best["steps"] | {step: option} for option in settings["steps"][step]]
            rows += [workshop.candidate(steps) for steps in tried if applies(steps, network, settings["target"])]
            best = choose(rows, settings)
            if step == "neighbours" and isinstance(first := first_stage(network), Blend) and len(first.parts) > 1:
                rows += part_by_part(workshop, list(first.parts), best, rows[0], settings)
                best = choose(rows, settings)
        report = {"chosen": best["candidate"], "why": why(best, rows, settings), "target": settings["target"]}
        report |= {"fp32_bytes": rows[0]["bytes"], "bytes": best["bytes"]}
        report |= {"ndcg_kept": workshop.kept(best, data.test), "valid_ndcg_kept": workshop.kept(best, data.valid)}
        write_json("reports/compression.json", report | {"candidates": rows})
        table = pl.DataFrame([{k: v for k, v in row.items() if k != "steps"} for row in rows])
        table.write_csv("reports/compression.csv")
        write_json("reports/latency.json", {row["candidate"]: workshop.latency(row["steps"]) for row in rows})
        plot(rows, best, settings, Path("reports/compression.png"))
        if settings["max_bytes"] and best["bytes"] > settings["max_bytes"]:
            raise StageError(refusal(best, rows, settings))
        with output("data/compressed") as compressed:
            workshop.path(best["steps"]).rename(compressed / "model.onnx")
    log.info("compress: %s wins, %.2f x the bytes, %.1f %% of the NDCG@10: %s", best["candidate"],
             best["bytes"] / rows[0]["bytes"], 100 * report["ndcg_kept"], report["why"])  # fmt: skip


def part_by_part(workshop: Workshop, parts: list[str], best: dict, whole: dict, settings: dict) -> list[dict]:
    """Candidates with fewer neighbours in one part of a blend after the other, on top of those that fit: of each part the smallest share that
    fits.
    """
    shares, rows = dict.fromkeys(parts, best["steps"].get("neighbours", 1.0)), []
    for part in parts:
        for share in sorted(s for s in settings["steps"]["neighbours"] if s < shares[part]):
            rows.append(workshop.candidate(best["steps"] | {"neighbours": shares | {part: share}}))
            if fits(rows[-1], whole, settings):
                shares[part] = share
                break
    return rows


def applies(steps: dict, model: Model, target: str) -> bool:
    """Can these steps be taken with this model, for this target?"""
    network = network_of(model)
    counts = isinstance(first_stage(model), SparseItemModel | Blend) or network.prior is not None
    sequence = network is not None and not isinstance(model, TwoStage)  # whose ranker is not fine-tuned
    return (
        (steps.get("layers") in (None, *KINDS[target]))
        and (steps.get("layers") != "fp16" or steps.get("table", "fp32") in ("fp32", "fp16"))  # its converter knows no codes
        and ("neighbours" not in steps or counts)
        and ("rank" not in steps or network is not None)
        and ("units" not in steps or (sequence and isinstance(network.encoder, SelfAttention)))
        and ("sparsity" not in steps or (sequence and bool(dense_layers(network))))
    )


def choose(rows: list[dict], settings: dict) -> dict:
    """The smallest candidate that loses no more than allowed against fp32, the first row, which always fits.

    Of the validation NDCG@10 it may lose the share `max_ndcg_loss`, and at least the share `min_overlap` of its answers must be
    fp32's. The standard error of the shoppers' paired differences stands beside the loss in the report: no slack is given for it.
    """
    return min((r for r in rows if fits(r, rows[0], settings)), key=lambda r: r["bytes"])


def fits(row: dict, whole: dict, settings: dict) -> bool:
    allowed = settings["max_ndcg_loss"] * whole["valid_ndcg@10"]
    return row["valid_loss"] <= allowed and row["overlap"] >= settings["min_overlap"]


def why(best: dict, rows: list[dict], settings: dict) -> str:
    """One sentence on the choice, for the manifest."""
    limits = f"{settings['max_ndcg_loss']:.2%} of the NDCG@10 and {1 - settings['min_overlap']:.0%} of the answers"
    smaller = [r for r in rows if r["bytes"] < best["bytes"]]
    said = f"of {len(rows)} candidates the smallest that loses at most {limits}"
    if smaller:
        first = max(smaller, key=lambda r: r["bytes"])
        said += f"; the next smaller, {described(first, rows[0])}"
    return said


def described(row: dict, whole: dict) -> str:
    lost = row["valid_loss"] / max(whole["valid_ndcg@10"], 1e-12)
    return f"{row['candidate']} ({row['bytes']:,} bytes), loses {lost:.2%} of the NDCG@10 and {1 - row['overlap']:.0%} of the answers"


def refusal(best: dict, rows: list[dict], settings: dict) -> str:
    """What is said where no candidate that fits is small enough."""
    said = [
        f"no candidate is under compress.max_bytes ({settings['max_bytes']:,}) and loses at most {settings['max_ndcg_loss']:.2%} of the NDCG@10",
        f"nearest is {described(best, rows[0])}; for it set compress.max_bytes to {best['bytes']}",
    ]
    under = [r for r in rows if r["bytes"] <= settings["max_bytes"]]
    if under:
        least = min(under, key=lambda r: r["valid_loss"])
        said.append(f"or raise compress.max_ndcg_loss or lower compress.min_overlap for {described(least, rows[0])}")
    return "\n  ".join([*said, "all candidates are in reports/compression.csv"])


def plot(rows: list[dict], best: dict, settings: dict, path: Path) -> None:
    """NDCG@10 kept against bytes; the line joins the candidates that no other beats in both."""
    whole = rows[0]
    at = {r["candidate"]: (r["bytes"] / whole["bytes"], r["valid_ndcg@10"] / max(whole["valid_ndcg@10"], 1e-12)) for r in rows}
    front, highest = [], 0.0
    for x, y in sorted(at.values(), key=lambda p: (p[0], -p[1])):
        if y > highest:
            front.append((x, y))
            highest = y
    title = "Candidates: chosen red, fitting blue"
    with chart(path, 8, "bytes, fp32 = 1", "validation NDCG@10, fp32 = 1", title, scale="linear") as axes:
        axes.plot(*zip(*front, strict=True), color="#94a3b8", zorder=1)
        for r in rows:
            chosen = r is best
            axes.scatter(*at[r["candidate"]], s=70 if chosen else 25, zorder=2,
                         color="#dc2626" if chosen else "#2563eb" if fits(r, whole, settings) else "#94a3b8")  # fmt: skip
        axes.annotate(
            best["candidate"], at[best["candidate"]], xytext=(8, -14), textcoords="offset points", color="#dc2626", fontsize=8
        )
        axes.axhline(1 - settings["max_ndcg_loss"], color="black", linewidth=0.7, linestyle=":")


if __name__ == "__main__":
    run(main)
