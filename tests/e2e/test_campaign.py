"""A campaign as a run of a real Airflow: planned, held until a person approves, sent once, told what it brought; and a new file becomes a run."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from deploy.platform import doors, processes
from deploy.platform.airflow import Airflow
from deploy.platform.airflow import airflow as airflow_platform
from tests.conftest import ROOT, eventually, small_params

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree as a checkout of its own, whose shop is small and whose campaign needs approval."""
    folder = tmp_path_factory.mktemp("campaigns") / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    files = subprocess.run(
        ["git", "ls-files", "-m", "-o", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in files.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    params = small_params()
    params["source"]["data"] = "pipelines/data/sources/shop.yaml"
    params["source"]["shop"] |= {"shoppers": 800, "days": 45}
    params["train"]["model"] = "item_knn"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    spring = yaml.safe_load((folder / "campaigns/spring.yaml").read_text(encoding="utf-8"))
    (folder / "campaigns/spring.yaml").write_text(yaml.safe_dump(spring | {"approve_above": 1.0}), encoding="utf-8")
    today = spring | {"starts": datetime.now(UTC).date(), "days": 30}
    (folder / "campaigns/today.yaml").write_text(yaml.safe_dump(today), encoding="utf-8")
    for words in (["config", "user.name", "t"], ["config", "user.email", "t@localhost"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def airflow(checkout: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(checkout))
        doors.make_certificates(checkout / ".certs", ["127.0.0.1"])
        with airflow_platform(checkout, processes.free_port(), checkout / ".certs") as running:
            assert running.url.startswith("https://")
            yield running


def pushcart(checkout: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "deploy.cli", "campaign", *words], cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def state_of(airflow: Airflow, run: str, task: str) -> str | None:
    return next((t["state"] for t in airflow.of("campaign").tasks(run) if t["task_id"] == task), None)


def test_a_campaign_waits_for_a_person_is_sent_once_and_reported(airflow: Airflow, checkout: Path):
    campaigns = airflow.of("campaign")
    run = campaigns.trigger({"campaign": "spring", "leap": True}, "spring-1")
    assert eventually(lambda: state_of(airflow, run, "approve") in ("running", "up_for_reschedule", "failed"), 400), (
        campaigns.tasks(run)
    )
    assert "waits for approval" in pushcart(checkout, "status", "spring")
    assert not list((checkout / ".outbox").glob("*.jsonl"))
    assert "will be sent" in pushcart(checkout, "approve", "spring", "--why", "the budget is agreed")
    assert campaigns.follow(run, lambda task: None) == "success", campaigns.tasks(run)
    plans = json.loads((checkout / ".airflow/runs/spring-1/reports/plans.json").read_text())["spring"]
    lines = [
        json.loads(line)
        for file in (checkout / ".outbox").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) == plans["messages"] > 50
    assert len({line["user_id"] for line in lines}) == plans["send"]
    assert f"{plans['messages']} sent" in pushcart(checkout, "status", "spring")
    assert json.loads((checkout / ".airflow/runs/spring-1/reports/campaigns.json").read_text())["campaigns"]

    again = campaigns.trigger({"campaign": "spring", "leap": True}, "spring-2")
    assert campaigns.follow(again, lambda task: None) == "success"
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (checkout / ".outbox").glob("*.jsonl")) == len(
        lines
    )


def test_a_new_file_becomes_a_run(airflow: Airflow):
    airflow.of("campaign").api("PATCH", "/dags/campaign", {"is_paused": True})  # that it is started is enough here
    watcher = airflow.of("campaigns")
    assert watcher.follow(watcher.trigger({}, f"look-{time.time():.0f}"), lambda task: None) == "success"
    runs = airflow.api("GET", "/dags/campaign/dagRuns?limit=50")["dag_runs"]
    assert "campaign__today" in {run["dag_run_id"] for run in runs}
    assert "campaign__spring" not in {run["dag_run_id"] for run in runs}  # its days are over
