"""A run's own clone, and the experiment it leaves in the checkout. Real git, real DVC."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dags.workspace import RunError, baseline, close_run, open_run, run_name, save_run

PARAMS = 'source: {name: files, data: in.txt, mapping: null}  # kept\nbaseline: {source: null, rows: null, ndcg: null, vocabulary: null}\ntrain: {epochs: 3, sparsity: ["2:4"]}\n'
DVC = """stages:
  copy:
    cmd: cat ${source.data} > out.txt && echo ${train.epochs} >> out.txt
    deps: ["${source.data}"]
    params: [train.epochs]
    outs: [out.txt]
"""


def call(cwd: Path, *words: str) -> str:
    return subprocess.run(words, cwd=cwd, check=True, capture_output=True, text=True).stdout


def dvc(cwd: Path, *words: str) -> str:
    return call(cwd, sys.executable, "-m", "dvc", *words)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    call(folder, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "t"), ("user.email", "t@localhost")):
        call(folder, "git", "config", key, value)
    dvc(folder, "init", "-q")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text(DVC)
    (folder / "in.txt").write_text("in\n")
    (folder / ".gitignore").write_text("/out.txt\n/.airflow/\n")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "start")
    return folder


def test_a_run_leaves_an_experiment_under_its_name(checkout: Path):
    run = "manual__2026-11-24T15:20:33.1+00:00"
    clone = open_run(checkout, run, {"train.epochs": 7, "source.mapping": None}, checkout / "none.yaml")
    assert "# kept" in (clone / "params.yaml").read_text()
    assert yaml.safe_load((clone / "params.yaml").read_text())["train"] == {"epochs": 7, "sparsity": ["2:4"]}
    dvc(clone, "repro", "--single-item", "copy")
    name = save_run(checkout, run)
    assert name == run_name(run) == "manual__2026-11-24T15-20-33.1-00-00"
    assert name in dvc(checkout, "exp", "list", "--name-only")
    assert not (checkout / "out.txt").exists()
    dvc(checkout, "exp", "apply", name)
    assert (checkout / "out.txt").read_text() == "in\n7\n"
    assert "up to date" in dvc(checkout, "status")
    close_run(checkout, run)
    assert {p.name for p in clone.iterdir()} <= {"params.yaml", "dvc.lock"}


def test_two_runs_do_not_meet(checkout: Path):
    one, other = (open_run(checkout, run, {"train.epochs": n}, checkout / "none.yaml") for run, n in (("a", 1), ("b", 2)))
    for clone in (one, other):
        dvc(clone, "repro", "--single-item", "copy")
    assert [save_run(checkout, r) for r in ("a", "b")] == ["a", "b"]
    assert (one / "out.txt").read_text() != (other / "out.txt").read_text()


def test_relative_data_and_mapping_are_those_of_the_checkout(checkout: Path):
    (checkout.parent / "shop.csv").write_text("x")
    (checkout / "map.yaml").write_text("events: {columns: {user_id: 用户}}", encoding="utf-8")
    clone = open_run(checkout, "r", {"source.data": "../shop.csv", "source.mapping": "map.yaml"}, checkout / "none.yaml")
    source = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))["source"]
    assert source["data"] == str(checkout.parent / "shop.csv")
    assert source["mapping"] == {"events": {"columns": {"user_id": "用户"}}}


@pytest.mark.parametrize(("form", "message"), [
    ({"source.data": "nowhere.csv"}, r"nowhere\.csv is not there"),
    ({"source.mapping": "nowhere.yaml"}, "cannot be read as YAML"),
    ({"train.speed": 1}, r"params\.yaml has no train\.speed"),
])  # fmt: skip
def test_wrong_forms_are_named(checkout: Path, form: dict, message: str):
    with pytest.raises(RunError, match=message):
        open_run(checkout, "r", form, checkout / "none.yaml")


def test_the_baseline_is_what_is_served_from_the_same_source(checkout: Path, finished: Path):
    production = checkout / "production.yaml"
    assert baseline(checkout, production, "files:in.txt")["rows"] is None
    production.write_text(yaml.safe_dump({"current": {"version": "v"}, "previous": []}))
    artefact = checkout / ".environments/production/bentos/v/src/artefact"
    artefact.parent.mkdir(parents=True)
    artefact.symlink_to(finished / "artefact")
    import json

    manifest = json.loads((finished / "artefact/manifest.json").read_text())
    found = baseline(checkout, production, manifest["data"]["source"])
    assert found["rows"] == manifest["data"]["events"]
    assert Path(found["vocabulary"]).exists()
    assert baseline(checkout, production, "files:other")["rows"] is None
