"""Airflow on this machine (SQLite, LocalExecutor, loopback only) and its REST API. Knows nothing of what the DAG does."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.platform import doors
from deploy.platform.processes import HOST, PlatformError, http, process, wait_for
from deploy.serving.artefact import cores

# What listens nowhere but the API server: the log servers of scheduler and triggerer would on all addresses.
COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
POOLS = {"training": 1}  # slots: stages that use all cores wait for one another, also across runs


class Airflow:
    """A running Airflow and its REST API, for the runs of one DAG."""

    def __init__(self, url: str, password: str, dag: str = "retrain", trusted: Path | None = None):
        self.url, self.user, self.password, self.dag, self._trusted = url, "admin", password, dag, trusted
        self.running: dict[str, tuple[subprocess.Popen, Path]] = {}  # its processes and their logs, by name
        self._token = ""

    def of(self, dag: str) -> "Airflow":
        """The same Airflow, for the runs of another DAG."""
        return Airflow(self.url, self.password, dag, self._trusted)

    def api(self, method: str, path: str, body: dict | None = None) -> dict:
        """Calls /api/v2<path>; logs in when needed."""
        for attempt in (1, 2):
            try:
                return http(method, f"{self.url}/api/v2{path}", body, self._token, self._trusted)
            except urllib.error.HTTPError as error:
                if error.code != 401 or attempt == 2:
                    raise PlatformError(f"Airflow: {method} {path}: {error.code} {error.read().decode()[:500]}") from error
                login = {"username": self.user, "password": self.password}
                self._token = http("POST", f"{self.url}/auth/token", login, trusted=self._trusted)["access_token"]
        raise AssertionError("unreachable")

    def trigger(self, conf: dict, run_id: str | None = None) -> str:
        """Starts a run once the DAG is parsed; returns its id."""
        deadline = time.monotonic() + 120
        while True:
            try:
                self.api("PATCH", f"/dags/{self.dag}", {"is_paused": False})
                break
            except PlatformError:
                if time.monotonic() > deadline:
                    errors = self.api("GET", "/importErrors")["import_errors"]
                    raise PlatformError(f"the DAG did not appear: {errors or 'see .airflow/logs'}") from None
                time.sleep(1)
        body = {"logical_date": None, "conf": conf} | ({"dag_run_id": run_id} if run_id else {})
        return self.api("POST", f"/dags/{self.dag}/dagRuns", body)["dag_run_id"]

    def tasks(self, run_id: str) -> list[dict]:
        """The run's task instances."""
        return self.api("GET", f"/dags/{self.dag}/dagRuns/{run_id}/taskInstances?limit=200")["task_instances"]

    def follow(self, run_id: str, told: Callable[[dict], None], poll: float = 1.0) -> str:
        """Waits for the run's end, telling of every task that starts or ends; returns the run's state."""
        known: dict[str, tuple] = {}
        while True:
            state = self.api("GET", f"/dags/{self.dag}/dagRuns/{run_id}")["state"]
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
        content = self.api("GET", f"/dags/{self.dag}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}")["content"]
        return [line.get("event", "") if isinstance(line, dict) else str(line) for line in content]

    def make_pools(self) -> None:
        """Makes the pools that dvc.yaml names, where they are not there yet."""
        there = {pool["name"] for pool in self.api("GET", "/pools?limit=100")["pools"]}
        for name, slots in POOLS.items():
            if name not in there:
                self.api("POST", "/pools", {"name": name, "slots": slots, "description": "stages that use all cores"})


@contextmanager
def airflow(checkout: Path, port: int, certificates: Path | None = None) -> Iterator[Airflow]:
    """Runs Airflow in <checkout>/.airflow until the block ends; by TLS where a folder of `pushcart certs` is named."""
    home = checkout / ".airflow"
    home.mkdir(exist_ok=True)
    passwords = home / "passwords.json"
    if not passwords.exists():
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({"admin": secrets.token_urlsafe(12)}), encoding="utf-8")
    url, logs, trusted = f"http://{HOST}:{port}", home / "logs" / "platform", None
    if certificates is not None:
        url, trusted = doors.over_tls(url, certificates)
    logs.mkdir(parents=True, exist_ok=True)
    settings = environment(checkout, url, port, certificates)
    program = [sys.executable, "-m", "airflow"]
    migrated = subprocess.run([*program, "db", "migrate"], env=settings, cwd=checkout, capture_output=True, text=True)
    if migrated.returncode:
        raise PlatformError(f"airflow db migrate: {migrated.stderr.strip()[-1500:]}")
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(process([*program, *words], settings, logs / f"{name}.log", checkout))
            for name, words in COMPONENTS.items()
        }
        wait_for(f"{url}/api/v2/monitor/health", running["api-server"], logs / "api-server.log", 180, trusted)
        api = Airflow(url, json.loads(passwords.read_text(encoding="utf-8"))["admin"], trusted=trusted)
        api.running = {f"Airflow's {name}": (one, logs / f"{name}.log") for name, one in running.items()}
        api.make_pools()
        yield api


def environment(checkout: Path, url: str, port: int, certificates: Path | None = None) -> dict[str, str]:
    """Airflow's settings: SQLite, LocalExecutor with a worker a core, loopback only, no telemetry. Logs are read from their files."""
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
        "AIRFLOW__CORE__PLUGINS_FOLDER": checkout / "dags" / "plugins",
        "AIRFLOW__CORE__PARALLELISM": max(2, cores()),
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
        "PYTHONPATH": checkout,
    }
    if certificates is not None:
        files = {"CERT": "server.pem", "KEY": "server.key", "CA_FILE": "ca.pem"}  # of the authority, which tasks trust
        settings |= {f"AIRFLOW__API__SSL_{name}": certificates / file for name, file in files.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {k: str(v) for k, v in settings.items()} | {"PATH": path}
