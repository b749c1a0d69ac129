"""A stage as a program: outputs whole or absent whatever happens, exit codes, ends with who started it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.stage import NEVER_RETRY, output, read_json, scratch, write_json
from tests.conftest import ROOT


def test_an_output_appears_only_when_the_block_ends_well(tmp_path: Path):
    def fill_the_disk() -> None:
        with output(tmp_path / "out") as folder:
            (folder / "part").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []
    with output(tmp_path / "out") as folder:
        (folder / "part").write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with output(tmp_path / "out") as folder:
        (folder / "other").write_text("newer")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_processes_do_not_share_what_is_half_written(tmp_path: Path):
    with output(tmp_path / "out") as one, output(tmp_path / "out") as other:
        assert one != other
        (one / "a").write_text("a")
        (other / "b").write_text("b")
        with scratch(tmp_path / "out"):
            assert one.exists()
            assert other.exists()


def test_what_a_killed_process_left_is_recognised_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    code = f"""
import os, signal
from pathlib import Path
from pipelines.stage import output
with output(Path({str(tmp_path)!r}) / "out") as folder:
    (folder / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    with caplog.at_level("INFO"), output(tmp_path / "out") as folder:
        (folder / "part").write_text("whole")
    assert left.name in caplog.text
    assert "half-written" in caplog.text
    assert (tmp_path / "out/part").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_json_appears_whole_or_not_at_all(tmp_path: Path):
    write_json(tmp_path / "r.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "r.json", {"a": object()})
    assert read_json(tmp_path / "r.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_refusal_has_an_exit_code_of_its_own_and_leaves_a_sentence(workspace):
    workspace(source__data="nowhere.csv")
    done = subprocess.run([sys.executable, "-m", "pipelines.collect"], capture_output=True, text=True)
    assert done.returncode == NEVER_RETRY
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: source.data: nowhere.csv is not there")
    assert read_json("reports/refusal.json")["reason"].startswith("source.data: nowhere.csv is not there")


@pytest.mark.e2e
def test_a_stage_ends_with_the_dvc_that_started_it(workspace, tmp_path: Path):
    folder = workspace(train__epochs=1000, train__patience=1000)
    for stage in ("collect", "link", "check", "prepare"):
        subprocess.run([sys.executable, "-m", f"pipelines.{stage}"], check=True, capture_output=True)
    # As DVC does: a process called dvc, a shell, the stage.
    dvc = tmp_path / "dvc"
    dvc.write_text(f"import subprocess\nsubprocess.run('{sys.executable} -m pipelines.train; true', shell=True)\n")
    started = subprocess.Popen([sys.executable, str(dvc)], cwd=folder, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("data/.checkpoints/*/*/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    [stage] = [
        p
        for p in psutil.Process(started.pid).children(recursive=True)
        if "pipelines.train" in p.cmdline() and "-c" not in p.cmdline()
    ]
    started.kill()
    started.wait()
    stage.wait(10)
    assert not stage.is_running()
