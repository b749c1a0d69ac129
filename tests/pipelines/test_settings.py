"""params.yaml as a typed model: every wrong value is named before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from models.families import FAMILIES, RANKERS
from models.losses import LOSSES
from models.rankers.fusion import BRANCHES
from models.rankers.ranker import TASKS
from models.served.table import FORMS
from pipelines import settings
from pipelines.artefact.quantise import KINDS
from pipelines.data.sources import NAMES
from pipelines.learning.saved import ITEM_MODELS
from pipelines.stage import NEVER_RETRY, read_json
from tests.conftest import ROOT


def changed(name: str, value: object) -> dict:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    *sections, key = name.split(".")
    target = document
    for section in sections:
        target = target[section]
    target[key] = value
    return document


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.modell", "sasrec", "train.modell is not a setting; did you mean model?"),
        ("train.model", "fuson", "train.model is 'fuson'; it must be 'auto', 'popularity'"),
        ("train.loss", "hinge", "train.loss is 'hinge'"),
        ("train.heads", 3, "must be a multiple of heads"),
        ("train.rank_by", "profit", "train.rank_by is 'profit'"),
        ("train.branches", ["luck"], "train.branches.0 is 'luck'"),
        ("train.ranker", {"batch_user": 16, "learning_rate": 0.003, "epochs": 5}, "train.ranker.batch_user is not a setting"),
        ("train.strategy", "fsdp", "with strategy fsdp"),
        ("train.epochs", 0, "train.epochs is 0"),
        ("train.epochs", 3.0, "train.epochs is 3.0"),
        ("train.dropout", "0.3", "train.dropout is '0.3'"),
        ("train.dropout", float("nan"), "train.dropout"),
        ("train.learning_rate", float("inf"), "train.learning_rate"),
        ("train.unnamed", 0.1, "train.unnamed is now train.id_dropout"),
        ("train.memory", True, "train.memory is now train.transition_prior"),
        ("baseline.vocabulary", None, "baseline.vocabulary is now nothing"),
        ("evaluate.ks", [5, 20], "it must hold 10"),
        ("prepare.attributes", ["colour"], "prepare.attributes.0 is 'colour'"),
        ("prepare.split", "random", "prepare.split is 'random'"),
        ("prepare.valid_share", 0.95, "leave nothing to train on"),
        ("environments", ["../up"], "environments.0 is '../up'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(name: str, value: object, message: str):
    with pytest.raises(settings.SettingsError, match=message.replace(".", r"\.").replace("?", r"\?")):
        settings.validated(changed(name, value))


def test_numbers_as_people_write_them(tmp_path: Path):
    text = (ROOT / "params.yaml").read_text().replace("learning_rate: 0.002", "learning_rate: 1e-3").replace('"2:4"', "2:4")
    (tmp_path / "params.yaml").write_text(text)
    found = settings.load(tmp_path / "params.yaml")
    assert found.train.learning_rate == 1e-3
    assert found.compress.steps.sparsity == [0.5, "2:4"]


def test_names_of_models_losses_and_forms_are_those_of_the_code():
    def choices(section: type[settings.Section], key: str) -> list[str]:
        schema = section.model_json_schema()["properties"][key]
        return schema.get("enum") or schema["items"]["enum"]

    assert choices(settings.Train, "model") == ["auto", *ITEM_MODELS, *FAMILIES, *RANKERS]
    assert set(choices(settings.Train, "loss")) == {"auto", *LOSSES}
    assert set(choices(settings.Train, "branches")) == set(BRANCHES)
    assert choices(settings.Train, "rank_by") == list(TASKS)
    assert set(choices(settings.Source, "name")) == set(NAMES)
    assert {"fp32", *choices(settings.Steps, "table")} == set(FORMS)
    assert set(choices(settings.Steps, "layers")) == {k for kinds in KINDS.values() for k in kinds}


@pytest.mark.parametrize(
    ("data", "shop"),
    [("/feeds/events-2026-11-24.csv", "files:events"), ("/feeds/events-2026-11-25.csv.gz", "files:events"), ("20261124.csv", "files:20261124"),
     ("amazon-beauty", "files:amazon-beauty")],
)  # fmt: skip
def test_a_shop_keeps_its_name_from_day_to_day(data: str, shop: str):
    document = changed("source.data", data)
    document["source"]["name"] = "files"
    assert settings.validated(document).shop() == shop
    assert settings.validated(document | {"shop_name": "mine"}).shop() == "mine"


def test_a_wrong_setting_stops_a_stage_at_once_in_one_line(workspace):
    workspace(train__dropout="0.3")
    done = subprocess.run([sys.executable, "-m", "pipelines.collect"], capture_output=True, text=True)
    assert done.returncode == NEVER_RETRY
    assert done.stderr.strip() == "error: params.yaml: train.dropout is '0.3'; it must be a valid number"
    assert read_json("reports/refusal.json")["stage"] == "collect"
    assert not Path("data").exists()
