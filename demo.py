"""The whole of Pushcart, once: a retrain through Airflow, its bento promoted, served and asked over HTTP.

    make demo
    make demo MODEL=gru
    make demo SOURCE=sequences DATA=path/to/folder
    make demo SOURCE=files DATA=shop.csv MAPPING=shop.yaml
    make demo PRIVACY=1 the same with pseudonyms; then one shopper is forgotten, and every file is searched for what is left of them
    make demo CONTENT=1 the same with a picture of each item, similar items by look, a shopper known on two platforms, and customers' messages answered
    make demo-live      the simulated shop as it lives: its events and an hour of traffic over HTTP, answers that follow, and a retrain on just these

Prints one table and writes the same to reports/summary.json. Afterwards the checkout holds what the run made: `dvc repro`
does nothing, `dvc exp show` lists the run.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dags.workspace import folder, run_name
from deploy.platform import forgetting, processes
from deploy.platform.airflow import Airflow, airflow
from deploy.platform.server import served, shops_of
from deploy.promotion.environments import Environment, person

CHECKOUT = Path(__file__).resolve().parent
SHOP = "pipelines/data/sources/shop.yaml"
ENVIRONMENT = "production"
SHEET, ROWS, COLUMNS = "reports/similar_by_look.png", 6, 8
MESSAGES = (
    "Where is my parcel?",
    "怎么开发票？",
    "something like this but cheaper",
    "I forgot my password, and also how do I cancel my order?",
    "你们太差了，我要投诉！！！",
)
NEXT = """
What next?
  make up                             Airflow's UI with this run and its Report tab, and the served model, until Ctrl-C
  .venv/bin/pushcart status           what production serves, and why
  .venv/bin/dvc exp show              this run beside others; change params.yaml and type dvc repro for one of your own
  .venv/bin/pushcart doctor shop.csv     what Pushcart makes of your own shop's export (docs/data-scientist.md)
  make demo SOURCE=files DATA=shop.csv   the same on it"""
console = Console(width=max(Console().width, 100))


def main() -> int:
    chosen = arguments()
    changed = uncommitted()
    if changed:
        console.print(f"[red]error:[/red] uncommitted changes in {', '.join(changed)}: a run works on what is committed, and bringing its files "
                      "back would undo them. Commit them, or put them aside with git stash.")  # fmt: skip
        return 1
    if chosen.source == "files" and not looked_at(chosen.data, chosen.mapping):
        return 1
    run = f"demo-{chosen.source}-{datetime.now():%Y%m%dT%H%M%S}"
    conf = {"source": chosen.source, "data": chosen.data, "mapping": chosen.mapping, "environment": ENVIRONMENT}
    conf |= {name: value for name, value in (("model", chosen.model), ("epochs", chosen.epochs)) if value}
    conf |= {"pseudonyms": True} if chosen.privacy else {}
    conf |= {"content": "looks", "identities": "many", "answers": True} if chosen.content else {}
    console.print(f"[bold]Pushcart[/bold]: retrain [cyan]{run}[/cyan] on {chosen.source} ({chosen.data})")
    processes.stoppable()
    if chosen.live and Environment(CHECKOUT, ENVIRONMENT).link.exists():
        return live(chosen.visits)
    try:
        with airflow(CHECKOUT, processes.free_port()) as running:
            console.print(f"Airflow is up at {running.url} (user {running.user}, password in .airflow/passwords.json)")
            running.trigger(conf, run)
            state = running.follow(run, tell)
            stages = [stage(task) for task in sorted(running.tasks(run), key=lambda t: t["start_date"] or "~")]
            if state != "success":
                tell_why(running, run)
                return 1
        bring_back(run)
        with served(CHECKOUT, ENVIRONMENT, processes.free_port()) as (url, _, _):
            answers = {user: processes.ask(f"{url}/recommend", {"user_id": user, "k": 5}) for user in two_shoppers()}
            summary = summarise(stages, answers)
            show(summary, answers)
            if chosen.content:
                show_content(url)
                show_linked(url)
            if chosen.privacy:
                return forget_one(url, next(iter(answers)))
    except processes.PlatformError as error:
        console.print(f"[red]error:[/red] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; the run's files are in .airflow/runs, a new demo starts a new run")
        return 1
    return live(chosen.visits) if chosen.live else 0


def show_content(url: str) -> None:
    """Items that look alike, as a contact sheet, and five messages of customers with what they are told."""
    items = pictures()
    shown = list(items)[:: max(1, len(items) // ROWS)][:ROWS]
    alike = {one: processes.ask(f"{url}/similar", {"item_id": one, "by": "look", "k": COLUMNS}) for one in shown}
    sheet(items, {one: [item["item_id"] for item in answer["items"]] for one, answer in alike.items()})
    console.print(f"similar by look: {SHEET}, an item a row, and the {COLUMNS} most like it")
    table = Table("message", "is understood as", "answer", title="Customers", title_justify="left")
    for message in MESSAGES:
        answer = processes.ask(f"{url}/assist", {"message": message, "item_id": shown[0]})
        said = [
            text["text"] + (f" [{text['source']['page']}, {text['source']['heading']}]" if text["source"] else "")
            for text in answer["texts"]
        ]
        said += [f"{item['title']}: {', '.join(item['why'])}" for item in answer["items"][:2]]
        table.add_row(
            message,
            f"{', '.join(answer['intents']) or 'unknown'} ({answer['confidence']:.2f})",
            Text("\n".join(said)),
            end_section=True,
        )
    console.print(table)
    console.print("the chat page is /chat.html of the served model (make up)")


def show_linked(url: str) -> None:
    """A shopper whom two platforms know by different ids: why they are one, and that what they look at on one is known on the other at the next answer."""
    import polars as pl

    people = pl.read_parquet(CHECKOUT / "data/links/people.parquet").filter(~pl.col("user_id").str.starts_with("visitor:"))
    links = pl.read_parquet(CHECKOUT / "data/links/links.parquet").filter(pl.col("taken") == "taken")
    found = links.join(people, left_on="one", right_on="user_id").join(
        people, left_on="other", right_on="user_id", suffix="_other"
    )
    histories = pl.read_parquet(CHECKOUT / "data/prepared/histories.parquet").select("user_id", met=pl.col("items").list.len())
    [(one, other, why)] = (
        found.join(histories, left_on="person_id", right_on="user_id").sort("met", "one", descending=[True, False])[len(found) // 3 :]
        .head(1).select("one", "other", "reason").iter_rows()
    )  # fmt: skip
    events = pl.read_parquet(CHECKOUT / "data/raw/events.parquet")
    table = Table("id", "platforms", "events", "the next best", title=f"One shopper: {why}", title_justify="left")

    def answered(user: str) -> list[dict]:
        return processes.ask(f"{url}/recommend", {"user_id": user, "k": 3})["items"]

    looked = answered(one)[0]
    for moment in ("before", "after"):
        for user in (one, other):
            own = events.filter(user_id=user)
            table.add_row(
                f"{user} ({moment})",
                ", ".join(sorted(own["platform"].drop_nulls().unique())),
                f"{len(own):,}",
                "\n".join(i["title"] for i in answered(user)),
            )
        table.add_section()
        seen = {"event_id": f"demo {one}", "user_id": one, "event": "purchase", "item_id": looked["item_id"]}
        processes.ask(f"{url}/events", {"events": [seen]})
    console.print(table)
    console.print(
        f"between the two, {one} bought {looked['title']}: it is offered under neither id any more; `pushcart links {one}` says why they are one"
    )


def pictures() -> dict[str, bytes]:
    """The picture of each item that has one."""
    import base64

    import polars as pl

    told = pl.read_parquet(CHECKOUT / "data" / "raw" / "items.parquet").drop_nulls("image").unique("item_id", maintain_order=True)
    return {item: base64.b64decode(image.partition(",")[2]) for item, image in told.select("item_id", "image").iter_rows()}


def sheet(items: dict[str, bytes], alike: dict[str, list[str]]) -> None:
    """Draws each item beside those that are like it."""
    import io

    from PIL import Image

    side, gap = 96, 8
    whole = Image.new("RGB", ((COLUMNS + 1) * (side + gap) + 3 * gap, len(alike) * (side + gap) + gap), "white")
    for row, (first, others) in enumerate(alike.items()):
        for column, item in enumerate([first, *others]):
            place = (gap + column * (side + gap) + (2 * gap if column else 0), gap + row * (side + gap))
            whole.paste(Image.open(io.BytesIO(items[item])), place)
    whole.save(CHECKOUT / SHEET)


def forget_one(url: str, user: str) -> int:
    """Forgets a shopper while the model is served, and searches every file for what is left of them."""
    import polars as pl

    from benchmarks.privacy.traces import traces

    vault = forgetting.vault_of(CHECKOUT)
    some = list(vault.names(users_of_demo()[:20]).values())
    own = vault.resolve(user, person(), "make demo PRIVACY=1")
    histories = pl.read_parquet(CHECKOUT / "data/prepared/histories.parquet", columns=["user_id", "items"])
    history, left_out = histories.filter(user_id=user)["items"][0].to_list(), [vault.file.parent]
    processes.ask(
        f"{url}/events", {"events": [{"event_id": f"demo {own}", "user_id": own, "event": "view", "item_id": "sku00001"}]}
    )
    console.print(f"[bold]{own}[/bold], whom all files know as {user}, asks to be forgotten")
    before = traces(CHECKOUT, [own, user], history, left_out)
    old = processes.ask(f"{url}/version", {})["version"]
    table = Table("place", "", "what was done", title="Receipt", title_justify="left")
    receipt = forgetting.forget(CHECKOUT, vault, own)
    for done in receipt["places"]:
        table.add_row(done["place"].replace(f"{CHECKOUT}/", ""), f"{done['count']:,}", done["what"])
    console.print(table)
    after, new = traces(CHECKOUT, [own, user], history, left_out), wait_for_version(url, old)
    in_clear = traces(CHECKOUT, some, left_out=left_out)
    answer = processes.ask(f"{url}/recommend", {"user_id": own, "k": 5})
    refused = processes.ask(
        f"{url}/events", {"events": [{"event_id": "again", "user_id": own, "event": "view", "item_id": "sku00001"}]}
    )["refused"]
    console.print(
        f"Searched all files, packed or not, but the vault: {len(before)} places held the id, the pseudonym or the history before, {len(after)} do now; ids of "
        f"twenty shoppers stand in clear in {len(in_clear)}."
    )
    console.print(
        f"The server went from {old} to {new}; it answers {own} as a stranger ({answer['fallback']}), and an event of theirs is refused: "
        f"{refused[0]['reason'] if refused else 'NOT REFUSED'}. Models are to be retrained by {receipt['retrain_by']}."
    )
    for place in (*after, *in_clear):
        console.print(f"  [red]still there:[/red] {place}")
    return int(bool(after or in_clear or not refused or answer["fallback"] != "popular"))


def live(visits: int) -> int:
    """The shop's past and an hour of traffic come in over HTTP, answers follow, and a retrain reads exactly what came in."""
    import polars as pl

    from benchmarks import traffic
    from benchmarks.online.client import Client
    from pipelines.data.sources import log

    raw, shop = CHECKOUT / "data" / "raw", next(iter(shops_of(CHECKOUT, ENVIRONMENT).values()))
    folder, run = CHECKOUT / shop["events"], f"live-{datetime.now():%Y%m%dT%H%M%S}"
    try:
        with (
            airflow(CHECKOUT, processes.free_port()) as running,
            served(CHECKOUT, ENVIRONMENT, processes.free_port()) as (url, _, _),
        ):
            console.print(f"[bold]Pushcart[/bold], live: Airflow at {running.url}, the model at {url}")
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("items", "users"):  # the export that a shop brings beside its events
                shutil.copy(raw / f"{name}.parquet", folder)
            client, past, begun = Client(url), traffic.Taken(), time.perf_counter()
            traffic.send(client, traffic.rows_of(pl.read_parquet(raw / "events.parquet"), datetime.now(UTC)), past)
            rate = (past.events + past.repeated + sum(past.refused.values())) / (time.perf_counter() - begun)
            console.print(
                f"  its past came in over HTTP: {past.events:,} events at {rate:,.0f} a second; {past.repeated:,} sent again, "
                f"{sum(past.refused.values()):,} refused, such as: {next(iter(past.refused), 'none')}"
            )
            user, stranger = two_shoppers()[0], f"a stranger {run}"
            for who in (user, stranger):
                before = processes.ask(f"{url}/recommend", {"user_id": who, "k": 5})
                clicked = processes.ask(f"{url}/recommend", {"user_id": who, "k": 50})["items"][40]
                event = {"event_id": f"{run} {who}", "user_id": who, "event": "click", "item_id": clicked["item_id"]}
                traffic.send(client, [event | {"request_id": before["request_id"]}], past)
                after = processes.ask(f"{url}/recommend", {"user_id": who, "k": 5})
                show_change(who, clicked, before, after)
            with console.status("an hour of traffic"):
                hour = traffic.an_hour(client, users_of_demo(), visits, seed=int(time.time()), told=lambda share: None)
            for what, seconds in (("answers to /recommend", hour.seconds), ("answers to /events", hour.accepted)):
                ordered = sorted(1000 * s for s in seconds)
                median, slow = ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]
                console.print(f"  {what}: {len(ordered):,}, p50 {median:.1f} ms, p99 {slow:.1f} ms")
            held = log.read(folder, {})["events"].select(pl.len()).collect().item()
            console.print(
                f"  an hour: {hour.events:,} events of {visits:,} visits came in; the log holds {held:,}; retraining on them as [cyan]{run}[/cyan]"
            )
            old = processes.ask(f"{url}/version", {})["version"]
            running.trigger({"source": "log", "data": shop["events"], "environment": ENVIRONMENT}, run)
            state = running.follow(run, tell)
            if state != "success":
                tell_why(running, run)
                return 1
            bring_back(run)
            new = wait_for_version(url, old)
        trained = pl.scan_parquet(raw / "events.parquet").select(pl.len()).collect().item()
        same = "equal" if trained == held else "NOT EQUAL"
        console.print(
            f"the log held {held:,} events, the retrain collected {trained:,}: {same}; the server went from {old} to {new} while it ran"
        )
        return int(trained != held)
    except processes.PlatformError as error:
        console.print(f"[red]error:[/red] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print(f"stopped; the events that came in are in {folder}")
        return 1


def show_change(user: str, clicked: dict, before: dict, after: dict) -> None:
    """A shopper's answer before and after a click."""
    table = Table(title=f"{user} clicks {clicked['title'] or clicked['item_id']}", title_justify="left")
    for heading, answer in (("before", before), ("after", after)):
        table.add_column(f"{heading} ({answer['fallback'] or 'model'})", overflow="fold", ratio=1)
    for one, other in zip(before["items"], after["items"], strict=False):
        table.add_row(one["title"] or one["item_id"], other["title"] or other["item_id"])
    console.print(table)


def wait_for_version(url: str, old: str) -> str:
    """The version that answers once it is not the old one, which a server that follows an environment turns to within seconds."""
    for _ in range(60):
        new = processes.ask(f"{url}/version", {})["version"]
        if new != old:
            return new
        time.sleep(0.5)
    return old


def users_of_demo() -> list[str]:
    import polars as pl

    return pl.read_parquet(CHECKOUT / "data" / "prepared" / "users.parquet")["user_id"].to_list()


def arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--source", default="shop", choices=["shop", "files", "sequences", "recbole", "reviews"])
    cli.add_argument("--data", default=None, help="file or folder the source reads")
    cli.add_argument("--mapping", default=None, help="source `files`: YAML file saying which column is what")
    cli.add_argument("--model", default=None, help="the model family, one of those in params.yaml")
    cli.add_argument("--epochs", type=int, default=None)
    cli.add_argument("--privacy", action="store_true", help="make demo PRIVACY=1")
    cli.add_argument("--content", action="store_true", help="make demo CONTENT=1")
    cli.add_argument("--live", action="store_true", help="make demo-live")
    cli.add_argument("--visits", type=int, default=1500, help="of the live hour")
    chosen = cli.parse_args()
    if chosen.data is None:
        if chosen.source != "shop":
            cli.error(f"SOURCE={chosen.source} needs DATA=, the file or folder to read")
        chosen.data = SHOP
    elif not Path(chosen.data).exists():
        cli.error(f"DATA={chosen.data} is not there")
    else:
        chosen.data = str(Path(chosen.data).resolve())
    if chosen.mapping is not None:
        if not Path(chosen.mapping).exists():
            cli.error(f"MAPPING={chosen.mapping} is not there")
        chosen.mapping = str(Path(chosen.mapping).resolve())
    return chosen


def looked_at(data: str, mapping: str | None) -> bool:
    """Shows what Pushcart makes of the files; are they ready?"""
    command = [sys.executable, "-m", "pipelines.data.doctor", data, *(["--mapping", mapping] if mapping else [])]
    if key := yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))["source"]["hash_key"]:
        command += ["--hash-key", key]
    return subprocess.run(command, cwd=CHECKOUT).returncode == 0


def uncommitted() -> list[str]:
    """Tracked files changed since the last commit, but for what an earlier demo brought back and for copies of what is served."""
    names = git("diff", "--name-only", "HEAD").splitlines()
    brought = git("rev-parse", "--verify", "--quiet", "refs/exps/exec/EXEC_APPLY").strip()
    since = git("diff", "--name-only", brought).splitlines() if brought else names
    return [
        n
        for n in names
        if not (n.startswith("deploy/environments/") or n == "dvc.lock" or (n == "params.yaml" and n not in since))
    ]


def git(*words: str) -> str:
    return subprocess.run(["git", "-c", "core.quotepath=off", *words], cwd=CHECKOUT, capture_output=True, text=True).stdout


def tell_why(running: Airflow, run: str) -> None:
    """Why a run failed: the sentence of a refusal, or the end of the failed task's log."""
    failed = next(t for t in running.tasks(run) if t["state"] == "failed")
    refusal = folder(CHECKOUT, run) / "reports" / "refusal.json"
    if refusal.exists():
        reason = json.loads(refusal.read_text(encoding="utf-8"))["reason"]
        console.print(f"[red]{failed['task_id']} refused:[/red]", end=" ")
        console.print(reason, markup=False, highlight=False)
        return
    console.print(f"[red]task {failed['task_id']} failed; the end of its log:[/red]")
    for line in running.log(run, failed["task_id"], failed["try_number"])[-25:]:
        console.print("  " + line, markup=False, highlight=False)


def tell(task: dict) -> None:
    """A line when a task starts, ends or is tried again."""
    if task["state"] in ("running", "success", "failed", "up_for_retry", "skipped"):
        seconds = f"{task['duration']:.0f} s" if task["state"] != "running" and task["duration"] else ""
        attempt = f"try {task['try_number']}" if task["try_number"] and task["try_number"] > 1 else ""
        console.print(
            f"  {datetime.now():%H:%M:%S}  {task['task_id']:<10} {task['state']:<12} {seconds:>6} {attempt}", highlight=False
        )


def stage(task: dict) -> dict:
    return {
        "name": task["task_id"],
        "state": task["state"],
        "tries": task["try_number"],
        "seconds": round(task["duration"] or 0, 1),
    }


def bring_back(run: str) -> None:
    """The run's files into the checkout, as anyone would."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "apply", run_name(run)], cwd=CHECKOUT, capture_output=True, text=True
    )
    if done.returncode:
        raise processes.PlatformError(f"dvc exp apply {run}: {done.stderr.strip()}")


def two_shoppers() -> list[str]:
    import polars as pl

    users = pl.read_parquet(CHECKOUT / "data" / "prepared" / "users.parquet").sort("events", "user_id", descending=True)[
        "user_id"
    ]
    return [users[len(users) // 4], users[3 * len(users) // 4]]


def summarise(stages: list[dict], answers: dict[str, dict]) -> dict:
    metrics = json.loads((CHECKOUT / "reports" / "metrics.json").read_text(encoding="utf-8"))
    compression = json.loads((CHECKOUT / "reports" / "compression.json").read_text(encoding="utf-8"))
    current = Environment(CHECKOUT, ENVIRONMENT).entries()["current"]
    summary = {
        "stages": stages,
        "chosen": json.loads((CHECKOUT / "data" / "model" / "model.json").read_text(encoding="utf-8"))["chosen"],
        "metrics": {m: {k: metrics[m][k] for k in ("ndcg@10", "recall@10")} for m in ("test", "popularity", "item_knn")},
        "blend": metrics.get("blend", []),
        "artifact": {k: compression[k] for k in ("fp32_bytes", "bytes", "ndcg_kept")},
        "serving": {
            "version": current["version"],
            "answered": all(a["items"] and a["model_version"] == current["version"] for a in answers.values()),
        },
    }
    (CHECKOUT / "reports" / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def show(summary: dict, answers: dict[str, dict]) -> None:
    table = Table(show_header=False)
    for heading in ("", "", "", ""):
        table.add_column(heading, overflow="fold")
    table.add_row("task", "state", "tries", "seconds", style="bold", end_section=True)
    for row in summary["stages"]:
        table.add_row(row["name"], row["state"], str(row["tries"]), f"{row['seconds']:.1f}")
    table.add_section()
    table.add_row("quality on the test part", "NDCG@10", "Recall@10", "", style="bold", end_section=True)
    for name, label in (("test", "this model"), ("popularity", "popularity"), ("item_knn", "item-kNN")):
        values = summary["metrics"][name]
        table.add_row(label, f"{values['ndcg@10']:.4f}", f"{values['recall@10']:.4f}", "")
    if summary["blend"]:
        table.add_section()
        table.add_row("the blend is made of", "weight", "valid NDCG@10", "test without it", style="bold", end_section=True)
        for part in summary["blend"]:
            table.add_row(
                part["part"],
                " / ".join(f"{weight:.2g}" for weight in part["weight"]),
                f"{part['valid_ndcg@10']:.4f}",
                f"{part['without']:.4f}",
            )
    table.add_section()
    sizes = summary["artifact"]
    table.add_row("size", "fp32", "compressed", "NDCG@10 kept", style="bold", end_section=True)
    table.add_row("model.onnx", f"{sizes['fp32_bytes']:,} B", f"{sizes['bytes']:,} B", f"{sizes['ndcg_kept']:.1%}")
    for user, answer in answers.items():
        table.add_section()
        table.add_row(
            f"for shopper {user}",
            answer["fallback"] or f"model {answer['model_version']}",
            "carried by",
            "score",
            style="bold",
            end_section=True,
        )
        for item in answer["items"]:
            table.add_row(item["title"] or item["item_id"], item["item_id"], item.get("part") or "", f"{item['score']:.2f}")
    console.print(table)
    console.print(f"model: {summary['chosen']['model']}: {summary['chosen']['reason']}", markup=False, highlight=False)
    console.print(
        f"served version {summary['serving']['version']}, answered: {summary['serving']['answered']}; summary in reports/summary.json"
    )
    console.print(NEXT, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
