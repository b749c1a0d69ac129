"""Promotion, the gate, rollback; and the command line over them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli import app
from deploy.environments import Environment, EnvironmentProblem, GateError
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    (folder / "deploy/environments").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    monkeypatch.chdir(folder)
    return folder


def bento(finished: Path, folder: Path, version: str, **changes: object) -> Path:
    """A bento like the finished one, of another version and with changed figures."""
    shutil.copytree(finished / "bento", folder)
    path = folder / "src/artefact/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["version"] = version
    manifest["metrics"]["test"]["ndcg@10"] = changes.get("ndcg", 0.5)
    manifest["compression"]["ndcg_kept"] = changes.get("kept", 1.0)
    manifest["parity"]["max_score_error"] = changes.get("error", 1e-6)
    manifest["quality"]["verified"] = changes.get("verified", True)
    path.write_text(json.dumps(manifest))
    return folder


def test_promote_and_roll_back(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    assert production.entries() == {"current": None, "previous": []}
    for version in ("v1", "v2"):
        production.promote(bento(finished, tmp_path / version, version), who="me", why="better")
    entries = yaml.safe_load((checkout / "deploy/environments/production.yaml").read_text())
    assert entries["current"]["version"] == "v2"
    assert entries["current"]["digest"].startswith("sha256:")
    assert [e["version"] for e in entries["previous"]] == ["v1"]
    assert (production.link / "src/artefact/manifest.json").exists()
    assert production.link.resolve().name == "v2"
    production.rollback(who="me", why="clicks fell")
    assert production.link.resolve().name == "v1"
    assert production.entries()["current"]["why"] == "rollback: clicks fell"
    with pytest.raises(EnvironmentProblem, match="nothing to roll back to"):
        production.rollback(who="me", why="again")
    assert Environment(checkout, "staging").entries()["current"] is None


def test_promoting_the_current_one_changes_nothing(checkout: Path, finished: Path, tmp_path: Path):
    production, made = Environment(checkout, "production"), bento(finished, tmp_path / "v1", "v1")
    first = production.promote(made, who="me", why="x")
    assert production.promote(made, who="you", why="y") == first


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ndcg": 0.0}, "not above popularity"),
        ({"ndcg": 0.4}, "max_drop_from_production"),
        ({"kept": 0.9}, "max_drop_from_production"),
        ({"error": 0.1}, "max_parity_error"),
        ({"verified": False}, "did not pass the checks"),
    ],
)
def test_the_gate_refuses(checkout: Path, finished: Path, tmp_path: Path, changes: dict, reason: str):
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1"), who="me", why="x")
    worse = bento(finished, tmp_path / "v2", "v2", **changes)
    with pytest.raises(GateError, match=reason):
        production.promote(worse, who="me", why="x")
    assert production.link.resolve().name == "v1"
    entry = production.promote(worse, who="me", why="I know", force=True)
    assert any(reason in objection for objection in entry["forced_past"])


def test_a_file_that_says_otherwise_than_what_is_served_is_told(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1"), who="me", why="x")
    production.file.unlink()
    with pytest.raises(EnvironmentProblem, match="names nothing, but v1 is served"):
        production.entries()


def test_command_line(checkout: Path, finished: Path, tmp_path: Path):
    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, result.output

    made = bento(finished, tmp_path / "v1", "v1")
    assert call("promote", "production", "--bento", str(made), "--why", "first") == (0, "production serves pushcart:v1\n")
    code, output = call("promote", "production", "--bento", str(bento(finished, tmp_path / "v2", "v2", ndcg=0.0)))
    assert code == 1
    assert "not above popularity" in output
    code, output = call("promote", "production", "--bento", str(made), "--force")
    assert code == 1
    assert "--why" in output
    code, output = call("promote", "moon")
    assert code == 1
    assert "staging, production" in output
    code, output = call("status")
    assert code == 0
    assert "pushcart:v1" in output
    assert "nothing yet" in output
    code, output = call("rollback", "production")
    assert code == 1
    assert "nothing to roll back to" in output
