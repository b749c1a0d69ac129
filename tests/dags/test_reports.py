"""The Report tab: of a run without and with a ranker, of one that was refused; and that nothing in it can run."""

import json
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dags import reports


def test_a_ranker_shows_its_retriever_and_its_tasks(finished: Path, tmp_path: Path):
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "impression" not in reports._metrics(tmp_path)
    task = {"auc": 0.7251, "log_loss": 0.1, "calibration_error": 0.01, "impressions": 2000, "positives": 40}
    (tmp_path / "metrics.json").write_text(
        json.dumps(metrics | {"retriever": metrics["test"], "impressions": {"purchase": task}})
    )
    page = reports._metrics(tmp_path)
    assert "its retriever alone" in page
    assert "<td>purchase</td><td>40 of 2,000</td><td>0.7251</td>" in page


def test_what_carries_answers_and_how_far_it_holds_is_shown(finished: Path):
    page = reports._explained(finished / "reports", "r")
    for told in (
        "leave-one-out",
        "recency",
        "random",
        "shuffled weights",
        "explanation/deletion.png",
        "explanation/calibration.png",
        "stands in for the model",
    ):
        assert told in page


def test_links_are_shown_where_there_are_any(tmp_path: Path):
    assert reports._people(tmp_path) == ""
    told = {"links": [], "people": 0}
    (tmp_path / "links.json").write_text(json.dumps(told))
    assert reports._people(tmp_path) == ""
    likely = {"visitors": {"said": "no <chance>"}, "accounts": {"precision": 0.996, "held_out": 2584}}
    told = {
        "ids_of_people": 5,
        "people": 2,
        "likely": likely,
        "links": [{"reason": "the same <address>", "outcome": "taken", "links": 3}],
    }
    (tmp_path / "links.json").write_text(json.dumps(told))
    page = reports._people(tmp_path)
    assert "5 ids of 2 people" in page
    assert "99.6% were right" in page
    assert "none is taken, as no &lt;chance&gt;" in page
    assert "&lt;address&gt;" in page


def test_content_and_answers_are_shown_where_there_are_any(tmp_path: Path):
    assert reports._content(tmp_path) == reports._answers(tmp_path) == ""
    such_as = [{"item_id": "<i>", "kind": "look", "reason": "there is no such file"}]
    kinds = {"look": {"items": 1200, "refused": 1, "such_as": such_as}}
    (tmp_path / "embedded.json").write_text(json.dumps({"kinds": kinds, "near_duplicates": 2}))
    told = {"messages": 10, "passages": 3, "accuracy": 0.9, "interval": [0.8, 1.0], "by_intent": {"b": 1.0, "a": 0.5}}
    (tmp_path / "assist.json").write_text(json.dumps(told))
    page = reports._content(tmp_path)
    assert "<td>1,200</td>" in page
    assert "&lt;i&gt;" in page
    assert "2 pairs" in page
    page = reports._answers(tmp_path)
    assert "90.0% of 10 messages" in page
    assert page.index("<td>a</td>") < page.index("<td>b</td>")


@pytest.fixture
def client(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The application over one run, "r", whose feed wrote a script into its reports."""
    folder = tmp_path / ".airflow/runs/r"
    shutil.copytree(finished / "reports", folder / "reports")
    (folder / "reports/data_docs/evil.html").write_text("<script>parent.location='/'</script>")
    refusal = {"stage": "check", "reason": "events: 40.0% of 10 rows are broken <script>alert(1)</script>"}
    (folder / "reports/refusal.json").write_text(json.dumps(refusal))
    row = {
        "name": "NDCG@10 beside popularity",
        "figure": 0.1,
        "limit": 0.2,
        "passed": False,
        "setting": "x",
        "note": "0.1 is under 0.2",
    }
    (folder / "reports/gate.json").write_text(json.dumps([row]))
    monkeypatch.setattr(reports, "CHECKOUT", tmp_path)
    for dependency in reports.app.router.dependencies:
        reports.app.dependency_overrides[dependency.dependency] = lambda: None
    return TestClient(reports.app)


def test_nothing_that_others_wrote_can_run(client: TestClient):
    for path in ("data_docs/evil.html", "data_docs/raw/index.html", "compression.png"):
        answer = client.get(f"/runs/r/files/{path}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("sandbox;")
        assert "script-src 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = client.get("/runs/r")
    assert "script-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert client.get("/runs/r/files/..%2F..%2Fpasswords.json").status_code == 404


def test_a_refusal_and_the_gate_are_read_as_sentences(client: TestClient):
    page = client.get("/runs/r").text
    assert "check: events: 40.0% of 10 rows are broken &lt;script&gt;" in page
    assert "<td>NDCG@10 beside popularity</td><td>0.1</td><td>0.2</td><td>not passed</td>" in page
    assert "of neighbours tie in time" in page


def test_segments_are_shown_with_their_conditions(client: TestClient):
    page = client.get("/runs/r").text
    assert "Segments of" in page
    assert "<td>frequency_score &gt;= 4 AND recency_score &gt;= 4</td>" in page
    assert "Shoppers in two segments at once" in page


def test_campaigns_are_shown_with_what_they_are_to_bring_and_brought(client: TestClient, tmp_path: Path):
    file = tmp_path / ".airflow/runs/r/reports/plans.json"
    plans = json.loads(file.read_text())
    file.write_text(json.dumps(plans | {"<b>": {"refused": "budgets is not a setting"}}))
    page = client.get("/runs/r").text
    assert "Campaign spring" in page
    assert f"<td>the audience</td><td>{plans['spring']['audience']:,}</td>" in page
    assert "Campaign &lt;b&gt; is not planned" in page
    assert "What campaigns brought" in page
    assert "<td>all</td>" in page
