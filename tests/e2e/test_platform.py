"""The platform as processes: what listens where, and what is left when one of them ends."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path

import psutil
import pytest

from deploy.platform import processes, server
from tests.conftest import ROOT, eventually
from tests.e2e.test_service import get, post, with_production

pytestmark = pytest.mark.e2e


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def answers(port: int) -> bool:
    try:
        get(f"http://127.0.0.1:{port}/livez")
        return True
    except OSError:
        return False


@pytest.fixture
def serving(finished: Path, tmp_path: Path):
    checkout, port = with_production(tmp_path / "a checkout with blanks, 茶", finished), processes.free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, "-m", "deploy.cli", "serve", "production", "--port", str(port)], cwd=checkout, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert f":{port} serves production" in started.stdout.readline()
    yield started, port, checkout
    if started.poll() is None:
        started.kill()
        started.wait()
    assert eventually(lambda: not answers(port))


@pytest.mark.parametrize("victim", ["pushcart", "keeper", "bentoml", "all workers"])
def test_however_a_process_of_the_server_ends_nothing_is_left_on_the_port(serving, victim: str):
    started, port, _ = serving
    there = below(started.pid)
    [keeper] = psutil.Process(started.pid).children()
    kinds = {
        "pushcart": [psutil.Process(started.pid)],
        "keeper": [keeper],
        "bentoml": keeper.children(),
        "all workers": [p for p in there if "_bentoml_impl.worker.service" in p.cmdline()],
    }
    assert kinds[victim]
    for process in kinds[victim]:
        process.kill()
    if victim == "all workers":  # BentoML starts others
        assert eventually(lambda: answers(port), 30)
        started.terminate()
    if victim in ("keeper", "bentoml"):
        assert started.wait(60) == 1
        assert "stopped with code" in started.stdout.read()
    _, alive = psutil.wait_procs(there, 45)
    assert not alive, [p.cmdline() for p in alive]
    assert eventually(lambda: not answers(port))


def test_answers_under_way_are_given_when_the_server_is_asked_to_stop(serving):
    started, port, _ = serving
    body, outcomes = {"user_id": "u000001"}, []
    stop = time.monotonic() + 20

    def ask() -> None:
        while time.monotonic() < stop:
            try:
                outcomes.append(post(f"http://127.0.0.1:{port}/recommend", body)[0])
            except (ConnectionRefusedError, urllib.error.URLError) as error:
                outcomes.append("refused" if "refused" in str(error) else f"broken: {error}")
                return
            except OSError as error:
                outcomes.append(f"broken: {error}")
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(outcomes) > 200)
    started.send_signal(signal.SIGTERM)
    assert started.wait(40) == 0
    for thread in threads:
        thread.join()
    broken = [o for o in outcomes if str(o).startswith("broken")]
    assert len([o for o in outcomes if o == 200]) > 200
    # A connection that the kernel had accepted, but no worker yet, is closed unanswered; an answer under way never is.
    assert len(broken) <= 4


def test_a_second_server_of_an_environment_harms_neither(serving):
    started, port, checkout = serving
    post(f"http://127.0.0.1:{port}/recommend", {"user_id": "u000001"})
    with server.served(checkout, "production", processes.free_port()) as (url, _, log):
        assert post(f"{url}/recommend", {"user_id": "u000001"})[0] == 200
        assert log.exists()
    assert "pushcart_answers_total" in get(f"http://127.0.0.1:{port}/metrics")
    assert post(f"http://127.0.0.1:{port}/recommend", {"user_id": "u000001"})[0] == 200
    started.terminate()
    assert started.wait(40) == 0


def listening(pid: int) -> list[tuple[str, int]]:
    found = []
    for process in [psutil.Process(pid), *below(pid)]:
        try:
            found += [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
    return found


def test_everything_that_up_opens_is_on_loopback_and_all_of_it_ends(finished: Path, tmp_path: Path):
    checkout = with_production(tmp_path / "checkout", finished)
    for name in ("dags", "pipelines", "deploy"):
        if not (checkout / name).is_symlink():
            shutil.rmtree(checkout / name, ignore_errors=True)
            (checkout / name).symlink_to(ROOT / name)
    ports = [processes.free_port(), processes.free_port()]
    command = [sys.executable, "-m", "deploy.cli", "up", "--airflow-port", str(ports[0]), "--serve-port", str(ports[1])]
    with subprocess.Popen(
        command,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        lines = []
        for line in up.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        assert "Ctrl-C stops all" in lines[-1], lines
        time.sleep(5)  # for whatever starts late
        addresses, there = listening(up.pid), below(up.pid)
        assert {a.port for a in addresses} >= set(ports)
        assert {a.ip for a in addresses} == {"127.0.0.1"}, addresses
        assert "password in .airflow/passwords.json" in "".join(lines)
        up.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(there, 60)
        assert not alive, [p.cmdline() for p in alive]
