"""The door through which events come in: a bad row is refused with its reason, the rest is on disk before it is said to be taken, and known to the next answer.

In: rows of a request. Out: how many were taken, which had been taken before, which are refused and why. Requests that come together share one write.
"""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from deploy.serving.schemas import Event
from online.log import EventLog
from online.state import State

AHEAD = 300.0  # seconds by which a sender's clock may be ahead of ours


class Door:
    """Takes events into a folder: log/ and state.sqlite. For one event loop.

    Args:
        folder: of all workers. What a crash left in the log alone is taken into the state first.
    """

    def __init__(self, folder: Path):
        self.state = State(folder / "state.sqlite")
        self.state.replay(folder / "log")
        self._log = EventLog(folder / "log")
        self._waiting: list[tuple[list[dict], asyncio.Future]] = []
        self._writing: asyncio.Task | None = None

    async def take(self, rows: list[dict]) -> dict:
        """What became of the rows: accepted, repeated, refused (row, from 0, and reason).

        Raises:
            OSError: the log cannot be written; nothing was taken.
        """
        good, refused, now = {}, [], time.time()
        repeated = 0
        for number, row in enumerate(rows):
            try:
                event = Event.model_validate(row)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                refused.append({"row": number, "reason": f"{'.'.join(map(str, first['loc'])) or 'the row'}: {first['msg']}"})
                continue
            at = now if event.timestamp is None else event.timestamp.timestamp()
            if at > now + AHEAD:
                refused.append({"row": number, "reason": "timestamp: it is in the future"})
                continue
            repeated += event.event_id in good
            good.setdefault(event.event_id, _line(event, at))
        known = self.state.known(list(good)) if good else set()
        new = [line for event_id, line in good.items() if event_id not in known]
        if new:
            await self._put(new)
        return {"accepted": len(new), "repeated": repeated + len(known), "refused": refused}

    async def _put(self, lines: list[dict]) -> None:
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
                await asyncio.to_thread(self._keep, [line for lines, _ in together for line in lines])
            except Exception as error:  # each request is told
                for _, done in together:
                    done.set_exception(error)
            else:
                for _, done in together:
                    done.set_result(None)

    def _keep(self, lines: list[dict]) -> None:
        self._log.append(lines)
        self.state.take(lines)


def _line(event: Event, at: float) -> dict:
    """An event as the log keeps it: the canonical columns, and `at` in seconds for the state."""
    return event.model_dump(exclude_none=True) | {"timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "at": at}
