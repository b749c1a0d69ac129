"""Runs one command, and ends all that came of it when the command ends or whoever started this keeper does, however that happens.

    python -m deploy.platform.keeper PARENT COMMAND ...

PARENT: id of the process that started the keeper. All processes below carry the environment variable PUSHCART_KEEPER, by which those that
left their process group are found. SIGINT and SIGTERM ask the command to stop as it does when asked: it drains, then ends.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "PUSHCART_KEEPER"
PATIENCE = 25.0  # seconds for the command to stop by itself
PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    asked: list[int] = []
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, _: asked.append(number))
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_keeper)
    while child.poll() is None and not asked and os.getppid() == parent:
        time.sleep(0.1)
    if child.poll() is None:
        child.send_signal(signal.SIGTERM if "bentoml" in command else signal.SIGINT)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
    end_marked(mark)
    code = child.wait()
    sys.exit(0 if asked else code if code >= 0 else 128 - code)


def end_marked(mark: str) -> None:
    """Kills every process that carries the mark, but this one."""
    for _ in range(50):
        left = [p for p in marked(mark) if p != os.getpid()]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def marked(mark: str) -> list[int]:
    """Ids of the processes of this user that carry the mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not zombie and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return found


def _end_with_keeper() -> None:
    """A keeper that is killed cannot end its command: the kernel then asks it to."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main()
