"""A message goes out once, or it is known why not: whoever is killed, whatever is asked in between."""

import os
import shutil
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks import sending as kills
from deploy.platform import processes
from marketing import outbox, sending
from marketing.campaigns import ContactLimit
from marketing.channels import NotNow, Refused
from marketing.outbox import Message, Outbox, OutboxError


def message(
    user: str,
    campaign: str = "spring",
    step: int = 0,
    at: float = 100.0,
    channel: str = "app",
    topic: str = "offers",
    until: float = 1e9,
) -> Message:
    return Message(campaign, user, step, "tea", channel, topic, {"subject": "", "text": "hello", "link": ""}, at, until, 0.9)


@pytest.fixture(scope="session")
def postgres():
    """A server of PostgreSQL of these tests alone."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *(Path(p) for p in [shutil.which("initdb")] if p)]
    if not found:
        pytest.skip("PostgreSQL's initdb is not here: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    folder, port = Path(tempfile.mkdtemp(prefix="pushcart-")), processes.free_port()
    if user:
        shutil.chown(folder, user)
    run = {"user": user, "check": True, "capture_output": True, "cwd": folder}
    subprocess.run([found[0], "-D", folder / "data", "-U", "test", "-A", "trust", "--no-sync"], **run)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = found[0].with_name("pg_ctl")
    subprocess.run(
        [control, "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start"], **run | {"capture_output": False}
    )
    yield f"postgresql+psycopg://test@127.0.0.1:{port}"
    subprocess.run([control, "-D", folder / "data", "-m", "immediate", "stop"], **run)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def box(tmp_path: Path, request: pytest.FixtureRequest) -> Outbox:
    url = f"sqlite:///{tmp_path}/outbox.sqlite"
    if request.param == "postgresql":
        server, name = request.getfixturevalue("postgres"), f"box{uuid.uuid4().hex}"
        with sa.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        url = f"{server}/{name}"
    made = Outbox(url, tmp_path / "journal")
    made.open("spring")
    return made


def test_an_outbox_of_an_older_version_is_used_on(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/outbox.sqlite"
    old = Outbox(url)
    old.open("spring")
    old.put([message("a")])
    with old.engine.begin() as t:
        t.execute(sa.text("ALTER TABLE messages DROP COLUMN expected"))
    new = Outbox(url)
    assert new.put([message("a"), message("b")]) == 1
    assert {m.user_id for _, m in new.lease("w", 200.0)} == {"a", "b"}


class Notebook:
    """A channel that writes down what it got; it may be told to fail."""

    known_again = True

    def __init__(self, *moods: Exception | None):
        self.got, self.moods, self.lock = [], list(moods), threading.Lock()

    def deliver(self, key: str, message: Message) -> None:
        with self.lock:
            mood = self.moods.pop(0) if self.moods else None
            if mood is not None:
                raise mood
            self.got.append(message.user_id)


def test_putting_twice_puts_once_and_sending_twice_sends_once(box: Outbox):
    made = [message(f"u{n}") for n in range(100)]
    assert (box.put(made), box.put(made)) == (100, 0)
    app = Notebook()
    for _ in range(2):
        assert sending.send(box, {"app": app}, sending.Leaping(200.0)) is None
    assert sorted(app.got) == sorted(m.user_id for m in made)
    assert box.counts("spring") == {"sent": 100}
    assert len(box.sent("spring")) == 100


def test_what_is_leased_is_nobody_else_s_until_the_lease_runs_out(box: Outbox):
    box.put([message("a"), message("b", at=300.0)])
    [(key, found)] = box.lease("one", 200.0, seconds=60)
    assert found == message("a")
    assert box.lease("two", 201.0) == []
    assert box.begin(key, "two", 201.0) == "another sender has it"
    assert [k for k, _ in box.lease("two", 261.0)] == [key]
    assert box.begin(key, "one", 262.0) == "another sender has it"
    assert box.begin(key, "two", 262.0) is None


def test_a_sender_that_died_while_sending_is_followed_by_another_where_the_receiver_knows_keys_again(box: Outbox):
    box.put([message("a"), message("b", channel="mail")])
    for key, _ in box.lease("dead", 200.0, seconds=60):
        assert box.begin(key, "dead", 200.0) is None
    box.take_back(250.0, ["app"])
    assert box.counts("spring") == {"sending": 2}
    box.take_back(260.0, ["app"])
    assert box.counts("spring") == {"waiting": 1, "unsure": 1}


def test_an_opt_out_is_honoured_up_to_the_moment_of_sending(box: Outbox):
    box.put([message(user, topic=topic) for user, topic in (("a", "offers"), ("b", "offers"), ("c", "news"), ("d", "offers"))])
    leased = box.lease("me", 200.0)
    box.opt_out("a", 201.0)
    box.opt_out("b", 201.0, channel="mail")
    box.opt_out("c", 201.0, topic="offers")
    box.opt_out("d", 201.0, channel="app", topic="offers")
    hindered = {m.user_id: box.begin(key, "me", 202.0) for key, m in leased}
    assert hindered == {"a": "opted out", "b": None, "c": None, "d": "opted out"}
    box.opt_in("a")
    assert box.opt_outs() == [("b", "mail", "*"), ("c", "*", "offers"), ("d", "app", "offers")]


def test_contacts_are_counted_over_a_sliding_window_and_all_campaigns(tmp_path: Path):
    box = Outbox(f"sqlite:///{tmp_path}/o.sqlite", None, [ContactLimit(2, 7), ContactLimit(1, 7, "sms")])
    day = 86400.0
    for name in ("spring", "summer"):
        box.open(name)
    box.put(
        [message("a", "spring", step, at=step * day) for step in range(3)]
        + [message("a", "summer", step, at=(6.5 + step) * day) for step in range(2)]
    )
    box.put([message("b", "spring", step, at=step * day, channel="sms") for step in range(2)])
    sending.send(box, {"app": Notebook(), "sms": Notebook()}, sending.Leaping())
    assert [row["sent_at"] / day for row in box.sent("spring") if row["user_id"] == "a"] == [0.0, 1.0]
    assert [row["sent_at"] / day for row in box.sent("summer")] == [7.5]  # at 6.5 two were sent within seven days, at 7.5 one
    assert [row["sent_at"] / day for row in box.sent("spring") if row["user_id"] == "b"] == [0.0]
    assert box.reasons("spring") == {"contacted often enough: 2 in 7 days": 1, "contacted often enough: 1 in 7 days": 1}


def test_opt_outs_complaints_and_limits_hold_for_the_person_whatever_the_id(tmp_path: Path):
    ids = {"web": ["app", "web"], "app": ["app", "web"]}
    complains = {"counter"}
    box = Outbox(
        f"sqlite:///{tmp_path}/o.sqlite",
        None,
        [ContactLimit(1, 7)],
        lambda user: user in complains,
        lambda user: ids.get(user, [user]),
    )
    for name in ("spring", "summer"):
        box.open(name)
    box.put([message("web", "spring", 0), message("app", "summer", 0, at=3600.0), message("other", "spring", 0)])
    sending.send(box, {"app": Notebook()}, sending.Leaping())
    assert {row["user_id"] for name in ("spring", "summer") for row in box.sent(name)} == {"web", "other"}
    assert box.reasons("summer") == {"contacted often enough: 1 in 7 days": 1}
    box.opt_out("app", 5.0)
    box.put([message("web", "spring", 1, at=9e6)])
    ids["other"] = ["other", "counter"]
    box.put([message("other", "spring", 1, at=9e6)])
    sending.send(box, {"app": Notebook()}, sending.Leaping())
    assert box.reasons("spring") == {"opted out": 1, "a complaint is open": 1}


def test_pause_resume_and_stop_say_what_goes_out(box: Outbox):
    box.put([message(f"u{n}", at=100.0 * n) for n in range(5)])
    app = Notebook()
    sending.send(box, {"app": app}, sending.Leaping(150.0), patience=0.0)
    leased = box.lease("me", 250.0)
    assert box.set_state("spring", outbox.PAUSED, "me", "a typo") == {"sent": 2, "leased": 1, "waiting": 2}
    assert box.begin(leased[0][0], "me", 250.0) == "the campaign is paused"
    assert sending.send(box, {"app": app}, sending.Leaping(1000.0)) is None
    box.set_state("spring", outbox.RUNNING, "me", "mended")
    sending.send(box, {"app": app}, sending.Leaping(250.0), patience=0.0)
    assert sorted(app.got) == ["u0", "u1", "u2"]
    assert box.set_state("spring", outbox.STOPPED, "me", "enough") == {"sent": 3, "cancelled": 2}
    with pytest.raises(OutboxError, match="was stopped"):
        box.set_state("spring", outbox.RUNNING, "me", "again")
    with pytest.raises(OutboxError, match="no campaign autumn"):
        box.set_state("autumn", outbox.PAUSED, "me", "?")


def test_nothing_goes_out_before_approval_or_after_the_campaign(tmp_path: Path):
    box = Outbox(f"sqlite:///{tmp_path}/o.sqlite")
    assert box.open("dear", approved=False) == outbox.UNAPPROVED
    box.put([message("a", "dear"), message("b", "dear", until=150.0)])
    app = Notebook()
    sending.send(box, {"app": app}, sending.Leaping(200.0))
    assert app.got == []
    box.set_state("dear", outbox.RUNNING, "me", "agreed")
    sending.send(box, {"app": app}, sending.Leaping(200.0))
    assert app.got == ["a"]
    assert box.reasons("dear") == {"too late: the campaign is over": 1}


def test_what_does_not_get_through_is_tried_again_later_and_later(box: Outbox):
    box.put([message("a")])
    app, clock = Notebook(NotNow("answered 503"), NotNow("no answer"), None), sending.Leaping(100.0)
    assert sending.send(box, {"app": app}, clock) is None
    assert app.got == ["a"]
    assert clock.now() == pytest.approx(100 + 2 + 4, abs=0.2)
    box.put([message("b"), message("c"), message("d", channel="fax")])
    sending.send(box, {"app": Notebook(Refused("no address"), *[NotNow("no answer")] * 8)}, clock)
    assert box.counts("spring") == {"sent": 1, "failed": 3}
    assert set(box.reasons("spring")) == {
        "no address",
        "no answer",
        "nothing is said of the channel fax; see send.channels in params.yaml",
    }


def test_yesterday_s_outbox_learns_what_happened_since(tmp_path: Path):
    file, journal, made = tmp_path / "outbox.sqlite", tmp_path / "journal", [message(f"u{n}") for n in range(10)]
    box, app = Outbox(f"sqlite:///{file}", journal), Notebook()
    box.open("spring")
    box.put(made[:6])
    kills.backup(file, tmp_path / "yesterday.sqlite")
    sending.send(box, {"app": app}, sending.Leaping(200.0))
    box.opt_out("u9", 201.0)
    box.engine.dispose()
    with journal.open("ab") as half:
        half.write(b'{"sent": "half a li')
    for left in tmp_path.glob("outbox.sqlite*"):
        left.unlink()
    (tmp_path / "yesterday.sqlite").rename(file)
    box = Outbox(f"sqlite:///{file}", journal)
    assert box.counts("spring") == {"sent": 6}
    box.put(made)
    sending.send(box, {"app": app}, sending.Leaping(300.0))
    assert sorted(app.got) == [f"u{n}" for n in range(9)]


@pytest.mark.e2e
def test_killed_senders_lose_nothing_and_send_nothing_twice():
    found = kills.killed(8)
    assert found["double"] == found["lost"] == found["in_spite_of_opt_out"] == found["wrongly_signed"] == 0
    assert set(found["states"]) <= {outbox.SENT, outbox.CANCELLED}
    assert sum(found["states"].values()) == found["messages"]
