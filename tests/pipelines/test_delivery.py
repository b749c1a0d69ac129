"""What is done with a plan: messages filled in, sent, held; links to opt out; what is refused and how it is said."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from starlette.testclient import TestClient

from marketing import pushes, unsubscribing
from marketing.channels import Refused
from marketing.outbox import Message, Outbox
from pipelines.delivery import __main__ as delivery
from pipelines.delivery import server
from pipelines.stage import NEVER_RETRY
from privacy.people import People
from privacy.vault import Vault
from service.complaints import keep
from tests.conftest import ROOT


def ran(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "pipelines.delivery", *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_plan_is_sent_once_and_can_be_held(run: Path):
    plan = json.loads(Path("reports/plans.json").read_text())["spring"]
    assert set(delivery.preview("spring")) == {"app_push", "email", "sms"}
    assert delivery.fill("spring")["new"] == delivery.fill("spring")["messages"] == plan["messages"]
    assert f"{plan['messages']:,} will wait until it is resumed" in delivery.hold("spring", "paused", "a typo")
    assert ran("send", "spring", "--leap")[0] == delivery.NOT_YET
    delivery.hold("spring", "running", "mended")
    code, said = ran("send", "spring", "--leap")
    assert (code, f"{plan['messages']:,} sent" in said) == (0, True)
    sent = [
        json.loads(line) for file in Path(".outbox").glob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len({line["key"] for line in sent}) == len(sent) == plan["messages"]
    assert all(line["text"] and "{" not in line["text"] for line in sent)
    assert ran("answered", "spring", "--leap")[0] == 0
    assert ran("log", "spring", "--out", "log.parquet")[0] == 0
    logged = pushes.logged(pl.read_parquet("log.parquet"), None, 3.0)  # as the next plan reads it
    assert (logged["sent"].sum(), (~logged["sent"]).sum()) == (plan["messages"], plan["waterfall"]["held out"])
    assert logged["propensity"].is_between(0, 1, closed="right").all()
    planned = pl.read_parquet("data/plans/spring.parquet").filter(pl.col("outcome").is_in(["send", "held out"]))
    assert logged["expected"].sum() == pytest.approx((planned["extra"] * planned["money"]).sum())


def test_a_test_message_goes_to_whom_it_is_asked_for_alone(run: Path):
    assert "to me:" in delivery.test("spring", "me")
    [line] = Path(".outbox/app_push.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["user_id"] == "me"


def test_a_dear_plan_waits_for_a_person(run: Path):
    Path("campaigns").unlink()
    Path("campaigns").mkdir()
    text = (ROOT / "campaigns/spring.yaml").read_text(encoding="utf-8").replace("approve_above: 500", "approve_above: 0.1")
    Path("campaigns/spring.yaml").write_text(text, encoding="utf-8")
    assert delivery.fill("spring")["state"] == "waits for approval"
    assert ran("approved", "spring")[0] == delivery.NOT_YET
    assert ran("approve", "spring", "--why", "agreed")[0] == 0
    assert ran("approved", "spring")[0] == 0


def test_what_cannot_be_is_refused_in_one_sentence(run: Path):
    for words, said in (
        (("fill", "autumn"), "campaign autumn has no plan"),
        (("status", "spring"), "no campaign spring has messages"),
        (("preview", "autumn"), "autumn.yaml cannot be read"),
    ):
        code, told = ran(*words)
        assert code == NEVER_RETRY
        assert said in told
        assert "Traceback" not in told
    assert "autumn" in json.loads(Path("reports/refusal.json").read_text())["reason"]


def test_lists_of_opt_outs_go_in_and_come_out(run: Path):
    Path("out.csv").write_text("user_id,channel\n茶,sms\nu2,\n", encoding="utf-8")
    assert delivery.opt_outs(Path("out.csv")) == "2 opt-outs are kept"
    assert delivery.opt_outs(None).splitlines() == ["user_id,channel,topic", "u2,*,*", "茶,sms,*"]


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_link_opts_out_with_one_click_and_back(tmp_path: Path, method: str):
    box = Outbox(f"sqlite:///{tmp_path}/o.sqlite")
    client = TestClient(server.app(b"secret", lambda: box, People()))
    path = unsubscribing.link("", b"secret", "u1", "email", "offers")
    answer = getattr(client, method)(path)
    assert (answer.status_code, box.opt_outs()) == (200, [("u1", "email", "offers")])
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.post(path, data={"back": "1"}).status_code == 200
    assert box.opt_outs() == []
    assert client.get(path[:-2]).status_code == 404
    assert client.put(path).status_code == 405
    assert box.opt_outs() == []


def test_who_gets_a_message_is_known_by_their_own_id_outside_alone(tmp_path: Path):
    vault, sent = Vault(tmp_path / "vault", tmp_path / "key"), []

    class Receiver:
        known_again = True

        def deliver(self, key: str, message: Message) -> None:
            sent.append(message.user_id)

    told = vault.pseudonyms(["alice"])["alice"]
    way = delivery.ByOwnIds(Receiver(), People(vault, pseudonyms=True))
    way.deliver("k", Message("spring", told, 0, None, "sms", "offers", {}, 0.0, 1.0))
    assert sent == ["alice"]
    with pytest.raises(Refused):
        way.deliver("k", Message("spring", "p_nobody", 0, None, "sms", "offers", {}, 0.0, 1.0))
    box = Outbox(f"sqlite:///{tmp_path}/o.sqlite")
    client = TestClient(server.app(b"secret", lambda: box, People(vault, pseudonyms=True)))
    assert client.get(unsubscribing.link("", b"secret", "alice", "email", "offers")).status_code == 200
    assert box.opt_outs() == [(told, "email", "offers")]


def test_hand_overs_go_out_once_and_corrections_are_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    Path("utterances.csv").write_text("utterance,intent\nwhere is it,track_order\n")
    params["assist"] |= {"utterances": "utterances.csv"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(delivery.DeliveryError, match=r"send\.handovers"):
        delivery.hand_over()
    with pytest.raises(delivery.DeliveryError, match=r"assist\.corrected"):
        delivery.correct("a" * 32, "track_order")
    params["send"]["handovers"], params["assist"]["corrected"] = "file:out", "corrected.csv"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    [folder] = delivery.handovers()
    at = datetime.now(UTC).isoformat()
    told = {"at": at, "message": "wo ist es", "intents": ["complaint"], "angry": True, "item_id": None}
    for number, user in (("a" * 32, "u1"), ("b" * 32, None), ("c" * 32, "u2")):
        keep(folder, told | {"handover_id": number, "user_id": user})
    keep(folder, {"settled": "c" * 32})
    box = delivery.opened()
    box.opt_out("u1", 0.0)  # of what marketing sends
    assert delivery.hand_over() == "2 hand-overs are new; 2 sent"
    assert delivery.hand_over() == "0 hand-overs are new; 2 sent"
    rows = [json.loads(line) for line in Path("out/handovers.jsonl").read_text().splitlines()]
    assert {(row["user_id"], json.loads(row["handover"])["message"]) for row in rows} == {
        ("u1", "wo ist es"),
        ("b" * 32, "wo ist es"),
    }
    with pytest.raises(delivery.DeliveryError, match="track_order"):
        delivery.correct("a" * 32, "no such")
    with pytest.raises(delivery.DeliveryError, match="settled"):
        delivery.correct("c" * 32, "track_order")
    for number in ("a" * 32, "b" * 32):
        delivery.correct(number, "track_order")
    assert Path("corrected.csv").read_text().splitlines() == [
        "utterance,intent",
        "wo ist es,track_order",
        "wo ist es,track_order",
    ]
