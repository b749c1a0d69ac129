"""Airflow's plugins folder (AIRFLOW__CORE__PLUGINS_FOLDER): the Report tab."""

from airflow.plugins_manager import AirflowPlugin

from dags.reports import app


class RunReports(AirflowPlugin):
    name = "pushcart"
    fastapi_apps = [{"app": app, "url_prefix": "/pushcart", "name": "Pushcart run reports"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {"name": "Report", "href": "pushcart/runs/{RUN_ID}", "destination": "dag_run", "url_route": "pushcart_report"}
    ]
