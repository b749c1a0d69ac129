"""A tab "Report" on every run of retrain in the Airflow UI: metrics, candidates, campaigns, segments of shoppers, data quality, and links to the Data Docs.

A small web application under /pushcart (dags/plugins), open to whoever is logged in to Airflow. Reads the JSON reports of
the run's folder (dags/workspace.py); knows nothing of the stages that wrote them.
"""

import html
import json
import os
from pathlib import Path

from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse, HTMLResponse

from dags.workspace import folder

WORST = 5  # intents that the page names
CHECKOUT = Path(os.environ.get("PUSHCART_CHECKOUT") or Path(__file__).resolve().parent.parent)
# What others wrote into a report (Data Docs show values of a feed) is shown, but can run nothing and ask for nothing as Airflow's user.
HARMLESS = {
    "Content-Security-Policy": "sandbox; default-src 'self' 'unsafe-inline' data:; script-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem;color:#1a202c;background:#fff}
h1{font-size:1.3rem} h2{font-size:1.05rem;margin:1.8rem 0 .4rem}
table{border-collapse:collapse} th,td{padding:.25rem .9rem .25rem 0;text-align:right;border-bottom:1px solid #e2e8f0}
th:first-child,td:first-child{text-align:left} .gate td:last-child,.gate th:last-child{text-align:left} .wide{overflow-x:auto} .chosen{font-weight:600} .muted{color:#64748b}
</style>"""


def logged_in():
    """Lets in whoever is logged in to Airflow (header or cookie)."""
    from airflow.api_fastapi.core_api.security import get_user

    return Depends(get_user)


app = FastAPI(title="Pushcart run reports", dependencies=[logged_in()])


@app.get("/runs/{run_id}", response_class=HTMLResponse)
def report(run_id: str, response: Response) -> str:
    """The page of one run."""
    response.headers.update(
        {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; script-src 'none'"}
    )
    reports = _reports(run_id)
    sections = [
        _refusal(reports),
        _gate(reports),
        _metrics(reports),
        _explained(reports, run_id),
        _candidates(reports, run_id),
        _plans(reports),
        _campaigns(reports),
        _segments(reports),
        _people(reports),
        _content(reports),
        _answers(reports),
        _quality(reports),
        _docs(reports, run_id),
    ]
    body = "".join(s for s in sections if s) or "<p class=muted>This run has written no reports yet.</p>"
    return f"<!doctype html><meta charset=utf-8><title>Report</title>{STYLE}<h1>Run {html.escape(run_id)}</h1>{body}"


@app.get("/runs/{run_id}/files/{path:path}")
def file(run_id: str, path: str) -> FileResponse:
    """A file of the run's reports: Data Docs, CSVs."""
    reports = _reports(run_id).resolve()
    wanted = (reports / path).resolve()
    if reports not in wanted.parents or not wanted.is_file():
        raise HTTPException(404, f"this run has no report {path}")
    return FileResponse(wanted, headers=HARMLESS)


def _reports(run_id: str) -> Path:
    return folder(CHECKOUT, run_id) / "reports"


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _refusal(reports: Path) -> str:
    refusal = _read(reports / "refusal.json")
    if not refusal:
        return ""
    return f"<h2>Why it ended</h2><p>{html.escape(refusal['stage'])}: {html.escape(refusal['reason'])}</p>"


def _gate(reports: Path) -> str:
    gate = _read(reports / "gate.json")
    if not gate:
        return ""

    def figure(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = [
        [r["name"], figure(r["figure"]), figure(r["limit"]), "passed" if r["passed"] else "not passed", r["note"]] for r in gate
    ]
    return f"<h2>Gate</h2><div class=gate>{_table(['', 'figure', 'limit', '', ''], rows)}</div>"


def _metrics(reports: Path) -> str:
    metrics = _read(reports / "metrics.json")
    if not metrics:
        return ""
    columns = [m for m in ("ndcg@10", "recall@10", "mrr@10", "coverage@10", "novelty@10") if m in metrics["test"]]
    rows = [
        [name] + [f"{metrics[key][c]:.4f}" for c in columns]
        for key, name in (
            ("test", "this model"),
            ("retriever", "its retriever alone"),
            ("item_knn", "item-kNN"),
            ("popularity", "popularity"),
        )
        if key in metrics
    ]
    targets = metrics["targets"]
    low, high = metrics["test"]["ndcg@10_interval"]
    note = f"<p class=muted>NDCG@10 of this model: 95 % interval {low:.4f} to {high:.4f} over {metrics['test']['shoppers']:,} shoppers; "
    note += f"{targets['new']:.1%} of their items are new to training, {targets['rare']:.1%} rare; {targets['ties']:.0%} of neighbours tie in time</p>"
    segments = [
        [s] + [f"{v.get(m, float('nan')):.4f}" for m in ("test", "item_knn", "popularity")]
        for s, v in metrics["segments"].items()
        if v
    ]
    return (
        "<h2>Quality on the test part</h2>" + _table(["", *columns], rows) + note
        + "<h2>NDCG@10 by segment</h2>" + _table(["", "this model", "item-kNN", "popularity"], segments)
        + _blend(metrics.get("blend"))
        + _impressions(metrics.get("impressions"))
    )  # fmt: skip


def _blend(parts: list[dict] | None) -> str:
    """What a blend is made of; nothing for other models."""
    if not parts:
        return ""
    rows = [
        [
            p["part"],
            " / ".join(f"{weight:.2g}" for weight in p["weight"]),
            f"{p['valid_ndcg@10']:.4f}",
            f"{p['without']:.4f} ({p['without'] - p['test_ndcg@10']:+.4f})",
        ]
        for p in parts
    ]
    return "<h2>What the blend is made of</h2>" + _table(
        ["part", "weight (after a rare / usual / popular item)", "by itself, validation NDCG@10", "test NDCG@10 without it"], rows
    )


def _impressions(tasks: dict | None) -> str:
    """What a ranker expects of the test part's impressions; nothing for other models."""
    if not tasks:
        return ""
    rows = [
        [
            task,
            f"{v['positives']:,} of {v['impressions']:,}",
            f"{v['auc']:.4f}",
            f"{v['log_loss']:.4f}",
            f"{v['calibration_error']:.4f}",
        ]
        for task, v in tasks.items()
    ]
    return "<h2>What comes of an impression</h2>" + _table(["", "happened", "AUC", "log-loss", "calibration error"], rows)


def _candidates(reports: Path, run_id: str) -> str:
    compression = _read(reports / "compression.json")
    if not compression:
        return ""
    latency = _read(reports / "latency.json") or {}
    rows = [
        [c["candidate"] + (" (chosen)" if c["candidate"] == compression["chosen"] else ""), f"{c['bytes']:,}", f"{c['valid_ndcg@10']:.4f}",
         f"{c['overlap']:.1%}", *(f"{latency.get(c['candidate'], {}).get(m, float('nan')):.3f}" for m in ("ms_batch_1", "ms_batch_32"))]
        for c in compression["candidates"]
    ]  # fmt: skip
    columns = ["", "bytes", "valid NDCG@10", "answers as fp32's", "ms, batch 1", "ms, batch 32"]
    chosen = f"<p class=muted>{html.escape(compression['chosen'])}: {html.escape(compression['why'])}</p>"
    plot = f'<img src="{html.escape(run_id)}/files/compression.png" alt="NDCG@10 against bytes" width=640>'
    return f"<h2>Compression</h2>{chosen}{_table(columns, rows)}{plot}"


def _explained(reports: Path, run_id: str) -> str:
    """What carries answers, how far that holds, and where the model is wrong."""
    found = _read(reports / "explanation.json")
    if not found or not found["faithfulness"]:
        return ""

    def picture(name: str, told: str) -> str:
        there = (reports / "explanation" / f"{name}.png").exists()
        return f'<img src="{html.escape(run_id)}/files/explanation/{name}.png" alt="{told}" width=440>' if there else ""

    ways, diagnosis, changed = found["faithfulness"], found["diagnosis"], found["counterfactual"]
    rows = [[name, f"{way['deletion'][-1]:.2f}", f"{way['insertion'][-1]:.2f}"] for name, way in ways.items()]
    worst = [[f"{kind}: {row['group']}", f"{row['shoppers']:,}", f"{row['ndcg@10']:.4f} ± {row['error'] or 0:.4f}"]
             for kind, groups in (diagnosis["by_group"] | diagnosis["protected"]).items() for row in groups[:5]]  # fmt: skip
    small = diagnosis["exposure_of_small_brands"]
    lines = [
        f"{changed['changed']:.0%} of first answers change as events are left out, the median after {changed['median_events'] or 0:g}",
        f"the model that learnt from everything names the same event in {found['same_reason_after_refit']:.0%}",
        f"with the items that others met next as what is to be found, NDCG@10 is {diagnosis['ndcg@10_of_others_targets']:.4f} instead of {diagnosis['ndcg@10']:.4f}",
        *([f"the smaller half of the brands has {small['answers']:.1%} of the answers, {small['events']:.1%} of the events, {small['catalogue']:.1%} of the catalogue"] if small else []),
    ]  # fmt: skip
    branches = [
        [row["branch"].replace("_", " "), f"{row['lost']:+.4f} ± {row['error']:.4f}", f"{row['changed']:.0%}"]
        for row in found.get("branches", [])
    ]
    rules = html.escape("\n".join(found["surrogate"]["rules"]))
    return (
        f"<h2>What carries the answers of {found['shoppers']:,} shoppers</h2>"
        + _table(["the five events named by", "without them the first answer falls by", "with them alone it is ahead by"], rows)
        + picture("deletion", "how far the first answer falls") + picture("importance", "what carries answers")
        + "".join(f"<p class=muted>{html.escape(line)}</p>" for line in lines)
        + (_table(["without what a branch reads", "NDCG@10 falls by", "first answers that change"], branches) if branches else "")
        + "<h2>Where it is wrong, and for whom</h2>" + _table(["NDCG@10, worst groups first", "shoppers", ""], worst)
        + picture("calibration", "the chance that is said, and how often it came") + picture("attention-1", "attention of one shopper")
        + f"<details><summary>A tree that stands in for the model (R2 {found['surrogate']['r2']:.2f})</summary><pre>{rules}</pre></details>"
    )  # fmt: skip


def _segments(reports: Path) -> str:
    segments = _read(reports / "segments.json")
    if not segments:
        return ""
    days, rows = segments.get("compare_days"), segments["segments"]
    lines = [[s["segment"], f"{s['size']:,}", f"{s['share']:.1%}", f"{s['size'] - s['before']:+,}", s["condition"]] for s in rows]
    told = f"<div class=gate>{_table(['', 'shoppers', 'share', f'since {days} days ago', 'who'], lines)}</div>" if rows else ""
    names = [s["segment"] for s in rows]
    both = [[a, *(f"{segments['overlaps'][a][b]:,}" for b in names)] for a in names]
    told += f"<h2>Shoppers in two segments at once</h2><div class=wide>{_table(['', *names], both)}</div>" if rows else ""
    missing = "".join(f"<p class=muted>{html.escape(reason)}</p>" for reason in segments["cannot_be_told"])
    return f"<h2>Segments of {segments['shoppers']:,} shoppers</h2>{told}{missing}"


def _people(reports: Path) -> str:
    """Which ids are one person's, by what."""
    found = _read(reports / "links.json")
    if not found or not found["links"]:
        return ""
    rows = [[one["reason"], one["outcome"], f"{one['links']:,}"] for one in found["links"]]
    likely = [
        f"Of likely links of {kind} such as were taken, {said['precision']:.1%} were right where they were held out ({said['held_out']:,} ids)."
        if "precision" in said
        else f"Likely links of {kind}: none is taken, as {said['said']}."
        for kind, said in found.get("likely", {}).items()
    ]
    return (
        f"<h2>{found['ids_of_people']:,} ids of {found['people']:,} people</h2>" + _table(["by", "", "links"], rows)
        + "".join(f"<p class=muted>{html.escape(line)}</p>" for line in likely)
    )  # fmt: skip


def _content(reports: Path) -> str:
    """Which items became vectors, and which pictures and sounds could not be used."""
    found = _read(reports / "embedded.json")
    if not found or not found["kinds"]:
        return ""
    rows = [[kind, f"{c['items']:,}", f"{c['refused']:,}"] for kind, c in found["kinds"].items()]
    why = [[one["item_id"], kind, one["reason"]] for kind, c in found["kinds"].items() for one in c["such_as"]]
    return (
        "<h2>Texts, pictures and sounds of items</h2>" + _table(["", "items", "refused"], rows)
        + (f"<p class=muted>{found['near_duplicates']:,} pairs of items are the same to who sees them</p>" if found["near_duplicates"] else "")
        + (_table(["refused, such as", "", "reason"], why) if why else "")
    )  # fmt: skip


def _answers(reports: Path) -> str:
    """How well it is understood what customers want."""
    found = _read(reports / "assist.json")
    if not found or not found["messages"]:
        return ""
    low, high = found["interval"]
    note = f"<p>{found['accuracy']:.1%} of {found['messages']:,} messages are understood where they are held out ({low:.1%} to {high:.1%}); {found['passages']:,} passages of help pages</p>"
    worst = sorted(found["by_intent"].items(), key=lambda one: one[1])[:WORST]
    return (
        "<h2>Answers to customers</h2>"
        + note
        + _table(["least understood", ""], [[name, f"{share:.0%}"] for name, share in worst])
    )


def _plans(reports: Path) -> str:
    """What each open campaign is to send, and how its audience comes apart."""
    told = ""
    for name, plan in (_read(reports / "plans.json") or {}).items():
        if "refused" in plan:
            told += f"<h2>Campaign {html.escape(name)} is not planned</h2><p>{html.escape(plan['refused'])}</p>"
            continue
        worth = (
            "nobody knows what: no push of the past tells" if plan["worth"] is None else _money(plan["worth"], plan["interval"])
        )
        line = (
            f"{plan['messages']:,} messages for {plan['cost']:,.2f} of {plan['budget']:,.2f} are to bring {worth} of {plan['currency']}; "
            f"no plan within the limits is worth {plan['gap']:.2%} more"
        )
        rows = [[end, f"{count:,}"] for end, count in plan["waterfall"].items()] + [["the audience", f"{plan['audience']:,}"]]
        told += f"<h2>Campaign {html.escape(name)}</h2><p>{html.escape(line)}</p>{_table(['', 'shoppers'], rows)}"
    return told


def _campaigns(reports: Path) -> str:
    """What campaigns of the past brought, beside those whom chance held out."""
    campaigns = (_read(reports / "campaigns.json") or {}).get("campaigns")
    if not campaigns:
        return ""
    rows = [
        [c["campaign"], f"{c['sent']:,}", f"{c['held_out']:,}"]
        + ([c["reason"], "", ""] if "reason" in c else [_money(c[n]["added"], c[n]["interval"]) for n in ("orders", "revenue", "margin")])
        + [f"{c['expected']['margin']:,.0f}" if "expected" in c else ""]
        for c in campaigns
    ]  # fmt: skip
    table = _table(["", "sent", "held out", "orders added (95 %, on any day)", "revenue", "margin", "margin planned"], rows)
    return f"<h2>What campaigns brought</h2><div class=wide>{table}</div>"


def _money(value: float, interval: list[float | None]) -> str:
    low, high = interval
    return f"{value:,.0f}" + (f" ({low:,.0f} to {high:,.0f})" if low is not None else "")


def _quality(reports: Path) -> str:
    quality = _read(reports / "quality.json")
    if not quality:
        return ""
    rows = [[name, f"{t['rows']:,}", f"{t['broken']:,}", str(t["expectations"])] for name, t in quality["tables"].items()]
    reasons = [[f["expectation"], f["reason"], f"{f['rows']:,}"] for t in quality["tables"].values() for f in t["failures"]]
    return (
        "<h2>Data quality</h2>" + _table(["table", "rows", "to the quarantine", "expectations"], rows)
        + (_table(["expectation not met", "reason", "rows"], reasons) if reasons else "")
    )  # fmt: skip


def _docs(reports: Path, run_id: str) -> str:
    links = [
        f'<li><a href="{html.escape(run_id)}/files/data_docs/{name}/index.html" target="_blank">Data Docs: {title}</a></li>'
        for name, title in (("raw", "raw tables"), ("prepared", "prepared data"))
        if (reports / "data_docs" / name / "index.html").exists()
    ]
    return f"<h2>More</h2><ul>{''.join(links)}</ul>" if links else ""


def _table(headings: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headings)
    body = "".join(
        f"<tr{' class=chosen' if '(chosen)' in row[0] else ''}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
