"""The door through which events and changes of items come in: a bad row is refused with its reason, the rest is on disk before it is said to be taken, and known to the next answer.

In: rows of a request. Out: how many were taken, which had been taken before, which are refused and why. Requests that come together share one write.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from online.events import Event, ItemChange, sort_out
from online.intake import Intake
from online.state import Gone, State

AT_ONCE = 20  # rows that are checked before others have their turn


class Writer:
    """Hands lines to `keep`, on a thread; lines that wait at the same time are handed on together. For one event loop."""

    def __init__(self, keep: Callable[[list[dict]], None]):
        self._keep, self._thread = keep, ThreadPoolExecutor(1)  # one thread, so one connection to the state
        self._waiting: list[tuple[list[dict], asyncio.Future]] = []
        self._writing: asyncio.Task | None = None

    async def put(self, lines: list[dict]) -> None:
        """Raises: OSError: they cannot be put on disk; none was taken."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        """Writes what waits until nothing does."""
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                lines = [line for mine, _ in together for line in mine]
                await asyncio.get_running_loop().run_in_executor(self._thread, self._keep, lines)
            except Exception as error:  # each request is told
                for _, done in together:
                    done.set_exception(error)
            else:
                for _, done in together:
                    done.set_result(None)


class Door:
    """Takes what comes in over HTTP. For one event loop."""

    def __init__(self, intake: Intake):
        self.state: State = intake.state
        self._people = intake.people
        self._events, self._items = Writer(intake.take), Writer(intake.change)
        self._lateness = intake.lateness

    async def take(self, rows: list[dict]) -> dict:
        """What became of the rows: accepted, and of those late; repeated; refused (row, from 0, and reason).

        Raises:
            OSError: the log cannot be written; nothing was taken.
        """
        lines, refused, now = [], [], time.time()
        for start in range(0, len(rows), AT_ONCE):
            found = sort_out(rows[start : start + AT_ONCE], Event, now, self._lateness, self._people)
            lines += found.lines
            refused += [one | {"row": start + one["row"]} for one in found.refused]
            await asyncio.sleep(0)  # answers need not wait for all of a large request
        good = {line["event_id"]: line for line in reversed(lines)}  # the first of its id
        try:
            known = self.state.known(list(good)) if good else set()
        except Gone:
            known = set()  # the log may hold them twice; the state and `collect` count them once
        new = [line for event_id, line in reversed(good.items()) if event_id not in known]
        if new:
            await self._events.put(new)
        late = sum("late" in line for line in new)
        return {"accepted": len(new), "late": late, "repeated": len(lines) - len(new), "refused": refused}

    async def change(self, rows: list[dict]) -> dict:
        """What became of changes of items: accepted, refused (row, from 0, and reason).

        Raises:
            OSError: the log cannot be written; nothing was taken.
        """
        lines, refused = sort_out(rows, ItemChange, time.time())
        if lines:
            await self._items.put(lines)
        return {"accepted": len(lines), "refused": refused}
