"""Rows of figures as a page: how each stands to what it should be, in one picture and one table."""

from html import escape
from io import StringIO
from pathlib import Path

import numpy as np

FURTHEST = 10.0  # times better or worse than asked for, shown as such


def write(file: Path, title: str, rows: list[dict]) -> None:
    """rows: name, value, interval, at_least, aim, met, less (it should be at most `at_least`), reason."""
    lines = "".join(
        f"<tr class={'met' if r['met'] else 'missed'}><td>{escape(r['name'])}</td><td>{_said(r['value'])}</td>"
        f"<td>{' to '.join(_said(v) for v in r.get('interval') or [])}</td><td>{'at most' if r['less'] else 'at least'} {r['at_least']:g}</td><td>{r['aim']:g}</td>"
        f"<td>{escape(r.get('reason') or ('met' if r['met'] else 'missed'))}</td></tr>"
        for r in rows
    )
    page = f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>{escape(title)}</title><style>
body{{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}}svg{{max-width:100%;height:auto}}table{{border-collapse:collapse;width:100%}}
td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}}.missed td:last-child{{color:#b3261e}}.met td:last-child{{color:#1a7f37}}.wide{{overflow-x:auto}}
</style><h1>{escape(title)}</h1><p>Right of the line is better than asked for; a bar ends where the value is, the thin line spans its interval.</p>{_picture(rows)}
<div class=wide><table><tr><th>figure<th>value<th>95 % interval<th>asked for<th>aim<th></tr>{lines}</table></div></html>"""
    file.write_text(page, encoding="utf-8")


def _said(value: float | None) -> str:
    return "not taken" if value is None else f"{value:.3g}"


def _times(value: float, row: dict) -> float:
    """How many times as good as asked for."""
    over, under = (row["at_least"], value) if row["less"] else (value, row["at_least"])
    if under <= 0:
        return FURTHEST if over >= under else 1 / FURTHEST
    return float(np.clip(over / under, 1 / FURTHEST, FURTHEST))


def _picture(rows: list[dict]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    taken = [r for r in rows if r["value"] is not None][::-1]
    figure, axes = plt.subplots(figsize=(11, 0.32 * len(taken) + 1))
    for place, r in enumerate(taken):
        colour = "#1a7f37" if r["met"] else "#b3261e"
        axes.barh(place, np.log10(_times(r["value"], r)), color=colour, height=0.6)
        if r.get("interval"):
            axes.plot(np.log10([_times(v, r) for v in r["interval"]]), [place, place], color="black", linewidth=1)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(taken)), [r["name"] if len(r["name"]) < 75 else r["name"][:72] + "..." for r in taken], fontsize=8)
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    axes.set_xticks(np.log10(ticks), [f"{t:g}x" for t in ticks])
    axes.set_xlim(-1.02, 1.02)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    drawn = StringIO()
    figure.savefig(drawn, format="svg")
    plt.close(figure)
    return drawn.getvalue().partition("<svg")[1] + drawn.getvalue().partition("<svg")[2]
