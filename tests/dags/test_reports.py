"""The Report tab, of a run without and with a ranker."""

import json
from pathlib import Path

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
