"""pushcart: what a platform engineer types. promote, rollback, status, serve, up."""

import getpass
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from deploy.environments import Environment, EnvironmentProblem, GateError, environments
from deploy.recommender import ArtefactError

app = typer.Typer(help="Promote, roll back and serve Pushcart's bentos.", no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help="environment, one of those in params.yaml")]
Why = Annotated[str, typer.Option(help="the reason, kept with the entry")]


@app.command()
def promote(
    environment: Name,
    bento: Annotated[str, typer.Option(help="a bento folder, or the name of a run of Airflow")] = "bento",
    why: Why = "",
    force: Annotated[bool, typer.Option("--force", help="past the gate; needs --why, and the objections are kept")] = False,
) -> None:
    """Make a bento the one that an environment serves, if the gate lets it through."""
    if force and not why:
        _fail("--force needs --why: the reason is kept with the entry")
    run = Path(".airflow/runs") / bento / "bento"
    folder, experiment = (run, bento) if run.exists() and not Path(bento, "bento.yaml").exists() else (Path(bento), None)
    try:
        entry = _environment(environment).promote(
            folder, who=getpass.getuser(), why=why or "promoted by hand", experiment=experiment, force=force
        )
    except GateError as error:
        _fail("\n  ".join([f"{environment} stays as it is; the gate refuses this bento:", *error.reasons]))
    except (EnvironmentProblem, ArtefactError) as error:
        _fail(str(error))
    typer.echo(f"{environment} serves {entry['bento']}")


@app.command()
def rollback(environment: Name, why: Why = "by hand") -> None:
    """Go back to the bento that an environment served before."""
    try:
        entry = _environment(environment).rollback(who=getpass.getuser(), why=why)
    except (EnvironmentProblem, ArtefactError) as error:
        _fail(str(error))
    typer.echo(f"{environment} serves {entry['bento']} again")


@app.command()
def status(environment: Annotated[str | None, typer.Argument(help="one environment; all if left out")] = None) -> None:
    """What each environment serves, since when, who put it there and why; and what came before."""
    from rich.console import Console
    from rich.table import Table

    table = Table("environment", "bento", "since", "by", "why")
    for name in [environment] if environment else environments(_checkout()):
        try:
            entries = _environment(name).entries()
        except EnvironmentProblem as error:
            _fail(str(error))
        rows = [e for e in [entries["current"], *entries["previous"]] if e]
        for i, entry in enumerate(rows):
            table.add_row(
                "" if i else name, entry["bento"], entry["when"], entry["who"], entry["why"], style=None if not i else "dim"
            )
        if not rows:
            table.add_row(name, "nothing yet", "", "", "")
    Console().print(table)


@app.command()
def serve(
    environment: Name = "production",
    port: Annotated[int, typer.Option(envvar="SERVE_PORT", help="on the loopback address")] = 3000,
) -> None:
    """Serve what an environment has, following promotions and rollbacks, until Ctrl-C."""
    from deploy import local

    if not _environment(environment).link.exists():
        _fail(f"nothing is promoted to {environment} yet; see `pushcart promote --help`")
    local.stoppable()
    try:
        local.check_port(port, "SERVE_PORT")
        with local.served(_checkout(), environment, port) as url:
            typer.echo(f"{url} serves {environment}; Ctrl-C stops it")
            _forever()
    except local.PlatformError as error:
        _fail(str(error))


@app.command()
def up(
    environment: Annotated[str, typer.Option(help="whose model is served")] = "production",
    airflow_port: Annotated[int, typer.Option(envvar="AIRFLOW_PORT")] = 8080,
    serve_port: Annotated[int, typer.Option(envvar="SERVE_PORT")] = 3000,
) -> None:
    """Airflow's UI and the served model, on the loopback address, until Ctrl-C."""
    from deploy import local

    local.stoppable()
    try:
        local.up(_checkout(), environment, airflow_port, serve_port, typer.echo)
    except local.PlatformError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        typer.echo("stopped")


def _forever() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("stopped")


def _checkout() -> Path:
    here = Path.cwd()
    if not (here / "dvc.yaml").exists():
        _fail("run this from the root of a Pushcart checkout (where dvc.yaml is)")
    return here


def _environment(name: str) -> Environment:
    try:
        return Environment(_checkout(), name)
    except EnvironmentProblem as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
