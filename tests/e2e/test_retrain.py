"""A real Airflow over a real checkout: a run that is killed while training, a feed that is broken, and what DVC sees of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from deploy.platform import processes, server
from deploy.platform.airflow import Airflow
from deploy.platform.airflow import airflow as airflow_platform
from deploy.promotion.environments import Environment
from tests.conftest import ROOT, STAGES, small_params

pytestmark = pytest.mark.e2e


def dvc(cwd: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in a shell with the virtualenv active
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(cwd)}
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree as a checkout of its own, sized for tests."""
    folder = tmp_path_factory.mktemp("platform") / "checkout"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = small_params()
    params["source"]["data"] = "pipelines/data/sources/shop.yaml"
    params["source"]["shop"]["shoppers"] = 1200
    params["train"]["epochs"] = 8
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for words in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@localhost"],
        ["add", "-A"],
        ["commit", "-qm", "all"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def airflow(checkout: Path):
    home = checkout.parent / "home"
    home.mkdir()
    (home / ".bashrc").write_text(f"export PATH={home}:$PATH\n")
    (home / "python").write_text("#!/bin/sh\necho wrong python; exit 1\n")
    (home / "python").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(checkout))  # this tree is installed in the virtualenv; the checkout's modules come first
        patch.setenv("HOME", str(home))  # a service manager starts Airflow without SHLVL, and then bash reads ~/.bashrc
        patch.delenv("SHLVL", raising=False)
        with airflow_platform(checkout, processes.free_port()) as running:
            yield running


@pytest.fixture(scope="module")
def killed_run(airflow: Airflow, checkout: Path) -> str:
    """A run promoted to production whose training was killed with SIGKILL after its first checkpoint."""
    run = airflow.trigger({"environment": "production"}, "killed-once")
    clone = checkout / ".airflow/runs/killed-once"
    deadline = time.monotonic() + 300
    while not list(clone.glob("data/.checkpoints/*/*/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victims = [
        p
        for p in psutil.process_iter(["cmdline", "cwd"])
        if p.info["cwd"] == str(clone) and "pipelines.train" in (p.info["cmdline"] or [])
    ]
    assert victims
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    assert not (clone / "data/model").exists()
    assert airflow.follow(run, lambda task: None) == "success"
    return run


def test_the_dag_is_there_with_its_form(airflow: Airflow, killed_run: str):
    details = airflow.api("GET", "/dags/retrain/details")
    assert details["params"]["epochs"]["schema"]["type"] == "integer"
    assert set(details["params"]["environment"]["schema"]["enum"]) == {"none", "staging", "production"}
    assert not airflow.api("GET", "/importErrors")["import_errors"]


def test_killed_training_is_tried_again_and_goes_on_from_its_checkpoint(airflow: Airflow, killed_run: str):
    tasks = {t["task_id"]: t for t in airflow.tasks(killed_run)}
    assert set(STAGES) <= set(tasks)
    assert {t["state"] for t in tasks.values()} == {"success"}
    assert tasks["train"]["try_number"] == 2
    assert tasks["export"]["try_number"] == 1
    assert any("going on from" in line for line in airflow.log(killed_run, "train", 2))


def test_the_run_is_an_experiment_that_can_be_applied(checkout: Path, killed_run: str):
    assert killed_run in dvc(checkout, "exp", "list", "--name-only")
    shown = json.loads(dvc(checkout, "exp", "show", "--json"))
    assert killed_run in json.dumps(shown)
    dvc(checkout, "exp", "apply", killed_run)
    assert (checkout / "bento/bento.yaml").exists()
    ran = [line for line in dvc(checkout, "repro").splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'freshness':"]  # it looks at the clock; nothing else has changed
    assert Environment(checkout, "production").entries()["current"]["experiment"] == killed_run
    tags = subprocess.run(["git", "tag"], cwd=checkout, check=True, capture_output=True, text=True).stdout
    assert tags.startswith("production-")


def test_the_promoted_bento_is_served(checkout: Path, killed_run: str):
    with server.served(checkout, "production", processes.free_port()) as (url, _, _):
        answer = processes.ask(f"{url}/recommend", {"user_id": "u000001"})
    assert answer["model_version"] == Environment(checkout, "production").entries()["current"]["version"]
    assert answer["fallback"] is None


def test_the_report_is_one_click_from_the_run_and_only_for_those_logged_in(airflow: Airflow, killed_run: str):
    page = f"{airflow.url}/pushcart/runs/{killed_run}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(page, timeout=30)
    assert refused.value.code == 401

    def read(url: str, raw: bool = False) -> str | bytes:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {airflow._token}"})
        answer = urllib.request.urlopen(request, timeout=30).read()
        return answer if raw else answer.decode()

    text = read(page)
    assert "item-kNN" in text
    assert "table=int4" in text
    assert read(f"{page}/files/compression.png", raw=True).startswith(b"\x89PNG")
    assert "Data Docs" in read(f"{page}/files/data_docs/raw/index.html")
    with pytest.raises(urllib.error.HTTPError) as missing:
        read(f"{page}/files/..%2F..%2Fparams.yaml")
    assert missing.value.code == 404
    views = airflow.api("GET", "/plugins")["plugins"]
    assert any(view["destination"] == "dag_run" for p in views if p["name"] == "pushcart" for view in p["external_views"])


def test_a_broken_feed_stops_at_the_check_and_says_why(airflow: Airflow, checkout: Path, tmp_path: Path):
    rows = [f"u{i % 40},p{i % 25},{'view' if i % 5 > 1 else 'hover'},{1_700_000_000 + i}" for i in range(2000)]
    feed = tmp_path / "feed.csv"
    feed.write_text("user_id,item_id,event,timestamp\n" + "\n".join(rows))
    run = airflow.trigger({"source": "files", "data": str(feed)}, "feed-that-asks")
    assert airflow.follow(run, lambda task: None) == "failed"
    assert {t["task_id"]: (t["state"], t["try_number"]) for t in airflow.tasks(run)}["collect"] == ("failed", 1)
    assert "event holds words that name no event known here: hover (800 rows)" in "\n".join(airflow.log(run, "collect", 1))
    mapping = tmp_path / "feed.yaml"
    mapping.write_text("events: {columns: {user_id: user_id, item_id: item_id, event: event, timestamp: timestamp}}")
    run = airflow.trigger({"source": "files", "data": str(feed), "mapping": str(mapping)}, "broken-feed")
    assert airflow.follow(run, lambda task: None) == "failed"
    states = {t["task_id"]: (t["state"], t["try_number"]) for t in airflow.tasks(run)}
    assert states["check"] == ("failed", 1)
    assert states["train"][0] == "upstream_failed"
    log = "\n".join(airflow.log(run, "check", 1))
    assert "40.0% of 2,000 rows are broken" in log
    assert "expect_column_values_to_be_in_set(event): 800 rows" in log
    clone = checkout / ".airflow/runs/broken-feed"
    assert (clone / "data/quarantine/events.parquet").exists()
    assert not (clone / "data/checked").exists()


def test_changing_the_epochs_reruns_training_and_what_follows_and_nothing_before(checkout: Path, killed_run: str):
    dvc(checkout, "exp", "apply", killed_run)
    output = dvc(checkout, "exp", "run", "-S", "train.epochs=1", "--name", "short")
    for name in ("collect", "link", "check", "prepare", "check_prepared"):
        assert f"Stage '{name}' didn't change, skipping" in output
    for name in ("train", "evaluate", "export", "compress", "refit", "replay", "bundle"):
        assert f"Running stage '{name}'" in output
    assert "test.ndcg@10" in dvc(checkout, "metrics", "diff", killed_run, "short")
    assert "index.html" in dvc(checkout, "plots", "show")
    assert {"short", killed_run} <= set(dvc(checkout, "exp", "list", "--name-only").split())
