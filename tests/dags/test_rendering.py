"""dvc.yaml as tasks."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from airflow.sdk import DAG

from dags.rendering import GraphError, ends, parse, render, upstream
from dags.stages import make
from tests.conftest import ROOT, STAGES


def write(folder: Path, stages: dict, params: dict | None = None) -> Path:
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "params.yaml").write_text(yaml.safe_dump(params or {}))
    return folder / "dvc.yaml"


def test_the_projects_graph():
    stages = parse(ROOT / "dvc.yaml")
    assert tuple(s.name for s in stages) == STAGES
    before = upstream(stages)
    assert before["check"] == {"collect", "freshness", "link"}
    assert before["train"] == {"prepare", "check_prepared", "embed"}
    assert {"refit", "replay", "compress", "evaluate", "check"} <= before["bundle"]


def test_a_stage_added_to_the_file_appears_as_a_task(tmp_path: Path):
    document = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    document["stages"]["notify"] = {"cmd": "echo done", "deps": ["bento"], "outs": ["note"], "desc": "Tell people",
                                    "meta": {"airflow": {"retries": 5, "retry_delay": 2, "timeout": 60, "queue": "mail"}}}  # fmt: skip
    path = write(tmp_path, document["stages"], yaml.safe_load((ROOT / "params.yaml").read_text()))
    with DAG("d"):
        tasks = render(path, make("/x"))
    task = tasks["notify"]
    assert task.upstream_task_ids == {"bundle"}
    assert (task.cwd, task.retries, task.queue) == ("/x", 5, "mail")
    assert "dvc repro --single-item notify" in task.bash_command
    assert task.retry_delay == timedelta(seconds=2)
    assert task.execution_timeout == timedelta(seconds=60)
    assert task.retry_exponential_backoff
    assert "Tell people" in task.doc_md
    assert [t.task_id for t in ends(tasks)[0]] == ["collect"]
    assert [t.task_id for t in ends(tasks)[1]] == ["explain", "plan", "report", "notify"]


def test_folders_connect_with_what_is_inside_them(tmp_path: Path):
    stages = {"a": {"cmd": "x", "outs": ["data/raw"]}, "b": {"cmd": "x", "deps": ["data/raw/one.csv"]}, "c": {"cmd": "x", "deps": ["data"]},
              "d": {"cmd": "x", "deps": ["data/rawer"]}}  # fmt: skip
    before = upstream(parse(write(tmp_path, stages)))
    assert before == {"a": set(), "b": {"a"}, "c": {"a"}, "d": set()}


def test_loops_and_templates(tmp_path: Path):
    stages = {
        "each": {"foreach": "${sizes}", "do": {"cmd": "train ${item}", "outs": ["m/${item}"]}},
        "named": {"foreach": {"x": {"lr": 1}}, "do": {"cmd": "t ${key} ${item.lr}"}},
        "grid": {
            "matrix": {"size": ["s", "l"], "seed": [1, 2]},
            "cmd": "t ${item.size} ${item.seed}",
            "deps": ["m/${item.size}"],
        },
        "mean": {"cmd": ["a", "b"], "deps": [{"m/s": {}}], "metrics": [{"out.json": {"cache": False}}]},
    }
    found = {s.name: s for s in parse(write(tmp_path, stages, {"sizes": ["s", "l"]}))}
    assert list(found) == ["each@s", "each@l", "named@x", "grid@s-1", "grid@s-2", "grid@l-1", "grid@l-2", "mean"]
    assert found["each@l"].command == "train l"
    assert found["named@x"].command == "t x 1"
    assert found["grid@l-2"].deps == ("m/l",)
    assert found["mean"].command == "a && b"
    assert found["mean"].outs == ("out.json",)
    assert upstream(list(found.values()))["grid@l-1"] == {"each@l"}
    assert found["each@s"].task_id == "each-s"


@pytest.mark.parametrize(("stages", "message"), [
    ({"a": {"cmd": "x ${nothing.here}"}}, r"stage a: \$\{nothing.here\}"),
    ({"a": {"cmd": "x", "meta": {"airflow": {"retrys": 1}}}}, "unknown retrys"),
    ({"a": {"cmd": "x", "outs": ["o"]}, "b": {"cmd": "x", "outs": ["o"]}}, "a and b both write o"),
    ({"a": {"deps": ["x"]}}, "stage a: no cmd"),
])  # fmt: skip
def test_what_cannot_be_rendered_is_named(tmp_path: Path, stages: dict, message: str):
    with pytest.raises(GraphError, match=message):
        parse(write(tmp_path, stages))


def test_the_names_agree_with_dvc_s_own(tmp_path: Path):
    """DVC's parser is the reference for loops and templates."""
    from dvc.repo import Repo

    stages = {
        "each": {"foreach": "${sizes}", "do": {"cmd": "t ${item}", "outs": ["m/${item}"]}},
        "grid": {"matrix": {"size": ["s", "l"], "opt": [{"lr": 1}, {"lr": 2}]}, "cmd": "t ${item.size} ${item.opt.lr}"},
    }
    path = write(tmp_path, stages, {"sizes": ["s", "l"]})
    repo = Repo.init(str(tmp_path), no_scm=True)
    assert {s.name: s.command for s in parse(path)} == {s.name: s.cmd for s in repo.index.stages}


def test_the_dag_of_the_project():
    from dags.retrain import dag
    from models.families import FAMILIES, RANKERS
    from pipelines.learning.saved import ITEM_MODELS

    assert set(STAGES) | {"open", "save", "promote", "close"} == set(dag.task_ids)
    assert dag.get_task("train").retries == 3
    assert "dvc repro --single-item train" in dag.get_task("train").bash_command
    assert dag.get_task("close").upstream_task_ids == {"promote"}
    form = dag.params
    assert {
        "source",
        "data",
        "mapping",
        "pseudonyms",
        "content",
        "identities",
        "answers",
        "split",
        "model",
        "rank_by",
        "size",
        "epochs",
        "max_ndcg_loss",
        "max_bytes",
        "environment",
    } == set(form)
    assert form.get_param("model").schema["enum"] == ["auto", *ITEM_MODELS, *FAMILIES, *RANKERS]
