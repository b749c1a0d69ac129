"""Messages as signed HTTP POSTs, as the Standard Webhooks specification writes them (standardwebhooks.com): webhook-id is the message's key, by which a receiver that got it before
answers 2xx and does nothing; webhook-signature is v1,base64(HMAC-SHA256(secret, "ID.TIMESTAMP.BODY")).

2xx: taken. 408, 425, 429, 5xx, no answer in time, a broken line: another try. Other answers: never.
"""

import base64
import hashlib
import hmac
import json
import time

import httpx

from marketing import unsubscribing
from marketing.channels import NotNow, Refused
from marketing.outbox import Message

SECONDS = 10.0  # a receiver has to answer
PASSING = (408, 425, 429)


class Webhook:
    """See marketing/channels."""

    known_again = True

    def __init__(self, url: str, secret: bytes, unsubscribe: str | None):
        self.url, self.secret, self.unsubscribe = url, secret, unsubscribe
        self.client = httpx.Client(timeout=SECONDS, follow_redirects=False, trust_env=False)

    def deliver(self, key: str, message: Message) -> None:
        """See Channel."""
        body = {"id": key, "user_id": message.user_id, "item_id": message.item_id, "campaign": message.campaign, "channel": message.channel,
                "topic": message.topic} | message.body  # fmt: skip
        if self.unsubscribe:
            body["unsubscribe"] = unsubscribing.link(
                self.unsubscribe, self.secret, message.user_id, message.channel, message.topic
            )
        content, at = json.dumps(body, ensure_ascii=False).encode(), str(int(time.time()))
        headers = {"content-type": "application/json", "webhook-id": key, "idempotency-key": key, "webhook-timestamp": at,
                   "webhook-signature": signature(self.secret, key, at, content)}  # fmt: skip
        try:
            with self.client.stream("POST", self.url, content=content, headers=headers) as answer:
                status = answer.status_code  # what else it says is not read
        except httpx.HTTPError as error:
            raise NotNow(f"no answer: {type(error).__name__}") from error
        if status in PASSING or status >= 500:
            raise NotNow(f"answered {status}")
        if not 200 <= status < 300:
            raise Refused(f"answered {status}")


def signature(secret: bytes, key: str, at: str, content: bytes) -> str:
    """What the header webhook-signature says."""
    signed = hmac.new(secret, f"{key}.{at}.".encode() + content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()
