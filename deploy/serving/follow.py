"""Follows an environment's `current` link: what was promoted or rolled back is loaded beside what answers, and swapped in whole.

A bento whose serving code is another is not loaded by this code: once that code has loaded its artefact in a process of its own, this worker
drains and ends, and the one that BentoML starts in its place runs what the link names.
"""

import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from deploy.serving.artefact import ArtefactError, code_digest
from deploy.serving.recommender import Recommender

log = logging.getLogger("bentoml.pushcart")
LOOK = 0.5  # seconds between two looks at the link
PATIENCE = 30.0  # seconds between two tries to load what could not be loaded, at most
START = 5.0  # seconds that a new worker is given before the next one ends


def without_folders(said: str, store: Path) -> str:
    """What is told to whoever asks: files by their names, no folder of this machine."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\":]+/)+", "", said.replace(f"{store}{os.sep}", ""))


class Follower:
    """The recommender to answer with: the newest that `link` named and that could be loaded whole.

    A version that cannot be loaded is tried again, after a while that doubles up to PATIENCE: what was wrong may pass.

    Args:
        leads: whether the workers run the code of what this link names. more: of Recommender.

    Attributes:
        recommender: what answers. problem: why the version that the link names does not answer; None where it does.
    """

    def __init__(self, link: Path, leads: bool = True, **more: object):
        self._link, self._leads, self._code = link, leads, code_digest(Path(__file__).parents[2])
        self._with = more
        self._target = os.readlink(link)
        self.recommender = Recommender(link.parent / self._target / "bento" / "src" / "artefact", **self._with)
        self.problem: str | None = None
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        wait, again, tried = LOOK, 0.0, None
        while True:
            time.sleep(LOOK)
            try:
                target = os.readlink(self._link)
                if target == self._target:
                    self.problem, tried = None, None
                    continue
                if target != tried:
                    wait, again, tried = LOOK, 0.0, target
                if time.monotonic() >= again:
                    self._turn_to(target)
            except Exception as error:  # whatever an artefact or the machine does, the thread lives on
                wait = min(2 * wait, PATIENCE)
                again = time.monotonic() + wait
                said = f"{type(error).__name__}: {error}"
                self.problem = without_folders(said, self._link.parent)
                log.error("staying with %s, trying again in %.0f s: %s", self.recommender.version, wait, said)

    def _turn_to(self, target: str) -> None:
        source = self._link.parent / target / "bento" / "src"
        manifest = json.loads((source / "artefact" / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("serving_sha256") == self._code:
            self.recommender = Recommender(source / "artefact", **self._with)
            self._target, self.problem = target, None
            log.info("now serving %s", self.recommender.version)
            return
        if not self._leads:
            raise ArtefactError(
                "its serving code is another than that of the shop that is served by default, which all shops run; promote a model of the same code there"
            )
        command = [sys.executable, "-m", "deploy.serving.recommender", "artefact"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        tried = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=120)
        if tried.returncode:
            raise ArtefactError(f"its own code cannot serve it: {tried.stderr.strip()[-500:]}")
        with (self._link.parent / ".turning").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a worker at a time, so that the others answer
            log.info("ending this worker: %s brings other code", manifest.get("version"))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(START)
