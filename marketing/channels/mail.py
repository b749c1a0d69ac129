"""Messages as plain e-mails (SMTP). A mail server does not know a message again for sure: one whose sender died while sending is left to a person."""

import csv
import os
import smtplib
from email import policy
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

from marketing import unsubscribing
from marketing.channels import NotNow, Refused
from marketing.outbox import Message

SECONDS = 20.0
UNFOLDED = policy.SMTP.clone(
    max_line_length=990
)  # else a link of List-Unsubscribe is cut into encoded words, which no program reads


class Mail:
    """See marketing/channels. smtp[s]://[USER@]HOST[:PORT]/?from=ADDRESS; the password stands in the environment, PUSHCART_SMTP_PASSWORD."""

    known_again = False

    def __init__(self, address: str, secret: bytes, unsubscribe: str | None, contacts: Path | None):
        parts = urlsplit(address)
        self.host, self.port, self.user = (
            parts.hostname or "localhost",
            parts.port or (465 if parts.scheme == "smtps" else 25),
            parts.username,
        )
        self.sender = parts.query.removeprefix("from=") or f"noreply@{self.host}"
        self.safe, self.secret, self.unsubscribe = parts.scheme == "smtps", secret, unsubscribe
        if contacts is None:
            raise ValueError("e-mail needs send.contacts: a CSV file with the columns user_id and address, outside the checkout")
        with contacts.open(encoding="utf-8-sig", newline="") as file:
            self.addresses = {row["user_id"]: row["address"] for row in csv.DictReader(file)}

    def deliver(self, key: str, message: Message) -> None:
        """See Channel."""
        address = self.addresses.get(message.user_id)
        if not address or any(c in address for c in "\r\n"):
            raise Refused("no address")
        mail = EmailMessage(policy=UNFOLDED)
        mail["From"], mail["To"], mail["Subject"] = self.sender, address, message.body["subject"] or message.body["text"][:60]
        mail["Message-ID"] = f"<{key}@{self.host}>"
        text = message.body["text"] + (f"\n\n{message.body['link']}" if message.body["link"] else "")
        if self.unsubscribe:
            link = unsubscribing.link(self.unsubscribe, self.secret, message.user_id, message.channel, message.topic)
            mail["List-Unsubscribe"], mail["List-Unsubscribe-Post"] = f"<{link}>", "List-Unsubscribe=One-Click"
            text += f"\n\n--\n{link}"
        mail.set_content(text)
        try:
            with (smtplib.SMTP_SSL if self.safe else smtplib.SMTP)(self.host, self.port, timeout=SECONDS) as server:
                if self.user:
                    server.login(self.user, os.environ.get("PUSHCART_SMTP_PASSWORD", ""))
                server.send_message(mail)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError) as error:
            code = (
                max((c for c, _ in error.recipients.values()), default=550) if hasattr(error, "recipients") else error.smtp_code
            )
            raise (Refused if code >= 500 else NotNow)(f"answered {code}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise NotNow(f"no answer: {type(error).__name__}") from error
