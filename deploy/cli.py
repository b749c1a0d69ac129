"""pushcart: what a platform engineer types. promote, rollback, status, serve, up; forget, expire, export-user and vault, for whoever answers shoppers' wishes; and doctor, for whoever brings a shop's files."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from deploy.platform import doors
from deploy.promotion.environments import Environment, EnvironmentProblem, environments, params_of, person
from deploy.promotion.gate import GateError
from deploy.serving.artefact import ArtefactError
from privacy.vault import Vault, VaultError, places

app = typer.Typer(
    help="Promote, roll back and serve Pushcart's bentos; look at a shop's files.", no_args_is_help=True, add_completion=False
)

keys = typer.Typer(help="API keys of a shop's server: who may ask for what.", no_args_is_help=True)
app.add_typer(keys, name="key")
Shopname = Annotated[str | None, typer.Option("--shop", help="of params.yaml; the first if left out")]
vaults = typer.Typer(help="Who is behind a pseudonym: resolve one, see who did, rotate the master key.", no_args_is_help=True)
app.add_typer(vaults, name="vault")

Tls = Annotated[Path | None, typer.Option("--tls", help="the folder of `pushcart certs`; left out, they speak in clear")]
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
            if word == "serves" and "erased" in entry:
                typer.echo(
                    f"              shoppers were forgotten on {entry['erased'][:10]}: its model learnt from them, retrain within 30 days"
                )
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
    port: Annotated[int, typer.Option(envvar="SERVE_PORT")] = 3000,
    host: Annotated[
        str, typer.Option(help="the address that it listens on; beyond this machine, API keys are asked for")
    ] = "127.0.0.1",
    tls: Tls = None,
) -> None:
    """Serve what an environment has, following promotions and rollbacks, until Ctrl-C."""
    from deploy.platform import processes, server

    if not _environment(environment).link.exists():
        _fail(f"nothing is promoted to {environment} yet; see `pushcart promote --help`")
    processes.stoppable()
    try:
        processes.check_port(port, "SERVE_PORT")
        with server.served(_checkout(), environment, port, host, tls and tls.absolute()) as (url, running, log):
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
    tls: Tls = None,
) -> None:
    """Airflow's UI and the served model, on the loopback address, until Ctrl-C."""
    from deploy.platform import processes, server

    processes.stoppable()
    try:
        server.up(_checkout(), environment, airflow_port, serve_port, tls and tls.absolute(), typer.echo)
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
def forget(
    user: Annotated[
        str | None,
        typer.Argument(help="the shop's own id, or a pseudonym; - reads it, as everybody on a machine sees command lines"),
    ] = None,
    pending: Annotated[bool, typer.Option("--pending", help="all who asked and are still known")] = False,
    later: Annotated[bool, typer.Option("--later", help="only take nothing in any more; --pending erases")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="let one who was forgotten come again")] = False,
) -> None:
    """Erase a shopper from everything, and let no import bring them back. Prints a receipt."""
    from deploy.platform import forgetting

    checkout = _checkout()
    if (user is None) == (not pending):
        _fail("name one shopper, or --pending")
    if pending and not forgetting.has_vault(checkout):
        return
    user = sys.stdin.readline().rstrip("\n") if user == "-" else user
    try:
        vault = forgetting.vault_of(checkout)
        if lift:
            typer.echo("they may come again" if vault.lift(user) else "they were not kept away")
            return
        if later:
            vault.ask(user)
            typer.echo(
                "they are not taken in any more; `pushcart forget --pending`, which Airflow's DAG forget runs, erases them"
            )
            return
        for one in vault.asked() if pending else [user]:
            receipt = forgetting.forget(checkout, vault, one, _tell)
            typer.echo(
                f"receipt {receipt['receipt']}, kept beside the vault; models that learnt from them are to be retrained by {receipt['retrain_by']}"
            )
    except (VaultError, forgetting.Busy, EnvironmentProblem, RuntimeError) as error:
        _fail(str(error))


def _tell(done: dict) -> None:
    """What was done in a place (pipelines/rights)."""
    typer.echo(f"  {done['count']:>9,}  {done['place']}: {done['what']}")


@app.command()
def expire() -> None:
    """Remove what is kept of shoppers longer than `privacy.retention` of params.yaml says; Airflow's DAG forget does it, too."""
    from deploy.platform import forgetting

    try:
        for line in forgetting.rights(_checkout(), ["expire"], []):
            _tell(json.loads(line))
    except RuntimeError as error:
        _fail(str(error))


@app.command()
def export_user(
    user: Annotated[str, typer.Argument(help="the shop's own id, or a pseudonym")],
    out: Annotated[Path, typer.Option(help="the file that is written, JSON")],
) -> None:
    """All that is known of a shopper, for them to read."""
    from deploy.platform import forgetting

    checkout = _checkout()
    try:
        told = forgetting.tell_all(checkout, user)
    except (VaultError, RuntimeError) as error:
        _fail(str(error))
    out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    out.chmod(0o600)
    typer.echo(f"{sum(map(len, told['tables'].values())):,} rows of tables, and what else is known, are in {out}")


@app.command()
def links(
    user: Annotated[str, typer.Argument(help="the shop's own id, or a pseudonym")],
    undo: Annotated[
        str | None,
        typer.Option(help="another id that is not the same person's, whatever speaks for it; it holds from the next run on"),
    ] = None,
) -> None:
    """Which ids are the same person's, and why; or that two are not."""
    from deploy.platform import linking

    checkout = _checkout()
    try:
        if undo is not None:
            new = linking.undo(checkout, user, undo)
            typer.echo(
                f"{linking.UNDONE} {'says now' if new else 'said before'} that they are two people; commit it, and the next run keeps them apart"
            )
            return
        found = linking.links_of(checkout, user)
    except (VaultError, RuntimeError, OSError) as error:
        _fail(str(error))
    typer.echo("ids of one person: " + ", ".join(found["ids"]))
    for link in found["links"]:
        likely = "" if link["chance"] == 1 else f" (likely, {link['chance']:.1%})"
        typer.echo(f"  {link['one']} and {link['other']}: {link['reason']}{likely}: {link['taken']}")


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="who holds it; one of the same name is replaced")],
    scope: Annotated[list[str], typer.Option(help="answers, marketing, events, items or operations; may be given several times")],
    days: Annotated[int | None, typer.Option(help="it holds for so long; left out: until it is removed")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="requests a second that each worker answers; left out: any number")
    ] = None,
    shop: Shopname = None,
) -> None:
    """Make an API key, shown this once, or exchange it."""
    with _keys(shop) as file:
        typer.echo(doors.add_key(file, name, scope, days, rate))


@keys.command("list")
def list_keys(shop: Shopname = None) -> None:
    """Who holds keys, for what, and until when."""
    with _keys(shop) as file:
        for name, told in doors.keys_of(file).items():
            end = f"until {told['until']}" if told["until"] else "without an end"
            most = f", {told['rate']:g} requests a second and worker" if told["rate"] else ""
            typer.echo(_ascii(f"{name}: {', '.join(told['scopes'])}, {end}{most}"))


@keys.command("remove")
def remove_key(name: str, shop: Shopname = None) -> None:
    """Take a key away: it opens nothing from the next request on."""
    with _keys(shop) as file:
        if not doors.remove_key(file, name):
            _fail(f"there is no key {name} in {file}")
    typer.echo(f"{name} is let in no more")


@contextmanager
def _keys(shop: str | None) -> Iterator[Path]:
    """The file of a shop's keys."""
    from deploy.platform.processes import PlatformError

    shops = params_of(_checkout())["shops"]
    name = shop or next(iter(shops))
    if name not in shops:
        _fail(f"there is no shop {name}; params.yaml names {', '.join(shops)}")
    if not shops[name]["access"]:
        _fail(f"shops.{name}.access names no file of keys; set it, such as to ~/.config/pushcart/{name}.keys")
    try:
        yield _checkout() / Path(shops[name]["access"]).expanduser()
    except PlatformError as error:
        _fail(str(error))


@app.command()
def certs(
    names: Annotated[list[str] | None, typer.Argument(help="of the server: names and addresses by which it is asked")] = None,
    folder: Annotated[Path, typer.Option(help="where they stand")] = Path(".certs"),
) -> None:
    """Make a certificate for the server, by an authority of this checkout that clients trust (ca.pem)."""
    names = names or ["localhost", "127.0.0.1"]
    authority, own = doors.make_certificates(folder, names)
    typer.echo(f"{folder}/server.pem is for {', '.join(names)} until {own}; clients trust {folder}/ca.pem, until {authority}")


@vaults.command()
def resolve(pseudonym: str, why: Annotated[str, typer.Option(help="the reason, kept with your name")]) -> None:
    """Whose a pseudonym is; that you asked is kept."""
    with _vault() as vault:
        found = vault.resolve(pseudonym, person(), why)
    typer.echo(found) if found else _fail("it is nobody's, or of somebody who was forgotten")


@vaults.command()
def looks() -> None:
    """Who asked whose pseudonyms, when and why."""
    with _vault() as vault:
        for look in vault.looks():
            typer.echo(
                _ascii(f"{datetime.fromtimestamp(look.at, UTC):%Y-%m-%dT%H:%M:%SZ}  {look.who}: {look.pseudonym}, {look.why}")
            )


@vaults.command()
def rotate() -> None:
    """Give the vault a new master key; pseudonyms stay."""
    told = params_of(_checkout())["privacy"]
    with _vault() as vault:
        master = places(_checkout(), told["vault"], told["master_key"])[1]
        vault.rotate(master)
        typer.echo(f"the new master key is in {master}; keep a copy of it where no copy of the vault is")


@contextmanager
def _vault() -> Iterator[Vault]:
    """The checkout's; what is wrong with it is told in one sentence."""
    from deploy.platform import forgetting

    try:
        yield forgetting.vault_of(_checkout())
    except VaultError as error:
        _fail(str(error))


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
