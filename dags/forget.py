"""forget: erases shoppers who asked for it (`pushcart forget USER --later`), once an hour, and what is older than `privacy.retention` keeps it. It never learns who they are: the wishes wait in the vault, and the log names places alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from dags.stages import command

with DAG(
    "forget",
    description="Erase shoppers who asked for it, everywhere, and what is kept no longer",
    doc_md=__doc__,
    schedule="@hourly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pushcart"],
) as dag:
    BashOperator(
        task_id="erase",
        bash_command=command("deploy.cli", "forget", "--pending"),
        cwd=str(Path(__file__).resolve().parent.parent),
        retries=30,
        retry_delay=timedelta(minutes=2),  # while a run is at work
        doc_md="`pushcart forget --pending`: every place is named in the log, no one else.",
    )
    BashOperator(
        task_id="expire",
        bash_command=command("deploy.cli", "expire"),
        cwd=str(Path(__file__).resolve().parent.parent),
        retries=2,
        doc_md="`pushcart expire`: what is older than `privacy.retention` of params.yaml keeps it.",
    )
