"""What a shopper may ask for: they leave every kind of file and nobody else does; all that is known of them is told."""

import csv
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.privacy.traces import traces
from deploy.cli import app
from deploy.platform import forgetting, linking
from deploy.serving.recommender import Recommender
from marketing.outbox import Message, Outbox
from online.intake import Intake
from pipelines import settings
from pipelines.artefact import without
from pipelines.artefact.catalogue import linked
from pipelines.data.identity.links import read_undone
from pipelines.rights import erasing, telling, versions
from pipelines.rights.__main__ import ids_of
from pipelines.rights.erasing import Names
from pipelines.rights.expiring import expire
from privacy.people import FORGOTTEN, People
from privacy.vault import Vault
from service.complaints import HANDOVERS, Complaints, keep
from tests.conftest import ROOT, run_stages


def erased(folder: Path, *names: str) -> set[str]:
    return {str(Path(done.place).relative_to(folder)) for done in erasing.erase(folder, Names(names))}


def test_rows_lines_and_names_go_and_those_of_others_stay(tmp_path: Path):
    pl.DataFrame({"user_id": ["u7", "u70", None], "visitor_id": [None, "v", "u7"], "n": [1, 2, 3]}).write_parquet(
        tmp_path / "t.parquet"
    )
    (tmp_path / "t.csv").write_text("user_id,quantity\nu7,1\n7,7\nu70,7\n")
    (tmp_path / "t.json").write_text('{"who": ["u7", "u70", "x-u7"], "n": 7}')
    (tmp_path / "t.jsonl").write_text(
        '{"user_id":"u7","received":5,"offset":3,"item_id":"a","timestamp":"2026-03-01T00:00:00+00:00","at":1.0}\n{"user_id":"u70"}\n{"user_id":"u7"'
    )
    size = (tmp_path / "t.jsonl").stat().st_size
    assert erased(tmp_path, "u7") == {"t.parquet", "t.csv", "t.json", "t.jsonl"}
    assert pl.read_parquet(tmp_path / "t.parquet")["n"].to_list() == [2]
    assert list(csv.reader((tmp_path / "t.csv").open())) == [["user_id", "quantity"], ["7", "7"], ["u70", "7"]]
    assert json.loads((tmp_path / "t.json").read_text()) == {"who": ["[erased]", "u70", "x-u7"], "n": 7}
    lines = (tmp_path / "t.jsonl").read_bytes().splitlines()
    assert json.loads(lines[0]) == {"refused": FORGOTTEN, "row": "", "received": 5, "offset": 3}
    assert (tmp_path / "t.jsonl").stat().st_size == size  # nobody's place in it moved
    assert erased(tmp_path, "u7") == set()


def test_an_id_that_is_a_number_is_not_taken_for_a_count(tmp_path: Path):
    (tmp_path / "t.json").write_text('{"rows": 7, "who": "7", "others": ["17", "70"]}')
    (tmp_path / "t.csv").write_text("user_id,quantity\n7,1\n8,7\n")
    assert erased(tmp_path, "7") == {"t.json", "t.csv"}
    assert json.loads((tmp_path / "t.json").read_text()) == {"rows": 7, "who": "[erased]", "others": ["17", "70"]}
    assert (tmp_path / "t.csv").read_text() == "user_id,quantity\n8,7\n"


def test_an_artefact_without_somebody_answers_all_others_as_before(run: Path):
    before = Recommender(run / "artefact")
    gone, other = before.histories.users[np.arange(2)]
    shoppers = before.manifest["shoppers"]
    expected = before.recommend(other), before.decide(other)
    shutil.copytree(run / "artefact", run / "copy/src/artefact")
    for name in ("README.md", "bento.yaml", "src/bentofile.yaml"):
        shutil.copy(run / "bento" / name, run / "copy" / name)
    assert without.rewrite(run / "copy/src/artefact", [gone])
    after = Recommender(run / "copy/src/artefact")
    assert after.manifest["shoppers"] == shoppers - 1
    assert after.version != before.version
    assert f"version: {after.version}" in (run / "copy/bento.yaml").read_text()
    assert after.recommend(gone).fallback == "popular"
    assert (after.recommend(other), after.decide(other)) == expected
    assert after.audience.of("1 = 1", 1000)[0] == before.audience.of("1 = 1", 1000)[0] - 1
    assert not any(gone.encode() in path.read_bytes() for path in (run / "copy").rglob("*") if path.is_file())
    assert not without.rewrite(run / "copy/src/artefact", [gone])


def test_versions_that_name_somebody_leave_cache_and_remote_and_their_tags_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    def do(*words: str) -> None:
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)

    dvc = (sys.executable, "-m", "dvc")
    do("git", "init", "-q")
    do(*dvc, "init", "-q")
    do(*dvc, "remote", "add", "-d", "far", str(tmp_path / "far"))
    (tmp_path / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo\n    outs: [with, other]\n")
    for name, users in (("with", ["u7", "u8"]), ("other", ["u8"])):
        (tmp_path / name).mkdir()
        pl.DataFrame({"user_id": users}).write_parquet(tmp_path / name / "t.parquet")
    do(*dvc, "commit", "-f", "-q")
    do("git", "add", "-A")
    do("git", "-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "-qm", "one")
    do("git", "tag", "production-1")
    do(*dvc, "push", "-q")
    done = {one.place: one.count for one in versions.erase(tmp_path, Names(["u7"]))}
    assert done == {"the DVC cache": 2, "the DVC remote far": 2, "the tag production-1": 1}
    told = subprocess.run(["git", "tag", "-l", "--format=%(contents)"], capture_output=True, text=True, check=True).stdout
    assert told.strip() == versions.ERASED
    left = [
        path
        for folder in (".dvc/cache", "far")
        for path in Path(folder).rglob("*")
        if path.is_file() and path.read_bytes()[:4] == b"PAR1"
    ]
    assert [pl.read_parquet(path)["user_id"].to_list() for path in left] == [["u8"], ["u8"]]


def test_the_outbox_and_its_journal_forget(tmp_path: Path):
    box = Outbox(f"sqlite:///{tmp_path}/o.sqlite", tmp_path / "o.journal")
    box.open("spring")
    box.put([Message("spring", user, 0, "i", "sms", "offers", {"text": f"dear {user}"}, 0.0, 9e9) for user in ("alice", "bob")])
    box.opt_out("alice", 1.0)
    [key] = [key for key, message in box.lease("me", 1.0) if message.user_id == "alice"]
    box.begin(key, "me", 1.0)
    box.confirm(key, 1.0)
    assert [len(rows) for rows in box.told(["alice"]).values()] == [1, 1]
    assert box.forget(["alice"]) == 2
    again = Outbox(f"sqlite:///{tmp_path}/o.sqlite", tmp_path / "o.journal")
    assert (again.opt_outs(), again.counts("spring")) == ([], {"leased": 1})
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"bob" in content
    assert b"alice" not in content


def test_pseudonyms_stand_in_everything_that_collect_makes(workspace):
    folder = workspace(privacy__pseudonyms=True, privacy__master_key="../key")
    run_stages("collect")
    users = pl.read_parquet("data/raw/users.parquet")["user_id"]
    assert users.str.starts_with("p_").all()
    events = pl.read_parquet("data/raw/events.parquet")
    assert events["user_id"].drop_nulls().str.contains("^(visitor:)?p_[a-z2-7]{26}$").all()
    assert pl.read_parquet("data/truth/tastes.parquet")["user_id"].is_in(users.implode()).all()
    vault = Vault(folder / ".vault/vault.sqlite", folder / "../key")
    [(_, own)] = vault.names([users[0]]).items()
    assert own.startswith("u0")
    assert not any(own.encode() in path.read_bytes() for path in folder.joinpath("data").rglob("*.parquet"))
    vault.suppress(own)
    run_stages("collect")
    again = pl.read_parquet("data/raw/events.parquet")
    assert again.equals(events.filter(pl.col("user_id").ne_missing(users[0])))
    assert len(pl.read_parquet("data/raw/users.parquet")) == len(users) - 1


def test_who_does_not_consent_is_not_learnt_from(workspace):
    folder = workspace(privacy__master_key="../key")
    run_stages("collect")
    before = pl.read_parquet("data/raw/events.parquet")
    user = pl.read_parquet("data/raw/users.parquet")["user_id"][0]
    Vault(folder / ".vault/vault.sqlite", folder / "../key").consent(user, False)
    run_stages("collect")
    assert pl.read_parquet("data/raw/events.parquet").equals(before.filter(pl.col("user_id").ne_missing(user)))
    workspace(privacy__master_key="../key", privacy__consent="opt_in")
    run_stages("collect")  # nobody consented
    assert pl.read_parquet("data/raw/events.parquet")["user_id"].is_null().all()


def test_without_a_vault_ids_stay_and_none_is_made(workspace):
    folder = workspace()
    run_stages("collect")
    assert pl.read_parquet("data/raw/users.parquet")["user_id"].str.starts_with("u0").any()
    assert not (folder / ".vault").exists()


def test_hand_overs_are_told_and_forgotten(tmp_path: Path):
    folder = tmp_path / "events"
    Intake(folder).take([{"event_id": "e1", "event": "view", "item_id": "i", "at": 1.0, "received": 2e9, "user_id": "alice"}])
    for user in ("alice", "bob", None):
        keep(folder / HANDOVERS, {"handover_id": f"of {user}", "user_id": user, "message": "where is my cup"})
    shops = {"shop": settings.load(ROOT / "params.yaml").shops["shop"].model_copy(update={"events": str(folder)})}
    found = telling.told(Names(["alice"]), shops, Outbox(f"sqlite:///{tmp_path}/o.sqlite"))
    assert [one["handover_id"] for one in found["what they wrote to customer service, of shop"]] == ["of alice"]
    list(erasing.erase(folder, Names(["alice"])))
    assert {one.get("handover_id") for one in Complaints([folder / HANDOVERS]).lines()} == {None, "of bob", "of None"}


def rolled(folder: Path, first: int, received: datetime) -> Path:
    file = folder / f"http.0.{first:020d}.{first + 9:020d}.parquet"
    pl.DataFrame({"user_id": ["u"] * 2, "received": [received.timestamp() - 5, received.timestamp()]}).write_parquet(file)
    return file


def test_what_is_older_than_it_is_to_be_kept_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    now, day = datetime(2026, 5, 1, tzinfo=UTC), timedelta(days=1)
    for folder in ("log", HANDOVERS):
        (tmp_path / ".events" / folder).mkdir(parents=True)
    log = tmp_path / ".events/log"
    old, kept = rolled(log, 0, now - 31 * day), rolled(log, 10, now - 29 * day)
    (lone := log / "shop.3.00000000000000000000.00000000000000000009.parquet").write_bytes(old.read_bytes())
    for date in ("2026-03-30", "2026-03-31", "2026-04-30"):
        (tmp_path / ".events" / HANDOVERS / f"{date}.jsonl").write_text("{}\n")
    box, at = Outbox(f"sqlite:///{tmp_path}/o.sqlite", tmp_path / "o.journal"), now.timestamp()
    spring = {"campaign": "spring", "step": 0, "item_id": "a", "channel": "app", "topic": "offers", "body": {}}
    box.open("spring")
    box.put([Message(**spring, user_id=user, send_at=at, until=at + until * 86400) for user, until in (("bob", -31), ("eve", 1))])
    box.opt_out("ann", at)
    served = {"shop": settings.load(ROOT / "params.yaml").shops["shop"]}
    told = dict.fromkeys(("events", "handovers", "messages"))
    assert list(expire(now, settings.Retention(**told), served, box)) == []
    done = list(expire(now, settings.Retention(**dict.fromkeys(told, 30)), served, box))
    assert [(d.place, d.count) for d in done] == [("the log of shop", 1), ("hand-overs of shop", 2), ("the outbox", 1)]
    assert [file.exists() for file in (old, kept, lone)] == [False, True, True], (
        "the newest of a partition says how far it was read"
    )
    assert [f.stem for f in (tmp_path / ".events" / HANDOVERS).iterdir()] == ["2026-04-30"]
    assert (box.told(["bob", "eve"])["messages"][0]["user_id"], box.opt_outs()) == ("eve", [("ann", "*", "*")])
    assert b"bob" not in (tmp_path / "o.sqlite").read_bytes()


def test_an_artefact_forgets_links_too(finished: Path, tmp_path: Path):
    folder = tmp_path / "artefact"
    shutil.copytree(finished / "artefact", folder)
    [users] = [without._texts(folder, "user_ids")]
    people = pl.DataFrame({"user_id": [users[0], "elsewhere", users[1], "a", "b"], "person_id": [users[0]] * 2 + [users[1]] * 3})
    for name, array in linked(people).items():
        np.save(folder / f"{name}.npy", array)
    hashes = folder / "linked_ids_hashes.npy"
    assert without.named(hashes, ["elsewhere"])
    assert without.rewrite(folder, ["elsewhere", users[0], "b"])
    assert sorted(without._texts(folder, "linked_ids")) == sorted([users[1], "a"])
    assert np.load(folder / "linked_offsets.npy").tolist() == [0, 2]
    assert not without.named(hashes, ["elsewhere", "b"])
    assert not without.rewrite(folder, ["elsewhere"])


def test_all_ids_of_a_person_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ids_of(["w1"]) == ["w1"]  # nothing was linked yet
    folder = tmp_path / "data/links"
    folder.mkdir(parents=True)
    pl.DataFrame({"user_id": ["a1", "w1", "x1", "y1"], "person_id": ["a1", "a1", "x1", "x1"]}).write_parquet(
        folder / "people.parquet"
    )
    assert ids_of(["w1"]) == ["a1", "w1"]
    pl.DataFrame({"one": ["a1", "x1"], "other": ["w1", "y1"], "reason": "r"}).write_parquet(folder / "links.parquet")
    assert {d.place: d.count for d in erasing.erase(tmp_path / "data", Names(ids_of(["w1"])))} == {
        str(folder / "people.parquet"): 2,
        str(folder / "links.parquet"): 1,
    }


@pytest.mark.e2e
def test_the_command_line_says_why_ids_are_one_and_keeps_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    Path("data/links").mkdir(parents=True)
    Path("campaigns").mkdir()
    shutil.copy(ROOT / linking.UNDONE, linking.UNDONE)
    pl.DataFrame({"user_id": ["a1", "w1"], "person_id": "a1"}).write_parquet("data/links/people.parquet")
    row = {"one": "a1", "other": "w1", "reason": "the same order", "chance": 0.995, "taken": "taken"}
    pl.DataFrame([row, row | {"one": "b"}]).filter(pl.col("one") == "a1").write_parquet("data/links/links.parquet")
    said = CliRunner().invoke(app, ["links", "w1"]).output
    assert "ids of one person: a1, w1" in said
    assert "a1 and w1: the same order (likely, 99.5%): taken" in said
    assert "says now" in CliRunner().invoke(app, ["links", "w1", "--undo", "a1"]).output
    assert "said before" in CliRunner().invoke(app, ["links", "a1", "--undo", "w1"]).output
    assert read_undone(linking.UNDONE) == {frozenset(("a1", "w1"))}


def test_what_comes_in_is_kept_by_pseudonym_and_who_was_forgotten_not_at_all(tmp_path: Path):
    vault = Vault(tmp_path / "vault", tmp_path / "key")
    door = Intake(tmp_path / "events", people=People(vault, pseudonyms=True))
    line = {
        "event_id": "e1",
        "event": "view",
        "item_id": "i",
        "at": 1.0,
        "received": 2e9,
        "session_id": "s-alice",
        "visitor_id": "telephone",
    }
    door.take([line | {"user_id": "alice"}, {"refused": "event: no such", "row": "alice did something", "received": 2e9}])
    vault.suppress("bob")
    door.take([line | {"user_id": "bob", "event_id": "e2"}])
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(word in content for word in (b"alice", b"bob", b"telephone"))
    told = vault.pseudonyms(["alice"])["alice"]
    assert [act[0] for act in door.state.now(told, 0.0).acts] == ["i"]
    assert FORGOTTEN.encode() in content


@pytest.mark.e2e
def test_all_that_is_known_of_a_shopper_is_told(run: Path):
    user = pl.read_parquet("data/prepared/users.parquet")["user_id"][0]
    command = [sys.executable, "-m", "pipelines.rights", "tell"]
    done = subprocess.run(command, input=json.dumps([user]), capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    events = told["tables"]["data/raw/events.parquet"]
    assert len(events) == len(pl.read_parquet("data/raw/events.parquet").filter(user_id=user))
    assert {row["user_id"] for rows in told["tables"].values() for row in rows} == {user}
    assert set(told["purposes"]) >= {str(Path(place).parent) for place in told["tables"]}


@pytest.mark.e2e
def test_the_command_line_forgets_while_others_stay_and_goes_on_where_it_was_killed(run: Path, monkeypatch: pytest.MonkeyPatch):
    params = yaml.safe_load((run / "params.yaml").read_text())
    params["privacy"]["master_key"] = str(run / "key")
    (run / "params.yaml").write_text(yaml.safe_dump(params))
    (run / "dvc.yaml").touch()
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=run, check=True, capture_output=True)
    users = pl.read_parquet("data/prepared/users.parquet")["user_id"].to_list()
    gone, other = users[:2]
    events = pl.read_parquet("data/raw/events.parquet")
    assert CliRunner().invoke(app, ["forget", "--pending"]).exit_code == 0
    assert not (run / ".vault").exists()  # nobody asked
    told = CliRunner().invoke(app, ["export-user", gone, "--out", "told.json"])
    assert told.exit_code == 0, told.output
    assert (
        len(json.loads((run / "told.json").read_text())["tables"]["data/raw/events.parquet"])
        == events.filter(user_id=gone).height
    )
    (run / "told.json").unlink()
    lock = run / ".dvc/tmp/rwlock"
    lock.write_text(json.dumps({"write": {"data/raw": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
    busy = CliRunner().invoke(app, ["forget", "-"], input=gone + "\n")
    assert (busy.exit_code, "a run is at work" in busy.output) == (1, True)
    lock.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "environments", lambda checkout: 1 / 0)  # killed before the bentos
        assert CliRunner().invoke(app, ["forget", "--pending"]).exit_code == 1
    vault = forgetting.vault_of(run)
    assert vault.asked() == [gone]
    done = CliRunner().invoke(app, ["forget", "--pending"])
    assert done.exit_code == 0, done.output
    assert gone not in done.output
    assert forgetting.vault_of(run).asked() == []
    [receipt] = (run / ".vault/receipts").iterdir()
    assert gone not in receipt.read_text()
    assert traces(run, [gone], left_out=[run / ".vault"]) == []
    after = pl.read_parquet("data/raw/events.parquet")
    assert after.equals(events.filter(pl.col("user_id").ne_missing(gone)))
    assert after.filter(user_id=other).height > 0
