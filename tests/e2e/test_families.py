"""Every model family, small: trained, exported, compressed, bundled, promoted, served and asked over HTTP."""

import shutil
from pathlib import Path

import pytest
import yaml

from deploy.platform import processes, server
from deploy.promotion.environments import Environment
from models.families import FAMILIES, RANKERS
from models.rankers.fusion import BRANCHES
from pipelines.stage import read_json
from tests.conftest import run_stages

pytestmark = pytest.mark.e2e


# The rest of the tests serve sasrec; of item-to-item models, which differ in what they count, those that are served in ways of their own.
@pytest.mark.parametrize("model", ["popularity", "ease", "content", *(f for f in FAMILIES if f != "sasrec"), *RANKERS])
def test_a_family_ends_in_a_served_bento(model: str, run: Path, tmp_path: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"]["model"] = model
    params["gate"]["min_gain_over_popularity"] = -1.0  # so little training promises nothing
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages("train", "evaluate", "export", "compress", "refit", "replay", "bundle")
    parity = read_json("reports/parity.json")
    assert parity["max_score_error"] < 1e-3
    if model not in ("content", "popularity"):  # texts alike, and items as popular, tie, in whatever order
        assert parity["top_10_same"] > 0.99
    assert read_json("reports/metrics.json")["test"]["ndcg@10"] > 0
    assert Path("reports/train/metrics.json").exists()
    assert list(Path("reports/train/plots").rglob("*.tsv"))
    if model == "fusion":
        run_stages("explain")
        branches = read_json("reports/explanation.json")["branches"]
        assert [b["branch"] for b in branches] == list(BRANCHES)
        assert any(b["changed"] > 0 for b in branches)

    checkout = tmp_path / "checkout"
    (checkout / "deploy/environments").mkdir(parents=True)
    shutil.copy("params.yaml", checkout)
    entry = Environment(checkout, "production").promote(run / "bento", who="t", why=model)
    with server.served(checkout, "production", processes.free_port()) as (url, _, _):
        answer = processes.ask(f"{url}/recommend", {"user_id": "u000001", "k": 5})
        similar = processes.ask(f"{url}/similar", {"item_id": answer["items"][0]["item_id"], "k": 3})
    assert len({item["item_id"] for item in answer["items"]}) == 5
    assert answer["fallback"] is None
    assert answer["model_version"] == entry["version"]
    assert model == "popularity" or similar["items"]
