"""campaign: a campaign's file as a run. open -> plan -> fill -> approve -> send -> watch -> report -> close. And campaigns: starts a run of it for each new file.

The plan and the report are made by `dvc repro` in the run's own clone (dags/workspace.py), so what a retrain has made already comes from the run cache. The other steps are pipelines/delivery, no stages: a run cache
would bring a send "back". A plan that costs more than its file allows waits until `pushcart campaign approve NAME --why WHY`; pause, resume and stop are asked for in the same way.
"""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import DAG, Param, task

from dags.stages import NEVER_AGAIN, RunOperator, StageOperator, command, refuse
from dags.workspace import listed

CHECKOUT = Path(__file__).resolve().parent.parent
RUN_FOLDER = "{{ ti.xcom_pull(task_ids='open') }}"
NAME, LEAP = "{{ params.campaign }}", "{{ '--leap' if params.leap else '' }}"
NOT_YET = 99  # as pipelines/delivery ends where there is something to wait for
HOME = f"export PUSHCART_CHECKOUT={shlex.quote(str(CHECKOUT))}; "  # of sensors; operators of a run have it from dags/stages.py


def names() -> list[str]:
    """The campaigns that are committed."""
    return sorted(
        Path(file).stem for file in listed(CHECKOUT, "campaigns") if file.endswith(".yaml") and Path(file).stem != "segments"
    )


def wait_until(name: str, seconds: int, days: int, doc: str, *words: str) -> BashSensor:
    """Asks pipelines/delivery again and again, so many seconds apart, for so many days at most."""
    asked = f'cd "{RUN_FOLDER}" && ' + HOME + command("pipelines.delivery", *words)
    return BashSensor(
        task_id=name,
        bash_command=asked,
        retry_exit_code=NOT_YET,
        mode="reschedule",
        poke_interval=seconds,
        timeout=days * 86400,
        doc_md=doc,
    )


with DAG(
    "campaign",
    description="Plan, fill the outbox, wait for approval, send, watch, report",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params={
        "campaign": Param(next(iter(names()), ""), title="Campaign", enum=names() or [""], description="A file of campaigns/."),
        "leap": Param(False, type="boolean", title="Do not wait", description="As if it were always the time of the next message: for the simulated shop and dry runs."),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["pushcart"],
):  # fmt: skip

    @task(task_id="open", retry_policy=NEVER_AGAIN, doc_md="Clone the checkout for this run.")
    def open_() -> str:
        from airflow.sdk import get_current_context

        from dags.workspace import RunError, open_run

        context = get_current_context()
        try:
            return str(open_run(CHECKOUT, context["run_id"], {}, "production"))
        except RunError as error:
            raise refuse(context["task"], str(error)) from None

    @task(trigger_rule="none_failed", doc_md="Remove the run's clone; its reports stay.")
    def close() -> str:
        from airflow.sdk import get_current_context

        from dags.workspace import close_run

        return str(close_run(CHECKOUT, get_current_context()["run_id"]))

    plan = StageOperator(
        task_id="plan", stage="plan", single=False, run=RUN_FOLDER, doc_md="The plan, and all that it follows from."
    )
    fill = RunOperator(
        task_id="fill", bash_command=command("pipelines.delivery", "fill", NAME), run=RUN_FOLDER,
        doc_md="The plan's messages into the outbox; those that are there already stay as they are.",
    )  # fmt: skip
    approve = wait_until("approve", 20, 14, "A plan that costs more than its file allows waits for a person.", "approved", NAME)
    send = wait_until("send", 60, 60, "Send what is due, until nothing is left.", "send", NAME, "--patience", "30", LEAP)
    watch = wait_until(
        "watch", 1800, 90, "Wait until the newest messages have had their days to be answered.", "answered", NAME, LEAP
    )
    report = StageOperator(
        task_id="report",
        stage="report",
        single=False,
        run=RUN_FOLDER,
        doc_md="What campaigns brought, by what the source tells now.",
    )
    open_() >> plan >> fill >> approve >> send >> watch >> report >> close()


def runs(told: str) -> list[dict]:
    """A run of campaign for each name of a JSON list that is committed."""
    return [{"trigger_run_id": f"campaign__{name}", "conf": {"campaign": name}} for name in json.loads(told) if name in names()]


with DAG(
    "campaigns",
    description="Starts a run of campaign for each new file of campaigns/ whose days are not over",
    schedule="*/10 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pushcart"],
):
    look = BashOperator(
        task_id="look", bash_command=command("pipelines.delivery", "open"), cwd=str(CHECKOUT), output_processor=runs
    )
    TriggerDagRunOperator.partial(task_id="start", trigger_dag_id="campaign", skip_when_already_exists=True).expand_kwargs(
        look.output
    )
