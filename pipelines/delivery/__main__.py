"""What is done with a plan: fill the outbox, send, hold, watch.

    python -m pipelines.delivery preview spring        # a message by each channel, as it would be written
    python -m pipelines.delivery test spring --user u000001   # sends one message to that shopper, whatever the plan says
    python -m pipelines.delivery fill spring           # the plan's messages into the outbox
    python -m pipelines.delivery send spring [--leap] [--patience SECONDS]   # what is due of all campaigns; --leap: as if it were always the time of the next message
    python -m pipelines.delivery status|approve|pause|resume|stop spring --why WHY
    python -m pipelines.delivery log spring --out FILE # what was sent and held out, as events (CSV or Parquet)
    python -m pipelines.delivery complaints [--settle HANDOVER]   # whose are open: they are sent nothing
    python -m pipelines.delivery handovers [--correct HANDOVER INTENT]   # sends those to where send.handovers says; or says what one wanted, to be learnt
    python -m pipelines.delivery opt-outs [--add FILE] # CSV: user_id, channel, topic (* = all)
    python -m pipelines.delivery listen [--port 3100]  # answers /unsubscribe/TOKEN
    python -m pipelines.delivery open                  # names of campaigns whose days are not over, as JSON

Reads params.yaml, campaigns/, data/plans, data/checked of the working directory; the outbox is where `send.outbox` says, from PUSHCART_CHECKOUT, else the working directory. Ends with NOT_YET where there is
something to wait for (`approved`, `send`, `answered`), with NEVER_RETRY and a sentence where what is asked for cannot be.
"""

import argparse
import csv
import json
import os
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from marketing import channels as ways
from marketing import messages, outbox, sending, unsubscribing
from marketing.campaigns import Campaign, ContactLimit
from pipelines import settings
from pipelines.data import pseudonyms
from pipelines.data.identity.links import FOLDER, ids_of_people
from pipelines.data.tables import TIMESTAMP, checked
from pipelines.plan import CAMPAIGNS, files, read
from pipelines.stage import NEVER_RETRY, REFUSAL, StageError, checkout, write_json
from privacy.people import People
from privacy.vault import VaultError
from service.complaints import HANDOVERS, Complaints, keep

DAYS = 30  # in which a hand-over is tried to be sent
NOT_YET = 99  # exit code: ask again later
PLANS = Path("data/plans")
STATES = {"approve": outbox.RUNNING, "resume": outbox.RUNNING, "pause": outbox.PAUSED, "stop": outbox.STOPPED}


class DeliveryError(Exception):
    """What was asked for cannot be done; the message says why."""


def opened() -> outbox.Outbox:
    """The outbox."""
    found = settings.load()
    url, contacts = found.send.outbox, tuple(ContactLimit(**limit.model_dump()) for limit in found.plan.contact_limits)
    journal = checkout() / ".outbox" / "journal.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    if url.startswith("sqlite:///"):
        file = checkout() / url.removeprefix("sqlite:///")
        file.parent.mkdir(parents=True, exist_ok=True)
        url, journal = f"sqlite:///{file}", file.with_suffix(".journal")
    people = ids_of_people(FOLDER)
    return outbox.Outbox(url, journal, contacts, Complaints(handovers()).of, lambda user_id: people.get(user_id, [user_id]))


def handovers() -> list[Path]:
    """Where the shops' customers were handed over to a person."""
    return [checkout() / shop.events / HANDOVERS for shop in settings.load().shops.values()]


def settle(handover_id: str | None) -> str:
    """Says that a complaint is settled, so that messages may go out again; without one, whose are open."""
    if handover_id is None:
        return "\n".join(sorted(Complaints(handovers()).all())) or "no complaint is open"
    for folder in handovers():
        if any(handover_id in file.read_text(encoding="utf-8") for file in folder.glob("*.jsonl")):
            keep(folder, {"settled": handover_id, "at": datetime.now(UTC).isoformat()})
            return f"{handover_id} is settled"
    raise DeliveryError(f"there is no hand-over {handover_id}")


def people() -> People:
    """By which names shoppers are known."""
    return pseudonyms.people(settings.load().privacy.model_dump())


class ByOwnIds:
    """A channel whose receiver knows shoppers by the shop's own ids. One who was forgotten is refused."""

    def __init__(self, channel: ways.Channel, people: People):
        self.known_again, self._channel, self._vault = channel.known_again, channel, people.vault

    def deliver(self, key: str, message: outbox.Message) -> None:
        """See Channel."""
        own = self._vault.names([message.user_id]).get(message.user_id)
        if own is None and message.topic == outbox.SERVICE:
            own = message.user_id  # of a customer who did not say who they are
        if own is None:
            raise ways.Refused("the vault does not know who it is")
        self._channel.deliver(key, replace(message, user_id=own))


def channels() -> dict[str, ways.Channel]:
    """The channels by name. Where shoppers are known by pseudonyms, so do files know them; what leaves this machine names them by the shop's own ids."""
    send, known = settings.load().send, people()
    contacts, made = send.contacts and Path(send.contacts).expanduser(), {}
    for name, address in (send.channels | ({HANDOVERS: send.handovers} if send.handovers else {})).items():
        if address.startswith("file:"):
            address = f"file:{checkout() / address.removeprefix('file:')}"
        made[name] = ways.channel(name, address, unsubscribing.secret(checkout() / ".outbox"), send.unsubscribe, contacts)
        if known.pseudonyms and not address.startswith("file:"):
            made[name] = ByOwnIds(made[name], known)
    return made


def hand_over() -> str:
    """Puts hand-overs into the outbox and sends all that is due."""
    if settings.load().send.handovers is None:
        raise DeliveryError("send.handovers says nowhere where hand-overs go")
    box, now = opened(), time.time()
    made = [
        outbox.Message(
            HANDOVERS, told.get("user_id") or number, int(number[:7], 16), told.get("item_id"), HANDOVERS, outbox.SERVICE,
            {"subject": f"hand-over {number}", "text": told.get("message", ""), "handover": json.dumps(told, ensure_ascii=False)},
            datetime.fromisoformat(told["at"]).timestamp(), now + DAYS * 86_400,
        )
        for number, told in Complaints(handovers()).handed_over().items()
    ]  # fmt: skip
    box.open(HANDOVERS)
    new = box.put(made)
    sending.send(box, channels(), sending.Clock(), 0.0)
    counts = box.counts(HANDOVERS)
    return f"{new:,} hand-overs are new; " + ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))


def correct(handover_id: str, intent: str) -> str:
    """Keeps what a message that was handed over wanted, for the next run to learn from."""
    said = settings.load().assist
    if said.corrected is None:
        raise DeliveryError("assist.corrected names no file to keep it in, a CSV file such as help/corrected.csv")
    with (checkout() / said.utterances).open(encoding="utf-8-sig", newline="") as file:
        known = sorted({row["intent"] for row in csv.DictReader(file)})
    if intent not in known:
        raise DeliveryError(f"{intent!r} is no intent; it must be one of {', '.join(known)}")
    told = Complaints(handovers()).handed_over().get(handover_id)
    if told is None:
        raise DeliveryError(f"there is no hand-over {handover_id}, or it is settled")
    file = checkout() / said.corrected
    new = not file.exists()
    with file.open("a", encoding="utf-8", newline="") as rows:
        csv.writer(rows, lineterminator="\n").writerows([["utterance", "intent"]] * new + [[told["message"], intent]])
    return f"{file} says that {told['message']!r} is {intent}; the next run learns it"


def campaign_of(name: str) -> Campaign:
    return read(CAMPAIGNS / f"{name}.yaml")


def fill(name: str) -> dict:
    """Puts the messages of a campaign's plan into the outbox, and says how many are new and whether a person has to approve them first."""
    file, report = PLANS / f"{name}.parquet", json.loads(Path("reports/plans.json").read_text(encoding="utf-8"))
    found = report.get(name)
    if found is None or "refused" in found or not file.exists():
        why = "it is over, or there is no such file in campaigns/" if found is None else found.get("refused", "its plan is gone")
        raise DeliveryError(f"campaign {name} has no plan: {why}")
    campaign, box = campaign_of(name), opened()
    items, users = checked("items"), checked("users")
    items = pl.DataFrame(schema={"item_id": pl.String}) if items is None else items
    made = messages.outgoing(pl.read_parquet(file), campaign, name, items, users)
    dear = campaign.approve_above is not None and found["cost"] > campaign.approve_above
    state = box.open(name, approved=not dear)
    return {"new": box.put(made), "messages": len(made), "state": state, "cost": found["cost"]}


def send(leap: bool = False, patience: float | None = None) -> float | None:
    """See marketing/sending.send; leap: as if it were always the time of the next message."""
    clock = sending.Leaping() if leap else sending.Clock()
    return sending.send(opened(), channels(), clock, patience, lambda sent: print(f"sent {sent:,}", file=sys.stderr, flush=True))


def is_over(name: str) -> bool:
    """Is nothing of a campaign left to be sent?"""
    counts = opened().counts(name)
    return not any(counts.get(state) for state in (outbox.WAITING, outbox.LEASED, outbox.SENDING))


def is_answered(name: str) -> bool:
    """Have the newest messages had their days to be answered?"""
    return time.time() >= (campaign_of(name).ends + timedelta(days=settings.load().uplift.answer_days)).timestamp()


def open_campaigns() -> list[str]:
    """The campaigns that can be used and whose days are not over."""
    found = []
    for file in files():
        try:
            found += [file.stem] if read(file).ends.timestamp() > time.time() else []
        except StageError as error:
            print(f"{file} cannot be used: {error}", file=sys.stderr)
    return found


def preview(name: str, user: str | None = None) -> dict[str, dict[str, str]]:
    """A message by each channel, as it would be written to the first shopper whom the plan names, or to this one; and is anything wrong with a template?"""
    user = user and people().known_as(user)
    campaign, plan = campaign_of(name), pl.read_parquet(PLANS / f"{name}.parquet").filter(pl.col("item_id").is_not_null())
    rows = plan.filter(user_id=user) if user else plan
    if rows.is_empty():
        raise DeliveryError(f"the plan of {name} has no message{f' for {user}' if user else ''}")
    row = rows.row(0, named=True)
    items, users = checked("items"), checked("users")
    values = {"user_id": row["user_id"], "item_id": row["item_id"], "campaign": name}
    for table, key in ((users, "user_id"), (items, "item_id")):
        if table is not None and not (found := table.filter(pl.col(key) == row[key])).is_empty():
            values = found.row(0, named=True) | values
    return {channel: messages.written(campaign, name, channel, values) for channel in campaign.channels}


def test(name: str, user: str) -> str:
    """Sends one message of the campaign to a shopper, by the first of its channels, past the plan, once for each call."""
    campaign, now, user = campaign_of(name), time.time(), people().known_as(user)
    channel = campaign.channels[0]
    body = preview(name)[channel]
    message = outbox.Message(f"{name} test {now!r}", user, 0, None, channel, campaign.topic, body, now, now + 600)
    channels()[channel].deliver(message.key, message)
    return f"sent by {channel} to {user}: {body['text']}"


def hold(name: str, state: str, why: str) -> str:
    """Approves, pauses, resumes or stops a campaign, and says exactly what will and will not go out."""
    counts = opened().set_state(name, state, os.environ.get("USER") or "unknown", why)
    sent, waits = counts.get(outbox.SENT, 0), counts.get(outbox.WAITING, 0) + counts.get(outbox.LEASED, 0)
    on_way = counts.get(outbox.SENDING, 0) + counts.get(outbox.UNSURE, 0)
    fate = {outbox.RUNNING: "will be sent", outbox.PAUSED: "will wait until it is resumed", outbox.STOPPED: "will be sent"}[state]
    lines = [f"{name} is {state}", f"{sent:,} messages were sent", f"{waits:,} {fate}"]
    if state == outbox.STOPPED:
        lines[-1] = f"{counts.get(outbox.CANCELLED, 0):,} will not be sent"
    if on_way:
        lines.append(f"{on_way:,} are on their way and cannot be held")
    return "; ".join(lines)


def status(name: str) -> str:
    """What became of a campaign's messages."""
    box = opened()
    state = box.state(name)
    if state is None:
        raise DeliveryError(f"no campaign {name} has messages in the outbox")
    lines = [f"{name}: {state}", *(f"  {count:>9,} {what}" for what, count in sorted(box.counts(name).items()))]
    return "\n".join(lines + [f"  {count:>9,} of them: {why}" for why, count in sorted(box.reasons(name).items())])


def log(name: str, out: Path) -> str:
    """Writes what was sent of a campaign and what chance held out as events, with the chance of each: what the next plan learns from, beside the shop's own events."""
    sent = pl.DataFrame(opened().sent(name), schema={"key": pl.String, "user_id": pl.String, "item_id": pl.String, "channel": pl.String, "sent_at": pl.Float64,
                                                     "propensity": pl.Float64, "expected": pl.Float64})  # fmt: skip
    at = (pl.col("sent_at") * 1e6).cast(pl.Int64).cast(TIMESTAMP)
    held = pl.read_parquet(PLANS / f"{name}.parquet").filter(outcome="held out")
    rows = pl.concat(
        [
            sent.select(
                "user_id",
                "item_id",
                "channel",
                "propensity",
                "expected",
                event=pl.lit("impression"),
                timestamp=at,
                request_id="key",
            ),
            held.select(
                "user_id",
                "item_id",
                "channel",
                "propensity",
                expected=pl.col("extra") * pl.col("money"),
                event=pl.lit("holdout"),
                timestamp="send_at",
            ),
        ],
        how="diagonal",
    ).with_columns(campaign_id=pl.lit(name))
    rows.write_csv(out) if out.suffix == ".csv" else rows.write_parquet(out)
    return f"{len(sent):,} messages and {len(held):,} that were held out are in {out}"


def opt_outs(add: Path | None) -> str:
    """Takes a list of opt-outs in, or gives all of them."""
    box = opened()
    if add is None:
        return "\n".join(["user_id,channel,topic", *(",".join(row) for row in box.opt_outs())])
    with add.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and "user_id" not in rows[0]:
        raise DeliveryError(f"{add} has no column user_id")
    known = people().added(row["user_id"] for row in rows)
    for row in rows:
        box.opt_out(
            known.get(row["user_id"], row["user_id"]),
            time.time(),
            row.get("channel") or outbox.ALL,
            row.get("topic") or outbox.ALL,
        )
    return f"{len(rows):,} opt-outs are kept"


def listen(port: int) -> None:
    """Answers the links by which shoppers opt out, until it is stopped."""
    import uvicorn

    from pipelines.delivery import server

    print(f"http://127.0.0.1:{port}/unsubscribe/TOKEN is answered; Ctrl-C stops it", flush=True)
    uvicorn.run(
        server.app(unsubscribing.secret(checkout() / ".outbox"), opened, people()),
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
    )


def main() -> None:
    cli = argparse.ArgumentParser(
        prog="pushcart campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    does = cli.add_subparsers(dest="does", required=True)
    for name in ("preview", "test", "fill", "status", "approve", "pause", "resume", "stop", "approved", "send", "answered"):
        one = does.add_parser(name)
        one.add_argument("campaign")
        if name in STATES:
            one.add_argument("--why", required=True)
        if name in ("preview", "test"):
            one.add_argument("--user", required=name == "test")
        if name in ("send", "answered"):
            one.add_argument("--leap", action="store_true")
        if name == "send":
            one.add_argument("--patience", type=float)
    logs = does.add_parser("log")
    logs.add_argument("campaign")
    logs.add_argument("--out", type=Path, required=True)
    does.add_parser("opt-outs").add_argument("--add", type=Path)
    does.add_parser("complaints").add_argument("--settle", metavar="HANDOVER")
    does.add_parser("handovers").add_argument("--correct", nargs=2, metavar=("HANDOVER", "INTENT"))
    does.add_parser("open")
    does.add_parser("listen").add_argument("--port", type=int, default=3100)
    asked = cli.parse_args()
    try:
        done = answered(asked)
    except (
        DeliveryError,
        StageError,
        outbox.OutboxError,
        messages.TemplateError,
        settings.SettingsError,
        ways.NotNow,
        ways.Refused,
        VaultError,
        ValueError,
    ) as error:
        if asked.does in ("fill", "approved", "send"):
            write_json(REFUSAL, {"stage": asked.does, "reason": str(error)})
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NEVER_RETRY)
    sys.exit(0 if done else NOT_YET)


def answered(asked: argparse.Namespace) -> bool:
    """Does what is asked; False: not yet."""
    name = getattr(asked, "campaign", "")
    if asked.does in STATES:
        print(hold(name, STATES[asked.does], asked.why))
    elif asked.does == "approved":
        state = opened().state(name)
        print(f"{name}: {state}")
        return state != outbox.UNAPPROVED
    elif asked.does == "send":
        send(asked.leap, None if asked.leap else asked.patience)
        print(status(name))
        return is_over(name)
    elif asked.does == "answered":
        return asked.leap or is_answered(name)
    elif asked.does == "log":
        print(log(name, asked.out))
    elif asked.does == "opt-outs":
        print(opt_outs(asked.add))
    elif asked.does == "complaints":
        print(settle(asked.settle))
    elif asked.does == "handovers":
        print(correct(*asked.correct) if asked.correct else hand_over())
    elif asked.does == "listen":
        listen(asked.port)
    elif asked.does == "open":
        print(json.dumps(open_campaigns()))
    elif asked.does == "fill":
        found = fill(name)
        print(f"{found['new']:,} of {found['messages']:,} messages are new in the outbox; {name}: {found['state']}")
    elif asked.does == "preview":
        print(json.dumps(preview(name, asked.user), indent=1, ensure_ascii=False))
    elif asked.does == "test":
        print(test(name, asked.user))
    else:
        print(status(name))
    return True


if __name__ == "__main__":
    main()
