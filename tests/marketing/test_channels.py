"""Messages written and handed over: templates, files, webhooks, mail, links to opt out."""

import base64
import hashlib
import hmac
import json
import socketserver
import stat
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from marketing import messages, unsubscribing
from marketing.campaigns import Campaign
from marketing.channels import NotNow, Refused, channel
from tests.marketing.test_outbox import message

SECRET = b"a secret"


def campaign(**templates: dict) -> Campaign:
    return Campaign(channels=["email"], budget=1.0, starts=date(2026, 3, 3), messages={"email": templates})


class TestTemplates:
    VALUES: ClassVar = {
        "title": "Tea\r\nBcc: x@y.z {price}",
        "price": 12.5,
        "item_id": "a b/c?d=1",
        "brand": None,
        "language": "zh-CN",
    }

    def test_values_cannot_break_out_of_their_place(self):
        made = messages.written(
            campaign(default={"subject": "For you: {title}", "text": "{title} {price} {brand}|", "link": "https://s.example/{item_id}"}), "spring", "email", self.VALUES
        )  # fmt: skip
        assert made == {
            "subject": "For you: Tea Bcc: x@y.z {price}", "text": "Tea Bcc: x@y.z {price} 12.50 |", "link": "https://s.example/a%20b%2Fc%3Fd%3D1",
        }  # fmt: skip

    def test_the_shopper_s_language_is_taken_where_there_is_one(self):
        both = campaign(default={"text": "hello"}, zh={"text": "你好"})
        assert messages.written(both, "spring", "email", self.VALUES)["text"] == "你好"
        assert messages.written(both, "spring", "email", self.VALUES | {"language": "fr"})["text"] == "hello"

    @pytest.mark.parametrize(
        ("templates", "said"),
        [({"default": {"text": "{colour}"}}, r"there is no \{colour\}; there are brand"), ({"fr": {"text": "x"}}, "in zh-CN, and no default"), ({}, "says nothing under messages")],
    )  # fmt: skip
    def test_what_cannot_be_written_is_said(self, templates: dict, said: str):
        with pytest.raises(messages.TemplateError, match=said):
            messages.written(campaign(**templates), "spring", "email", self.VALUES)

    def test_braces_mean_nothing_else(self):
        made = messages.written(
            campaign(default={"text": "{title.__class__} {0} {{price}}"}), "spring", "email", {"price": 1.0, "0": "zero"}
        )
        assert made["text"] == "{title.__class__} zero {1.00}"


def test_a_file_holds_a_key_once_even_after_half_a_line(tmp_path: Path):
    way = channel("app", f"file:{tmp_path}", SECRET)
    way.deliver("k1", message("a"))
    with (tmp_path / "app.jsonl").open("ab") as half:
        half.write(b'{"key": "k2", "us')
    other = channel("app", f"file:{tmp_path}", SECRET)  # another process
    for key in ("k1", "k2", "k2"):
        other.deliver(key, message("a"))
    way.deliver("k2", message("a"))
    lines = (tmp_path / "app.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines if line.endswith("}")] == ["k1", "k2"]


@pytest.fixture
def receiver():
    """A web server that answers as it is told and keeps what it got."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()

        def log_message(self, *_):
            return

    got, answers = [], []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/push", got, answers
    server.shutdown()


def test_a_webhook_is_signed_as_standard_webhooks_say(receiver):
    url, got, _ = receiver
    channel("app", url, SECRET, "https://shop.example/").deliver("k1", message("茶"))
    [(headers, body)] = got
    signed = hmac.new(SECRET, f"k1.{headers['webhook-timestamp']}.".encode() + body, hashlib.sha256).digest()
    assert headers["webhook-id"] == headers["idempotency-key"] == "k1"
    assert headers["webhook-signature"] == "v1," + base64.b64encode(signed).decode()
    told = json.loads(body)
    assert (told["user_id"], told["text"]) == ("茶", "hello")
    assert unsubscribing.said(SECRET, told["unsubscribe"].removeprefix("https://shop.example/unsubscribe/")) == (
        "茶",
        "app",
        "offers",
    )


def test_answers_of_a_webhook(receiver):
    url, _, answers = receiver
    way = channel("app", url, SECRET)
    answers += [503, 429, 404, 204]
    for error, said in ((NotNow, "503"), (NotNow, "429"), (Refused, "404")):
        with pytest.raises(error, match=said):
            way.deliver("k", message("a"))
    way.deliver("k", message("a"))
    with pytest.raises(NotNow, match="no answer"):
        channel("app", "http://127.0.0.1:9/", SECRET).deliver("k", message("a"))


def test_mail_names_its_key_and_a_link_to_opt_out(tmp_path: Path):
    """A mail server that speaks as little SMTP as there can be."""
    heard: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            in_data = False
            for line in self.rfile:
                text = line.decode().rstrip("\r\n")
                heard.append(text)
                if in_data:
                    in_data = text != "."
                    if in_data:
                        continue
                word = text.split(":")[0].split(" ")[0].upper()
                in_data = word == "DATA"
                refused = word == "RCPT" and "gone@" in text
                self.wfile.write(
                    {"DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}.get(word, b"550 no\r\n" if refused else b"250 ok\r\n")
                )
                if word == "QUIT":
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    contacts = tmp_path / "contacts.csv"
    contacts.write_text("user_id,address\na,a@shop.example\nb,gone@shop.example\n", encoding="utf-8")
    way = channel(
        "email", f"smtp://127.0.0.1:{server.server_address[1]}/?from=hello@shop.example", SECRET, "https://shop.example", contacts
    )
    way.deliver("k1", message("a"))
    text = "\n".join(heard)
    assert "rcpt to:<a@shop.example>" in text.lower()
    assert "Message-ID: <k1@127.0.0.1>" in text
    assert "List-Unsubscribe: <https://shop.example/unsubscribe/" in text.replace("\n ", "")
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in text
    with pytest.raises(Refused, match="550"):
        way.deliver("k2", message("b"))
    with pytest.raises(Refused, match="no address"):
        way.deliver("k3", message("c"))
    server.shutdown()
    assert not way.known_again


def test_tokens_of_others_are_not_ours():
    ours = unsubscribing.link("https://x", SECRET, "u", "app", "offers").rpartition("/")[2]
    assert unsubscribing.said(SECRET, ours) == ("u", "app", "offers")
    assert unsubscribing.said(b"another", ours) is None
    assert unsubscribing.said(SECRET, ours[:-1]) is None
    assert unsubscribing.said(SECRET, "") is None


def test_the_secret_is_made_once_and_is_its_owner_s_alone(tmp_path: Path, monkeypatch):
    made = unsubscribing.secret(tmp_path / "box")
    assert unsubscribing.secret(tmp_path / "box") == made
    assert stat.S_IMODE((tmp_path / "box" / "secret").stat().st_mode) == 0o600
    monkeypatch.setenv("PUSHCART_SECRET", "told")
    assert unsubscribing.secret(tmp_path / "box") == b"told"


def test_an_address_of_no_kind_is_refused():
    with pytest.raises(ValueError, match=r"send\.channels\.fax is 'fax:1'; it must begin with file:"):
        channel("fax", "fax:1", SECRET)
    with pytest.raises(ValueError, match="CSV file with the columns user_id and address"):
        channel("email", "smtp://localhost", SECRET)
