"""The stages of dvc.yaml, one module each: files in, files out. Knows models/; nothing of Airflow, nothing of serving."""

import os
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

program = next((name for option, name in pairwise(sys.orig_argv) if option == "-m"), "")
if program.startswith("pipelines.") and find_spec("polars") is None:
    # `dvc repro` in a shell where the virtualenv is not active finds another `python`: go on with the checkout's own.
    own = Path(".venv/bin/python")
    if not own.exists() or Path(sys.prefix).resolve() == own.parent.parent.resolve():
        sys.exit("error: this python lacks Pushcart's packages; run `make setup`, then `source .venv/bin/activate`")
    os.execv(own, [str(own), *sys.orig_argv[1:]])
if program.startswith(("pipelines.", "benchmarks.")):  # libraries read these when they are imported
    from pipelines.machine import threads

    for name, value in threads().items():
        os.environ.setdefault(name, value)
