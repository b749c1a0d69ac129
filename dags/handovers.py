"""handovers: sends customers who are handed over to a person to where `send.handovers` of params.yaml says, every five minutes; by hand alone where it says nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from dags.stages import command
from pipelines import settings

CHECKOUT = Path(__file__).resolve().parent.parent

with DAG(
    "handovers",
    description="Send customers who are handed over to a person to where they are taken",
    doc_md=__doc__,
    schedule=timedelta(minutes=5) if settings.load(CHECKOUT / "params.yaml").send.handovers else None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pushcart"],
) as dag:
    BashOperator(
        task_id="send",
        bash_command=command("pipelines.delivery", "handovers"),
        cwd=str(CHECKOUT),
        retries=2,
        doc_md="`pushcart campaign handovers`: what is there is sent once.",
    )
