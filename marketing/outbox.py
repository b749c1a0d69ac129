"""What is to be sent and what was: a message goes out once, or it is known why not.

In: rows of a plan, made into messages; opt-outs. Out: messages that are due, leased to a sender for a while; their state. SQLite in WAL mode, or PostgreSQL by its URL. Knows no
channels.

A message is known by its key, made of campaign, shopper and step; putting it twice puts it once. A sender leases messages, asks of each at the last moment whether anything hinders it, sends it
with its key, and confirms. A lease that ran out is given to another sender with the same key, by which the receiver knows it again; where a channel cannot know it again,
a message whose sender died while sending is `unsure` and left to a person. Beside the database stands a journal of what was confirmed and who opted out, a line each: an outbox
that is brought back from yesterday learns from it what happened since.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from marketing.campaigns import ContactLimit
from privacy.overwriting import overwrite

WAITING, LEASED, SENDING, SENT, CANCELLED, FAILED, UNSURE = (
    "waiting",
    "leased",
    "sending",
    "sent",
    "cancelled",
    "failed",
    "unsure",
)
RUNNING, PAUSED, STOPPED, UNAPPROVED = "running", "paused", "stopped", "waits for approval"
ALL = "*"  # of channels or topics: every one
SERVICE = "service"  # the topic of what goes to the shop's own people about a shopper: nothing that shoppers say hinders it
LOCK = 20_260_301  # of PostgreSQL's advisory locks, the outbox's own
MOST_TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 2.0, 3600.0  # seconds after a first failure; doubled each time

_tables = sa.MetaData()
MESSAGES = sa.Table(
    "messages", _tables,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("campaign", sa.String(80), nullable=False),
    sa.Column("user_id", sa.String(512), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("item_id", sa.String(512)),
    sa.Column("channel", sa.String(80), nullable=False),
    sa.Column("topic", sa.String(80), nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON: subject, text, link
    sa.Column("propensity", sa.Float),
    sa.Column("expected", sa.Float),
    sa.Column("send_at", sa.Float, nullable=False),  # seconds since 1970, as all times here
    sa.Column("until", sa.Float, nullable=False),  # too late afterwards
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("owner", sa.String(80)),
    sa.Column("reason", sa.Text),
    sa.Column("sent_at", sa.Float),
    sa.UniqueConstraint("campaign", "user_id", "step"),
    sa.Index("due", "state", "next_at"),
    sa.Index("contacts", "user_id", "sent_at"),
)  # fmt: skip
CAMPAIGNS = sa.Table(
    "campaigns", _tables,
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("state", sa.String(30), nullable=False),
    sa.Column("who", sa.Text),
    sa.Column("why", sa.Text),
)  # fmt: skip
OPT_OUTS = sa.Table(
    "opt_outs", _tables,
    sa.Column("user_id", sa.String(512), primary_key=True),
    sa.Column("channel", sa.String(80), primary_key=True),
    sa.Column("topic", sa.String(80), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)  # fmt: skip


class OutboxError(Exception):
    """The outbox cannot be used, or what is asked of it cannot be done; the message says why."""


@dataclass(frozen=True)
class Message:
    """What goes to one shopper."""

    campaign: str
    user_id: str
    step: int  # of the campaign to this shopper, from 0
    item_id: str | None
    channel: str
    topic: str
    body: dict[str, str]  # subject, text, link
    send_at: float
    until: float
    propensity: float | None = None
    expected: float | None = None  # money that it is to bring, its cost not taken off

    @property
    def key(self) -> str:
        """By which sender and receiver know it again."""
        return hashlib.sha256("\0".join((self.campaign, self.user_id, str(self.step))).encode()).hexdigest()[:40]


class Outbox:
    """See the module. Every method is one transaction; several processes may use an outbox at once."""

    def __init__(
        self,
        url: str,
        journal: Path | None = None,
        contacts: Sequence[ContactLimit] = (),
        complains: Callable[[str], bool] = lambda _: False,
        ids: Callable[[str], Sequence[str]] = lambda user_id: (user_id,),
    ):
        """url: of SQLAlchemy, such as sqlite:///outbox.sqlite or postgresql+psycopg://host/base. journal: a file of what was confirmed, beside it. complains: whether a shopper has an open complaint: they are sent nothing. ids: all ids of whoever has one: opt-outs, complaints and limits hold for the person."""
        self.engine = sa.create_engine(
            url, future=True, **({"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {})
        )
        self.lite, self.journal, self.contacts = url.startswith("sqlite"), journal, tuple(contacts)
        self._complains, self._ids = complains, ids
        if self.lite:
            sa.event.listen(self.engine, "connect", _wal)
        alone = "BEGIN IMMEDIATE" if self.lite else f"SELECT pg_advisory_xact_lock({LOCK})"  # one transaction at a time
        sa.event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql(alone))
        with self.engine.begin() as t:
            _tables.create_all(t)
            there = {column["name"] for column in sa.inspect(t).get_columns(MESSAGES.name)}
            for column in set(MESSAGES.columns.keys()) - there:  # an outbox of an older version
                t.execute(
                    sa.DDL(
                        f"ALTER TABLE {MESSAGES.name} ADD COLUMN {column} {MESSAGES.c[column].type.compile(self.engine.dialect)}"
                    )
                )
        self._learn_from_journal()

    # Campaigns

    def open(self, campaign: str, approved: bool = True) -> str:
        """The state of a campaign, which is made where it is new: running, or waiting for approval."""
        with self.engine.begin() as t:
            self._ignore(t, CAMPAIGNS, [{"name": campaign, "state": RUNNING if approved else UNAPPROVED}])
            return t.execute(sa.select(CAMPAIGNS.c.state).where(CAMPAIGNS.c.name == campaign)).scalar_one()

    def state(self, campaign: str) -> str | None:
        """A campaign's state; None: there is none of this name."""
        with self.engine.begin() as t:
            return t.execute(sa.select(CAMPAIGNS.c.state).where(CAMPAIGNS.c.name == campaign)).scalar()

    def set_state(self, campaign: str, state: str, who: str, why: str) -> dict[str, int]:
        """Approves, pauses, resumes or stops a campaign, and says how many of its messages are in each state: what was sent, what is on its way and cannot be held, what will go out or
        not. Stopping is for good: what waits is cancelled.

        Raises:
            OutboxError: there is no such campaign, or it was stopped.
        """
        with self.engine.begin() as t:
            now = t.execute(sa.select(CAMPAIGNS.c.state).where(CAMPAIGNS.c.name == campaign)).scalar()
            if now is None:
                raise OutboxError(f"no campaign {campaign} has messages in this outbox")
            if now == STOPPED and state != STOPPED:
                raise OutboxError(f"{campaign} was stopped; what was not sent is cancelled and stays so")
            t.execute(sa.update(CAMPAIGNS).where(CAMPAIGNS.c.name == campaign).values(state=state, who=who, why=why))
            if state == STOPPED:
                mine = (MESSAGES.c.campaign == campaign) & MESSAGES.c.state.in_([WAITING, LEASED])
                t.execute(sa.update(MESSAGES).where(mine).values(state=CANCELLED, reason="the campaign was stopped", owner=None))
            return self._counts(t, campaign)

    def counts(self, campaign: str) -> dict[str, int]:
        """How many messages of a campaign are in each state."""
        with self.engine.begin() as t:
            return self._counts(t, campaign)

    def reasons(self, campaign: str) -> dict[str, int]:
        """Why messages of a campaign were not sent, and how many."""
        kept = (MESSAGES.c.campaign == campaign) & MESSAGES.c.reason.is_not(None) & (MESSAGES.c.state != SENT)
        with self.engine.begin() as t:
            return dict(
                t.execute(sa.select(MESSAGES.c.reason, sa.func.count()).where(kept).group_by(MESSAGES.c.reason)).tuples().all()
            )

    def _counts(self, t: sa.Connection, campaign: str) -> dict[str, int]:
        counted = sa.select(MESSAGES.c.state, sa.func.count()).where(MESSAGES.c.campaign == campaign).group_by(MESSAGES.c.state)
        return dict(t.execute(counted).tuples().all())

    # Messages

    def put(self, messages: Iterable[Message]) -> int:
        """Adds messages; those that are there already stay as they are. How many are new."""
        rows = [
            asdict(m) | {"key": m.key, "body": json.dumps(m.body, ensure_ascii=False), "state": WAITING, "tries": 0, "next_at": m.send_at}
            for m in messages
        ]  # fmt: skip
        with self.engine.begin() as t:
            before = t.execute(sa.select(sa.func.count()).select_from(MESSAGES)).scalar_one()
            for start in range(0, len(rows), 500):
                self._ignore(t, MESSAGES, rows[start : start + 500])
            added = t.execute(sa.select(sa.func.count()).select_from(MESSAGES)).scalar_one() - before
        self._learn_from_journal()
        return added

    def lease(self, owner: str, now: float, most: int = 50, seconds: float = 60.0) -> list[tuple[str, Message]]:
        """Messages of running campaigns that are due, and those whose lease ran out, with their keys; nobody else gets them for so many seconds."""
        due = MESSAGES.c.state.in_([WAITING, LEASED]) & (MESSAGES.c.next_at <= now)
        running = sa.select(CAMPAIGNS.c.name).where(CAMPAIGNS.c.state == RUNNING)
        wanted = (
            sa.select(MESSAGES)
            .where(due, MESSAGES.c.campaign.in_(running))
            .order_by(MESSAGES.c.next_at, MESSAGES.c.key)
            .limit(most)
        )
        with self.engine.begin() as t:
            rows = t.execute(wanted).mappings().all()
            if rows:
                mine = MESSAGES.c.key.in_([row["key"] for row in rows])
                t.execute(sa.update(MESSAGES).where(mine).values(state=LEASED, owner=owner, next_at=now + seconds))
        return [(row["key"], _message(row)) for row in rows]

    def begin(self, key: str, owner: str, now: float) -> str | None:
        """Asked at the last moment before sending: None where nothing hinders the message, which is then being sent; else why it must not go out. Who opted out, whoever was contacted often
        enough and whatever is too late is cancelled; what a paused campaign holds back waits on.
        """
        with self.engine.begin() as t:
            row = t.execute(sa.select(MESSAGES).where(MESSAGES.c.key == key)).mappings().one()
            if row["state"] not in (LEASED, SENDING) or row["owner"] != owner:
                return "another sender has it"
            state = t.execute(sa.select(CAMPAIGNS.c.state).where(CAMPAIGNS.c.name == row["campaign"])).scalar()
            if state != RUNNING:
                self._set(t, key, state=WAITING, owner=None, next_at=row["send_at"])
                return f"the campaign is {state}"
            if reason := self._hindrance(t, row, now):
                self._set(t, key, state=CANCELLED, owner=None, reason=reason)
                return reason
            self._set(t, key, state=SENDING, tries=row["tries"] + 1)
            return None

    def _hindrance(self, t: sa.Connection, row: sa.RowMapping, now: float) -> str | None:
        if row["topic"] == SERVICE:
            return "too late" if now > row["until"] else None
        out, ids = OPT_OUTS.c, list(self._ids(row["user_id"]))
        mine = out.user_id.in_(ids) & out.channel.in_([row["channel"], ALL]) & out.topic.in_([row["topic"], ALL])
        if t.execute(sa.select(sa.func.count()).where(mine)).scalar_one():
            return "opted out"
        if any(self._complains(one) for one in ids):
            return "a complaint is open"
        if now > row["until"]:
            return "too late: the campaign is over"
        for limit in self.contacts:
            if limit.channel not in (None, row["channel"]):
                continue
            sent = MESSAGES.c.user_id.in_(ids) & MESSAGES.c.state.in_([SENT, SENDING, UNSURE]) & (MESSAGES.c.key != row["key"])
            sent &= MESSAGES.c.topic != SERVICE
            sent &= sa.func.coalesce(MESSAGES.c.sent_at, now) > now - limit.days * 86400
            if limit.channel is not None:
                sent &= MESSAGES.c.channel == limit.channel
            if t.execute(sa.select(sa.func.count()).where(sent)).scalar_one() >= limit.at_most:
                return f"contacted often enough: {limit.at_most} in {limit.days:g} days"
        return None

    def confirm(self, key: str, now: float) -> None:
        """The message is with its receiver."""
        self._note({"sent": key, "at": now})
        with self.engine.begin() as t:
            self._set(t, key, state=SENT, sent_at=now, owner=None, reason=None)

    def retry(self, key: str, now: float, reason: str) -> None:
        """The message did not get through: it is tried again later, each time after twice as long; after MOST_TRIES it failed."""
        with self.engine.begin() as t:
            tries = t.execute(sa.select(MESSAGES.c.tries).where(MESSAGES.c.key == key)).scalar_one()
            wait = min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT)
            state = WAITING if tries < MOST_TRIES else FAILED
            self._set(t, key, state=state, owner=None, next_at=now + wait, reason=reason)

    def fail(self, key: str, reason: str) -> None:
        """The receiver will never take the message."""
        with self.engine.begin() as t:
            self._set(t, key, state=FAILED, owner=None, reason=reason)

    def take_back(self, now: float, known_again: Sequence[str]) -> None:
        """What senders that died were sending when their lease ran out: by channels that know a message again, it is sent again; else it is unsure."""
        stuck = (MESSAGES.c.state == SENDING) & (MESSAGES.c.next_at <= now)
        again = MESSAGES.c.channel.in_(known_again)
        with self.engine.begin() as t:
            t.execute(sa.update(MESSAGES).where(stuck, again).values(state=WAITING, owner=None))
            reason = "its sender died while sending: it may be with its receiver or not"
            t.execute(sa.update(MESSAGES).where(stuck, ~again).values(state=UNSURE, owner=None, reason=reason))

    def next_due(self) -> float | None:
        """When the next message of a running campaign is due or its lease runs out; None: there is none."""
        running = sa.select(CAMPAIGNS.c.name).where(CAMPAIGNS.c.state == RUNNING)
        left = MESSAGES.c.state.in_([WAITING, LEASED, SENDING]) & MESSAGES.c.campaign.in_(running)
        with self.engine.begin() as t:
            return t.execute(sa.select(sa.func.min(MESSAGES.c.next_at)).where(left)).scalar()

    def sent(self, campaign: str) -> list[dict]:
        """What was sent of a campaign: user_id, item_id, channel, sent_at, propensity, expected, key."""
        names = ("key", "user_id", "item_id", "channel", "sent_at", "propensity", "expected")
        wanted = sa.select(*(MESSAGES.c[name] for name in names)).where(MESSAGES.c.campaign == campaign, MESSAGES.c.state == SENT)
        with self.engine.begin() as t:
            return [dict(row) for row in t.execute(wanted.order_by(MESSAGES.c.sent_at, MESSAGES.c.key)).mappings()]

    # Opt-outs

    def opt_out(self, user_id: str, now: float, channel: str = ALL, topic: str = ALL) -> None:
        """From now on nothing goes to the shopper by this channel on this topic."""
        self._note({"out": [user_id, channel, topic], "at": now})
        with self.engine.begin() as t:
            self._ignore(t, OPT_OUTS, [{"user_id": user_id, "channel": channel, "topic": topic, "at": now}])

    def opt_in(self, user_id: str, channel: str = ALL, topic: str = ALL) -> None:
        """Takes an opt-out back."""
        self._note({"in": [user_id, channel, topic]})
        with self.engine.begin() as t:
            t.execute(
                sa.delete(OPT_OUTS).where(OPT_OUTS.c.user_id == user_id, OPT_OUTS.c.channel == channel, OPT_OUTS.c.topic == topic)
            )

    def opt_outs(self) -> list[tuple[str, str, str]]:
        """All of them: user_id, channel, topic."""
        wanted = sa.select(OPT_OUTS.c.user_id, OPT_OUTS.c.channel, OPT_OUTS.c.topic).order_by(*OPT_OUTS.c)
        with self.engine.begin() as t:
            return list(t.execute(wanted).tuples())

    # Shoppers

    def told(self, user_ids: Sequence[str]) -> dict[str, list[dict]]:
        """All that is kept of a shopper: messages and opt-outs, as rows."""
        with self.engine.begin() as t:
            return {
                table.name: [dict(row) for row in t.execute(sa.select(table).where(table.c.user_id.in_(user_ids))).mappings()]
                for table in (MESSAGES, OPT_OUTS)
            }

    def forget(self, user_ids: Sequence[str]) -> int:
        """Removes all that is kept of a shopper, what waits to be sent too; how many rows. Of a file of SQLite nothing of it stays behind."""
        with self.engine.begin() as t:
            keys = t.execute(sa.select(MESSAGES.c.key).where(MESSAGES.c.user_id.in_(user_ids))).scalars().all()
            count = sum(
                t.execute(sa.delete(table).where(table.c.user_id.in_(user_ids))).rowcount for table in (MESSAGES, OPT_OUTS)
            )
        if self.journal is not None and self.journal.exists():
            theirs = {json.dumps(told, ensure_ascii=False).encode() for told in (*keys, *user_ids)}
            overwrite(self.journal, lambda line: b"" if any(told in line for told in theirs) else None)
        self._shrink()
        return count

    def expire(self, before: float) -> int:
        """Removes messages that could be sent until a moment (seconds) at the latest; how many. Opt-outs stay, and whether a message was sent does not matter any more: none is sent after its end."""
        with self.engine.begin() as t:
            count = t.execute(sa.delete(MESSAGES).where(MESSAGES.c.until < before)).rowcount
        if count:
            self._shrink()
        return count

    # Below

    def _shrink(self) -> None:
        """Leaves nothing of removed rows in a file of SQLite."""
        if self.lite:
            base = self.engine.raw_connection()
            base.cursor().execute("VACUUM")
            base.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            base.close()

    def _set(self, t: sa.Connection, key: str, **values: object) -> None:
        t.execute(sa.update(MESSAGES).where(MESSAGES.c.key == key).values(**values))

    def _ignore(self, t: sa.Connection, table: sa.Table, rows: list[dict]) -> None:
        """Inserts rows, but for those that are there."""
        from sqlalchemy.dialects import postgresql, sqlite

        t.execute((sqlite if self.lite else postgresql).insert(table).on_conflict_do_nothing(), rows)

    def _note(self, line: dict) -> None:
        """A line of the journal, on disk before anything else is done."""
        if self.journal is not None:
            with self.journal.open("ab") as file:
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())

    def _learn_from_journal(self) -> None:
        """What the journal says happened and the outbox does not know of."""
        if self.journal is None or not self.journal.exists():
            return
        sent, out = {}, {}
        for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                told = json.loads(line)
            except ValueError:  # the last one, where power failed
                continue
            if "sent" in told:
                sent[told["sent"]] = told["at"]
            else:
                out[tuple(told.get("out") or told["in"])] = told.get("at")  # None: taken back
        with self.engine.begin() as t:
            unsent = t.execute(sa.select(MESSAGES.c.key).where(MESSAGES.c.state != SENT)).scalars().all()
            for key in sent.keys() & set(unsent):
                self._set(t, key, state=SENT, sent_at=sent[key], owner=None, reason=None)
            rows = [{"user_id": u, "channel": c, "topic": s, "at": at} for (u, c, s), at in out.items() if at is not None]
            if rows:
                self._ignore(t, OPT_OUTS, rows)


def _message(row: sa.RowMapping) -> Message:
    names = ("campaign", "user_id", "step", "item_id", "channel", "topic", "send_at", "until", "propensity", "expected")
    return Message(**{name: row[name] for name in names}, body=json.loads(row["body"]))


def _wal(connection, _) -> None:
    """As SQLAlchemy advises, so that a transaction locks when it begins; writes are on disk when a transaction ends."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
