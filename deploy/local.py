"""The platform on one machine: Airflow (SQLite, LocalExecutor, loopback only) and the served model, started and stopped
together. Used by `make demo`, `make up` and the end-to-end tests; knows nothing of what the DAG does.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.environments import Environment

HOST = "127.0.0.1"


class PlatformError(Exception):
    """Something did not start; the message says what and where its log is."""


class Airflow:
    """A running Airflow and its REST API."""

    def __init__(self, url: str, password: str):
        self.url, self.user, self.password = url, "admin", password
        self._token = ""

    def api(self, method: str, path: str, body: dict | None = None) -> dict:
        """Calls /api/v2<path>; logs in when needed."""
        for attempt in (1, 2):
            try:
                return _http(method, f"{self.url}/api/v2{path}", body, self._token)
            except urllib.error.HTTPError as error:
                if error.code != 401 or attempt == 2:
                    raise PlatformError(f"Airflow: {method} {path}: {error.code} {error.read().decode()[:500]}") from error
                login = {"username": self.user, "password": self.password}
                self._token = _http("POST", f"{self.url}/auth/token", login)["access_token"]
        raise AssertionError("unreachable")

    def trigger(self, conf: dict, run_id: str | None = None) -> str:
        """Starts a retrain once the DAG is parsed; returns the run's id."""
        deadline = time.monotonic() + 120
        while True:
            try:
                self.api("PATCH", "/dags/retrain", {"is_paused": False})
                break
            except PlatformError:
                if time.monotonic() > deadline:
                    errors = self.api("GET", "/importErrors")["import_errors"]
                    raise PlatformError(f"the DAG did not appear: {errors or 'see .airflow/standalone.log'}") from None
                time.sleep(1)
        body = {"logical_date": None, "conf": conf} | ({"dag_run_id": run_id} if run_id else {})
        return self.api("POST", "/dags/retrain/dagRuns", body)["dag_run_id"]

    def tasks(self, run_id: str) -> list[dict]:
        """The run's task instances."""
        return self.api("GET", f"/dags/retrain/dagRuns/{run_id}/taskInstances?limit=200")["task_instances"]

    def follow(self, run_id: str, told: Callable[[dict], None], poll: float = 1.0) -> str:
        """Waits for the run's end, telling of every task that starts or ends; returns the run's state."""
        known: dict[str, tuple] = {}
        while True:
            state = self.api("GET", f"/dags/retrain/dagRuns/{run_id}")["state"]
            for instance in self.tasks(run_id):
                now = (instance["state"], instance["try_number"])
                if known.get(instance["task_id"]) != now:
                    known[instance["task_id"]] = now
                    told(instance)
            if state in ("success", "failed"):
                return state
            time.sleep(poll)

    def log(self, run_id: str, task_id: str, attempt: int) -> list[str]:
        """The lines of a task's log."""
        content = self.api("GET", f"/dags/retrain/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}")["content"]
        return [line.get("event", "") if isinstance(line, dict) else str(line) for line in content]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def check_port(port: int, setting: str) -> None:
    """Raises: PlatformError: the port is taken (the setting to change is named)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise PlatformError(f"port {port} is in use; choose another with {setting}=PORT") from None


@contextmanager
def airflow(checkout: Path, port: int) -> Iterator[Airflow]:
    """Runs `airflow standalone` in <checkout>/.airflow until the block ends."""
    home = checkout / ".airflow"
    home.mkdir(exist_ok=True)
    passwords = home / "passwords.json"
    if not passwords.exists():
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({"admin": secrets.token_urlsafe(12)}))
    url = f"http://{HOST}:{port}"
    with _process(
        [sys.executable, "-m", "airflow", "standalone"], environment(checkout, url, port), home / "standalone.log", checkout
    ) as process:
        _wait(f"{url}/api/v2/monitor/health", process, home / "standalone.log", 180)
        yield Airflow(url, json.loads(passwords.read_text())["admin"])


def environment(checkout: Path, url: str, port: int) -> dict[str, str]:
    """Airflow's settings: SQLite, LocalExecutor with a worker a core, loopback only, no telemetry."""
    home = checkout / ".airflow"
    secret = home / "secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(32))
    settings = {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__DAGS_FOLDER": checkout / "dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": False,
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": max(2, os.cpu_count() or 2),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home / "passwords.json",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": 1,
        "AIRFLOW__API__SECRET_KEY": secret.read_text(),
        "AIRFLOW__API_AUTH__JWT_SECRET": secret.read_text(),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": 10,
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": False,
        "PUSHCART_CHECKOUT": checkout,
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {k: str(v) for k, v in settings.items()} | {"PATH": path}


@contextmanager
def served(checkout: Path, name: str, port: int) -> Iterator[str]:
    """Serves what the environment's `current` link names, following it; yields the URL."""
    target = Environment(checkout, name)
    with serving([str(target.link.resolve())], port, target.store, {"PUSHCART_FOLLOW": str(target.link)}) as (url, _):
        yield url


@contextmanager
def serving(target: list[str], port: int, folder: Path, settings: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Runs `bentoml serve` on a bento or a service until it is ready; yields its URL and the process's id.

    target: arguments that name it. folder: where it keeps its log and its counters. settings: environment variables.
    """
    log, counters = folder / "serve.log", folder / "prometheus"
    command = [sys.executable, "-m", "bentoml", "serve", *target, "--host", HOST, "--port", str(port)]
    own = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml"), "PROMETHEUS_MULTIPROC_DIR": str(counters)}
    counters.mkdir(exist_ok=True)
    with _process(command, os.environ | own | settings, log, folder) as process:
        url = f"http://{HOST}:{port}"
        _wait(f"{url}/readyz", process, log, 60)
        yield url, process.pid


def up(checkout: Path, name: str, airflow_port: int, serve_port: int, told: Callable[[str], None]) -> None:
    """Airflow and the served model until Ctrl-C; the model as soon as the environment has one."""
    check_port(airflow_port, "AIRFLOW_PORT")
    check_port(serve_port, "SERVE_PORT")
    target = Environment(checkout, name)
    with ExitStack() as stack:
        told("starting Airflow ...")
        running = stack.enter_context(airflow(checkout, airflow_port))
        told(f"Airflow     {running.url}   user {running.user}   password {running.password}")
        if not target.link.exists():
            told(
                f'Model       nothing is promoted to {name} yet: start a retrain with "Promote to: {name}", and it will be served'
            )
            while not target.link.exists():
                time.sleep(1)
        told(f"Model       {stack.enter_context(served(checkout, name, serve_port))}   serves {name}")
        told("Ctrl-C stops both")
        while True:
            time.sleep(3600)


def stoppable() -> None:
    """Makes SIGTERM, and Ctrl-C even where the shell that started this ignores it, end the process as Ctrl-C does: what it started
    is stopped too."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)


def ask(url: str, body: dict) -> dict:
    """POSTs JSON, returns JSON."""
    return _http("POST", url, body)


def _http(method: str, url: str, body: dict | None = None, token: str = "") -> dict:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "{}")


@contextmanager
def _process(command: list[str], settings: dict, log: Path, cwd: Path) -> Iterator[subprocess.Popen]:
    """A process group of its own, stopped whole at the end: asked first, killed after 20 s."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=settings, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
        )
    try:
        yield process
    finally:
        for sign, patience in ((signal.SIGINT, 20), (signal.SIGKILL, 10)):
            try:
                os.killpg(process.pid, sign)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _wait(url: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PlatformError(f"{Path(process.args[2]).name} stopped with code {process.returncode}; its log is {log}")
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise PlatformError(f"{url} did not answer within {seconds:.0f} s; the log is {log}")
