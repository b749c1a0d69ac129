"""The served model on this machine: `bentoml serve` on what an environment serves, following it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

from deploy.platform.airflow import airflow
from deploy.platform.doors import over_tls
from deploy.platform.processes import HOST, PlatformError, check_port, process, until_one_ends, wait_for
from deploy.promotion.environments import Environment, params_of

CIPHERS = (
    "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; of 1.3 all are good. BentoML's own default is of a version that no client speaks
)
ANY = ("0.0.0.0", "::")  # every address of this machine, which is listened to where somebody says so  # nosec B104


@contextmanager
def served(
    checkout: Path, name: str, port: int, host: str = HOST, certificates: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen, Path]]:
    """Serves what the environment serves, following promotions and rollbacks, and the other shops of params.yaml whose environments have something to serve; yields URL, process and log.

    host: that it listens on. certificates: a folder of `pushcart certs`, for TLS; None: it speaks in clear.

    Raises:
        PlatformError: it would listen beyond this machine, and a shop asks for no API keys; or the certificate does not hold.

    Workers are started in the folder that the environment's link names at that moment, so one that is started later runs the code of the
    bento that is current then.
    """
    target = Environment(checkout, name)
    shops = {shop: served_with(checkout, told) for shop, told in shops_of(checkout, name).items()}
    if not is_loopback(host) and (open_ := [shop for shop, told in shops.items() if not told["access"]]):
        raise PlatformError(
            f"{host} is not this machine alone, and anybody could ask {', '.join(open_)}: name a file of API keys (shops.{open_[0]}.access) and make one with `pushcart key add`"
        )
    settings = {"PUSHCART_SHOPS": json.dumps(shops)}
    with (
        server_folder(target.store, port) as folder,
        serving([str(target.link / "bento")], port, folder, settings, host, certificates) as (url, running),
    ):
        target.note_server(port)
        yield url, running, folder / "serve.log"


def is_loopback(host: str) -> bool:
    """Is it this machine alone that can ask there?"""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shops_of(checkout: Path, environment: str) -> dict[str, dict]:
    """The shops of params.yaml that have something to serve, first the one of an environment; where none has it, the first shop is served from it."""
    told = params_of(checkout)["shops"]
    leading = next((shop for shop, one in told.items() if one["environment"] == environment), next(iter(told)))
    others = {
        shop: one for shop, one in told.items() if shop != leading and Environment(checkout, one["environment"]).link.exists()
    }
    return {leading: told[leading] | {"environment": environment}} | others


def served_with(checkout: Path, shop: dict) -> dict:
    """The settings of deploy/serving/shops.py. The outbox, which says who opted out and what was sent, is that of params.yaml, where that is a file."""
    url = params_of(checkout)["send"]["outbox"]
    outbox = str(checkout / url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    kept = ("keys", "origins", "rate", "proxied", "lateness", "learn")
    access = shop["access"] and str(checkout / Path(shop["access"]).expanduser())
    return (
        {name: shop[name] for name in kept}
        | {
            "follow": str(Environment(checkout, shop["environment"]).link),
            "events": str(checkout / shop["events"]),
            "state": shop["state"] and os.path.expandvars(shop["state"]),
            "outbox": outbox,
            "access": access,
            "identity": shop["identity"] and str(checkout / Path(shop["identity"]).expanduser()),
            "reword": shop["reword"],
        }
        | private(checkout)
    )


def private(checkout: Path) -> dict:
    """What says by which names shoppers are known: settings of deploy/serving/shops.py."""
    told = params_of(checkout)["privacy"]
    named = {name: told[name] and str(checkout / Path(told[name]).expanduser()) for name in ("vault", "master_key")}
    return named | {name: told[name] for name in ("pseudonyms", "consent")}


@contextmanager
def server_folder(store: Path, port: int) -> Iterator[Path]:
    """A folder for one server's log and counters, so that two servers of one environment do not meet; those of ended servers go."""
    servers = store / "servers"
    servers.mkdir(parents=True, exist_ok=True)
    for left in servers.iterdir():
        pid = left.name.partition("-")[0]
        if not (pid.isdigit() and Path("/proc", pid).exists()):
            shutil.rmtree(left, ignore_errors=True)
    folder = servers / f"{os.getpid()}-{port}"
    folder.mkdir(exist_ok=True)
    yield folder


@contextmanager
def serving(
    target: list[str], port: int, folder: Path, settings: dict[str, str], host: str = HOST, certificates: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Runs `bentoml serve` on a bento or a service until it is ready; yields its URL and the process that keeps it.

    target: arguments that name it. folder: where it keeps its log and its counters. settings: environment variables.
    """
    log, counters = folder / "serve.log", folder / "prometheus"
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        *target,
        "--host",
        host,
        "--port",
        str(port),
        "--timeout-graceful-shutdown",
        "10",
    ]
    own = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml"), "PROMETHEUS_MULTIPROC_DIR": str(counters)}
    counters.mkdir(exist_ok=True)
    url, trusted = f"http://{HOST if host in ANY else host}:{port}", None
    if certificates is not None:
        url, trusted = over_tls(url, certificates)
        command += [
            "--ssl-certfile",
            str(certificates / "server.pem"),
            "--ssl-keyfile",
            str(certificates / "server.key"),
            "--ssl-ciphers",
            CIPHERS,
        ]
    with process(command, os.environ | own | settings, log, folder) as running:
        wait_for(f"{url}/readyz", running, log, 60, trusted)
        yield url, running


def up(
    checkout: Path, name: str, airflow_port: int, serve_port: int, certificates: Path | None, tell: Callable[[str], None]
) -> None:
    """Airflow and the served model until Ctrl-C or until one of them ends, by TLS where certificates are named; the model as soon as the environment has one."""
    check_port(airflow_port, "AIRFLOW_PORT")
    check_port(serve_port, "SERVE_PORT")
    target = Environment(checkout, name)
    with ExitStack() as stack:
        tell("starting Airflow ...")
        running = stack.enter_context(airflow(checkout, airflow_port, certificates))
        tell(f"Airflow     {running.url}   user {running.user}   password in .airflow/passwords.json")
        if not target.link.exists():
            tell(
                f'Model       nothing is promoted to {name} yet: start a retrain with "Promote to: {name}", and it will be served'
            )
            while not target.link.exists():
                time.sleep(1)
        url, server, log = stack.enter_context(served(checkout, name, serve_port, certificates=certificates))
        tell(f"Model       {url}   serves {name}")
        kept = running.running | {"the server": (server, log)}
        for shop, told in shops_of(checkout, name).items():
            tell(f"Events      {url}/shops/{shop}/events   kept in {told['events']}")
            kept |= stack.enter_context(gathering(checkout, shop, told))
        tell("Ctrl-C stops all")
        until_one_ends(kept)


@contextmanager
def gathering(checkout: Path, shop: str, told: dict) -> Iterator[dict[str, tuple[subprocess.Popen, Path]]]:
    """What goes on beside the server for a shop's events: files are rolled, files that are dropped and a topic of Kafka's are read, something is learnt. Yields processes and logs by name."""
    folder = checkout / told["events"]
    folder.mkdir(parents=True, exist_ok=True)
    common = [str(folder), "--shop", shop, "--lateness", str(told["lateness"])]
    own = {"PUSHCART_STATE": os.path.expandvars(told["state"])} if told["state"] else {}
    people = private(checkout)
    own |= {
        f"PUSHCART_{name.upper()}": str(value).lower() if name == "pseudonyms" else value
        for name, value in people.items()
        if value
    }
    commands = {"rolling": ["pipelines.data.sources.rolling", str(folder)]}
    if (folder / "drop").is_dir():
        commands["files"] = ["online.dropped", *common]
    if told["learn"]:
        commands["learning"] = ["deploy.serving.between", str(folder), str(Environment(checkout, told["environment"]).link)]
    if kafka := told["kafka"]:
        more = [[f"--{name}", str(checkout / kafka[name])] for name in ("schema", "settings") if kafka.get(name)]
        reading = ["online.kafka", *common, "--brokers", kafka["brokers"], "--topic", kafka["topic"]]
        commands["Kafka"] = [*reading, *(part for one in more for part in one)]
    with ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            log = folder.with_name(f"{folder.name}.{name.lower()}.log")
            started = stack.enter_context(process([sys.executable, "-m", *command], os.environ | own, log, checkout))
            running[f"{shop}'s {name}"] = started, log
        yield running
