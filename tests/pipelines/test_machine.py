"""How many cores a stage takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.platform.airflow import POOLS
from pipelines import machine
from tests.conftest import ROOT


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of control groups, with this process in a/b."""
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    (tmp_path / "root/a/b").mkdir(parents=True)
    quotas = machine._quotas
    monkeypatch.setattr(machine, "_quotas", lambda: quotas(tmp_path / "root", own))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    return tmp_path / "root"


def test_cores_are_those_of_the_affinity_and_of_the_quota(group: Path):
    assert machine.cores() == 64
    (group / "a/cpu.max").write_text("max 100000\n")
    assert machine.cores() == 64
    (group / "a/b/cpu.max").write_text("400000 100000\n")
    assert machine.cores() == 4
    (group / "a/cpu.max").write_text("150000 100000\n")  # a quota of the group above holds, too
    assert machine.cores() == 2
    (group / "a/b/cpu.max").write_text("10000 100000\n")
    assert machine.cores() == 1


def test_cores_by_the_older_control_groups(group: Path):
    (group / "cpu").mkdir()
    (group / "cpu/cpu.cfs_quota_us").write_text("300000\n")
    (group / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert machine.cores() == 3


def test_a_stage_takes_so_many_threads_and_those_that_wait_sleep(workspace):
    workspace()
    code = "import sys; sys.orig_argv = ['python', '-m', 'pipelines.collect']; import pipelines, os; print(os.environ['OMP_NUM_THREADS'], os.environ['GOMP_SPINCOUNT'])"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(machine.cores()), "1000"]


def test_stages_that_take_all_cores_wait_for_one_another():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    pools = {name: stage["meta"]["airflow"].get("pool") for name, stage in stages.items()}
    assert {name for name, pool in pools.items() if pool == "training"} == {"train", "compress", "refit"}
    assert POOLS == {"training": 1}
