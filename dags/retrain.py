"""retrain: the graph of dvc.yaml as a DAG. open -> the stages -> save -> promote -> close.

The trigger form's defaults are those of the committed params.yaml. Each run works in a clone of its own (dags/workspace.py); `save` makes
it a DVC experiment named after the run; `promote` puts its bento into the chosen environment if the gate lets it through.
"""

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import get_args

from airflow.sdk import DAG, Param, task

from dags.rendering import ends, render
from dags.stages import NEVER_AGAIN, REFUSAL, make, refuse
from dags.workspace import committed
from pipelines import settings

CHECKOUT = Path(__file__).resolve().parent.parent
RUN_FOLDER = "{{ ti.xcom_pull(task_ids='open') }}"
SIZES = {"as params.yaml": {}, "small": {"width": 64, "layers": 1, "heads": 1}, "medium": {"width": 128, "layers": 2, "heads": 2}, "large": {"width": 256, "layers": 2, "heads": 4}}  # fmt: skip


def form() -> dict[str, Param]:
    """The trigger form: what a person may choose, typed, with the values of the committed params.yaml as defaults: on what is committed a
    run works, whatever an earlier one brought back into the checkout.
    """
    params = settings.read(committed(CHECKOUT, "params.yaml")).model_dump()
    source, train = params["source"], params["train"]

    def choices(section: type[settings.Section], key: str) -> list[str]:
        return list(get_args(section.model_fields[key].annotation))

    return {
        "source": Param(source["name"], title="Source", enum=choices(settings.Source, "name"), description="Where the events come from."),
        "data": Param(source["data"], type="string", title="Data", description="File or folder the source reads; relative paths start at the checkout."),
        "mapping": Param(None, type=["null", "string"], title="Mapping", description="For source `files`: a YAML file saying which column is what. Left out, it is guessed."),
        "pseudonyms": Param(params["privacy"]["pseudonyms"], type="boolean", title="Pseudonyms", description="Shoppers are known by pseudonyms alone; who is behind one stands in the vault."),
        "content": Param(source["shop"]["content"], title="Content", enum=choices(settings.Shop, "content"), description="Of the simulated shop: plain texts, or pictures and descriptions of what items look like."),
        "identities": Param(source["shop"]["identities"], title="Identities", enum=choices(settings.Shop, "identities"), description="Of the simulated shop: one id a person, or platforms that know people by different ids."),
        "answers": Param(params["assist"]["enabled"], type="boolean", title="Answers", description="Whether customers are answered from the help pages (assist)."),
        "split": Param(params["prepare"]["split"], title="Split", enum=choices(settings.Prepare, "split"), description="How test events are held out."),
        "model": Param(train["model"], title="Model", enum=choices(settings.Train, "model"), description="The model family, or auto: a blend of all that is known of the shop; docs/models.md says when to choose which."),
        "rank_by": Param(train["rank_by"], title="Rank by", enum=choices(settings.Train, "rank_by"), description="What din, dien and fusion order by: what is met next, or what is probable if shown."),
        "size": Param("as params.yaml", title="Model size", enum=list(SIZES), description="Width and depth of the network."),
        "epochs": Param(train["epochs"], type="integer", minimum=1, maximum=1000, title="Epochs", description="At most; training stops early when validation NDCG@10 no longer rises."),
        "max_ndcg_loss": Param(params["compress"]["max_ndcg_loss"], type="number", minimum=0, maximum=1, title="Compression: allowed loss", description="Share of the NDCG@10 that the compressed model may lose; the smallest candidate within it wins."),
        "max_bytes": Param(params["compress"]["max_bytes"], type=["null", "integer"], minimum=1, title="Compression: largest size", description="Bytes; a run whose smallest fitting candidate is larger stops and says which is nearest."),
        "environment": Param("none", title="Promote to", enum=["none", *params["environments"]], description="Where the bento goes if the gate lets it through."),
    }  # fmt: skip


def write_refusal(run: Path, stage: str, reason: str) -> None:
    """Notes for `make demo` and the Report tab why a run ended."""
    (run / REFUSAL).write_text(json.dumps({"stage": stage, "reason": reason}, ensure_ascii=False), encoding="utf-8")


def write_gate(run: Path, rows: list) -> None:
    """Notes for the Report tab what the gate looked at."""
    told = [row._asdict() for row in rows]
    (run / "reports" / "gate.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


with DAG(
    "retrain",
    description="Collect, check, prepare, train, evaluate, export, compress, refit, replay, bundle; then promote",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=form(),
    render_template_as_native_obj=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["pushcart"],
) as dag:

    @task(
        task_id="open", retry_policy=NEVER_AGAIN, doc_md="Clone the checkout for this run and fill the form into its params.yaml."
    )
    def open_() -> str:
        from airflow.sdk import get_current_context

        from dags.workspace import RunError, open_run

        context = get_current_context()
        chosen = context["params"]
        values = {"source.name": chosen["source"], "source.data": chosen["data"], "source.mapping": chosen["mapping"], "privacy.pseudonyms": chosen["pseudonyms"],
                  "source.shop.content": chosen["content"], "source.shop.identities": chosen["identities"], "assist.enabled": chosen["answers"],
                  "prepare.split": chosen["split"], "train.model": chosen["model"], "train.rank_by": chosen["rank_by"], "train.epochs": chosen["epochs"], "compress.max_ndcg_loss": chosen["max_ndcg_loss"], "compress.max_bytes": chosen["max_bytes"]}  # fmt: skip
        values |= {f"train.{name}": value for name, value in SIZES[chosen["size"]].items()}
        target = chosen["environment"] if chosen["environment"] != "none" else "production"
        try:
            return str(open_run(CHECKOUT, context["run_id"], values, target))
        except RunError as error:
            raise refuse(context["task"], str(error)) from None

    @task(doc_md="Save the run as a DVC experiment of the checkout, named after the run (see `dvc exp show`).")
    def save() -> str:
        from airflow.sdk import get_current_context

        from dags.workspace import save_run

        return save_run(CHECKOUT, get_current_context()["run_id"])

    @task(
        retries=0,
        doc_md="Put the bento into the chosen environment, if the gate on metrics, parity and data quality lets it through.",
    )
    def promote(run: str, experiment: str) -> str | None:
        from airflow.sdk import get_current_context
        from airflow.sdk.exceptions import AirflowSkipException

        from deploy.promotion.environments import Environment, EnvironmentProblem
        from deploy.promotion.gate import GateError
        from deploy.serving.artefact import ArtefactError

        context = get_current_context()
        environment = context["params"]["environment"]
        if environment == "none":
            raise AirflowSkipException("no environment was chosen in the form")
        target, bento = Environment(CHECKOUT, environment), Path(run) / "bento"
        try:
            entry = target.promote(
                bento, who="airflow", why=f"run {experiment}", experiment=experiment, show=partial(write_gate, Path(run))
            )
        except (GateError, EnvironmentProblem, ArtefactError) as error:
            write_refusal(Path(run), "promote", str(error))
            raise refuse(context["task"], str(error)) from None
        return entry["version"]

    @task(trigger_rule="none_failed", doc_md="Remove the run's clone; its reports, artefact and bento stay.")
    def close() -> str:
        from airflow.sdk import get_current_context

        from dags.workspace import close_run

        return str(close_run(CHECKOUT, get_current_context()["run_id"]))

    opened, saved = open_(), save()
    stages = render(CHECKOUT / "dvc.yaml", make(RUN_FOLDER))
    first, last = ends(stages)
    opened >> first
    last >> saved
    promote(opened, saved) >> close()
