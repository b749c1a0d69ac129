"""How messages leave: one interface, a module a way. `channel` makes one of its address.

file:FOLDER                    a line of JSON a message, in FOLDER/CHANNEL.jsonl
http://..., https://...        a signed POST (webhook.py)
smtp://HOST:PORT, smtps://...  e-mail (mail.py); addresses of shoppers stand in a file of their own, not in Pushcart's tables
"""

from pathlib import Path
from typing import Protocol

from marketing.outbox import Message


class NotNow(Exception):
    """The message did not get through; another try may."""


class Refused(Exception):
    """The receiver will never take this message."""


class Channel(Protocol):
    """A way by which messages leave."""

    known_again: bool  # does the receiver know a key again, so that a message sent twice arrives once?

    def deliver(self, key: str, message: Message) -> None:
        """Hands a message over; returns when it has been taken.

        Raises:
            NotNow, Refused: see there.
        """


def channel(name: str, address: str, secret: bytes, unsubscribe: str | None = None, contacts: Path | None = None) -> Channel:
    """The channel at an address. secret: what messages are signed with. unsubscribe: where `GET` and `POST /unsubscribe/TOKEN` are answered. contacts: a CSV file with user_id and address.

    Raises:
        ValueError: there is no channel of this kind, or it lacks something; the message says what.
    """
    from marketing.channels import file, mail, webhook

    kind = address.partition(":")[0]
    if kind == "file":
        return file.File(Path(address.removeprefix("file:").removeprefix("//")) / f"{name}.jsonl")
    if kind in ("http", "https"):
        return webhook.Webhook(address, secret, unsubscribe)
    if kind in ("smtp", "smtps"):
        return mail.Mail(address, secret, unsubscribe, contacts)
    raise ValueError(f"send.channels.{name} is {address!r}; it must begin with file:, http://, https://, smtp:// or smtps://")
