"""Promotion, the gate, rollback; and the command line over them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli import app
from deploy.promotion import environments
from deploy.promotion.environments import Environment, EnvironmentProblem, checked
from deploy.promotion.gate import GateError, rows
from deploy.serving.artefact import ArtefactError, code_digest, version_of
from tests.conftest import ROOT


def bento(finished: Path, folder: Path, label: str, **changes: object) -> Path:
    """A bento like the finished one, of another version and with changed figures."""
    shutil.copytree(finished / "bento", folder)
    path = folder / "src/artefact/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["params"]["label"] = label
    manifest["metrics"]["test"]["ndcg@10"] = changes.get("ndcg", 0.5)
    manifest["compression"]["ndcg_kept"] = changes.get("kept", 1.0)
    manifest["parity"]["max_score_error"] = changes.get("error", 1e-6)
    manifest["quality"]["verified"] = changes.get("verified", True)
    manifest["shop"] = changes.get("shop", manifest["shop"])
    manifest["version"] = version_of(manifest)
    path.write_text(json.dumps(manifest))
    return folder


def version(folder: Path) -> str:
    return json.loads((folder / "src/artefact/manifest.json").read_text())["version"]


def served(environment: Environment) -> str:
    """The version that is served, which is whole and the one that is noted."""
    found = checked(environment.link / "bento")["version"]
    assert environment.entries()["current"]["version"] == found
    return found


def test_promote_and_roll_back(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    assert production.entries()["current"] is None
    one, two = (bento(finished, tmp_path / name, name) for name in ("v1", "v2"))
    for made in (one, two):
        production.promote(made, who="me", why="better")
    copy = yaml.safe_load((checkout / "deploy/environments/production.yaml").read_text())
    assert copy["current"]["version"] == served(production) == version(two)
    assert copy["current"]["digest"].startswith("sha256:")
    assert [e["version"] for e in copy["previous"]] == [version(one)]
    production.rollback(who="me", why="clicks fell")
    assert served(production) == version(one)
    entries = production.entries()
    assert entries["current"]["why"] == "rollback: clicks fell"
    assert [e["version"] for e in entries["rolled_back"]] == [version(two)]
    with pytest.raises(EnvironmentProblem, match="nothing to roll back to"):
        production.rollback(who="me", why="again")
    production.promote(production.bento(version(two)), who="me", why="forward again")
    assert served(production) == version(two)
    assert Environment(checkout, "staging").entries()["current"] is None


def test_promoting_the_current_one_changes_nothing(checkout: Path, finished: Path, tmp_path: Path):
    production, made = Environment(checkout, "production"), bento(finished, tmp_path / "v1", "v1")
    first = production.promote(made, who="me", why="x")
    assert production.promote(made, who="you", why="y") == first


def test_old_bentos_go_and_those_that_are_named_stay(
    checkout: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(environments, "KEPT", 2)
    production = Environment(checkout, "production")
    made = [bento(finished, tmp_path / str(i), str(i)) for i in range(5)]
    for one in made:
        production.promote(one, who="me", why="x")
    production.rollback(who="me", why="x")
    kept = {p.name for p in (production.store / "bentos").iterdir()}
    assert kept == {version(one) for one in made[2:]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ndcg": 0.0}, "under popularity's"),
        ({"ndcg": 0.4}, "max_drop_from_production"),
        ({"kept": 0.9}, "max_drop_from_production"),
        ({"error": 0.1}, "max_parity_error"),
        ({"verified": False}, "did not pass the checks"),
        ({"ndcg": None}, "a figure is missing"),
        ({"kept": None}, "a figure is missing"),
        ({"error": None}, "the figure is missing"),
    ],
)
def test_the_gate_refuses(checkout: Path, finished: Path, tmp_path: Path, changes: dict, reason: str):
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1"), who="me", why="x")
    before = served(production)
    worse = bento(finished, tmp_path / "v2", "v2", **changes)
    with pytest.raises(GateError, match=reason) as refused:
        production.promote(worse, who="me", why="x")
    assert not all(row.passed for row in refused.value.rows)
    assert served(production) == before
    entry = production.promote(worse, who="me", why="I know", force=True)
    assert any(reason in objection for objection in entry["forced_past"])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), None])
@pytest.mark.parametrize(
    "where", ["metrics.test.ndcg@10", "metrics.popularity.ndcg@10", "compression.ndcg_kept", "parity.max_score_error"]
)
def test_what_is_no_number_passes_no_row_of_the_gate(finished: Path, where: str, wrong: float | None):
    manifest = json.loads((finished / "artefact/manifest.json").read_text())
    limits = {"min_gain_over_popularity": 0.0, "max_drop_from_production": 0.05, "max_parity_error": 0.001}
    assert all(row.passed for row in rows(manifest, manifest, None, limits))
    *sections, key = where.split(".")
    part = manifest
    for section in sections:
        part = part[section]
    part[key] = wrong
    assert not all(row.passed for row in rows(manifest, None, None, limits))


@pytest.mark.parametrize(("accuracy", "passed"), [(0.9, True), (0.5, False), (None, False)])
def test_customers_who_are_not_understood_stop_a_bento(finished: Path, accuracy: float | None, passed: bool):
    manifest = json.loads((finished / "artefact/manifest.json").read_text())
    limits = {
        "min_gain_over_popularity": 0.0,
        "max_drop_from_production": 0.05,
        "max_parity_error": 0.001,
        "min_intent_accuracy": 0.8,
    }
    assert "min_intent_accuracy" not in [row.setting for row in rows(manifest, None, None, limits)]
    told = manifest | {"assist": {"messages": 10, "accuracy": accuracy}}
    [row] = [row for row in rows(told, None, None, limits) if row.setting == "gate.min_intent_accuracy"]
    assert row.passed is passed


@pytest.mark.parametrize("figure", ["NaN", "Infinity"])
def test_a_manifest_with_what_is_no_number_is_refused(checkout: Path, finished: Path, tmp_path: Path, figure: str):
    made = bento(finished, tmp_path / "v1", "v1")
    path = made / "src/artefact/manifest.json"
    path.write_text(path.read_text().replace('"ndcg@10": 0.5', f'"ndcg@10": {figure}'))
    with pytest.raises(ArtefactError, match=figure):
        Environment(checkout, "production").promote(made, who="me", why="x", force=True)


def test_a_shop_is_compared_with_itself_whatever_its_file_is_called(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1", shop="mine"), who="me", why="x")
    with pytest.raises(GateError, match="max_drop_from_production"):
        production.promote(bento(finished, tmp_path / "v2", "v2", shop="mine", ndcg=0.2), who="me", why="x")
    other = bento(finished, tmp_path / "v3", "v3", shop="theirs", ndcg=0.2)
    rows = production.gate(json.loads((other / "src/artefact/manifest.json").read_text()))
    assert any("of another shop" in row.note for row in rows)


def test_a_fix_of_the_serving_code_is_a_new_version(finished: Path, tmp_path: Path, checkout: Path):
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1"), who="me", why="x")
    before = served(production)
    fixed = bento(finished, tmp_path / "v2", "v1")
    code = fixed / "src/deploy/serving/recommender.py"
    code.write_text(code.read_text() + "\n# a fix\n")
    with pytest.raises(ArtefactError, match="not the code that was bundled"):
        production.promote(fixed, who="me", why="by hand")
    path = fixed / "src/artefact/manifest.json"
    manifest = json.loads(path.read_text()) | {"serving_sha256": code_digest(code.parents[2])}
    path.write_text(json.dumps(manifest | {"version": version_of(manifest)}))
    production.promote(fixed, who="me", why="the fix")
    assert served(production) == version(fixed) != before


@pytest.mark.parametrize("name", [".", "..", "../..", "", "a/b", "0123456789ab"])
def test_a_version_is_never_a_path(checkout: Path, finished: Path, tmp_path: Path, name: str):
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1"), who="me", why="x")
    before = served(production)
    made = bento(finished, tmp_path / "v2", "v2")
    path = made / "src/artefact/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": name}))
    with pytest.raises(ArtefactError):
        production.promote(made, who="me", why="x", force=True)
    assert served(production) == before
    if name != "0123456789ab":
        with pytest.raises(EnvironmentProblem):
            production.bento(name)


CHANGES = {
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.chmod",
    "shutil.copyfile",
    "shutil.rmtree",
    "os.truncate",
}


def killed_at(act, number: int) -> bool:
    """Runs `act` in a process that kills itself before its `number`-th change of a file; was it killed?"""
    child = os.fork()
    if not child:
        seen = 0

        def hook(event: str, details: tuple) -> None:
            nonlocal seen
            if event in CHANGES:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with suppress(BaseException):
            act()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@pytest.mark.e2e
@pytest.mark.parametrize("act", ["promote", "rollback"])
def test_killed_at_any_point_one_whole_version_is_served_and_all_commands_work(
    checkout: Path, finished: Path, tmp_path: Path, act: str
):
    production = Environment(checkout, "production")
    zero, one, two = (bento(finished, tmp_path / name, name) for name in ("v0", "v1", "v2"))
    for made in (zero, one):
        production.promote(made, who="me", why="before")
    snapshot = tmp_path / "snapshot"
    shutil.copytree(production.store, snapshot, symlinks=True)
    number, found = 0, set()
    step = 1 if act == "rollback" else 3  # every third of some hundreds: copying a bento is many of the same
    while True:
        number += step
        killed = killed_at(
            (lambda: production.promote(two, who="me", why="x"))
            if act == "promote"
            else lambda: production.rollback(who="me", why="x"),
            number,
        )
        found.add(served(production))
        if not killed:
            break
        production.promote(two, who="me", why="again")
        assert served(production) == version(two)
        production.rollback(who="me", why="back")
        assert served(production) in {version(zero), version(one)}
        assert not list(production.store.rglob("*.partial"))
        shutil.rmtree(production.store)
        shutil.copytree(snapshot, production.store, symlinks=True)
    assert found == ({version(one), version(two)} if act == "promote" else {version(zero), version(one)})
    assert number > 10


def test_two_promotions_at_once_leave_one_whole_version(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    made = [bento(finished, tmp_path / str(i), str(i)) for i in range(4)]
    threads = [
        threading.Thread(target=Environment(checkout, "production").promote, args=(one,), kwargs={"who": "t", "why": "x"})
        for one in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = production.entries()
    assert {e["version"] for e in [entries["current"], *entries["previous"]]} == {version(one) for one in made}
    assert served(production) in {version(one) for one in made}


def test_the_copy_for_people_may_be_reverted_or_not_be_writable(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    one, two = (bento(finished, tmp_path / name, name) for name in ("v1", "v2"))
    production.promote(one, who="me", why="x")
    old = production.file.read_bytes()
    production.promote(two, who="me", why="x")
    production.file.write_bytes(old)  # git checkout, dvc exp apply
    assert served(production) == version(two)
    production.file.unlink()
    production.file.mkdir()  # cannot be written
    production.rollback(who="me", why="x")
    assert served(production) == version(one)


def test_a_store_cleaned_by_hand_stands_in_nobodys_way(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    made = [bento(finished, tmp_path / str(i), str(i)) for i in range(3)]
    for one in made:
        production.promote(one, who="me", why="x")
    shutil.rmtree(production.bento(version(made[2])))
    shutil.rmtree(production.bento(version(made[1])))
    assert CliRunner().invoke(app, ["status", "production"]).exit_code == 0
    production.rollback(who="me", why="what is left")
    assert served(production) == version(made[0])
    shutil.rmtree(production.bento(version(made[0])))
    production.promote(made[1], who="me", why="anew")
    assert served(production) == version(made[1])
    production.link.unlink()
    production.promote(made[2], who="me", why="anew")
    assert served(production) == version(made[2])
    (production.bento(version(made[2])) / "src/artefact/model.data").write_bytes(b"damaged")
    production.promote(made[2], who="me", why="repaired")
    assert served(production) == version(made[2])


def test_a_user_without_a_name(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(OSError("No username set in the environment")))
    assert environments.person() == f"uid {os.getuid()}"


def test_command_line(checkout: Path, finished: Path, tmp_path: Path):
    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, result.output

    made = bento(finished, tmp_path / "v1", "v1")
    assert call("promote", "production", "--bento", str(made), "--why", "first") == (
        0,
        f"production serves pushcart:{version(made)}\n",
    )
    code, output = call("promote", "production", "--bento", str(bento(finished, tmp_path / "v2", "v2", ndcg=0.0)))
    assert code == 1
    assert "under popularity's" in output
    code, output = call("promote", "production", "--bento", str(made), "--force")
    assert code == 1
    assert "--why" in output
    code, output = call("promote", "moon")
    assert code == 1
    assert "staging, production" in output
    code, output = call("status")
    assert code == 0
    assert f"pushcart:{version(made)}" in output
    assert "nothing yet" in output
    assert "none runs here" in output
    code, output = call("rollback", "production")
    assert code == 1
    assert "nothing to roll back to" in output


def test_status_reads_whole_in_eighty_ascii_columns(checkout: Path, finished: Path, tmp_path: Path):
    made = bento(finished, tmp_path / "v1", "v1")
    Environment(checkout, "production").promote(made, who="Zoë", why="früher besser")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80", "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    command = [sys.executable, "-m", "deploy.cli", "status", "production"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert f"pushcart:{version(made)}  since 20" in done.stdout


def test_bentos_are_made_again_in_all_that_is_kept_by_one_swap(checkout: Path, finished: Path, tmp_path: Path):
    production = Environment(checkout, "production")
    for name in ("v1", "v2"):
        production.promote(bento(finished, tmp_path / name, name), who="me", why="better")
    before = [e["version"] for e in (production.entries()["current"], *production.entries()["previous"])]

    def change(folder: Path) -> bool:
        path = folder / "src/artefact/manifest.json"
        manifest = json.loads(path.read_text())
        manifest["shoppers"] -= 1
        manifest["version"] = version_of(manifest)
        path.write_text(json.dumps(manifest))
        return True

    assert production.remake(change) == 2
    entries = production.entries()
    after = [entries["current"]["version"], entries["previous"][0]["version"]]
    assert not set(after) & set(before)
    assert served(production) == after[0]
    assert all("erased" in entry and entry["why"] == "better" for entry in (entries["current"], entries["previous"][0]))
    assert {path.name for path in (production.store / "bentos").iterdir()} == set(after)
    production.rollback(who="me", why="as before")
    assert served(production) == after[1]
    assert production.remake(lambda folder: False) == 0
    assert "retrain within 30 days" in CliRunner().invoke(app, ["status", "production"]).output
