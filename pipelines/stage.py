"""What every stage shares: parameters, whole-or-nothing outputs, plain logging, JSON reports, charts.

Knows nothing of events, models or Airflow.
"""

import argparse
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

log = logging.getLogger("pushcart")


class StageError(Exception):
    """The input or a setting is wrong: the message says which, where and what to do. Shown without a traceback."""


def params(*sections: str) -> dict | list[dict]:
    """The named sections of params.yaml in the working directory: one dict, or a list of them."""
    path = Path("params.yaml")
    if not path.exists():
        raise StageError("params.yaml is not here: run the stage from the root of the checkout")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = [document[section] for section in sections]
    return found[0] if len(found) == 1 else found


@contextmanager
def output(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; renamed to `path` only when the block ends without an error."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def write_json(path: str | Path, document: object) -> None:
    """Writes `document` as indented UTF-8 JSON; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)


def read_json(path: str | Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


@contextmanager
def chart(path: Path, width: float, x: str, y: str, title: str, scale: str = "log") -> Iterator:
    """Axes with a logarithmic x, or another scale; what is drawn on them is in the PNG file `path` afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, 5), layout="constrained")
    yield axes
    axes.set(xscale=scale, xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(stage: Callable[[], None]) -> None:
    """Runs a stage as a program: --help prints its module's first lines; a StageError is one clear line, exit 1."""
    module = sys.modules[stage.__module__]
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.__spec__.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Settings come from params.yaml in the working directory.",
    )
    parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' advice to their callers' authors; python -W shows it
    try:
        stage()
    except StageError as error:
        sys.exit(f"error: {error}")
