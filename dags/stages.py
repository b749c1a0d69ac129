"""A stage of dvc.yaml as an Airflow task: `dvc repro` of that stage alone, in the run's clone.

A stage that refuses (bad data, a bad setting) is not tried again and ends in one sentence; whatever else goes wrong is retried.
"""

import json
import shlex
import sys
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import BaseOperator, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowException

# A run works in a clone; the vault of shoppers and the outbox are the checkout's.
ENVIRONMENT = {"DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", "PUSHCART_CHECKOUT": str(Path(__file__).resolve().parent.parent)}
REFUSAL = Path("reports/refusal.json")  # of a run: which stage refused, and why


class Refused(SystemExit):
    """What the task was given is wrong and stays wrong. Airflow logs an exit without a traceback."""


NEVER_AGAIN = ExceptionRetryPolicy(rules=[RetryRule(exception="dags.stages.Refused", action=RetryAction.FAIL)])


def refuse(task: BaseOperator, reason: str) -> Refused:
    """To be raised: the reason stands in the task's log as one sentence."""
    task.log.error("refused: %s", reason)
    return Refused(1)


class RunOperator(BashOperator):
    """Runs a program in a run's clone. One that refuses is not tried again.

    Args:
        run: where the clone is (an Airflow template).
    """

    def __init__(self, *, run: str, **arguments):
        super().__init__(
            cwd=run, env=ENVIRONMENT, append_env=True, do_xcom_push=False, skip_on_exit_code=None, retry_policy=NEVER_AGAIN, **arguments
        )  # fmt: skip

    def execute(self, context):
        from dags.workspace import RunError, ready

        try:
            ready(Path(self.cwd))
            return super().execute(context)
        except RunError as error:
            raise refuse(self, str(error)) from None
        except AirflowException:
            found = Path(self.cwd) / REFUSAL
            if not found.exists():
                raise
            refusal = json.loads(found.read_text(encoding="utf-8"))
        raise refuse(self, refusal["reason"])


class StageOperator(RunOperator):
    """Runs a stage where its inputs already stand; a stage whose inputs did not change comes from DVC's run cache.

    Args:
        stage: its name. single: it alone, else with all that it follows from.
    """

    def __init__(self, *, stage: str, single: bool = True, **arguments):
        repro = ["dvc", "repro", *(["--single-item"] if single else []), stage]
        super().__init__(bash_command=command(*repro), **arguments)


def command(module: str, *words: str) -> str:
    """A module of the clone, or of the virtualenv, as a program.

    Airflow gives tasks a socket as standard input, which bash may take for a remote login and read ~/.bashrc, where another python may
    come first: so the path is set here, and the program's own shell gets no socket. Nothing but the clone's own code is imported.
    """
    python = Path(sys.executable)
    path, program = shlex.quote(str(python.parent)), shlex.join([str(python), "-m", module])
    return f'export PATH={path}:"$PATH"; unset PYTHONPATH; rm -f {REFUSAL}; exec {program} {" ".join(map(_quoted, words))} </dev/null'


def _quoted(word: str) -> str:
    """A word for the shell; templates of Airflow stay as they are."""
    return word if word.startswith("{{") else shlex.quote(word)


def make(run: str):
    """How dags.rendering.render makes a task of a stage, in the clone `run` (a template)."""
    return lambda stage, arguments: StageOperator(stage=stage.name, run=run, **arguments)
