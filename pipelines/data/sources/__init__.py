"""Where events come from. Each source is a short translation into the canonical tables of pipelines/data/tables.py.

A source is a module with `read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]`: the tables "events" and, where it
has them, "items" and "users"; a simulated source adds "truth_*" tables, kept apart for evaluation only. `ordered_only(settings)`
says whether its timestamps tell order, not time. What could not be read is a table "unread"; what a mapping left out "left_out".
"""

from importlib import import_module
from types import ModuleType

from pipelines.stage import StageError

NAMES = ("shop", "files", "sequences", "recbole", "reviews", "log")


def source(name: str) -> ModuleType:
    """The module of the named source.

    Raises:
        StageError: there is no such source.
    """
    if name not in NAMES:
        raise StageError(f"source.name is {name!r}; it must be one of {', '.join(NAMES)}")
    return import_module(f"pipelines.data.sources.{name}")
