"""The walls of the house: which part may import which. dags -> dvc.yaml -> pipelines -> models; deploy stands apart."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    "pipelines": {"dags", "deploy", "airflow"},
    "deploy": {"pipelines", "models", "dags", "torch", "pytorch_lightning", "polars", "pandas", "great_expectations", "airflow"},
    "dags": {"pipelines", "models"} | ML,
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_import_points_the_wrong_way(part: str):
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        wrong = imports(path) & FORBIDDEN[part]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_bento_needs_onnxruntime_and_numpy_alone():
    allowed = {"bentoml", "numpy", "onnxruntime", "prometheus_client", "pydantic", "starlette", "deploy", "faiss"}
    for name in ("service.py", "recommender.py"):
        foreign = imports(ROOT / "deploy" / name) - allowed - set(sys.stdlib_module_names)
        assert not foreign


def test_parsing_the_dag_needs_no_machine_learning_and_under_a_second_beyond_airflow():
    """Time never decides a test; the modules that would take it do."""
    code = "import airflow.sdk, airflow.providers.standard.operators.bash, sys; before = set(sys.modules); import dags.retrain; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "dags" in loaded
    assert not loaded & (ML | {"pipelines", "models", "deploy"})


def test_nothing_is_pickled():
    for part in ("pipelines", "models", "deploy", "dags"):
        for path in (ROOT / part).rglob("*.py"):
            assert "pickle" not in imports(path)
            assert "allow_pickle=True" not in path.read_text(encoding="utf-8")
