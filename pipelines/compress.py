"""compress: smaller versions of the exported graph, searched for and measured; the smallest that fits the constraints wins.

In:  data/model, data/export, data/prepared, settings `compress`, `train`, `serve`.
Out: data/compressed/model.onnx (the winner), reports/compression.json, .csv (every candidate) and .png (NDCG@10 against bytes).

The search goes from step to step, tries each option that `compress.steps` has for it on top of the best so far, and keeps the
smallest that fits: a greedy walk, so as many candidates as options, not as combinations. The steps, in order:

    table       the item table's form: fp16, int8, int4, int8+fp32 or int4+fp32 (models/table.py)
    rank        of the item table, the share of its width that is kept as low-rank factors
    layers      the layers' bits (pipelines/quantise.py)
    neighbours  the share kept of the strongest neighbours of an item, where the model counts (models/baselines.py)
    units       the share of attention heads and feed-forward units that go (models/pruning.py)
    sparsity    the share of the layers' weights that are zero, or "2:4"

What `units` and `sparsity` leave is fine-tuned to answer as the whole network does. Candidates are chosen on (a sample of) the
validation part; fp32 and the winner are measured on all of the validation and test parts. A candidate must also answer much as
fp32 does: validation NDCG alone flatters a network that was tuned on it.
"""

import logging
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytorch_lightning as lightning

from models.baselines import Neighbours
from models.batches import Histories, HistoryData, Sequences
from models.learner import Distilled
from models.pruning import dense_layers, narrowed, settled, sparse
from models.sasrec import SelfAttention
from models.sequence import NextItemNetwork
from models.table import FORMS
from models.two_stage import first_stage
from pipelines import histories, onnx
from pipelines.histories import Prepared
from pipelines.quantise import KINDS, quantise
from pipelines.ranking import Model
from pipelines.stage import StageError, chart, log, output, params, run, write_json
from pipelines.train import load

STEPS = ("table", "rank", "layers", "neighbours", "units", "sparsity")
SAMPLE = 20_000  # shoppers that candidates are measured on
CALIBRATED = 1024  # of them, whose histories (not what came next) calibrate static quantisation


def main() -> None:
    settings, serve = params("compress", "serve")
    check(settings)
    data, network = histories.load(), load("data/model")
    with output("data/candidates") as folder:
        workshop = Workshop(folder, network, data, serve["max_k"])
        best = workshop.candidate({})
        rows = [best]
        for step in STEPS:
            tried = [best["steps"] | {step: option} for option in settings["steps"].get(step, [])]
            rows += [workshop.candidate(steps) for steps in tried if applies(steps, network, settings["target"])]
            best = choose(rows, settings)
        report = {"chosen": best["candidate"], "why": why(best, rows, settings), "target": settings["target"]}
        report |= {"fp32_bytes": rows[0]["bytes"], "bytes": best["bytes"]}
        report |= {"ndcg_kept": workshop.kept(best, data.test), "valid_ndcg_kept": workshop.kept(best, data.valid)}
        write_json("reports/compression.json", report | {"candidates": rows})
        table = pl.DataFrame([{k: v for k, v in row.items() if k != "steps"} for row in rows])
        table.write_csv("reports/compression.csv")
        plot(rows, best, settings, Path("reports/compression.png"))
        if settings["max_bytes"] and best["bytes"] > settings["max_bytes"]:
            raise StageError(refusal(best, rows, settings))
        with output("data/compressed") as compressed:
            workshop.path(best["steps"]).rename(compressed / "model.onnx")
    log.info("compress: %s wins, %.2f x the bytes, %.1f %% of the NDCG@10: %s", best["candidate"],
             best["bytes"] / rows[0]["bytes"], 100 * report["ndcg_kept"], report["why"])  # fmt: skip


def check(settings: dict) -> None:
    """Raises StageError naming the setting that is wrong."""
    if settings["target"] not in KINDS:
        raise StageError(f"compress.target is {settings['target']!r}; it must be one of {', '.join(KINDS)}")
    for step, options in settings["steps"].items():
        if step not in STEPS:
            raise StageError(f"compress.steps has {step!r}; there are {', '.join(STEPS)}")
        names = {"table": FORMS, "layers": {kind for kinds in KINDS.values() for kind in kinds}}.get(step)
        for option in options:
            if names and option not in names:
                raise StageError(f"compress.steps.{step} has {option!r}; it may have {', '.join(sorted(names))}")
            share = isinstance(option, int | float) and 0 < option < 1
            if not names and not share and not (step == "sparsity" and option == "2:4"):
                raise StageError(f"compress.steps.{step} has {option!r}; it must be a share between 0 and 1")


def applies(steps: dict, network: Model, target: str) -> bool:
    """Can these steps be taken with this model, for this target?"""
    sequence = isinstance(network, NextItemNetwork)
    counts = isinstance(network, Neighbours) or (sequence and network.memory is not None)
    return (
        (steps.get("layers") in (None, *KINDS[target]))
        and (steps.get("layers") != "fp16" or steps.get("table", "fp32") in ("fp32", "fp16"))  # its converter knows no codes
        and ("neighbours" not in steps or counts)
        and ("rank" not in steps or not isinstance(network, Neighbours))
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


class Workshop:
    """Makes candidates of one trained model and measures them.

    Args:
        folder: where their graphs go. network: the trained model. data: of the run. max_k: length of an answer.
    """

    def __init__(self, folder: Path, network: Model, data: Prepared, max_k: int):
        self.folder, self.network, self.data, self.k = folder, network, data, min(max_k, len(data.items))
        chosen = np.random.default_rng(0).permutation(len(data.valid))[:SAMPLE]
        self.sample = data.valid.rows(np.sort(chosen).tolist())
        self.reference: np.ndarray | None = None
        self.smaller = cache(self._smaller)

    def path(self, steps: dict) -> Path:
        return self.folder / f"{name(steps)}.onnx"

    def candidate(self, steps: dict) -> dict:
        """Builds the candidate of these steps; its row of the table."""
        path = self.path(steps)
        if not steps:
            path.write_bytes(Path("data/export/model.onnx").read_bytes())
        else:
            self.export(steps, path)
        row = {"candidate": path.stem, "steps": steps} | self.measure(path)
        log.info("compress: %-44s %10s bytes, valid NDCG@10 %.4f, overlap %.3f, %.2f ms", row["candidate"], f"{row['bytes']:,}",
                 row["valid_ndcg@10"], row["overlap"], row["ms_batch_1"])  # fmt: skip
        return row

    def export(self, steps: dict, path: Path) -> None:
        network = self.smaller(steps.get("units"), steps.get("sparsity"))
        stored = {"form": steps.get("table", "fp32"), "neighbours": steps.get("neighbours", 1.0)}
        if "rank" in steps:
            stored["rank"] = max(1, round(first_stage(network).table.embedding_dim * steps["rank"]))
        onnx.export(network, len(self.data.items), self.k, path, **stored)
        if "layers" in steps:
            whole = path.rename(path.with_suffix(".whole.onnx"))
            quantise(whole, path, steps["layers"], self.calibration(whole))
            whole.unlink()

    def calibration(self, path: Path) -> Iterator[dict[str, np.ndarray]]:
        graph, count = onnx.session(path), min(CALIBRATED, len(self.sample))
        for start in range(0, count, 64):
            part = self.sample.rows(range(start, min(start + 64, count)))
            yield onnx.read(graph, onnx.feed(part, self.network.max_len, len(self.data.items)))

    def _smaller(self, units: float | None, sparsity: float | str | None) -> Model:
        """The network with units removed and weights held at zero, fine-tuned."""
        network = self.network
        if units:
            network = narrowed(network, units)
        if sparsity:
            network = sparse(network, sparsity)
        return network if network is self.network else settled(finetuned(network, self.network, self.data))

    def measure(self, path: Path) -> dict:
        graph, items = onnx.session(path), len(self.data.items)
        found = onnx.answers(graph, self.sample, self.network.max_len, items)
        self.reference = found if self.reference is None else self.reference
        before, now = (onnx.ndcg_at_10(answers, self.sample.targets) for answers in (self.reference, found))
        shared = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(found, self.reference, strict=True)])
        return {
            "bytes": path.stat().st_size,
            "valid_ndcg@10": float(now.mean()),
            "valid_loss": float((before - now).mean()),
            "valid_loss_se": float((before - now).std() / len(now) ** 0.5),
            "overlap": float(shared),
            "ms_batch_1": round(onnx.latency_ms(onnx.session(path, 1), self.sample, self.network.max_len, items, 1), 3),
            "ms_batch_32": round(onnx.latency_ms(graph, self.sample, self.network.max_len, items, 32), 3),
        }

    def kept(self, best: dict, part: Sequences) -> float:
        """The share of fp32's NDCG@10 that the winner has, on all of the part."""

        def quality(steps: dict) -> float:
            graph = onnx.session(self.path(steps))
            answers = onnx.answers(graph, part, self.network.max_len, len(self.data.items))
            return float(onnx.ndcg_at_10(answers, part.targets).mean())

        return quality(best["steps"]) / max(quality({}), 1e-12)


def name(steps: dict) -> str:
    """What the candidate of these steps is called, in reports and as a file."""
    return " ".join(f"{step}={option}" for step, option in steps.items()) or "fp32"


def finetuned(network: NextItemNetwork, teacher: NextItemNetwork, data: Prepared) -> NextItemNetwork:
    """Trains a pruned network for `compress.finetune_epochs` to answer as the whole one does, at a quarter of the learning rate."""
    train, settings = params("train", "compress")
    lightning.seed_everything(train["seed"], workers=True, verbose=False)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    learner = Distilled(network, deepcopy(teacher), train["learning_rate"] / 4, train["weight_decay"])
    module = HistoryData(Histories(data.train, network.max_len), data.valid, network.max_len, train["batch_users"], train["seed"])
    trainer = lightning.Trainer(
        max_epochs=settings["finetune_epochs"], accelerator=train["accelerator"], devices=1, precision=train["precision"],
        gradient_clip_val=1.0, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(learner.train(), module.train_dataloader())
    return network.cpu().eval()


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
