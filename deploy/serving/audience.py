"""How many shoppers a condition holds for, and who some of them are: asked of the artefact's table of shoppers, which nothing but the condition can read and nothing can change.

A condition is SQL over the columns of one shopper, such as those of campaigns/segments.yaml. sqlite3 alone.
"""

import difflib
import re
import sqlite3
import threading
import time
from pathlib import Path

SECONDS = 5.0  # a condition may take
STEPS = 100_000  # of SQLite's machine, between two looks at the clock
FUNCTIONS = {"abs", "coalesce", "count", "ifnull", "length", "like", "lower", "max", "min", "nullif", "round", "upper"}
ALLOWED = {sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION}


class BadCondition(Exception):
    """A condition that cannot be asked; the message says why."""


class Audience:
    """The shoppers of an artefact.

    Args:
        folder: the artefact.
    """

    def __init__(self, folder: Path):
        self._file = (folder / "shoppers.sqlite").resolve()
        self._open = threading.local()

    def of(self, condition: str, sample: int) -> tuple[int, list[str]]:
        """How many shoppers it holds for, and the first `sample` of them by id.

        Raises:
            BadCondition: it is none, or it takes too long.
        """
        base, until = self._base(), time.monotonic() + SECONDS
        selects = 0

        def allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            nonlocal selects
            selects += action == sqlite3.SQLITE_SELECT
            fine = action in ALLOWED and selects <= 1
            if action == sqlite3.SQLITE_READ:
                fine &= first == "shoppers"
            if action == sqlite3.SQLITE_FUNCTION:
                fine &= second in FUNCTIONS
            return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY

        base.set_authorizer(allow)
        base.set_progress_handler(lambda: time.monotonic() > until, STEPS)
        try:
            # the condition stands on lines of its own, so that a comment in it ends with it
            [(size,)] = base.execute(f"SELECT count(*) FROM shoppers WHERE (\n{condition}\n)").fetchall()
            selects = 0
            rows = base.execute(
                f"SELECT user_id FROM shoppers WHERE (\n{condition}\n) ORDER BY user_id LIMIT {int(sample)}"
            ).fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            wrong = error
        else:
            return size, [user for (user,) in rows]
        finally:
            base.set_authorizer(None)
            base.set_progress_handler(None, STEPS)
        raise BadCondition(self._why(str(wrong))) from wrong

    def _base(self) -> sqlite3.Connection:
        """A connection of this thread."""
        if not hasattr(self._open, "base"):
            self._open.base = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        return self._open.base

    def _why(self, said: str) -> str:
        if said == "interrupted":
            return f"the condition takes longer than {SECONDS:g} seconds"
        if found := re.match(r"no such column: (.*)", said):
            columns = [row[1] for row in self._base().execute("PRAGMA table_info(shoppers)")]
            near = difflib.get_close_matches(found[1], columns, 1)
            return f"there is no column {found[1]}; " + (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(columns)}"
            )
        if "not authorized" in said or "prohibited" in said:
            return "a condition may compare the columns of one shopper and nothing else"
        return f"this is no condition: {said}"
