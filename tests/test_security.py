"""What tools of the trade say of the code, of an artefact and of what an installation is made of."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.e2e
CODE = ("privacy", "online", "deploy", "pipelines", "marketing", "models", "dags", "demo.py")


def ran(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)


def test_bandit_finds_no_weakness_of_medium_severity():
    done = ran("bandit", "-q", "-r", "-ll", "-ii", "-c", "pyproject.toml", *CODE)
    assert done.returncode == 0, done.stdout[-3000:]


def test_nothing_of_an_artefact_or_its_bento_can_run_code_when_it_is_read(finished: Path):
    from picklescan.scanner import scan_directory_path

    for folder in ("artefact", "bento/src/artefact", "data/refit"):
        found = scan_directory_path(str(finished / folder))
        assert (found.infected_files, found.issues_count, found.scan_err) == (0, 0, False)


def test_the_bill_of_materials_names_all_that_is_pinned(tmp_path: Path):
    done = ran("cyclonedx_py", "requirements", "requirements.lock", "--of", "JSON", "-o", str(tmp_path / "sbom.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    named = {one["name"].lower().replace("_", "-") for one in json.loads((tmp_path / "sbom.json").read_text())["components"]}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert {name.replace("_", "-") for name in pinned} <= named
