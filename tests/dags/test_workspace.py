"""A run's own clone, and the experiment it leaves in the checkout. Real git, real DVC."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dags import workspace
from dags.workspace import RunError, baseline, close_run, committed, open_run, ready, run_name, save_run
from deploy.promotion.environments import Environment
from tests.conftest import ROOT, small_params

PARAMS = small_params() | {"shop_name": None}
PARAMS["source"] |= {"name": "files", "data": "in.txt"}
PARAMS["train"] |= {"epochs": 3}
PARAMS["compress"]["steps"] |= {"sparsity": ["2:4"]}
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
    folder = tmp_path / "a checkout with blanks, 茶"
    folder.mkdir()
    call(folder, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "t"), ("user.email", "t@localhost")):
        call(folder, "git", "config", key, value)
    dvc(folder, "init", "-q")
    (folder / "params.yaml").write_text("# kept\n" + yaml.safe_dump(PARAMS))
    (folder / "dvc.yaml").write_text(DVC)
    (folder / "in.txt").write_text("in\n")
    (folder / ".gitignore").write_text("/out.txt\n/.airflow/\n")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "start")
    return folder


def test_a_run_leaves_an_experiment_under_its_name(checkout: Path):
    run = "manual__2026-11-24T15:20:33.1+00:00"
    clone = open_run(checkout, run, {"train.epochs": 7, "source.mapping": None}, "production")
    assert "# kept" in (clone / "params.yaml").read_text()
    settings = yaml.safe_load((clone / "params.yaml").read_text())
    assert settings["train"] == PARAMS["train"] | {"epochs": 7}
    assert settings["compress"]["steps"]["sparsity"] == ["2:4"]
    dvc(clone, "repro", "--single-item", "copy")
    name = save_run(checkout, run)
    assert name == run_name(run)
    assert name.startswith("manual__2026-11-24T15-20-33.1-00-00-")
    assert name in dvc(checkout, "exp", "list", "--name-only")
    assert not (checkout / "out.txt").exists()
    dvc(checkout, "exp", "apply", name)
    assert (checkout / "out.txt").read_text() == "in\n7\n"
    assert "up to date" in dvc(checkout, "status")
    close_run(checkout, run)
    assert {p.name for p in clone.iterdir()} <= {"params.yaml", "dvc.lock"}


def test_two_runs_do_not_meet(checkout: Path):
    one, other = (open_run(checkout, run, {"train.epochs": n}, "production") for run, n in (("a", 1), ("b", 2)))
    for clone in (one, other):
        dvc(clone, "repro", "--single-item", "copy")
    assert [save_run(checkout, r) for r in ("a", "b")] == ["a", "b"]
    assert (one / "out.txt").read_text() != (other / "out.txt").read_text()


def test_relative_data_and_mapping_are_those_of_the_checkout(checkout: Path):
    (checkout.parent / "shop.csv").write_text("x")
    (checkout / "map.yaml").write_text("events: {columns: {user_id: 用户}}", encoding="utf-8")
    clone = open_run(checkout, "r", {"source.data": "../shop.csv", "source.mapping": "map.yaml"}, "production")
    source = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))["source"]
    assert source["data"] == str(checkout.parent / "shop.csv")
    assert source["mapping"] == {"events": {"columns": {"user_id": "用户"}}}


@pytest.mark.parametrize(("form", "message"), [
    ({"source.data": "nowhere.csv"}, r"nowhere\.csv is not there"),
    ({"source.mapping": "nowhere.yaml"}, "cannot be read as YAML"),
    ({"train.speed": 1}, r"params\.yaml has no train\.speed"),
    ({"train.model": "sasrecc"}, r"train\.model is 'sasrecc'; it must be"),
    ({"train.dropout": "0.3"}, r"train\.dropout is '0\.3'"),
])  # fmt: skip
def test_wrong_forms_are_named(checkout: Path, form: dict, message: str):
    with pytest.raises(RunError, match=message):
        open_run(checkout, "r", form, "production")


def test_the_baseline_is_what_is_served_of_the_same_shop(checkout: Path, finished: Path):
    assert baseline(checkout, "production", "shop:shop")["rows"] is None
    Environment(checkout, "production").promote(finished / "bento", who="t", why="first", force=True)
    manifest = json.loads((finished / "artefact/manifest.json").read_text())
    found = baseline(checkout, "production", manifest["shop"])
    assert found == {"shop": manifest["shop"], "rows": manifest["data"]["events"], "ndcg": manifest["metrics"]["test"]["ndcg@10"]}
    assert baseline(checkout, "production", "another")["rows"] is None


@pytest.mark.parametrize("run", ["...", "-", "~", "a..b", "x.lock", ".hidden", "a/../../b", "ж", "@{", "x" * 300])
def test_a_run_of_any_name_has_a_folder_of_its_own(checkout: Path, run: str):
    runs = checkout / ".airflow/runs"
    (runs / "other").mkdir(parents=True)
    clone = open_run(checkout, run, {}, "production")
    assert clone.parent == runs
    assert (runs / "other").exists()
    assert clone.name not in ("", ".", "..")
    subprocess.run(["git", "check-ref-format", f"refs/exps/run/{clone.name}"], check=True)


def test_no_two_runs_share_a_folder():
    assert len({run_name(r) for r in ("demo:1", "demo+1", "demo-1", "demo 1")}) == 4


def test_locks_of_processes_that_ended_go_and_those_of_living_ones_stay(checkout: Path):
    clone = open_run(checkout, "r", {}, "production")
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    lock = clone / ".dvc/tmp/rwlock"
    lock.parent.mkdir(exist_ok=True)
    mine, theirs = ({"pid": pid, "cmd": "dvc"} for pid in (os.getpid(), ended.pid))
    lock.write_text(json.dumps({"read": {"a": [mine, theirs]}, "write": {"b": theirs}}))
    ready(clone)
    assert json.loads(lock.read_text()) == {"read": {"a": [mine]}, "write": {}}
    lock.write_text('{"read": {"a')  # killed while writing
    ready(clone)
    dvc(clone, "repro", "--single-item", "copy")


def test_a_task_cleared_in_a_finished_run_finds_its_clone(checkout: Path):
    clone = open_run(checkout, "r", {"train.epochs": 9}, "production")
    dvc(clone, "repro", "--single-item", "copy")
    save_run(checkout, "r")
    close_run(checkout, "r")
    assert not (clone / ".git").exists()
    ready(clone)
    assert (clone / "out.txt").read_text() == "in\n9\n"
    assert "up to date" in dvc(clone, "status")


def test_the_form_starts_from_what_is_committed(checkout: Path):
    before = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(
        before.replace("epochs: 3", "epochs: 9")
    )  # as `dvc exp apply` of an earlier run leaves it
    assert committed(checkout, "params.yaml") == before
    (checkout / "new.yaml").write_text("a: 1")
    assert committed(checkout, "new.yaml") == "a: 1"


def test_old_runs_keep_their_reports_and_lose_what_is_heavy(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspace, "WHOLE_RUNS", 2)
    for n in range(4):
        clone = open_run(checkout, f"r{n}", {}, "production")
        for name in ("bento", "reports"):
            (clone / name).mkdir()
        os.utime(clone / "params.yaml", (n, n))
        close_run(checkout, f"r{n}")
    runs = checkout / ".airflow/runs"
    assert sorted(p.parent.name for p in runs.glob("*/bento")) == ["r2", "r3"]
    assert len(list(runs.glob("*/reports"))) == 4


def test_whoever_asks_to_be_forgotten_is_named_to_no_scheduler():
    from dags.forget import dag

    erase, expire = dag.tasks
    assert "forget --pending" in erase.bash_command
    assert "deploy.cli expire" in expire.bash_command
    assert dag.params == {}


def test_hand_overs_are_sent_on_a_schedule_only_where_they_go_somewhere():
    from dags.handovers import dag

    [task] = dag.tasks
    assert "pipelines.delivery handovers" in task.bash_command
    assert dag.schedule is None  # params.yaml as it ships says nowhere


def test_a_run_knows_the_vault_of_the_checkout_and_names_no_folder_of_the_machine(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    from dags.stages import ENVIRONMENT
    from pipelines.data.pseudonyms import people

    clone = open_run(checkout, "r", {"privacy.pseudonyms": True}, "production")
    told = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))["privacy"]
    assert told == PARAMS["privacy"] | {"pseudonyms": True}
    assert Path(ENVIRONMENT["PUSHCART_CHECKOUT"]) == ROOT
    monkeypatch.chdir(clone)
    monkeypatch.setenv("PUSHCART_CHECKOUT", str(checkout))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(checkout / "config"))
    assert people(told).pseudonyms
    assert (checkout / ".vault/vault.sqlite").exists()
    assert not (clone / ".vault").exists()
