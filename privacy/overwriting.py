"""Takes lines out of a file to which others append meanwhile: each is overwritten in its place, so that nobody's offset moves and no line that is on its way is lost."""

import os
from collections.abc import Callable
from pathlib import Path


def overwrite(file: Path, instead: Callable[[bytes], bytes | None]) -> int:
    """How many lines were overwritten.

    instead: of a whole line what is to stand there, at most as long; None: it stays.
    """
    count, at = 0, 0
    with file.open("r+b") as opened:
        for line in opened:
            new = instead(line) if line.endswith(b"\n") else None
            if new is not None:
                os.pwrite(opened.fileno(), new.ljust(len(line) - 1) + b"\n", at)
                count += 1
            at += len(line)
        os.fsync(opened.fileno())
    return count
