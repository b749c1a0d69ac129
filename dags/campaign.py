"""campaign: a campaign's file as a run. open -> plan -> fill -> approve -> send -> watch -> report -> close. And campaigns: starts a run of it for each new file.

The plan and the report are made by `dvc repro` in the run's own clone (dags/workspace.py), so what a retrain has made already comes from the run cache. `fill` and `send` are no stages: a run cache
would bring a send "back". A plan that costs more than its file allows waits until `pushcart campaign approve NAME --why WHY`; pause, resume and stop are asked for in the same way.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, task

from dags.stages import NEVER_AGAIN, StageOperator, refuse
from dags.workspace import committed, listed

CHECKOUT = Path(__file__).resolve().parent.parent
RUN_FOLDER = "{{ ti.xcom_pull(task_ids='open') }}"


def names() -> list[str]:
    """The campaigns that are committed."""
    return sorted(
        Path(file).stem for file in listed(CHECKOUT, "campaigns") if file.endswith(".yaml") and Path(file).stem != "segments"
    )


def run_id_of(name: str) -> str:
    return f"campaign__{name}"


with DAG(
    "campaign",
    description="Plan, fill the outbox, wait for approval, send, watch, report",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params={
        "campaign": Param(next(iter(names()), ""), title="Campaign", enum=names() or [""], description="A file of campaigns/."),
        "leap": Param(
            False, type="boolean", title="Do not wait", description="As if it were always the time of the next message: for the simulated shop and dry runs."
        ),
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

    @task(
        retry_policy=NEVER_AGAIN, doc_md="Put the plan's messages into the outbox; those that are there already stay as they are."
    )
    def fill(run: str) -> dict:
        from airflow.sdk import get_current_context

        return _delivery(run, get_current_context(), "fill")

    @task.sensor(
        mode="reschedule",
        poke_interval=20,
        timeout=14 * 86400,
        doc_md="A plan that costs more than its file allows waits for a person.",
    )
    def approve(run: str) -> bool:
        from airflow.sdk import get_current_context

        from marketing import outbox

        state = _delivery(run, get_current_context(), "state")
        if state == outbox.STOPPED:
            raise refuse(get_current_context()["task"], "the campaign was stopped")
        return state != outbox.UNAPPROVED

    @task.sensor(
        mode="reschedule", poke_interval=60, timeout=60 * 86400, retries=10, doc_md="Send what is due, until nothing is left."
    )
    def send(run: str) -> bool:
        from airflow.sdk import get_current_context

        return _delivery(run, get_current_context(), "send")

    @task.sensor(
        mode="reschedule",
        poke_interval=1800,
        timeout=90 * 86400,
        doc_md="Wait until the newest messages have had their days to be answered.",
    )
    def watch(run: str) -> bool:
        from airflow.sdk import get_current_context

        return _delivery(run, get_current_context(), "watch")

    @task(trigger_rule="none_failed", doc_md="Remove the run's clone; its reports stay.")
    def close() -> str:
        from airflow.sdk import get_current_context

        from dags.workspace import close_run

        return str(close_run(CHECKOUT, get_current_context()["run_id"]))

    opened = open_()
    plan = StageOperator(
        task_id="plan", stage="plan", run=RUN_FOLDER, single=False, doc_md="The plan, and all that it follows from."
    )
    report = StageOperator(
        task_id="report",
        stage="report",
        run=RUN_FOLDER,
        single=False,
        doc_md="What campaigns brought, by what the source tells now.",
    )
    opened >> plan >> fill(opened) >> approve(opened) >> send(opened) >> watch(opened) >> report >> close()


def _delivery(run: str, context, what: str):
    """One step of dags/delivery.py, in the run's clone."""
    import contextlib
    import os

    from dags import delivery
    from marketing import messages, outbox

    name, leap = context["params"]["campaign"], context["params"]["leap"]
    os.environ["PUSHCART_CHECKOUT"] = str(CHECKOUT)
    with contextlib.chdir(run):
        try:
            if what == "fill":
                found = delivery.fill(name)
                context["task"].log.info("%(new)s of %(messages)s messages are new in the outbox; the campaign: %(state)s", found)
                return found
            if what == "state":
                return delivery.opened().state(name)
            if what == "send":
                delivery.send(leap, patience=None if leap else 30)
                return delivery.is_over(name)
            return leap or datetime.now(UTC) >= delivery.campaign_of(name).ends + timedelta(days=delivery.answer_days())
        except (delivery.DeliveryError, messages.TemplateError, outbox.OutboxError, ValueError) as error:
            raise refuse(context["task"], str(error)) from None


with DAG(
    "campaigns",
    description="Starts a run of campaign for each new file of campaigns/ that is not over",
    schedule="*/10 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pushcart"],
):

    @task(doc_md="Campaigns whose days are not over.")
    def new() -> list[dict]:
        import yaml

        from marketing.campaigns import Campaign
        from pipelines import settings

        found = []
        for name in names():
            try:
                document = yaml.safe_load(committed(CHECKOUT, f"campaigns/{name}.yaml"))
                campaign = settings.validated(document, f"campaigns/{name}.yaml", Campaign)
            except (settings.SettingsError, yaml.YAMLError) as error:
                print(f"campaigns/{name}.yaml cannot be used: {json.dumps(str(error))}")
                continue
            if campaign.ends > datetime.now(UTC):
                found.append({"trigger_run_id": run_id_of(name), "conf": {"campaign": name}})
        return found

    TriggerDagRunOperator.partial(task_id="start", trigger_dag_id="campaign", skip_when_already_exists=True).expand_kwargs(new())
