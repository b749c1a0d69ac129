"""Rows of one process on their way into the log and then into the state. Where the state cannot be reached, the log keeps them all the same, and the state takes them once it can."""

import argparse
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from online.log import EventLog
from online.state import Gone, open_state, replay
from privacy.people import People

log = logging.getLogger("bentoml.pushcart")
PRUNE = 6 * 3600.0  # seconds between two times that what is too old is removed
AGAIN = 0.5  # seconds between two tries to reach a state that is gone
WHOLE = "whole"  # noted in a state that was brought up to the log


def add_arguments(cli: argparse.ArgumentParser) -> None:
    """Those of programs that take events beside the server."""
    cli.add_argument("folder", type=Path, help="of events")
    told = os.environ.get("PUSHCART_STATE")  # a password on the command line is shown to everybody on the machine
    cli.add_argument("--state", default=told, help="redis://..., or PUSHCART_STATE; without one, a file beside the folder")
    cli.add_argument("--shop", default="shop", help="whose events they are")
    cli.add_argument("--lateness", type=float, default=86_400.0, help="seconds after which an event is for the next run alone")


class Intake:
    """Safe to call from several threads.

    Args:
        folder: of all processes: log/ and items/. What a crash left in the log alone is taken into the state first.
        state: where the state is (online.state.open_state); None: in the folder. shop: whose. lateness: seconds after which an event is for the next run alone. people: by which names they are known.
    """

    def __init__(
        self,
        folder: Path,
        state: str | None = None,
        shop: str = "shop",
        lateness: float = 86_400.0,
        people: People | None = None,
    ):
        self.state, self.lateness, self.people = open_state(state, folder, shop), lateness, people or People()
        self.folder, self._lock = folder, threading.Lock()
        self._events, self._items = EventLog(folder / "log"), EventLog(folder / "items")
        self._behind = threading.Event()  # the log holds what the state does not
        self._behind.set()
        self._catch_up()
        threading.Thread(target=self._keep_up, daemon=True).start()

    def take(self, lines: list[dict], book: EventLog | None = None) -> None:
        """Takes events, into a log of their own where they have one.

        Raises:
            OSError: they cannot be put on disk; none was taken. VaultError: nobody can say whose they are; none was taken.
        """
        self._keep("log", book or self._events, self.state.seen, self.people.named(lines))

    def change(self, lines: list[dict]) -> None:
        """Raises: OSError: they cannot be put on disk; none was taken."""
        self._keep("items", self._items, self.state.change, lines)

    def close(self) -> None:
        """Ends the files that are being written."""
        with self._lock:
            self._events.close()
            self._items.close()

    def _keep(self, name: str, book: EventLog, take: Callable[[list[dict]], object], lines: list[dict]) -> None:
        with self._lock:
            file, byte = book.append(lines)
            if self._behind.is_set():
                return  # what is missing from the state comes first
            try:
                take([line for line in lines if "refused" not in line])
                self.state.reached(f"{name}/{file}", byte)
            except Gone as error:
                self._behind.set()
                log.warning("the state cannot be reached, answers know the artefact alone: %s", error)

    def _keep_up(self) -> None:
        pruned = time.monotonic()
        while True:
            time.sleep(AGAIN)
            if time.monotonic() - pruned > PRUNE:
                pruned = time.monotonic()
                with contextlib.suppress(Gone):
                    self.state.prune()
            if self._behind.is_set() or not self._is_whole():
                self._behind.set()
                self._catch_up()

    def _is_whole(self) -> bool:
        """Whether the state still is the one that was brought up to the log: an engine may come back empty."""
        try:
            return self.state.place(WHOLE) == 1
        except Gone:
            return False

    def _catch_up(self) -> None:
        try:
            replay(self.state, self.folder)
            self.state.prune()
            with self._lock:  # what came in meanwhile
                replay(self.state, self.folder)
                self.state.reached(WHOLE, 1)
                self._behind.clear()
        except Gone as error:
            log.debug("the state still cannot be reached: %s", error)
