"""Where somebody still stands: every file of a checkout is read, packed or not, for their names and for what they did.

In: a folder, names, a history. Out: places. Tables are read as tables, archives are opened, databases and all else as bytes; what git keeps of the code is the same before anybody came.
"""

import gzip
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

LEFT_OUT = {".git", ".venv", "__pycache__"}
LONG = 6  # events of a history from which it is taken for theirs wherever it stands


def traces(root: Path, names: Sequence[str], history: Sequence[int] = (), left_out: Sequence[Path] = ()) -> list[str]:
    """Places, each with what was found there.

    history: item numbers, oldest first; shorter ones than LONG are anybody's. left_out: folders, such as the vault's.
    """
    tracked = set(subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True).stdout.split("\0"))
    wanted = {name.encode(): name for name in names} | _histories(history)
    found = []
    for path in _files(root, [Path(one) for one in left_out]):
        if os.fspath(path.relative_to(root)) in tracked:
            continue
        for where, content in _contents(path):
            found += [f"{where}: {what}" for one, what in wanted.items() if one in content]
    return found


def _histories(items: Sequence[int]) -> dict[bytes, str]:
    """How a history may be written."""
    if len(items) < LONG:
        return {}
    arrays = [np.array(items, dtype=kind).tobytes() for kind in (np.int32, np.int64)]
    texts = [sign.join(map(str, items)).encode() for sign in (",", ", ")]
    return dict.fromkeys([*arrays, *texts], "their history")


def _files(root: Path, left_out: list[Path]) -> Iterator[Path]:
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in LEFT_OUT and Path(folder, name) not in left_out]
        yield from (path for name in files if not (path := Path(folder, name)).is_symlink() and path.is_file())


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a file holds: as it is, and what is packed in it."""
    content = path.read_bytes()
    yield str(path), content
    if content[:4] == b"PAR1":
        table = pl.read_parquet(io.BytesIO(content))
        for column in table.iter_columns():
            if column.dtype == pl.String:
                yield f"{path} ({column.name})", "\n".join(column.drop_nulls().unique()).encode()
            elif column.dtype == pl.List:
                yield f"{path} ({column.name})", "\n".join(json.dumps(row, default=str) for row in column.to_list()).encode()
    elif content[:2] == b"\x1f\x8b":
        yield f"{path} (unpacked)", gzip.decompress(content)
    elif content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield f"{path} ({name})", archive.read(name)
