"""Processes and HTTP on this machine: start, wait until it answers, stop; nothing is left on a port."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
PATIENCE = 40  # seconds for a keeper to end all that it keeps


class PlatformError(Exception):
    """Something did not start; the message says what and where its log is."""


@contextmanager
def process(command: list[str], settings: dict[str, str], log: Path, cwd: Path) -> Iterator[subprocess.Popen]:
    """Runs a command under a keeper until the block ends; its output goes to the log."""
    kept = [sys.executable, "-m", "deploy.platform.keeper", str(os.getpid()), *command]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *([settings["PYTHONPATH"]] if settings.get("PYTHONPATH") else [])])
    with log.open("w", encoding="utf-8") as output:
        running = subprocess.Popen(
            kept, env=settings | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            running.kill()


def wait_for(url: str, running: subprocess.Popen, log: Path, seconds: float, trusted: Path | None = None) -> None:
    """Waits until the URL answers. trusted: the certificate of an authority.

    Raises:
        PlatformError: the process ended, or did not answer in time.
    """
    deadline = time.monotonic() + seconds
    context = _context(trusted)
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise PlatformError(f"{_name(running)} stopped with code {running.returncode}; its log is {log}")
        try:
            urllib.request.urlopen(url, timeout=5, context=context).read()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise PlatformError(f"{url} did not answer within {seconds:.0f} s; the log is {log}")


def _context(trusted: Path | None) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=str(trusted)) if trusted else None


def until_one_ends(running: dict[str, tuple[subprocess.Popen, Path]]) -> None:
    """Waits until one of the processes (name: process and log) ends.

    Raises:
        PlatformError: it names the one that ended.
    """
    while True:
        for name, (one, log) in running.items():
            if one.poll() is not None:
                raise PlatformError(f"{name} stopped with code {one.returncode}; its log is {log}")
        time.sleep(0.5)


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


def stoppable() -> None:
    """Makes SIGTERM, and Ctrl-C even where the shell that started this ignores it, end the process as Ctrl-C does: what it started
    is stopped too.
    """
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)


def ask(url: str, body: dict) -> dict:
    """POSTs JSON, returns JSON."""
    return http("POST", url, body)


def http(method: str, url: str, body: dict | None = None, token: str = "", trusted: Path | None = None) -> dict:
    """One request, JSON both ways. trusted: the certificate of an authority."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60, context=_context(trusted)) as answer:
        return json.loads(answer.read() or "{}")


def _name(running: subprocess.Popen) -> str:
    command = running.args[4:]
    return " ".join(Path(part).name for part in (command[2:] if command[1:2] == ["-m"] else command)[:2])
