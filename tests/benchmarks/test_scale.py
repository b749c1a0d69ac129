"""Short forms of the long benches: the chain at its smallest sizes, kills of quick stages, the walk over devices, the backtest, training."""

import json
import random
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, kills, read, refit, scale, scaling, training


@pytest.mark.e2e
def test_the_chain_is_measured_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scale, "ROOT_OF_SIZES", tmp_path / "sizes")
    monkeypatch.setattr(scale, "STAGES", ("collect", "freshness", "link", "check", "prepare"))
    monkeypatch.setattr(scale, "SIZES", {"events": ([], 200), "items": ([], 30_000)})
    out = tmp_path / "scale.json"
    monkeypatch.setattr(sys, "argv", ["scale", "--events", "2e4", "6e4", "--items", "200", "--out", str(out)])
    scale.main()
    report = json.loads(out.read_text())
    assert {(r["events"], r["items"]) for r in report["rows"]} == {(20_000, 200), (60_000, 200), (30_000, 200)}
    assert set(report["exponents"]) == {"collect", "freshness", "link", "check", "prepare"}
    assert all(r["seconds"] > 0 and r["peak_mb"] > 50 for r in report["rows"])
    assert out.with_suffix(".png").exists()


def test_exponents_are_slopes():
    rows = [{"stage": "check", "events": 10**n, "seconds": 2.0 * 10 ** (1.1 * n)} for n in (5, 6, 7)]
    assert scale.exponents(rows, "events") == {"check": 1.1}


@pytest.mark.e2e
def test_stages_killed_at_random_moments_give_the_same_bits(tmp_path: Path):
    rows = kills.walk(tmp_path / "kills", ["collect", "prepare", "train", "refit"], 1, random.Random(1))
    assert [r["stage"] for r in rows] == ["collect", "prepare", "train", "refit"]
    assert not [r for r in rows if r["different"] or r["left"]]


@pytest.mark.e2e
def test_the_walk_over_families_losses_precisions_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rows = gpu.walk("cpu")
    assert [r["step"] for r in rows if not r["passed"]] == []
    assert {r["value"] for r in rows if "resumed" in r["step"]} == {0.0}  # bit for bit


@pytest.mark.e2e
def test_training_is_measured_beside_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "training.json"
    monkeypatch.setattr(sys, "argv", ["training", "--tiny", "--out", str(out)])
    training.main()
    step, batches, resident, peer = json.loads(out.read_text())["rows"]
    for ratio in (step, batches):
        assert (ratio["value"] or 0) > 0 or training.EARLIER in ratio["reason"]
    assert 0 < resident["value"] < 2
    assert peer["value"] is None
    assert peer["reason"] == "no --data"


@pytest.mark.e2e
def test_loss_is_measured_by_width_and_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaling, "OUT", tmp_path)
    sizes = ["--shoppers", "300", "--items", "100", "--epochs", "1", "--widths", "8", "16", "--shares", "0.5", "1.0"]
    monkeypatch.setattr(sys, "argv", ["scaling", *sizes])
    scaling.main()
    rows = json.loads((tmp_path / "reports/scaling.json").read_text())["rows"]
    assert [(r["width"], r["share"]) for r in rows] == [(8, 0.5), (16, 0.5), (8, 1.0), (16, 1.0)]
    assert all(0 < r["loss"] < 20 and 0 < r["mfu"] < 1 for r in rows)
    assert (tmp_path / "reports/scaling.png").exists()


@pytest.mark.e2e
def test_what_a_gpu_shows_is_measured_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(0)
    lines = [f"{u} {' '.join(str(i) for i in rng.sample(range(1, 60), rng.randint(5, 20)))}" for u in range(1, 301)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["gpu", "--data", str(tmp_path), "--device", "cpu", "--tiny", "--out", str(tmp_path)])
    gpu.main()
    seconds, *utilised, full, sampled, moved = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert seconds["ndcg@10"] > 0
    assert all(0 < r["value"] < 1 for r in utilised)
    assert full["value"] is sampled["value"] is None
    assert moved["value"] == 0  # bit for bit


@pytest.mark.e2e
def test_the_backtest_of_refitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refit, "ROOT_OF_DATA", tmp_path)
    out = tmp_path / "r.json"
    monkeypatch.setattr(sys, "argv", ["refit", "--seeds", "1", "--shoppers", "300", "--epochs", "1", "--out", str(out)])
    refit.main()
    report = json.loads(out.read_text())
    low, high = report["gain_interval"]
    assert low <= report["gain"] <= high
    assert report["rows"][0]["refit"] > 0


def test_reading_is_measured_beside_polars(tmp_path: Path):
    rows = read.measured(tmp_path, 3000)
    assert [row["file"] for row in rows] == ["shop.csv", "shop.csv.gz"]
    assert all(row["seconds"] > 0 and row["polars_seconds"] > 0 and row["peak_mb"] > 50 for row in rows)
