"""pushcart: what a platform engineer types. promote, rollback, status, serve, up; and doctor, for whoever brings a shop's files."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from deploy.promotion.environments import Environment, EnvironmentProblem, environments, person
from deploy.promotion.gate import GateError
from deploy.serving.artefact import ArtefactError

app = typer.Typer(
    help="Promote, roll back and serve Pushcart's bentos; look at a shop's files.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(help="environment, one of those in params.yaml")]
Why = Annotated[str, typer.Option(help="the reason, kept with the entry")]


@app.callback()
def logs() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


@app.command()
def promote(
    environment: Name,
    bento: Annotated[
        str, typer.Option(help="a bento folder, the name of a run of Airflow, or a version that the environment had before")
    ] = "bento",
    why: Why = "",
    force: Annotated[bool, typer.Option("--force", help="past the gate; needs --why, and what it refused is kept")] = False,
) -> None:
    """Make a bento the one that an environment serves, if the gate lets it through."""
    if force and not why:
        _fail("--force needs --why: the reason is kept with the entry")
    target = _environment(environment)
    run, version = Path(".airflow/runs") / bento / "bento", bento.removeprefix("pushcart:")
    folder, experiment = Path(bento), None
    if not Path(bento, "bento.yaml").exists():
        kept = {e["version"]: e for name in ("previous", "rolled_back") for e in target.entries()[name]}
        if version in kept:
            folder, experiment = target.bento(version), kept[version]["experiment"]
        elif "/" not in bento and run.exists():
            folder, experiment = run, bento
    try:
        entry = target.promote(folder, who=person(), why=why or "promoted by hand", experiment=experiment, force=force)
    except GateError as error:
        _fail("\n  ".join([f"{environment} stays as it is; the gate refuses this bento:", *error.reasons]))
    except (EnvironmentProblem, ArtefactError, OSError) as error:
        _fail(str(error))
    typer.echo(f"{environment} serves {entry['bento']}")


@app.command()
def rollback(environment: Name, why: Why = "by hand") -> None:
    """Go back to the bento that an environment served before."""
    try:
        entry = _environment(environment).rollback(who=person(), why=why)
    except (EnvironmentProblem, ArtefactError, OSError) as error:
        _fail(str(error))
    typer.echo(f"{environment} serves {entry['bento']} again")


@app.command()
def status(environment: Annotated[str | None, typer.Argument(help="one environment; all if left out")] = None) -> None:
    """What each environment serves, since when, who put it there and why; what its server answers with; and what came before."""
    for name in [environment] if environment else environments(_checkout()):
        target = _environment(name)
        entries = target.entries()
        typer.echo(name)
        rows = [("serves", entries["current"])] if entries["current"] else []
        rows += [("before", e) for e in entries["previous"]] + [("rolled back", e) for e in entries["rolled_back"]]
        for word, entry in rows:
            typer.echo(f"  {word:<11} {entry['bento']}  since {entry['when']}")
            typer.echo(f"              by {_ascii(entry['who'])}: {_ascii(entry['why'])}")
            if word == "serves" and not (target.bento(entry["version"]) / "bento.yaml").exists():
                typer.echo("              its bento is gone from the store: promote one, or roll back")
        if not rows:
            typer.echo("  nothing yet")
        typer.echo(f"  server      {_server(target, entries['current'])}")


def _server(target: Environment, current: dict | None) -> str:
    """What the environment's server says of itself."""
    from deploy.platform.processes import HOST, http

    port = target.server_port()
    try:
        answer = http("POST", f"http://{HOST}:{port}/version", {}) if port else None
    except (OSError, ValueError):
        answer = None
    if answer is None:
        return "none runs here"
    version, problem = answer.get("version"), answer.get("problem")
    if current and version == current["version"]:
        return f"port {port} answers with {version}"
    return f"port {port} answers with {version}, not with what is promoted" + (f": {_ascii(problem)}" if problem else " (yet)")


@app.command()
def serve(
    environment: Name = "production",
    port: Annotated[int, typer.Option(envvar="SERVE_PORT", help="on the loopback address")] = 3000,
) -> None:
    """Serve what an environment has, following promotions and rollbacks, until Ctrl-C."""
    from deploy.platform import processes, server

    if not _environment(environment).link.exists():
        _fail(f"nothing is promoted to {environment} yet; see `pushcart promote --help`")
    processes.stoppable()
    try:
        processes.check_port(port, "SERVE_PORT")
        with server.served(_checkout(), environment, port) as (url, running, log):
            typer.echo(f"{url} serves {environment}; Ctrl-C stops it")
            processes.until_one_ends({"the server": (running, log)})
    except processes.PlatformError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        typer.echo("stopped")


@app.command()
def up(
    environment: Annotated[str, typer.Option(help="whose model is served")] = "production",
    airflow_port: Annotated[int, typer.Option(envvar="AIRFLOW_PORT")] = 8080,
    serve_port: Annotated[int, typer.Option(envvar="SERVE_PORT")] = 3000,
) -> None:
    """Airflow's UI and the served model, on the loopback address, until Ctrl-C."""
    from deploy.platform import processes, server

    processes.stoppable()
    try:
        server.up(_checkout(), environment, airflow_port, serve_port, typer.echo)
    except processes.PlatformError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        typer.echo("stopped")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def campaign(words: typer.Context) -> None:
    """Preview, test, approve, pause, resume, stop a campaign; what became of its messages; opt-outs in and out."""
    command = [sys.executable, "-m", "pipelines.delivery", *words.args]
    raise typer.Exit(subprocess.run(command, cwd=_checkout(), env=_with_code()).returncode)


@app.command()
def doctor(
    data: Annotated[Path, typer.Argument(help="a file, or a folder of files")],
    mapping: Annotated[Path | None, typer.Option(help="YAML file with a mapping; left out: one is proposed")] = None,
    write: Annotated[Path | None, typer.Option(help="file to keep the proposed mapping in")] = None,
    hash_key: Annotated[Path | None, typer.Option(help="file with the secret of `hash`")] = None,
) -> None:
    """What Pushcart makes of a shop's files, before anything is run; ends with "ready" or with what it needs to know."""
    options = {"--mapping": mapping, "--write": write, "--hash-key": hash_key}
    named = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    command = [sys.executable, "-m", "pipelines.data.doctor", str(data), *named]
    raise typer.Exit(subprocess.run(command, env=_with_code()).returncode)


def _with_code() -> dict[str, str]:
    """The environment of a program of this checkout."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


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


def _ascii(text: str) -> str:
    """The text, readable in a terminal that knows no other letters than it can write."""
    encoding = typer.get_text_stream("stdout").encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {_ascii(message)}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="pushcart")
