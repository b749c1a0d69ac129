"""How close to the limit of the machine are the artefact and its serving? Every figure beside another measured in the same run.

    make bench                                      # all of it, under half an hour on 2 CPU cores
    python -m benchmarks.serving --data ../shared/data/amazon-beauty --minutes 1

On the simulated shop, and on the data given (default: Amazon Beauty where it is beside the checkout), the pipeline runs from collect
to bundle in data/bench (again only when settings or code changed; of the real data fewer candidates are tried than are
shipped); then artefacts are measured in this process and over HTTP. Prints a line a row; writes reports/bench.json, reports/bench.html and its plots. A row
says of `ours` and `theirs` their ratio, what it must be at least and what it should be, and whether it is. What could not be
measured, and why, is in `left_out`.
"""

import argparse
import html
import json
import logging
import os
import shutil
import time
from contextlib import chdir
from importlib import metadata
from pathlib import Path

import psutil
import yaml

from benchmarks import quality
from benchmarks.figures import cpu
from benchmarks.quality import ROOT
from benchmarks.serving import in_process, over_http
from benchmarks.speed_to_quality import peer_environment
from pipelines.stage import chart, write_json

BEAUTY = ROOT.parent / "shared" / "data" / "amazon-beauty"
WORK = ROOT / "data" / "bench"
STAGES = ("segment", "train", "evaluate", "export", "compress", "refit", "replay", "predict", "uplift", "bundle")
REAL = {"compress": {"steps": {"table": ["int8", "int4"], "layers": ["dynamic8", "weight8", "weight4"]}}}
FLAT = 1.1  # last third over first third of the minutes


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, default=BEAUTY, help="real data beside the simulated shop, as make demo's DATA")
    cli.add_argument("--minutes", type=int, default=10, help="of sustained load")
    chosen = cli.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("pytorch_lightning", "onnxruntime", "onnx_ir", "onnxscript", "torch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("pushcart").setLevel(logging.INFO)
    report = Report()
    spaces = {"shop": made("shop", ROOT / "pipelines" / "data" / "sources" / "shop.yaml", {})}
    if chosen.data.exists():
        spaces[chosen.data.resolve().stem] = made(chosen.data.resolve().stem, chosen.data.resolve(), REAL)
    else:
        report.left_out["real data"] = f"{chosen.data.name} is not beside the checkout"
    for name, space in spaces.items():
        of_artefact(report, name, space)
    peer(report, *list(spaces.items())[-1])
    of_a_million(report)
    if over_http.install_wrk():
        http(report, *list(spaces.items())[-1], chosen.minutes)
    else:
        report.left_out["HTTP"] = "wrk is not installed and could not be"
    report.write()


class Report:
    """Rows, and the machine they were measured on."""

    def __init__(self):
        self.rows: list[dict] = []
        self.left_out: dict[str, str] = {}
        self.minutes: list[dict] = []
        self.machine = machine()

    def add(self, name: str, against: str, ours: float, theirs: float, unit: str, at_least: float, aim: float, *, also: bool = True, less: bool = False, note: str = "") -> None:  # fmt: skip
        """A row whose ratio is ours over theirs where more is better or a share is wanted, theirs over ours where it is "times less".

        less: the ratio may be at most `at_least`. also: what else must hold. note: what that is.
        """
        ratio = ours / theirs if less or unit == "requests/s" else theirs / ours
        met = also and (ratio <= at_least if less else ratio >= at_least)
        reached = also and (ratio <= aim if less else ratio >= aim)
        row = {"name": name, "against": against, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio}
        row |= {
            "better": "lower" if less else "higher",
            "at_least": at_least,
            "aim": aim,
            "met": bool(met),
            "aim_met": bool(reached),
        }
        self.rows.append(row | ({"note": note} if note else {}))
        print(
            f"{name}: {measured(row, 'ours')} beside {measured(row, 'theirs')} ({against}): {ratio:.2f} x, {'met' if met else 'NOT met'} {note}",
            flush=True,
        )

    def write(self) -> None:
        document = {"machine": self.machine, "rows": self.rows, "left_out": self.left_out, "sustained": self.minutes}
        write_json(ROOT / "reports" / "bench.json", document)
        page(document, ROOT / "reports")
        print(f"{sum(r['met'] for r in self.rows)} of {len(self.rows)} rows are met; reports/bench.json, reports/bench.html")


def machine() -> dict:
    packages = ("onnxruntime-gpu", "torch", "bentoml", "faiss-cpu", "numpy")
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "bandwidth_gb_s": round(in_process.bandwidth() / 1e9, 1),
        "gpu": Path("/proc/driver/nvidia/version").exists(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def made(name: str, data: Path, changes: dict) -> Path:
    """A workspace in which every stage has run on the data."""
    from pipelines.artefact.manifest import code_digest

    folder = quality.prepared(WORK / name, quality.guess(data), data, "leave_one_out")
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["model"] = "sasrec"  # one network, which torch and the peers can be held against
    for section, values in changes.items():
        params[section] |= values
    with chdir(folder):
        done = json.dumps([params, code_digest()], sort_keys=True)
        if not Path("done").exists() or Path("done").read_text() != done:
            shipped = Path("params.yaml").read_text(encoding="utf-8")
            Path("params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
            try:
                quality.run(folder, *STAGES)
            finally:
                Path("params.yaml").write_text(shipped, encoding="utf-8")  # by which `prepared` knows what it prepared
            Path("done").write_text(done)
    return folder


def of_artefact(report: Report, name: str, space: Path) -> None:
    ours, theirs, kept = in_process.compressed(space)
    enough = f"{kept:.2%} of the test NDCG@10 kept"
    report.add(
        f"artefact bytes, {name}", "fp32 ONNX", ours, theirs, "bytes", 0.28, 0.15, also=kept >= 0.995, less=True, note=enough
    )
    ours, evaluated, folded = in_process.one_recommendation(space)
    what = f"one recommendation, batch 1, one core, p50, {name}"
    report.add(what, "torch eager, the network as it is evaluated", ours, evaluated, "ms", 5, 8)
    report.add(what, "torch eager, with the export's own short cuts", ours, folded, "ms", 5, 8)


def peer(report: Report, name: str, space: Path) -> None:
    try:
        interpreter = peer_environment(ROOT / "data" / "peer")
    except Exception as error:  # no network, no such wheel: the other rows are still worth having
        report.left_out["RecTools"] = f"its virtualenv could not be made: {error}"
        return
    theirs = in_process.rectools(space, interpreter)
    ours, *_ = in_process.one_recommendation(space)
    report.add(f"one recommendation, batch 1, one core, p50, {name}", "RecTools recommend, one user", ours, theirs, "ms", 20, 50)


def of_a_million(report: Report) -> None:
    where = f"top-{in_process.K} of {in_process.CATALOGUE:,} x {in_process.WIDTH}, exact, one core, p50"
    for form in ("int8+fp32", "int4+fp32"):
        found = in_process.million(form)
        same = f"{found['same']:.2%} of the items the same"
        report.add(
            f"{where}, {form}",
            "FAISS IndexFlatIP",
            found["ours"],
            found["theirs"],
            "ms",
            3,
            6,
            also=found["same"] >= 0.99,
            note=same,
        )
        once = 1000 * found["bytes"] / (report.machine["bandwidth_gb_s"] * 1e9)
        report.add(f"{where}, {form}", "reading the codes once", found["ours"], once, "ms", 3, 1.5, less=True)


def http(report: Report, name: str, space: Path, minutes: int) -> None:
    bento = space / "bento"
    ours, theirs = over_http.throughput(bento)
    limit = f"all cores, p99 under {over_http.P99_MS:.0f} ms"
    report.add(f"HTTP /recommend, {name}", "a constant from BentoML", ours, theirs, "requests/s", 0.60, 0.85, note=limit)
    large = over_http.large_catalogue(WORK / "large", 100_000)
    users = over_http.users_of(large / "bento")
    mine = over_http.footprint([str(large / "bento")], users)
    torch = over_http.footprint(over_http.own("in_torch:InTorch"), users, {"PUSHCART_TORCH_MODEL": str(large)})
    report.add("cold start to ready, 100,000 items", "the same model in torch", mine[0], torch[0], "s", 5, 10)
    report.add("resident memory a worker, 100,000 items", "the same model in torch", mine[1], torch[1], "MB", 5, 10)
    if not ours:
        report.left_out["sustained load"] = f"no number of connections kept p99 under {over_http.P99_MS:.0f} ms"
        return
    found = report.minutes = over_http.sustained(bento, 0.8 * ours, minutes)
    third = max(1, minutes // 3)
    errors = sum(m["errors"] for m in found)
    told = f"{errors} errors in {minutes} minutes at {sum(m['rate'] for m in found) / minutes:.0f} requests/s; of the last third over the first"
    for key, what in (("mb", "memory"), ("p99_ms", "p99")):
        last, first = (sum(m[key] for m in part) / third for part in (found[-third:], found[:third]))
        unit = "MB" if key == "mb" else "ms"
        report.add(
            f"sustained load, {what}", "its first third", last, first, unit, FLAT, 1.0, also=not errors, less=True, note=told
        )


def measured(row: dict, side: str) -> str:
    value = row[side]
    return f"{value:,.0f} {row['unit']}" if value >= 100 else f"{value:.3g} {row['unit']}"


def page(document: dict, folder: Path) -> None:
    """bench.html: the table and the plots."""
    rows = document["rows"]
    with chart(folder / "bench_ratios.png", 9, "ratio over what it must be (right of 1 = met)", "", "") as axes:
        over = [r["at_least"] / r["ratio"] if r["better"] == "lower" else r["ratio"] / r["at_least"] for r in rows]
        labels = [f"{r['name']}\nbeside {r['against']}" for r in rows]
        axes.figure.set_size_inches(10, 0.6 * len(rows) + 1)
        axes.barh(labels, [max(o, 1e-3) - 1 for o in over], left=1, color=["#16a34a" if r["met"] else "#dc2626" for r in rows])
        for y, row in enumerate(rows):
            aim = row["at_least"] / row["aim"] if row["better"] == "lower" else row["aim"] / row["at_least"]
            axes.plot([aim, aim], [y - 0.4, y + 0.4], color="black", linewidth=1)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.tick_params(axis="y", labelsize=7)
        axes.invert_yaxis()
    plots = ["bench_ratios.png"]
    if document["sustained"]:
        with chart(folder / "bench_sustained.png", 9, "minute", "p99 (ms), memory of all workers (10 MB)", "Sustained load", scale="linear") as axes:  # fmt: skip
            minutes = range(1, len(document["sustained"]) + 1)
            axes.plot(minutes, [m["p99_ms"] for m in document["sustained"]], marker="o", label="p99, ms")
            axes.plot(minutes, [m["mb"] / 10 for m in document["sustained"]], marker="o", label="memory, 10 MB")
            axes.set_ylim(bottom=0)
            axes.legend()
        plots.append("bench_sustained.png")
    for plot in sorted(WORK.glob("*/reports/compression.png")):
        target = f"bench_compression_{plot.parts[-3]}.png"
        shutil.copy(plot, folder / target)
        plots.append(target)
    cells = [
        [r["name"], r["against"], measured(r, "ours"), measured(r, "theirs"), f"{r['ratio']:.2f}",
         f"{'at most' if r['better'] == 'lower' else 'at least'} {r['at_least']}", f"{r['aim']}", "aim" if r["aim_met"] else "yes" if r["met"] else "no", r.get("note", "")]
        for r in rows
    ]  # fmt: skip
    head = ("figure", "beside", "ours", "theirs", "ratio", "must be", "aim", "met", "")
    table = "".join(f"<tr class={c[7]}>" + "".join(f"<td>{html.escape(x)}</td>" for x in c) + "</tr>" for c in cells)
    m = document["machine"]
    told = f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['bandwidth_gb_s']} GB/s from memory to one core, {'with' if m['gpu'] else 'no'} GPU; "
    told += ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    missing = "".join(f"<p>Left out: {html.escape(name)}: {html.escape(why)}</p>" for name, why in document["left_out"].items())
    titles = [name.removeprefix("bench_").removesuffix(".png").replace("_", ", ") for name in plots]
    images = "".join(f"<h2>{t}</h2><p><img src={name} alt={t!r}></p>" for name, t in zip(plots, titles, strict=True))
    style = (
        "body{font:15px system-ui;margin:2em auto;max-width:75em;padding:0 1em}table{border-collapse:collapse}td,th{padding:.4em .6em;"
        "border-bottom:1px solid #ddd;text-align:left;vertical-align:top}.no td:nth-child(8){color:#dc2626;font-weight:600}"
        ".yes td:nth-child(8),.aim td:nth-child(8){color:#16a34a;font-weight:600}img{max-width:100%}"
    )
    heads = "".join(f"<th>{h}</th>" for h in head)
    folder.joinpath("bench.html").write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Pushcart: bench</title><style>{style}</style><h1>Serving, measured</h1>"
        f"<p>{html.escape(told)}</p><table><tr>{heads}</tr>{table}</table>{missing}{images}</html>\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")
