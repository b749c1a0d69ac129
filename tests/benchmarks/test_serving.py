"""The rows of make bench: what they say of numbers, and that small versions of what they measure run."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import __main__ as bench
from benchmarks.serving import in_process, over_http
from deploy.serving.recommender import Recommender


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> bench.Report:
    monkeypatch.setattr(
        bench, "machine", lambda: {"cpu": "x", "cores": 2, "memory_gib": 1, "bandwidth_gb_s": 10, "gpu": False, "packages": {}}
    )
    return bench.Report()


@pytest.mark.parametrize(
    ("ours", "theirs", "unit", "bounds", "flags", "ratio", "met", "aim"),
    [
        (2.0, 12.0, "ms", (5, 8), {}, 6.0, True, False),
        (2.0, 8.0, "ms", (5, 8), {}, 4.0, False, False),
        (900, 1000, "requests/s", (0.6, 0.85), {}, 0.9, True, True),
        (25, 100, "bytes", (0.28, 0.15), {"less": True}, 0.25, True, False),
        (10, 100, "bytes", (0.28, 0.15), {"less": True, "also": False}, 0.1, False, False),
    ],
)
def test_rows(report: bench.Report, ours, theirs, unit, bounds, flags, ratio, met, aim):
    report.add("name", "other", ours, theirs, unit, *bounds, **flags)
    row = report.rows[0]
    assert row["ratio"] == pytest.approx(ratio)
    assert (row["met"], row["aim_met"]) == (met, aim)


def test_the_page_tells_every_row_and_escapes_what_it_is_told(report: bench.Report, tmp_path: Path):
    report.add("a <b>", "c", 1.0, 2.0, "ms", 3, 4, note="because & so")
    bench.page({"machine": report.machine, "rows": report.rows, "left_out": {"HTTP": "no wrk"}, "sustained": []}, tmp_path)
    page = (tmp_path / "bench.html").read_text()
    assert "a &lt;b&gt;" in page
    assert "because &amp; so" in page
    assert "Left out: HTTP: no wrk" in page
    assert (tmp_path / "bench_ratios.png").stat().st_size > 1000


def test_one_recommendation_is_timed_of_all_sides(finished: Path):
    assert all(0 < ms < 1000 for ms in in_process.one_recommendation(finished, repeats=10))
    ours, theirs, kept = in_process.compressed(finished)
    assert 0 < ours < theirs
    assert kept > 0


@pytest.mark.parametrize("form", ["int8+fp32", "int4+fp32"])
def test_the_best_of_many_are_those_of_an_exact_index(monkeypatch: pytest.MonkeyPatch, form: str):
    monkeypatch.setattr(in_process, "CATALOGUE", 20_000)
    assert in_process.million(form, repeats=5)["same"] >= 0.98


def test_a_large_catalogue_is_made_as_a_run_makes_one(tmp_path: Path):
    artefact = over_http.large_catalogue(tmp_path / "large", 300, 20, 10) / "artefact"
    recommender = Recommender(artefact)
    user = recommender.histories.users[np.array([3])][0]
    assert len(recommender.recommend(user_id=user, k=5).items) == 5
